package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// TestGate16Shutdown ends Caddy with SIGTERM while requests are with the auth server:
// each has an entry, which says so if it was cut off, and the queue is emptied
// (threats.md E1.6, E1.7). The control is killed instead. Open tails of the log do not
// hold the exit up, nor a reload.
func TestGate16Shutdown(t *testing.T) {
	requests := gates.Figure(60, 200)
	hung := &shutdown{options: "grace_period 200ms", takes: never, impatient: !gates.Full()}
	late := &shutdown{options: "grace_period 1s", takes: 4 * time.Second}
	async := &shutdown{options: "grace_period 1s", takes: 4 * time.Second, async: true}
	queued := &shutdown{takes: time.Second, async: true, queue: gates.Figure(2000, 9_600)} // 10,000 is full: the requests make 300 more
	killed := &shutdown{takes: time.Second, signal: syscall.SIGKILL}
	eternal := &shutdown{takes: 1500 * time.Millisecond}
	all := []*shutdown{hung, late, async, queued, eternal, killed}
	bad := 0
	for _, s := range all { // they take their time together
		s.requests = requests
		s.begin(t)
	}
	for _, s := range all {
		s.finish(t)
		if s != killed {
			bad += s.missing + s.twice + s.wrong
		}
	}
	open, told, exit := tailsAtTheEnd(t)
	gates.Print(t, 16, "grace 1 s, auth server takes 4 s: %d requests, %d without an entry, %d with two, %d answered, exit %v after SIGTERM (async: %d, %d, %d, %v); it never answers: %d without an entry, %d entries say that they were interrupted, end %v after SIGTERM; eternal grace, %d entries in the queue, store stalled for a second: %d without an entry, exit %v after the last request; control, killed: %d of %d without an entry; eternal grace, %d open tails: %d were told, exit %v after SIGTERM",
		requests, late.missing, late.twice, late.answered, late.took, async.missing, async.twice, async.answered, async.took, hung.missing, hung.cut, hung.took, queued.queue, queued.missing, queued.after, killed.missing, requests, open, told, exit.Round(10*time.Millisecond))
	if told != open || gates.Full() && exit > 5*time.Second {
		t.Error("open tails hold the exit up, or are not told of it")
	}
	if bad > 0 || hung.cut != requests || killed.missing == 0 {
		t.Error("every request must have one entry that tells the truth, and the control must lose some")
	}
	if gates.Full() && (queued.after > 5*time.Second || max(late.took, async.took) > 8*time.Second) {
		t.Error("the bound is 5 s after the last request")
	}
}

// never is a time that an auth server takes: as long as the test lasts.
const never = time.Hour

// tailsAtTheEnd opens tails of both surfaces, and ends Caddy. told is how many of them
// were told; one more never reads.
func tailsAtTheEnd(t *testing.T) (open, told int, exit time.Duration) {
	t.Helper()
	dir, port, operators := t.TempDir(), harness.FreePort(t), harness.FreePort(t)
	up := harness.Upstream(t, &sessionAuth{})
	config := anyHost(database(dir), trusting, siteOf(port, singly(), up), siteOf(operators, "audit_log_api", up))
	config = strings.Replace(config, "\tgrace_period 10s\n", "", 1)
	cmd := harness.Start(t, dir, port, config)
	var tails []*openTail
	for i := range 100 {
		var o *openTail
		if i%10 == 0 {
			o = tail(t, operators, "/audit-log/tail", "Host: localhost\r\n")
		} else {
			o = tail(t, port, "/api/auth/audit-log/tail", from(client(i))+bearing(fmt.Sprint("user-", i)))
		}
		if o.status != http.StatusOK {
			t.Fatalf("tail %d: %d", i, o.status)
		}
		tails = append(tails, o)
	}
	stalled, err := connect(operators)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stalled.Close() }()
	if _, err := stalled.Write([]byte(raw("GET", "/audit-log/tail", "stalled", "Host: localhost\r\n", ""))); err != nil {
		t.Fatal(err)
	}
	began, ended := time.Now(), make(chan error, 1)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	go func() { _, err := cmd.Process.Wait(); ended <- err }()
	for _, o := range tails {
		if _, ok := o.until(t, isEnd("SHUTDOWN")); ok {
			told++
		}
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(2 * hang):
		t.Error("Caddy does not end")
	}
	return len(tails), told, time.Since(began)
}

// shutdown is one end of a Caddy that has requests under way.
type shutdown struct {
	// options are lines of the global block.
	options string
	// takes is how long the auth server takes for an answer.
	takes time.Duration
	// signal that ends Caddy; SIGTERM if it is 0.
	signal   syscall.Signal
	requests int
	async    bool
	// queue is how many entries wait for a store that stalls until after the signal.
	queue int
	// impatient: Caddy is killed as soon as the entries of the requests are there.
	impatient bool

	dir     string
	quit    chan struct{} // ends the auth server's wait
	answers func() []int
	began   time.Time
	last    time.Time  // the last answer
	ended   chan error // how Caddy did
	over    time.Time  // when

	// missing requests have no entry, twice more than one, wrong one that is not true;
	// answered is what clients saw, cut the entries that say that they do not know the end.
	missing, twice, wrong, answered, cut int
	// took is from the signal to the end, after from the last answer to the end.
	took, after time.Duration
}

// shutdownRoutes take turns; all are events however they end.
var shutdownRoutes = []string{"sign-in/email", "delete-user", "sign-out", "change-password", "admin/ban-user", "unheard-of"}

// begin starts Caddy, gets requests under way, and sends the signal.
func (s *shutdown) begin(t *testing.T) {
	t.Helper()
	s.dir, s.quit, s.ended = t.TempDir(), make(chan struct{}), make(chan error, 1)
	port, arrived := harness.FreePort(t), make(chan struct{}, s.requests)
	directive := singly()
	if s.async {
		directive = singly("durability async")
	}
	config := anyHost(database(s.dir), s.options, siteOf(port, directive, harness.Upstream(t, s.upstream(arrived))))
	if s.queue > 0 {
		config = strings.Replace(config, "\t\t\tpath ", "\t\t\tspill off\n\t\t\tpath ", 1)
	}
	cmd := harness.Start(t, s.dir, port, config)
	release := func() {}
	if s.queue > 0 {
		fillQueue(t, port, 1) // Caddy listens before it has opened the database
		release = lockDatabase(t, database(s.dir))
		fillQueue(t, port, s.queue-1)
	}
	s.send(t, port)
	for range s.requests {
		select {
		case <-arrived:
		case <-time.After(3 * hang):
			t.Fatal("not every request reached the auth server")
		}
	}
	s.end(t, cmd, release)
}

// upstream says which requests have arrived, and takes its time for them.
func (s *shutdown) upstream(arrived chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user := userOf(tokenOf(r))
		if !strings.HasSuffix(r.URL.Path, "/get-session") && r.Header.Get("X-Case") != queuedCase {
			arrived <- struct{}{}
			select {
			case <-time.After(s.takes):
			case <-s.quit:
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"session":{"userId":%[1]q},"user":{"id":%[1]q},"success":true}`, user) // the client may be gone
	})
}

// end sends the signal, and frees the store a second later.
func (s *shutdown) end(t *testing.T, cmd *exec.Cmd, release func()) {
	t.Helper()
	s.began = time.Now()
	signal := cmp.Or(s.signal, syscall.SIGTERM)
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(time.Second, release)
	if s.impatient {
		eventually(t, "not every request has an entry", func() bool { return len(entriesIn(t, database(s.dir), time.Time{})) == s.requests })
		_ = cmd.Process.Kill()
	}
	go func() {
		err := cmd.Wait()
		s.over = time.Now()
		if killed := s.impatient || signal == syscall.SIGKILL; killed == (err != nil) {
			err = nil
		} else {
			err = fmt.Errorf("Caddy's exit: %v", cmd.ProcessState)
		}
		s.ended <- err
	}()
}

// finish waits for the end and looks at the log.
func (s *shutdown) finish(t *testing.T) {
	t.Helper()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	statuses := s.answers()
	close(s.quit)
	s.took = s.over.Sub(s.began).Round(10 * time.Millisecond)
	s.after = s.over.Sub(s.last).Round(10 * time.Millisecond)
	s.check(t, entriesIn(t, database(s.dir), time.Time{}), statuses)
	checkIntegrity(t, database(s.dir))
}

// send sends the requests at once. s.answers then waits for all answers and gives their
// statuses, 0 for none.
func (s *shutdown) send(t *testing.T, port int) {
	t.Helper()
	statuses := make([]int, s.requests)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range statuses {
		wg.Go(func() {
			route, name := shutdownRoutes[i%len(shutdownRoutes)], fmt.Sprint("case-", i)
			status, _ := once(port, raw("POST", "/api/auth/"+route, name, bearing(name)+jsonType, `{"userId":"target"}`))
			mu.Lock()
			defer mu.Unlock()
			statuses[i], s.last = status, time.Now()
		})
	}
	s.answers = func() []int { wg.Wait(); return statuses }
}

// queuedCase is the case of requests that are answered at once.
const queuedCase = "queued"

// fillQueue sends requests whose entries wait in the background.
func fillQueue(t *testing.T, port, n int) {
	t.Helper()
	answered, _ := attack(t, port, func(i int) (string, bool) {
		return raw("POST", fmt.Sprintf("/api/auth/update-user?n=%d", i), queuedCase, jsonType, `{}`), i < n
	})
	if answered != int64(n) {
		t.Errorf("%d of %d requests were answered", answered, n)
	}
}

// check compares the log with what the clients saw.
func (s *shutdown) check(t *testing.T, entries []storage.Entry, statuses []int) {
	t.Helper()
	of := map[string][]storage.Entry{}
	for _, e := range entries {
		of[e.UserAgent] = append(of[e.UserAgent], e)
	}
	s.missing += s.queue - len(of[queuedCase])
	for i, status := range statuses {
		list := of[fmt.Sprint("case-", i)]
		if status != 0 {
			s.answered++
		}
		switch {
		case len(list) == 0:
			s.missing++
			continue
		case len(list) > 1:
			s.twice++
		}
		e := list[0]
		if e.Status == storage.Unknown {
			s.cut++
		}
		if status == http.StatusOK && e.Status != storage.Success || status == 0 && s.takes == never && !saysCut(&e) {
			s.wrong++
			t.Errorf("the client got %d, the entry says %s: %s %s", status, e.Action, e.Status, e.Metadata)
		}
	}
}

// saysCut says whether an entry says that its request had no end.
func saysCut(e *storage.Entry) bool {
	var m struct {
		Interrupted bool
		StatusCode  int
	}
	return e.Status == storage.Unknown && json.Unmarshal(e.Metadata, &m) == nil && m.Interrupted && m.StatusCode == 0
}
