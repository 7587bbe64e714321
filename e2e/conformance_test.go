package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// testSite is one way through Caddy to the same auth server.
type testSite struct {
	name      string
	directive string
	port      int
}

// startSites runs Caddy with one site per directive, all of which behave the same but
// for it. global goes into the audit_log option.
func startSites(t *testing.T, global, up string, list ...*testSite) {
	t.Helper()
	harness.Use(t)
	dir, served := t.TempDir(), t.TempDir() // the log's key may not be where files are served
	files := map[string]string{"file.bin": strings.Repeat("sendfile", 40_000), "small.json": wantsTOT, "large.json": jsonOf(100_000)}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(served, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "{\n\tpersist_config off\n\tservers {\n\t\tprotocols h1 h2 h2c\n\t}\n\tlog {\n\t\toutput file %s/caddy.log\n\t}\n\taudit_log {\n\t\tkey_file %s/hash.key\n%s\t}\n}\n", dir, dir, global)
	for _, s := range list {
		s.port = harness.FreePort(t)
		fmt.Fprintf(&b, siteTemplate, s.port, s.directive, served, up)
	}
	harness.Load(t, b.String())
}

// siteTemplate: what the parameter "do" names, or else the auth server. Without
// keep-alive to it the bytes that it sees depend on no earlier exchange.
const siteTemplate = `http://:%d {
	bind 127.0.0.1
	%s
	root * %s
	@file query do=file
	handle @file {
		rewrite * /file.bin
		file_server
	}
	@small query do=small
	handle @small {
		rewrite * /small.json
		file_server
	}
	@large query do=large
	handle @large {
		rewrite * /large.json
		file_server
	}
	@missing query do=missing
	handle @missing {
		file_server
	}
	@error query do=error
	handle @error {
		error "no coffee" 418
	}
	@before query do=before
	handle @before {
		e2e_panic before
	}
	@after query do=after
	handle @after {
		e2e_panic after
	}
	@held query do=held
	handle @held {
		e2e_panic held
	}
	@twice query do=twice
	handle @twice {
		e2e_panic twice
	}
	@silent query do=silent
	handle @silent {
		e2e_panic silent
	}
	handle {
		reverse_proxy %s {
			transport http {
				keepalive off
			}
		}
	}
	handle_errors {
		@page header X-Page yes
		respond @page "a page for {err.status_code}" 200
	}
}
`

// journal tells the entries of one exchange from those before.
type journal struct {
	store storage.Lister
	known map[string]bool
}

func (j *journal) fresh(t testing.TB) []storage.Entry {
	t.Helper()
	page, err := j.store.List(context.Background(), storage.Query{Limit: storage.MaxLimit})
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(harness.Captured(page.Entries), func(e storage.Entry) bool { return j.known[e.ID] })
}

// facts of an entry, as rows expect them.
func facts(e storage.Entry) entry {
	var m struct {
		StatusCode int `json:"statusCode"`
	}
	_ = json.Unmarshal(e.Metadata, &m) // zero if it is not there
	return entry{e.Action, e.Status, m.StatusCode}
}

// await waits until the new entries are the wanted ones (or the others): a handler may end after
// its client has everything, and async writes later still.
func (j *journal) await(t testing.TB, want, or []entry) {
	t.Helper()
	var got []entry
	for end := time.Now().Add(hang / 4); ; time.Sleep(2 * time.Millisecond) {
		fresh := j.fresh(t)
		got = got[:0]
		for _, e := range fresh {
			got = append(got, facts(e))
		}
		if slices.Equal(got, want) || or != nil && slices.Equal(got, or) || time.Now().After(end) {
			for _, e := range fresh {
				j.known[e.ID] = true
			}
			break
		}
	}
	if !slices.Equal(got, want) && (or == nil || !slices.Equal(got, or)) {
		t.Errorf("entries %v, want %v", got, want)
	}
}

func TestConformanceOfEveryKindOfAnswer(t *testing.T) {
	rows := conformanceRows()
	up := newUpstream(t)
	for i := range rows {
		if rows[i].do == "" {
			rows[i].do = "r" + strconv.Itoa(i)
			up.scripts[rows[i].do] = rows[i].up
		}
	}
	plain, audited, async := &testSite{name: "without"}, &testSite{name: "with", directive: pinned}, &testSite{name: "async", directive: "audit_log {\n\t\tprofile better_auth\n\t\trollup off\n\t\tdurability async\n\t}"}
	dir := t.TempDir()
	startSites(t, fmt.Sprintf("\t\tstore sqlite {\n\t\t\tpath %s/audit.db\n\t\t}\n", dir), up.addr, plain, audited, async)
	j := &journal{store: harness.OpenStore(t, dir), known: map[string]bool{}}
	for i := range rows {
		r := &rows[i]
		t.Run(r.name, func(t *testing.T) {
			client, server := r.run(t, up, plain)
			j.await(t, nil, nil)
			compare(t, r, up, audited, client, server)
			j.await(t, r.want, r.or)
			compare(t, r, up, async, client, server)
			j.await(t, r.want, r.or)
		})
	}
	j.await(t, nil, nil) // nor did any exchange make a second entry later
	t.Logf("%d rows on 3 sites", len(rows))
}

func compare(t *testing.T, r *row, up *upstream, s *testSite, client, server string) {
	t.Helper()
	gotClient, gotServer := r.run(t, up, s)
	if gotClient != client {
		t.Errorf("%s: the client sees\n%s\nbut without audit_log\n%s", s.name, short(gotClient), short(client))
	}
	if gotServer != server {
		t.Errorf("%s: the auth server sees\n%s\nbut without audit_log\n%s", s.name, short(gotServer), short(server))
	}
	if strings.Contains(gotClient, "HANGS") {
		t.Errorf("%s: the client waits for ever:\n%s", s.name, short(gotClient))
	}
}

func short(s string) string {
	if len(s) > 3000 {
		return fmt.Sprintf("%.1500q ... %.1500q (%d bytes)", s[:1500], s[len(s)-1500:], len(s))
	}
	return s
}

// run makes the exchange on a site and returns what both ends saw.
func (r *row) run(t *testing.T, up *upstream, s *testSite) (client, server string) {
	t.Helper()
	g := up.begin()
	w := dial(t, s.port, g)
	defer w.close()
	w.request = r.raw(r.do)
	if r.client != nil {
		r.client(w)
	} else {
		w.send(w.request)
		w.answer()
		w.rest()
	}
	seen := up.took()
	// 100 Continue races with an early final answer, in Caddy itself.
	client = strings.ReplaceAll(w.log.String(), "HTTP/1.1 100 Continue\n\n", "")
	if r.anyFraming {
		client = framing.ReplaceAllString(client, "")
	}
	return client, strings.Join(seen, "\n---\n")
}

var framing = regexp.MustCompile(`(?m)^(Transfer-Encoding: chunked|Content-Length: 0|\(whole\)|)\n`)
