package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/creack/pty"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// begin is the time of the first entry of a fill.
var begin = time.Now().Add(-5 * time.Hour).Truncate(time.Hour).UTC()

// filled is entry number i of a fill: users, classes, addresses and outcomes in turn.
func filled(i int) storage.Entry {
	e := storage.Entry{
		UserID: fmt.Sprintf("user-%d", i%7), Action: "sign-in:email", Status: storage.Success, Severity: severity.Medium,
		IPAddress: fmt.Sprintf("203.0.113.%d", i%5), UserAgent: "filled/1", CreatedAt: begin.Add(time.Duration(i) * time.Second),
		Metadata: json.RawMessage(fmt.Sprintf(`{"class":"sign-in","n":%d}`, i)),
	}
	switch i % 10 {
	case 3:
		e.UserID, e.Status, e.Severity = "", storage.Failed, severity.High
		e.Metadata = json.RawMessage(fmt.Sprintf(`{"class":"sign-in","n":%d,"identifier":"a***@example.com","error":{"code":"NO"}}`, i))
	case 5:
		e.Action, e.Severity, e.Metadata = "delete-user", severity.Critical, json.RawMessage(`{"class":"account"}`)
	}
	e.Sanitize()
	return e
}

// fill writes n entries into a new database.
func fill(t testing.TB, db string, entries ...storage.Entry) {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: db})
	if err != nil {
		t.Fatal(err)
	}
	pour(t, s, entries)
}

// pour writes entries into a store, and closes it.
func pour(t testing.TB, s interface {
	storage.Store
	storage.Closer
}, entries []storage.Entry) {
	t.Helper()
	for batch := range slices.Chunk(entries, 500) {
		if err := s.Write(context.Background(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func fills(n int) (list []storage.Entry) {
	for i := range n {
		list = append(list, filled(i))
	}
	return list
}

// onTerminal runs caddy audit-log on a terminal of so many columns, and returns what it
// shows there.
func onTerminal(t testing.TB, columns int, env []string, args ...string) outcome {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"audit-log"}, args...)...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "NO_COLOR=") || strings.HasPrefix(v, "TERM=")
	}), append([]string{"TERM=xterm"}, env...)...)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: uint16(columns)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out, _ := io.ReadAll(f) // it ends with an error when the program does
	_ = cmd.Wait()
	return outcome{cmd.ProcessState.ExitCode(), strings.ReplaceAll(string(out), "\r\n", "\n"), ""}
}

var sgr = regexp.MustCompile("\x1b\\[[0-9;]*m")

// readCommand is one that reads a log, and how it ends: with that status, saying that,
// with so many lines; -1 is any number.
type readCommand struct {
	name      string
	args      []string
	status    int
	out, errs string
	lines     int
}

// readCommands are the commands that read, for a log of 1,234 entries of a fill.
func readCommands(entries []storage.Entry) []readCommand {
	last := entries[len(entries)-1]
	since := begin.Add(1200 * time.Second).Format(time.RFC3339)
	return []readCommand{
		{"list", []string{"list"}, 0, `"id":"` + last.ID, "50 of 1234 entries; the next ones: --cursor ", 50},
		{"list, the user agent", []string{"list", "-n", "1"}, 0, `"userAgent":"filled/1"`, "1 of 1234", 1},
		{"list, more than a page", []string{"list", "--limit", "777"}, 0, "", "777 of 1234", 777},
		{"list, all", []string{"list", "--all"}, 0, entries[0].ID, "1234 of 1234 entries\n", 1234},
		{"list, as one object", []string{"list", "--output", "json", "--limit", "2"}, 0, `"total":1234,"totalIsCapped":false,"nextCursor":"`, "", 4},
		{"list, as a table", []string{"list", "--output", "table", "--limit", "2"}, 0, "TIME (UTC)", "2 of 1234", 3},
		{"list by user", []string{"list", "--user", "user-2", "--all"}, 0, `"userId":"user-2"`, "158 of 158", 158},
		{"list of nobody", []string{"list", "--user", "", "--all"}, 0, `"userId":null`, "124 of 124", 124},
		{"list by class", []string{"list", "--class", "account", "--all"}, 0, "delete-user", "123 of 123", 123},
		{"list by action and status", []string{"list", "--action", "sign-in:email", "--status", "failed", "--all"}, 0, "", "124 of 124", 124},
		{"list by severity", []string{"list", "--severity", "critical", "-n", "1"}, 0, "delete-user", "1 of 123", 1},
		{"list by address", []string{"list", "--ip", "203.0.113.4", "-n", "1"}, 0, "203.0.113.4", "1 of 246", 1},
		{"list by text", []string{"list", "--text", "delete-", "-n", "1"}, 0, "delete-user", "1 of 123", 1},
		{"list by the text of an account", []string{"list", "--text", "a@example.com"}, 3, "", `--identifier "a@example.com" finds the attempts on that account`, 0},
		{"list by a text that may be an account's name", []string{"list", "--text", "ada"}, 3, "", "nothing found\n--text does not find what was typed to sign in", 0},
		{"list by a part of an account as entries have it", []string{"list", "--text", "a***@example.com", "-n", "1"}, 0, "", "1 of 124 entries; the next ones", 1},
		{"list by time", []string{"list", "--since", since, "--all"}, 0, "", "34 of 34", 34},
		{"list by age", []string{"list", "--since", "30d", "--to", "1h", "--all"}, 0, "", "1234 of 1234", 1234},
		{"list of nothing", []string{"list", "--user", "nobody"}, 3, "", "nothing found", 0},
		{"list of nothing, one object", []string{"list", "--user", "nobody", "--output", "json"}, 3, `{"entries":[],"total":0`, "nothing found", 1},
		{"list, bad cursor", []string{"list", "--cursor", "no"}, 1, "", `"--cursor: bad cursor: use the nextCursor of an earlier answer"`, 0},
		{"list, much text", []string{"list", "--text", strings.Repeat("x", 101)}, 1, "", "--text has 101 bytes: give at most 100", 0},
		{"list, an age before 1970", []string{"list", "--from", "99999d"}, 1, "", "--from: 99999d is in the year 1", 0},
		{"list, a time before 1970", []string{"list", "--to", "0001-01-01"}, 1, "", "--to: 0001-01-01 is in the year 1: give a time from 1970 to 9999", 0},
		{"list, two that exclude each other", []string{"list", "--user", "u", "--identifier-hash", "x"}, 1, "", "--user: Invalid input: it cannot be combined with identifier", 0},
		{"list, a reversed range", []string{"list", "--from", "2026-12-02", "--to", "2026-12-01"}, 1, "", "--from 2026-12-02 is after --to 2026-12-01: nothing is between them", 0},
		{"list, a day", []string{"list", "--from", "2026-01-02", "--to", "2026-01-02"}, 3, "", "nothing found", 0},
		{"list, bad status", []string{"list", "--status", "ok"}, 1, "", "use success, failed, pending or unknown", 0},
		{"list, bad time", []string{"list", "--since", "yesterday"}, 1, "", "give ISO 8601 such as", 0},
		{"list, both", []string{"list", "--since", "1d", "--from", "1d"}, 1, "", "give one of them", 0},
		{"list, bad output", []string{"list", "--output", "xml"}, 1, "", "use table, json or jsonl", 0},
		{"list, an argument", []string{"list", "failed"}, 1, "", "1 arguments were given, not 0: the command is caddy audit-log list", 0},
		{"list, a flag that is none", []string{"list", "--statsu", "x"}, 1, "", "unknown flag: --statsu", 0},
		{"show", []string{"show", last.ID}, 0, `"id": "` + last.ID + `"`, "", 18},
		{"show, for people", []string{"show", last.ID, "--output", "table"}, 0, "agent       filled/1", "", 17},
		{"show of nothing", []string{"show", "no"}, 3, "", "nothing found", 0},
		{"show of an endpoint's name", []string{"show", "tail"}, 3, "", "nothing found", 0},
		{"show without an id", []string{"show"}, 1, "", "the command is caddy audit-log show <id>", 0},
		{"stats", []string{"stats", "--output", "table"}, 0, "1234 entries from", "", -1},
		{"stats of actions", []string{"stats", "--output", "table"}, 0, "\nsign-in:email       1111        987        124\n", "", -1},
		{"stats of nothing", []string{"stats", "--user", "nobody"}, 3, `"total": 0`, "nothing found", -1},
		{"stats, bad range", []string{"stats", "--since", "1h", "--to", "2h"}, 1, "", "--since 1h is after --to 2h", 0},
		{"stats, too much time", []string{"stats", "--from", "1970-01-01", "--to", "9999-12-31"}, 1, "", "--from and --to are too far apart to be counted over time", 0},
		{"stats, no time", []string{"stats", "--from", "2100"}, 1, "", "is not before", 0},
		{"export by the text of an account", []string{"export", "--text", "+49 151 12345678"}, 3, "", `(+49***78): --identifier "+49 151 12345678" finds`, 0},
		{"export of nothing", []string{"export", "--user", "nobody"}, 3, "", "nothing found", 0},
		{"export, a reversed range", []string{"export", "--from", "1d", "--to", "7d"}, 1, "", "--from 1d is after --to 7d", 0},
		{"export, bad cursor", []string{"export", "--cursor", "no"}, 1, "", "--cursor: bad cursor", 0},
		{"export", []string{"export"}, 0, entries[0].ID, "", 1234},
		{"export, csv", []string{"export", "--format", "csv", "--class", "account"}, 0, `"delete-user"`, "", 124},
	}
}

// TestReadingCommands: each command says the same of a running Caddy's log as of its file,
// with the exit status that scripts go by.
func TestReadingCommands(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db := database(dir)
	entries := fills(1234)
	fill(t, db, entries...)
	startWithAdmin(t, dir, port, site(db, port, authServer(t), "admin "+admin, "profile better_auth\n\t\tenabled off"))
	last := entries[len(entries)-1]
	for _, c := range readCommands(entries) {
		t.Run(c.name, func(t *testing.T) { c.same(t, admin, db) })
	}
	expect(t, auditLog(t, "", "lnit", "Caddyfile"), 2, "", "there is no command")
	expect(t, auditLog(t, "", "list", "--db", db, "--address", admin), 1, "", "give one of them")
	expect(t, auditLog(t, "", "list", "--db", filepath.Join(dir, "no.db")), 1, "", "no such file")
	expect(t, auditLog(t, "", "list", "--address", "127.0.0.1:1"), 1, "", "when no Caddy runs, name the database with --db")
	expect(t, auditLog(t, "", "list", "--address", admin, "--store", "/no"), 1, "", "store")
	expect(t, auditLog(t, "", "list", "--address", admin, "--store", db), 0, last.ID, "")
	expect(t, auditLog(t, "", "list", "--config", filepath.Join(dir, "Caddyfile")), 0, last.ID, "")
	if _, err := os.Stat(filepath.Join(dir, "no.db")); err == nil {
		t.Error("it made a database")
	}
	pagesJoin(t, admin, entries)
}

// same runs the command with a running Caddy's log and with a file that has the same
// entries.
func (c *readCommand) same(t *testing.T, admin, db string) {
	t.Helper()
	running := auditLog(t, "", append(c.args, "--address", admin)...)
	expect(t, running, c.status, c.out, c.errs)
	file := auditLog(t, "", append(c.args, "--db", db)...)
	expect(t, file, c.status, c.out, c.errs)
	if n := strings.Count(running.out, "\n"); c.lines >= 0 && n != c.lines {
		t.Errorf("%d lines, want %d: %.600s", n, c.lines, running.out)
	}
	if c.args[0] != "stats" && running.out != file.out { // stats end now
		t.Errorf("Caddy says\n%.600s\nthe file\n%.600s", running.out, file.out)
	}
}

// pagesJoin follows the cursors that list says.
func pagesJoin(t *testing.T, admin string, want []storage.Entry) {
	t.Helper()
	next := regexp.MustCompile(`--cursor (\S+)`)
	var ids []string
	for args := []string{"list", "-n", "400", "--address", admin}; ; {
		got := auditLog(t, "", args...)
		for line := range strings.Lines(got.out) {
			var e storage.Entry
			if err := json.Unmarshal([]byte(line), &struct{ ID *string }{&e.ID}); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.ID)
		}
		m := next.FindStringSubmatch(got.errors)
		if m == nil {
			break
		}
		args = []string{"list", "-n", "400", "--address", admin, "--cursor", m[1]}
	}
	slices.Reverse(ids)
	if len(ids) != len(want) || ids[0] != want[0].ID || ids[len(ids)-1] != want[len(want)-1].ID {
		t.Errorf("%d ids, want %d", len(ids), len(want))
	}
}

// TestListsOnATerminal fit its width and have colours, unless they are not wanted.
func TestListsOnATerminal(t *testing.T) {
	db := database(t.TempDir())
	entries := fills(30)
	entries[29].UserID, entries[29].Action = strings.Repeat("用户", 40), strings.Repeat("long-action:", 20)
	fill(t, db, entries...)
	for _, columns := range []int{20, 40, 60, 80, 100, 132, 200, 400} {
		got := onTerminal(t, columns, nil, "list", "--db", db, "-n", "20")
		plain := sgr.ReplaceAllString(got.out, "")
		if got.status != 0 || !strings.HasPrefix(plain, "TIME (UTC)") || !strings.Contains(got.out, "\x1b[32msuccess") || !strings.Contains(plain, "20 of 30 entries; the next ones: --cursor ") {
			t.Errorf("%d columns, status %d: %q", columns, got.status, got.out)
		}
		for line := range strings.Lines(plain) {
			if width := displayWidth(strings.TrimRight(line, "\n")); width > max(columns, 42) && !strings.Contains(line, "--cursor") {
				t.Errorf("%d columns, a line has %d: %q", columns, width, line)
			}
		}
		if shown := strings.Contains(plain, entries[28].ID); shown != (columns >= 132) {
			t.Errorf("%d columns: ids are shown: %t", columns, shown)
		}
	}
	if wide := onTerminal(t, 40, nil, "list", "--db", db, "--wide"); !strings.Contains(wide.out, entries[29].Action) {
		t.Errorf("--wide cuts: %q", wide.out)
	}
	for name, got := range map[string]outcome{
		"NO_COLOR":                onTerminal(t, 80, []string{"NO_COLOR=1"}, "list", "--db", db),
		"TERM=dumb":               onTerminal(t, 80, []string{"TERM=dumb"}, "list", "--db", db),
		"--color never":           onTerminal(t, 80, nil, "list", "--db", db, "--color", "never"),
		"--color=never, an entry": onTerminal(t, 80, nil, "show", entries[3].ID, "--db", db, "--color=never"),
		"a pipe":                  auditLog(t, "", "list", "--db", db, "--output", "table"),
	} {
		if strings.Contains(got.out, "\x1b") || got.status != 0 {
			t.Errorf("%s: status %d, %q", name, got.status, got.out)
		}
	}
	if got := auditLog(t, "", "list", "--db", db, "--output", "table", "--color", "always"); !strings.Contains(got.out, "\x1b[31mfailed") {
		t.Errorf("--color always: %q", got.out)
	}
	shown := onTerminal(t, 80, nil, "show", entries[3].ID, "--db", db)
	if plain := sgr.ReplaceAllString(shown.out, ""); !strings.Contains(plain, "status      failed\n") || !strings.Contains(plain, `"identifier": "a***@example.com"`) {
		t.Errorf("%q", shown.out)
	}
	if stats := onTerminal(t, 80, nil, "stats", "--db", db); !strings.Contains(stats.out, "TIME (UTC), EACH 6H") || !strings.Contains(stats.out, "\x1b[31mx") {
		t.Errorf("%q", stats.out)
	}
}

// displayWidth is how many columns a text takes.
func displayWidth(s string) int {
	n := utf8.RuneCountInString(s)
	for _, r := range s {
		if r >= 0x4e00 && r <= 0x9fff {
			n++
		}
	}
	return n
}

// tailing is a tail under way.
type tailing struct {
	cmd  *exec.Cmd
	out  *bufio.Scanner
	errs bytes.Buffer
}

func startTail(t *testing.T, args ...string) *tailing {
	t.Helper()
	l := &tailing{cmd: exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"audit-log", "tail"}, args...)...)}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.cmd.Stderr = &l.errs
	harness.Launch(t, l.cmd)
	l.out = bufio.NewScanner(out)
	guard := time.AfterFunc(2*time.Minute, func() { _ = l.cmd.Process.Kill() })
	t.Cleanup(func() { guard.Stop() })
	return l
}

// next is the next line.
func (l *tailing) next(t *testing.T) (e struct{ ID, Action, Status string }) {
	t.Helper()
	if !l.out.Scan() {
		t.Fatalf("the tail has ended: %v %s", l.out.Err(), l.errs.String())
	}
	if err := json.Unmarshal(l.out.Bytes(), &e); err != nil {
		t.Fatalf("%v: %q", err, l.out.Text())
	}
	return e
}

// TestTailFollows a running Caddy, over its reload and its restart, and a file.
func TestTailFollows(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db, up := database(dir), authServer(t)
	fill(t, db, fills(20)...)
	config := site(db, port, up, "admin "+admin, "profile better_auth\n\t\trollup off")
	caddy := startWithAdmin(t, dir, port, config)
	running := startTail(t, "--address", admin, "-n", "3", "--text", "sign-in:email")
	file := startTail(t, "--db", db, "--lines", "2", "--text", "sign-in:email")
	for i, l := range []*tailing{running, file} {
		for range 3 - i {
			if e := l.next(t); e.Action != "sign-in:email" {
				t.Errorf("%+v", e)
			}
		}
	}
	signIn := func() {
		t.Helper()
		if code, body := call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"a@example.com"}`); code != http.StatusUnauthorized {
			t.Fatal(code, body)
		}
	}
	same := func() {
		t.Helper()
		a, b := running.next(t), file.next(t)
		if a != b || a.Action != "sign-in:email" || a.Status != "failed" {
			t.Errorf("Caddy says %+v, the file %+v", a, b)
		}
	}
	signIn()
	same()
	reload(t, admin, config)
	signIn()
	same()
	if err := caddy.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = caddy.Wait()
	startWithAdmin(t, dir, port, config)
	signIn()
	same()
	for _, l := range []*tailing{running, file} {
		if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		for l.out.Scan() {
			t.Errorf("one line too many: %q", l.out.Text())
		}
		if err := l.cmd.Wait(); err != nil {
			t.Errorf("Ctrl-C: %v %s", err, l.errs.String())
		}
	}
	if !strings.Contains(running.errs.String(), "trying again") || !strings.Contains(running.errs.String(), "connected again") {
		t.Errorf("it says %q", running.errs.String())
	}
	expect(t, auditLog(t, "", "tail", "--address", "127.0.0.1:1"), 1, "", "when no Caddy runs")
	expect(t, auditLog(t, "", "tail", "--address", admin, "--lines", "1000"), 1, "", "0 to 500")
}

// TestATailGoesOnWhereItWas: what is older than the tail is not printed after a restart, but for
// what was written or has changed meanwhile.
func TestATailGoesOnWhereItWas(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db := database(dir)
	entry := func(age time.Duration, status storage.Status) storage.Entry {
		e := storage.Entry{Action: "sign-in:email", Status: status, CreatedAt: time.Now().Add(-age)}
		e.Sanitize()
		return e
	}
	old := []storage.Entry{entry(100*time.Second, storage.Success), entry(70*time.Second, storage.Unknown), entry(60*time.Second, storage.Unknown)}
	fill(t, db, old...)
	config := site(db, port, authServer(t), "admin "+admin, "profile better_auth\n\t\trollup off")
	caddy := startWithAdmin(t, dir, port, config)
	running := startTail(t, "--address", admin, "--lines", "1", "--text", "sign-in:email")
	if e := running.next(t); e.ID != old[2].ID {
		t.Errorf("%+v", e)
	}
	if code, body := call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"a@example.com"}`); code != http.StatusUnauthorized {
		t.Fatal(code, body)
	}
	if e := running.next(t); e.Status != "failed" {
		t.Errorf("%+v", e)
	}

	if err := caddy.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = caddy.Wait()
	decided, late := old[1], entry(50*time.Second, storage.Success)
	decided.Status = storage.Failed
	fill(t, db, decided, late)
	startWithAdmin(t, dir, port, config)
	for _, want := range []storage.Entry{decided, late} {
		if e := running.next(t); e.ID != want.ID || e.Status != string(want.Status) {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
	if err := running.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for running.out.Scan() {
		t.Errorf("one line too many: %q", running.out.Text())
	}
	if err := running.cmd.Wait(); err != nil || !strings.Contains(running.errs.String(), "connected again") {
		t.Errorf("%v %s", err, running.errs.String())
	}
}

// awaitSilence waits until a terminal does not show what is typed.
func awaitSilence(t *testing.T, terminal *os.File) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		stty := exec.Command("stty", "-a")
		stty.Stdin = terminal
		if out, err := stty.Output(); err != nil || strings.Contains(string(out), " -echo ") {
			return // without a stty the test may fail, and says what it saw
		}
	}
	t.Error("what is typed is shown")
}

// TestCtrlCOnATerminal ends a tail well, and a question for a value shows none.
func TestCtrlCOnATerminal(t *testing.T) {
	dir := t.TempDir()
	db := database(dir)
	fill(t, db, fills(5)...)
	talk := func(see, say string, args ...string) outcome {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), harness.Binary(t), append([]string{"audit-log"}, args...)...)
		f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 140})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		guard := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		defer guard.Stop()
		var out []byte
		said := false
		for b := make([]byte, 4096); ; {
			n, err := f.Read(b)
			if out = append(out, b[:n]...); err != nil {
				break
			}
			if !said && strings.Contains(string(out), see) {
				said = true
				if strings.HasSuffix(say, "\n") {
					awaitSilence(t, f) // it is switched after the question is shown
				}
				if _, err := f.WriteString(say); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		return outcome{cmd.ProcessState.ExitCode(), string(out), ""}
	}
	tail := talk(filled(4).CreatedAt.Format("15:04:05"), "\x03", "tail", "--db", db)
	if tail.status != 0 || strings.Count(tail.out, "sign-in:email") != 5 || !strings.Contains(tail.out, "\x1b[32msuccess") {
		t.Errorf("status %d, %q", tail.status, tail.out)
	}
	write(t, dir, "hash.key", strings.Repeat("ab", 32))
	hash := talk("value: ", "ann@example.com\n", "hash", "-", "--field", "identifier", "--db", db)
	if hash.status != 0 || strings.Contains(hash.out, "ann@") || !strings.Contains(hash.out, "hmac-sha256:") {
		t.Errorf("status %d, %q", hash.status, hash.out)
	}
}

// TestAFileIsReadBesideItsCaddy: while sign-ins are written, lists of the file never fail
// and never show less than before; nothing is made or left; after a kill it reads on.
func TestAFileIsReadBesideItsCaddy(t *testing.T) {
	dir, port := t.TempDir(), harness.FreePort(t)
	db := database(dir)
	cmd := harness.Start(t, dir, port, site(db, port, authServer(t), "", "profile better_auth\n\t\trollup off\n\t\tfail closed"))
	stopped := make(chan int)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if code, body := call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"a@example.com"}`); code != http.StatusUnauthorized {
				t.Error(code, body)
			}
		}
		stopped <- n
	}()
	seen := 0
	for range 8 {
		got := auditLog(t, "", "list", "--db", db, "--all")
		n := strings.Count(got.out, "\n")
		if got.status != 0 && got.status != 3 || n < seen {
			t.Errorf("status %d, %d entries after %d: %s", got.status, n, seen, got.errors)
		}
		seen = n
	}
	cancel()
	written := 1 + <-stopped // with audit-log:started
	before := files(t, dir)
	expect(t, auditLog(t, "", "list", "--db", db, "-n", "1"), 0, "", fmt.Sprintf("1 of %d", written))
	expect(t, auditLog(t, "", "list", "--db", db, "-n", "1", "--identifier", " A@Example.com"), 0, "sign-in:email", fmt.Sprintf("1 of %d", written-1))
	if after := files(t, dir); !slices.Equal(before, after) {
		t.Errorf("files %q before, %q after", before, after)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = cmd.Process.Wait()
	expect(t, auditLog(t, "", "list", "--db", db, "-n", "1"), 0, "", fmt.Sprintf("1 of %d", written))
	if n := len(entriesIn(t, db, time.Time{})); n != written-1 {
		t.Errorf("%d entries, want %d", n, written-1)
	}
	checkIntegrity(t, db)
	expect(t, auditLog(t, "", "list", "--db", db, "-n", "1"), 0, "", fmt.Sprintf("1 of %d", written))
}

// TestHashFromTheCommandLine: a known value is found, with the key that is there and
// without making one.
func TestHashFromTheCommandLine(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db, key := database(dir), filepath.Join(dir, "hash.key")
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	expect(t, auditLog(t, "", "hash", "ann@example.com"), 1, "", "name the file of the option key_file with --key-file")
	expect(t, auditLog(t, "", "hash", "ann@example.com", "--key-file", key), 1, "", "no such file")
	if _, err := os.Stat(key); err == nil {
		t.Fatal("it made a key")
	}
	startWithAdmin(t, dir, port, site(db, port, authServer(t), "admin "+admin, "profile better_auth\n\t\trollup off"))
	for range 3 {
		call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"Ann@example.com"}`)
	}
	call(t, http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/api/auth/sign-in/email", port), `{"email":"bob@example.com"}`)
	tag := strings.TrimSpace(auditLog(t, " ANN@example.com \n", "hash", "-", "--field", "identifier", "--key-file", key).out)
	if !strings.Contains(auditLog(t, "", "list", "--db", db, "--all").out, `"identifierHash":"`+tag+`"`) || !strings.HasPrefix(tag, "hmac-sha256:") {
		t.Errorf("no entry has %q", tag)
	}
	expect(t, auditLog(t, "", "hash", "ann@example.com", "--db", db), 0, "identifier  "+tag+"\n", "")
	expect(t, auditLog(t, "", "hash", "ann@example.com", "--field", "ssn", "--field", "identifier", "--db", db), 0, "identifier  "+tag+"\n", "")
	for _, where := range [][]string{{"--db", db}, {"--address", admin, "--key-file", key}} {
		expect(t, auditLog(t, "", append([]string{"hash", "ann@example.com", "--find"}, where...)...), 0, tag, "3 of 3 entries")
		expect(t, auditLog(t, "", append([]string{"hash", "eve@example.com", "--find"}, where...)...), 3, "", "nothing found")
		expect(t, auditLog(t, "", append([]string{"list", "--identifier-hash", tag}, where...)...), 0, tag, "3 of 3 entries")
		expect(t, auditLog(t, "", append([]string{"list", "--identifier", "ANN@example.com"}, where...)...), 0, tag, "3 of 3 entries")
	}
	expect(t, auditLog(t, "\n", "hash", "-", "--db", db), 1, "", "give one line")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	expect(t, auditLog(t, "", "list", "--identifier", "ann@example.com", "--db", db), 1, "", "name the file of the option key_file with --key-file")
	expect(t, auditLog(t, "", "list", "--identifier", "ann@example.com", "--db", db, "--key-file", key+".away"), 0, tag, "")
	expect(t, auditLog(t, "", "list", "-n", "1", "--db", db), 0, "", "1 of 5")
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	expect(t, auditLog(t, "", "hash", "ann@example.com", "--db", db), 1, "", "chmod 600")
}

// TestCompletions: the shell completes commands and the words of flags.
func TestCompletions(t *testing.T) {
	for line, want := range map[string][]string{
		"audit-log \x00":                    {"list", "show", "tail", "export", "stats", "hash", "proxy", "prune", "import", "lint", "doctor"},
		"audit-log list --status \x00":      {"success", "failed", "pending", "unknown"},
		"audit-log tail --severity \x00":    {"low", "critical"},
		"audit-log export --format \x00":    {"csv", "jsonl", "parquet"},
		"audit-log list --output \x00":      {"table", "json", "jsonl"},
		"audit-log list --color \x00":       {"auto", "always", "never"},
		"audit-log stats --class \x00":      {"sign-in", "admin"},
		"audit-log proxy --profile \x00":    {"auto", "better_auth", "keycloak"},
		"audit-log hash value --field \x00": {"identifier"},
	} {
		args := strings.Split(strings.ReplaceAll(line, "\x00", ""), " ")
		out, err := exec.Command(harness.Binary(t), append([]string{"__complete"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range want {
			if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(word) + `(\t|$)`).Match(out) {
				t.Errorf("%q is not completed to %s: %s", line, word, out)
			}
		}
	}
	if out, err := exec.Command(harness.Binary(t), "completion", "bash").Output(); err != nil || !bytes.Contains(out, []byte("__complete")) {
		t.Errorf("%v: %.200s", err, out)
	}
}

// TestAFileSaysThatItIsNotAll: entries wait in its journal.
func TestAFileSaysThatItIsNotAll(t *testing.T) {
	db := database(t.TempDir())
	fill(t, db, fills(3)...)
	harness.LeaveWaiting(t, db+".spill", fills(2)...)
	for _, args := range [][]string{{"list"}, {"stats"}, {"export"}} {
		expect(t, auditLog(t, "", append(args, "--db", db)...), 0, "sign-in:email", "warning: 2 entries wait in "+db+".spill")
	}
}
