package exchange

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// MaxBody is how many bytes of an answer's body an Observer holds back or
// copies, at most.
const MaxBody = 64 << 10

// BodyMode is what happens with the body of an answer.
type BodyMode uint8

// The modes.
const (
	// Pass commits at the final status and looks at no body.
	Pass BodyMode = iota
	// Hold keeps head and body back until the body is complete (or MaxBody, or,
	// for bodies other than JSON, the first flush), so that Commit can look at it.
	Hold
	// HoldPage is Hold for a page: flushes do not release it either, for a form that
	// is shown again says how the exchange ended.
	HoldPage
	// Copy lets everything through at once and keeps a copy of up to MaxBody.
	Copy
)

// Hooks are what an Observer calls, with itself. Both run in whatever goroutine writes the
// answer, one at a time.
type Hooks interface {
	// BodyMode is asked once, at the final status.
	BodyMode(o *Observer, status int, header http.Header) BodyMode
	// Commit is called once, before the client sees the head of the answer.
	// After an error the client gets 503 instead (see Observer.Refuse).
	Commit(o *Observer) error
}

// Observer is an http.ResponseWriter that watches. Use New, hand it to the next
// handler, and call Finish afterwards whatever happened. It is as safe for
// concurrent use as the writer beneath it.
//
// It has no Flush, Hijack or deadline methods on purpose: http.ResponseController
// finds those of the writer beneath through Unwrap.
type Observer struct {
	w     http.ResponseWriter
	hooks Hooks
	state state
	mode  BodyMode
	// status is the final status; 0 until it is known.
	status int
	// head is the header as it was at the final status, while it is held.
	head *heldHead
	// body is what was held or copied.
	body *[]byte
	// length is the declared Content-Length, -1 if there is none.
	length int64
	// isJSON is true when the answer says that it is JSON; encoded that there is
	// a content encoding around it.
	isJSON, encoded bool
	// complete is true when body is the whole body.
	complete bool
	// flush is true when a flush came while the answer was held.
	flush   bool
	noBody  bool // HEAD, 204, 304: there will be no body
	written int64
	// swallowed is how much of a refused answer was thrown away.
	swallowed int64
}

// maxSwallowed bounds what is read of an answer that was refused: an event stream
// would never end.
const maxSwallowed = 64 << 10

// errRefused ends a handler that goes on with an answer that was refused.
var errRefused = errors.New("the answer was refused because it could not be recorded")

type state uint8

const (
	waiting   state = iota // no final status yet
	holding                // final status known, nothing sent
	streaming              // the head is out
	refused                // 503 was sent instead
)

// New returns an Observer of the answer to r that is written to w.
func New(w http.ResponseWriter, r *http.Request, hooks Hooks) *Observer {
	return &Observer{w: w, hooks: hooks, noBody: r.Method == http.MethodHead, length: -1}
}

// Unwrap returns the writer beneath, for http.ResponseController. There is none
// once the answer is refused: nobody may hijack the connection for a tunnel that
// is not recorded.
func (o *Observer) Unwrap() http.ResponseWriter {
	if o.state == refused {
		return nil
	}
	return o.w
}

// Hijack implements http.Hijacker. Who takes the connection before it has answered writes the
// answer by itself: that of a protocol that is switched to, so that the exchange ends with 101.
func (o *Observer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if o.state == refused {
		return nil, nil, fmt.Errorf("%w: %w", http.ErrNotSupported, errRefused)
	}
	conn, rw, err := http.NewResponseController(o.w).Hijack()
	if err != nil || o.state == streaming {
		return conn, rw, err
	}
	if o.status == 0 {
		o.status = http.StatusSwitchingProtocols
	}
	o.noBody = true
	if err := o.hooks.Commit(o); err != nil {
		o.state = refused
		return nil, nil, errors.Join(errRefused, err, conn.Close())
	}
	o.state = streaming
	return conn, rw, nil
}

// Header implements http.ResponseWriter.
func (o *Observer) Header() http.Header { return o.w.Header() }

// Status returns the final status, 0 while there is none.
func (o *Observer) Status() int { return o.status }

// Committed says whether the client may have seen the head of the answer.
func (o *Observer) Committed() bool { return o.state >= streaming }

// Body returns what was held or copied of the body, and whether that is all of
// it. It is valid until Release.
func (o *Observer) Body() (body []byte, complete bool) {
	if o.body == nil {
		return nil, o.noBody
	}
	return *o.body, o.complete
}

// Written returns how many bytes of body went to the client.
func (o *Observer) Written() int64 { return o.written }

// WriteHeader implements http.ResponseWriter. Informational statuses pass
// through; 101 is final.
func (o *Observer) WriteHeader(status int) {
	if o.state == refused || o.state == holding {
		return // while an answer is held it has its status: net/http ignores a second one, too
	}
	if o.state == streaming || status < 200 && status != http.StatusSwitchingProtocols {
		o.w.WriteHeader(status)
		return
	}
	o.status = status
	if status == http.StatusSwitchingProtocols || status == http.StatusNoContent || status == http.StatusNotModified {
		o.noBody = true
	}
	if !o.noBody {
		o.inspectHeader()
		o.mode = o.hooks.BodyMode(o, status, o.w.Header())
	}
	if o.holds() && o.length > MaxBody {
		o.mode = Pass
	}
	if o.mode != Pass {
		o.body = getBuffer(int(min(o.length, MaxBody)))
	}
	if o.holds() && o.length != 0 {
		o.state, o.head = holding, holdHead(o.w.Header())
		return
	}
	o.complete = o.length == 0
	o.release()
}

func (o *Observer) holds() bool { return o.mode == Hold || o.mode == HoldPage }

// inspectHeader reads what decides how long to hold.
func (o *Observer) inspectHeader() {
	h := o.w.Header()
	if declared := h.Get("Content-Length"); declared != "" { // the error of "" would allocate
		if n, err := strconv.ParseInt(declared, 10, 64); err == nil && n >= 0 {
			o.length = n
		}
	}
	o.isJSON = IsJSON(h.Get("Content-Type"))
	encoding := h.Get("Content-Encoding")
	o.encoded = encoding != "" && !strings.EqualFold(encoding, "identity")
}

// MediaType is a Content-Type without its parameters, in lower case. Servers look
// no further: a parameter that cannot be parsed must not hide a body from us.
func MediaType(contentType string) string {
	if contentType == "application/json" {
		return contentType
	}
	media, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(media))
}

// IsJSON says whether a Content-Type is JSON (RFC 8259, and +json of RFC 6839).
func IsJSON(contentType string) bool {
	media := MediaType(contentType)
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// release commits and sends the head and what was held. It must not be called
// again: state leaves waiting or holding here.
func (o *Observer) release() {
	held := o.state == holding
	if err := o.hooks.Commit(o); err != nil {
		o.Refuse()
		return
	}
	o.state = streaming
	if !held {
		o.w.WriteHeader(o.status)
		return
	}
	late := o.head.restore(o.w.Header())
	o.w.WriteHeader(o.status)
	if len(*o.body) > 0 {
		n, _ := o.w.Write(*o.body) // the writer repeats its error at the next call
		o.written += int64(n)
	}
	if o.flush {
		_ = http.NewResponseController(o.w).Flush() // as best effort as it was for the caller
	}
	for name, values := range late {
		o.w.Header()[name] = values
	}
}

// refusal is the body of a 503 that stands for an answer which could not be
// recorded.
const refusal = `{"message":"The audit log cannot record this request, so it was not answered. Try again later.","code":"AUDIT_UNAVAILABLE"}` + "\n"

// Refuse answers 503 in place of the handler's answer, without any of its
// headers, and swallows what else is written. It does nothing once the head is
// out.
func (o *Observer) Refuse() {
	if o.state >= streaming {
		return
	}
	o.state = refused
	clear(o.w.Header())
	WriteRefusal(o.w)
	// The handler may go on for long, or for ever; the client should not wait.
	_ = http.NewResponseController(o.w).Flush() // it goes out at the end if it cannot now
}

// WriteRefusal writes the 503 of Refuse to any writer.
func WriteRefusal(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "5")
	h.Set("Content-Length", strconv.Itoa(len(refusal)))
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, refusal) // the client may be gone; there is nobody to tell
}

// Write implements http.ResponseWriter.
func (o *Observer) Write(p []byte) (int, error) {
	if o.state == waiting {
		o.WriteHeader(http.StatusOK)
	}
	switch o.state {
	case refused:
		return o.swallow(p)
	case holding:
		return o.hold(p)
	}
	if o.mode == Copy {
		o.keep(p)
	}
	n, err := o.w.Write(p)
	o.written += int64(n)
	return n, err
}

// swallow throws p away, and after a while ends the handler that writes.
func (o *Observer) swallow(p []byte) (int, error) {
	if o.swallowed += int64(len(p)); o.swallowed > maxSwallowed {
		return 0, errRefused
	}
	return len(p), nil
}

// hold keeps p back, and releases once nothing more is to be waited for.
func (o *Observer) hold(p []byte) (int, error) {
	if len(*o.body)+len(p) > MaxBody {
		o.release()
		return o.Write(p)
	}
	o.add(p)
	o.complete = o.isComplete()
	if o.complete {
		o.release()
	}
	return len(p), nil
}

// add appends p to what was seen of the body.
func (o *Observer) add(p []byte) {
	var outgrown *[]byte
	o.body, outgrown = appendTo(o.body, p)
	putBuffer(outgrown)
}

func (o *Observer) isComplete() bool {
	if o.length >= 0 {
		return int64(len(*o.body)) >= o.length
	}
	return o.isJSON && !o.encoded && completeJSON(*o.body)
}

// completeJSON says whether b is a whole JSON document. Looking at the last byte
// first makes the usual "not yet" cheap.
func completeJSON(b []byte) bool {
	b = bytes.TrimRight(b, " \t\r\n")
	if len(b) == 0 {
		return false
	}
	switch b[len(b)-1] {
	case '}', ']', '"', 'e', 'l':
		return json.Valid(b)
	}
	return false // a number may go on
}

// keep copies p as far as there is room.
func (o *Observer) keep(p []byte) {
	room := MaxBody - len(*o.body)
	o.add(p[:min(room, len(p))])
	if len(p) > room {
		o.mode = Pass
	}
}

// FlushError implements the flush of http.ResponseController. JSON that is held
// stays held: Caddy flushes a chunked answer before its first byte and after
// every read (reverseproxy streaming.go, flushInterval), and half a JSON document
// is of no use to a client. Other bodies are released.
func (o *Observer) FlushError() error {
	if o.state == waiting {
		o.WriteHeader(http.StatusOK)
	}
	if o.state == refused {
		return errRefused // so that an HTTP/2 tunnel does not begin
	}
	if o.state == holding {
		o.flush = true
		if o.isJSON || o.mode == HoldPage || len(*o.body) == 0 {
			return nil
		}
		o.release()
		return nil
	}
	return http.NewResponseController(o.w).Flush()
}

// Push implements http.Pusher when the writer beneath does.
func (o *Observer) Push(target string, opts *http.PushOptions) error {
	if p, ok := o.w.(http.Pusher); ok {
		return p.Push(target, opts)
	}
	return http.ErrNotSupported
}

// ReadFrom implements io.ReaderFrom, so that files still go out by sendfile once
// nothing is to be looked at.
func (o *Observer) ReadFrom(r io.Reader) (int64, error) {
	if o.state == waiting {
		o.WriteHeader(http.StatusOK)
	}
	var total int64
	var chunk []byte
	for o.state != streaming || o.mode == Copy {
		if chunk == nil {
			chunk = make([]byte, 4096)
		}
		n, err := r.Read(chunk)
		if n > 0 {
			w, werr := o.Write(chunk[:n])
			total += int64(w)
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
	n, err := o.pass(r)
	o.written += n
	return total + n, err
}

func (o *Observer) pass(r io.Reader) (int64, error) {
	if rf, ok := o.w.(io.ReaderFrom); ok {
		return rf.ReadFrom(r)
	}
	return io.Copy(writerOnly{o.w}, r)
}

// writerOnly hides every method but Write, so that io.Copy cannot come back to
// ReadFrom.
type writerOnly struct{ io.Writer }

// Finish ends the observation when the handler has returned or panicked; status
// is what the answer will be if the handler has written none (the status of the
// error that it returned, or 200). What is still held goes out. Aborted is true
// when the handler panicked: then the body that was seen is not complete.
func (o *Observer) Finish(status int, aborted bool) error {
	switch o.state {
	case holding:
		o.complete = !aborted && o.length < 0
		o.release()
	case waiting:
		if o.status == 0 {
			o.status = status
		}
		o.noBody = true
		if err := o.hooks.Commit(o); err != nil {
			clear(o.w.Header()) // the caller answers 503, with nothing of the handler's
			return err
		}
	case streaming:
		if o.mode == Copy {
			o.complete = !aborted
		}
	}
	return nil
}

// Release gives the body's buffer back, and keeps no more of the body. Body must not be used
// afterwards. Who writes after the handler has returned makes the Hooks hear of it all the same.
func (o *Observer) Release() {
	putBuffer(o.body)
	o.head.release()
	o.body, o.head, o.mode = nil, nil, Pass
}
