package replay

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// Options of Run.
type Options struct {
	// Profile to read the exchanges with.
	Profile *profile.Profile
	// Recognizer, if given, makes Profile the first one only, until the server is
	// recognised. A base path that Profile was given is that of the recognised one, too.
	Recognizer *profile.Recognizer
	// Recognised hears which server was recognised, again when a more certain sign says so;
	// may be nil.
	Recognised func(profile.Recognition)
	// Alone: the session endpoint does not answer.
	Alone bool
}

// Run plays a recording through a recorder, and returns the entries of each exchange,
// oldest first. Nothing leaves the process.
func Run(f *File, o Options) (map[*Exchange][]storage.Entry, error) {
	store := memory.New(0)
	pl := &player{file: f, log: slog.New(slog.DiscardHandler), recognizer: o.Recognizer, recognised: o.Recognised, alone: o.Alone}
	pl.writer = recorder.NewWriter(store, pl.log)
	if err := pl.use(o.Profile); err != nil {
		return nil, err
	}
	pl.first = pl.rec
	if base := o.Profile.Base(); base != strings.TrimRight(o.Profile.BasePath, "/") {
		pl.base = base
	}
	for i, x := range f.Exchanges {
		if x.Place(pl.rec.Profile) == OwnAPI {
			continue
		}
		pl.oracle.Expect(x)
		if err := pl.play(x, strconv.Itoa(i)); err != nil {
			return nil, fmt.Errorf("%s: %w", x.ID(), err)
		}
	}
	if err := pl.writer.Close(context.Background()); err != nil {
		return nil, err
	}
	return byExchange(f, store.Entries())
}

// player plays one recording.
type player struct {
	file       *File
	log        *slog.Logger
	writer     *recorder.Writer
	recognizer *profile.Recognizer
	recognised func(profile.Recognition)
	known      profile.Certainty
	alone      bool
	rec        *recorder.Recorder
	// first is the recorder of the profile to begin with, and base the base path that it was
	// given; "" if that is its own.
	first  *recorder.Recorder
	base   string
	oracle *Oracle
}

// use makes the recorder and the oracle for a profile.
func (pl *player) use(p *profile.Profile) error {
	key := []byte("replays have no secrets of theirs")
	sessions, err := recorder.NewSessions(p, key)
	if err != nil {
		return err
	}
	redactor, err := redact.New(redact.Options{Key: key, AddFields: p.Secrets})
	if err != nil {
		return err
	}
	o := recorder.Options{
		Profile: p, Sessions: sessions, Writer: pl.writer, Redactor: redactor, Logger: pl.log, KeepUsers: true,
		Capture: recorder.Capture{IPAddress: true, UserAgent: true}, Durability: recorder.Commit,
	}
	if pl.recognizer != nil && pl.known < profile.Certain {
		o.Recognize = pl.recognize
	}
	current := pl.oracle
	pl.oracle = NewOracle(p, pl.file)
	if current != nil {
		pl.oracle.current, pl.oracle.answered = current.current, current.answered
	}
	pl.rec, err = recorder.New(o)
	return err
}

// recognize goes over to the profile of a recognised server.
func (pl *player) recognize(x *profile.Exchange) *recorder.Recorder {
	found, ok := pl.recognizer.Recognize(x, pl.known)
	if !ok {
		return nil
	}
	pl.known = found.Certainty
	p := found.Profile
	if pl.base != "" {
		var err error
		if p, err = p.WithBasePath(pl.base); err != nil {
			return nil
		}
	}
	if err := pl.use(p); err != nil {
		return nil
	}
	if found.Profile = p; pl.recognised != nil {
		pl.recognised(found)
	}
	return pl.rec
}

// match reads a request as Caddy does: as long as nobody knows the server for certain, what the
// profile that seems to be its own does not take is read with the first one.
func (pl *player) match(r *http.Request) (*recorder.Recorder, profile.Match, bool) {
	m, mine := pl.rec.Profile.Match(r.Method, r.URL)
	if mine || pl.recognizer == nil || pl.known == profile.Certain {
		return pl.rec, m, mine
	}
	m, mine = pl.first.Profile.Match(r.Method, r.URL)
	return pl.first, m, mine
}

// play plays one exchange.
func (pl *player) play(x *Exchange, id string) error {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(x.requestBytes())))
	if err != nil {
		return nil //nolint:nilerr // a server would refuse it before any handler
	}
	rec, m, mine := pl.match(r)
	if !mine || !rec.Wants(m) {
		return nil
	}
	w := &sink{header: make(http.Header)}
	exchange, err := rec.Begin(w, r, m, recorder.Facts{ClientIP: "192.0.2.1", RequestID: id, Asker: asker{pl}})
	if err != nil {
		return err
	}
	pl.oracle.Answered()
	_, _ = io.Copy(io.Discard, r.Body) // a body that breaks off was recorded so
	x.Response.write(exchange.Writer())
	return exchange.End(nil, 0, false)
}

// requestBytes is the request as it goes over the wire.
func (x *Exchange) requestBytes() []byte {
	b := new(bytes.Buffer)
	fmt.Fprintf(b, "%s %s HTTP/1.1\r\nHost: auth.example.com\r\n", x.Request.Method, x.Request.Path)
	for name, values := range x.Request.Headers {
		switch http.CanonicalHeaderKey(name) {
		case "Host", "Content-Length", "Transfer-Encoding":
			continue
		}
		for _, v := range values {
			fmt.Fprintf(b, "%s: %s\r\n", name, v)
		}
	}
	body := x.Request.Wire()
	fmt.Fprintf(b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return b.Bytes()
}

// write gives the recorded answer.
func (r *Response) write(w http.ResponseWriter) {
	for name, values := range r.Headers {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	body := r.Wire()
	if !slices.Contains(r.Headers["Transfer-Encoding"], "chunked") && len(body) > 0 {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(r.Status)
	_, _ = w.Write(body) // a sink takes everything
}

// sink is a client that listens to nothing.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// asker asks the Oracle.
type asker struct{ player *player }

// Ask implements recorder.Asker.
func (a asker) Ask(r *http.Request) (int, []byte, error) {
	if a.player.alone {
		return 0, nil, errors.New("nobody may be asked")
	}
	status, body, problem := a.player.oracle.Answer(r)
	if problem != "" && !strings.HasPrefix(problem, "the profile has no") {
		return 0, nil, fmt.Errorf("replay: %s", problem)
	}
	return status, body, nil
}

// byExchange sorts entries by the exchange that they are of.
func byExchange(f *File, entries []storage.Entry) (map[*Exchange][]storage.Entry, error) {
	out := make(map[*Exchange][]storage.Entry)
	for _, e := range entries {
		var m struct{ RequestID string }
		if err := json.Unmarshal(e.Metadata, &m); err != nil {
			return nil, fmt.Errorf("metadata of %s: %w", e.Action, err)
		}
		i, err := strconv.Atoi(m.RequestID)
		if err != nil || i >= len(f.Exchanges) {
			continue // none of an exchange
		}
		out[f.Exchanges[i]] = append(out[f.Exchanges[i]], e)
	}
	return out, nil
}
