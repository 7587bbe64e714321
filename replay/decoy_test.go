package replay_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/replay"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// marked is a user whom only a client has named.
const marked = "somebody-else-4711"

// decoy changes a recorded request as a client could that wants to mislead the log,
// while the server answers as it did. It returns false where it has nothing to do.
type decoy struct {
	name   string
	change func(r *replay.Request) bool
}

// TestNoDecoyMisleadsTheLog plays every recording again with every decoy that the
// profile offers a client: names and values of its conditions, users in the places
// that name one, in the wrong case, twice, in the query, in a body that is too long or
// has another type. Nothing that is recorded otherwise may get lost, no success may
// become a failure, and nobody may become somebody else.
func TestNoDecoyMisleadsTheLog(t *testing.T) {
	for _, r := range slices.Concat(recordings, written) {
		readers := []string{r.profile}
		if r.profile != "better_auth" { // it has as many exchanges as all others
			readers = append(readers, "generic", "oidc")
		}
		for _, reader := range readers {
			t.Run(r.profile+" read as "+reader, func(t *testing.T) { playDecoys(t, r.path, reader) })
		}
	}
}

// playDecoys plays one server's recordings, read with a profile.
func playDecoys(t *testing.T, path, reader string) {
	t.Helper()
	p, err := profile.Builtin(reader)
	if err != nil {
		t.Fatal(err)
	}
	if reader == "authjs" { // @auth/express
		if p, err = p.WithBasePath("/auth"); err != nil {
			t.Fatal(err)
		}
	}
	honest := play(t, path, p, nil)
	played := 0
	for i, d := range decoysOf(t, reader) {
		if raceEnabled && i%10 != 0 {
			continue // slow, and there is one goroutine
		}
		changed := 0
		hostile := play(t, path, p, func(q *replay.Request) {
			if d.change(q) {
				changed++
			}
		})
		played += changed
		for i := range honest {
			if problem := misled(&honest[i], &hostile[i]); problem != "" && !heeded(reader, d.name) {
				x := hostile[i].x
				t.Errorf("%s: %s %.90s -> %d (%s): %s", d.name, x.Request.Method, x.Request.Path, x.Response.Status, x.ID(), problem)
			}
		}
	}
	t.Logf("%d exchanges, %d with a decoy", len(honest), played)
}

// heeded says that the server itself does what the decoy says, by its source as far as
// it is known to us: a real one would not have answered as it did without the decoy.
func heeded(reader, name string) bool {
	for _, prefix := range map[string][]string{
		"kratos":   {"request code="},                                  // a code is tried instead of sent
		"casdoor":  {"query id_token_hint=", "request id_token_hint="}, // a token that it has not issued is refused
		"keycloak": {"request tryAnotherWay=", "query key="},           // no password is looked at; an action token is verified
		"zitadel":  {"request checks/user/userId=" + marked},           // a session has one user, and a name twice is an error
	}[reader] {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// played is one exchange and what was made of it.
type played struct {
	x       *replay.Exchange
	entries []storage.Entry
}

// play replays a recording whose requests were changed.
func play(t *testing.T, path string, p *profile.Profile, change func(*replay.Request)) []played {
	t.Helper()
	files, err := replay.Read("../testdata/traffic/" + path)
	if err != nil {
		t.Fatal(err)
	}
	var out []played
	for _, f := range files {
		f.Exchanges = visible(f.Exchanges, p)
		for _, x := range f.Exchanges {
			if change != nil {
				change(&x.Request)
			}
		}
		entries, err := replay.Run(f, replay.Options{Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range f.Exchanges {
			out = append(out, played{x, entries[x]})
		}
	}
	return out
}

// misled says what a decoy has done to an entry; "" if nothing.
func misled(honest, hostile *played) string {
	for _, e := range hostile.entries {
		if strings.Contains(e.UserID, marked) {
			return fmt.Sprintf("the client has made itself %q", e.UserID)
		}
	}
	switch {
	case len(honest.entries) == 0:
	case len(hostile.entries) == 0:
		return fmt.Sprintf("%s %s is not recorded", honest.entries[0].Action, honest.entries[0].Status)
	case honest.entries[0].Status == storage.Success && hostile.entries[0].Status == storage.Failed:
		return fmt.Sprintf("the success of %s is called a failure", honest.entries[0].Action)
	}
	return ""
}

// decoysOf are the decoys that a profile offers.
func decoysOf(t *testing.T, name string) []decoy {
	t.Helper()
	text, err := profile.Text(name)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Routes []struct {
			When map[string]any
			User any
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	out := []decoy{
		{"a body that is too long", tooLong}, {"another media type", otherType}, {"a compressed body", compressed},
		{"a token that somebody has made up, besides the cookie", forgedBearer},
	}
	seen := make(map[string]bool)
	add := func(place, value string) {
		if kind, name, ok := strings.Cut(place, ":"); ok && !seen[place+"="+value] {
			seen[place+"="+value] = true
			name, _, _ = strings.Cut(name, "#")
			out = append(out, decoysFor(kind, name, value)...)
		}
	}
	for _, r := range file.Routes {
		for place, values := range r.When {
			for _, v := range texts(values) {
				add(place, strings.ReplaceAll(v, "*", "decoy-value"))
			}
		}
		for _, place := range texts(r.User) {
			add(place, marked)
			add(place, forged())
		}
	}
	return out
}

func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, one := range v {
			out = append(out, texts(one)...)
		}
		return out
	}
	return nil
}

// forged is a token that nobody has signed.
func forged() string {
	claims := fmt.Sprintf(`{"sub":%q,"id":%[1]q,"owner":%[1]q,"name":%[1]q,"username":%[1]q,"preferred_username":%[1]q}`, marked)
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2lnbmF0dXJl"
}

func decoysFor(kind, name, value string) []decoy {
	say := func(how string) string { return fmt.Sprintf("%s %s=%.30s %s", kind, name, value, how) }
	switch kind {
	case "query":
		return []decoy{
			{say("at the end"), func(r *replay.Request) bool { return inQuery(r, name, value, false) }},
			{say("at the beginning"), func(r *replay.Request) bool { return inQuery(r, name, value, true) }},
		}
	case "request":
		name = strings.TrimPrefix(name, "/")
		return []decoy{
			{say("at the end"), func(r *replay.Request) bool { return inBody(r, name, value, false) }},
			{say("at the beginning"), func(r *replay.Request) bool { return inBody(r, name, value, true) }},
			{say("in upper case at the end"), func(r *replay.Request) bool { return inBody(r, strings.ToUpper(name), value, false) }},
			{say("in the query"), func(r *replay.Request) bool { return len(r.Body) > 0 && inQuery(r, name, value, true) }},
		}
	}
	return nil
}

func inQuery(r *replay.Request, name, value string, first bool) bool {
	path, query, ok := strings.Cut(r.Path, "?")
	pair := url.QueryEscape(name) + "=" + url.QueryEscape(value)
	switch {
	case !ok:
		r.Path = path + "?" + pair
	case first:
		r.Path = path + "?" + pair + "&" + query
	default:
		r.Path += "&" + pair
	}
	return true
}

func mediaOf(r *replay.Request) string {
	for name, values := range r.Headers {
		if strings.EqualFold(name, "Content-Type") && len(values) > 0 {
			media, _, _ := strings.Cut(values[0], ";")
			return media
		}
	}
	return ""
}

// inBody adds a field to a JSON object or a form. A pointer of several names adds
// objects around it.
func inBody(r *replay.Request, pointer, value string, first bool) bool {
	switch mediaOf(r) {
	case "application/json":
		body := strings.TrimSpace(r.Body)
		if len(body) < 2 || body[0] != '{' || !json.Valid([]byte(body)) {
			return false
		}
		quoted, _ := json.Marshal(value)
		member := string(quoted)
		for _, name := range slices.Backward(strings.Split(pointer, "/")) {
			key, _ := json.Marshal(name)
			member = "{" + string(key) + ":" + member + "}"
		}
		member = member[1 : len(member)-1]
		rest := body[1 : len(body)-1]
		switch {
		case strings.TrimSpace(rest) == "":
			r.Body = "{" + member + "}"
		case first:
			r.Body = "{" + member + "," + rest + "}"
		default:
			r.Body = "{" + rest + "," + member + "}"
		}
		return true
	case "application/x-www-form-urlencoded":
		pair := url.QueryEscape(pointer) + "=" + url.QueryEscape(value)
		switch {
		case r.Body == "":
			r.Body = pair
		case first:
			r.Body = pair + "&" + r.Body
		default:
			r.Body += "&" + pair
		}
		return true
	}
	return false
}

func tooLong(r *replay.Request) bool { return inBody(r, "aaa", strings.Repeat("x", 70000), true) }

func setHeader(r *replay.Request, name, value string) {
	headers := make(map[string][]string)
	for n, v := range r.Headers {
		if !strings.EqualFold(n, name) {
			headers[n] = v
		}
	}
	headers[name] = []string{value}
	r.Headers = headers
}

func otherType(r *replay.Request) bool {
	if len(r.Wire()) == 0 {
		return false
	}
	setHeader(r, "Content-Type", "text/plain")
	return true
}

func compressed(r *replay.Request) bool {
	if len(r.Wire()) == 0 {
		return false
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(r.Wire()) // to memory
	_ = w.Close()
	r.BodyB64 = b.Bytes()
	setHeader(r, "Content-Encoding", "gzip")
	return true
}

func forgedBearer(r *replay.Request) bool {
	cookie := false
	for name := range r.Headers {
		if strings.EqualFold(name, "Authorization") {
			return false
		}
		cookie = cookie || strings.EqualFold(name, "Cookie")
	}
	setHeader(r, "Authorization", "Bearer "+forged())
	return cookie
}
