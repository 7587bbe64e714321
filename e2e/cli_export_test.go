package e2e

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/filelock"
)

// contentOf reads a file.
func contentOf(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestExportsAreFiles in three formats, complete, for their owner alone, and never in the
// place of another file.
func TestExportsAreFiles(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db := database(dir)
	entries := fills(1234)
	fill(t, db, entries...)
	startWithAdmin(t, dir, port, site(db, port, authServer(t), "admin "+admin, "profile better_auth\n\t\tenabled off"))
	slices.Reverse(entries)
	for _, where := range [][]string{{"--address", admin}, {"--db", db}} {
		out := t.TempDir()
		export := func(name, format string, more ...string) outcome {
			return auditLog(t, "", slices.Concat([]string{"export", "--format", format, "--output", filepath.Join(out, name)}, where, more)...)
		}
		expect(t, export("a.jsonl", "jsonl"), 0, "", " are in "+filepath.Join(out, "a.jsonl"))
		expect(t, export("a.csv", "csv"), 0, "", "a.csv")
		expect(t, export("a.parquet", "parquet"), 0, "", "a.parquet")
		expect(t, export("few.csv", "csv", "--status", "failed", "--limit", "3"), 1, "", "unknown flag: --limit")
		expect(t, export("few.csv", "csv", "--status", "failed"), 0, "", "few.csv")
		lines := strings.Split(strings.TrimSpace(string(contentOf(t, filepath.Join(out, "a.jsonl")))), "\n")
		rows, err := csv.NewReader(bytes.NewReader(contentOf(t, filepath.Join(out, "a.csv")))).ReadAll()
		if err != nil || len(rows) != len(entries)+1 || len(lines) != len(entries) {
			t.Fatalf("%d rows, %d lines, want %d: %v", len(rows), len(lines), len(entries), err)
		}
		for i, e := range entries {
			var line struct{ ID, Action string }
			if err := json.Unmarshal([]byte(lines[i]), &line); err != nil || line.ID != e.ID || line.Action != e.Action || rows[i+1][0] != e.ID || rows[i+1][3] != e.Action {
				t.Fatalf("entry %d is %s in the lines, %s in the rows, want %+v", i, lines[i], rows[i+1], e)
			}
		}
		packed := contentOf(t, filepath.Join(out, "a.parquet"))
		if f, err := parquet.OpenFile(bytes.NewReader(packed), int64(len(packed))); err != nil || f.NumRows() != int64(len(entries)) {
			t.Errorf("%v rows: %v", f, err)
		}
		few, err := csv.NewReader(bytes.NewReader(contentOf(t, filepath.Join(out, "few.csv")))).ReadAll()
		if err != nil || len(few) != 125 {
			t.Errorf("%d rows, want 125: %v", len(few), err)
		}
		before := contentOf(t, filepath.Join(out, "few.csv"))
		expect(t, export("few.csv", "csv"), 1, "", "--force to replace it")
		if !bytes.Equal(before, contentOf(t, filepath.Join(out, "few.csv"))) {
			t.Error("a file was replaced")
		}
		expect(t, export("few.csv", "csv", "--force", "--class", "account"), 0, "", "few.csv")
		expect(t, export("a.parquet", "parquet", "--resume"), 1, "", "cannot be gone on with")
		expect(t, export("none.csv", "csv", "--resume"), 1, "", "there is no stopped export")
		expect(t, export("none.csv", "csv", "--user", "nobody"), 3, "", "nothing found")
		expect(t, export("none.csv", "xml"), 1, "", "use jsonl, csv or parquet")
		for _, name := range files(t, out) {
			if info, err := os.Stat(filepath.Join(out, filepath.Base(name))); err == nil && info.Mode().IsRegular() && info.Mode().Perm() != 0o600 || strings.Contains(name, ".part") || strings.Contains(name, "none") {
				t.Errorf("%s is left, %v", name, info.Mode())
			}
		}
	}
	expect(t, onTerminal(t, 80, nil, "export", "--db", db), 1, "name a file with --output", "")
	shown := onTerminal(t, 80, nil, "export", "--db", db, "--format", "jsonl", "--output", filepath.Join(t.TempDir(), "x"))
	if shown.status != 0 {
		t.Errorf("%q", shown.out)
	}
}

// manyAtOnce are entries of which many have the same time, with line breaks and quotes in
// their metadata.
func manyAtOnce(n int) (list []storage.Entry) {
	for i := range n {
		e := filled(i)
		e.ID, e.CreatedAt = "", begin.Add(time.Duration(i/50)*time.Second)
		e.UserAgent = fmt.Sprintf("a\r\n\"b\",%d,\nc", i)
		e.Sanitize()
		list = append(list, e)
	}
	return list
}

// TestAStoppedExportGoesOn: wherever it was stopped, the file is in the end what it would
// have been.
func TestAStoppedExportGoesOn(t *testing.T) {
	db, out := database(t.TempDir()), t.TempDir()
	fill(t, db, manyAtOnce(700)...)
	for _, format := range []string{"jsonl", "csv"} {
		whole, part := filepath.Join(out, "whole."+format), filepath.Join(out, "part."+format)
		expect(t, auditLog(t, "", "export", "--db", db, "--format", format, "--output", whole, "--class", "sign-in"), 0, "", "")
		want := contentOf(t, whole)
		line := bytes.IndexByte(want, '\n') + 1
		for _, cut := range []int{0, 1, line - 1, line, line + 1, line + 40, len(want) / 3, len(want) / 2, len(want)/2 + 1, len(want)/2 + 7, len(want) * 9 / 10, len(want) - 2, len(want) - 1, len(want)} {
			write(t, out, "part."+format+".part", string(want[:cut]))
			write(t, out, "part."+format+".part-query", fmt.Sprintf(`{"format":%q,"flags":{"class":"sign-in"},"query":"class=sign-in"}`, format))
			args := []string{"export", "--db", db, "--format", format, "--output", part}
			expect(t, auditLog(t, "", append(args, "--resume", "--class", "account")...), 1, "", "leave the filters out or give those")
			expect(t, auditLog(t, "", args...), 1, "", "--resume goes on with it")
			expect(t, auditLog(t, "", append(args, "--resume", "--class", "sign-in")...), 0, "", "")
			if got := contentOf(t, part); !bytes.Equal(got, want) {
				t.Errorf("%s, cut at %d of %d: %d bytes, and others", format, cut, len(want), len(got))
			}
			if err := os.Remove(part); err != nil {
				t.Fatal(err)
			}
			if left, _ := filepath.Glob(part + "*"); len(left) > 0 {
				t.Errorf("%q is left", left)
			}
		}
		write(t, out, "part."+format+".part", "garbage that is no record\r\n\r\n")
		write(t, out, "part."+format+".part-query", fmt.Sprintf(`{"format":%q,"flags":{},"query":""}`, format))
		expect(t, auditLog(t, "", "export", "--db", db, "--format", format, "--output", part, "--resume"), 1, "", "begin anew with --force")
	}
}

// TestAnExportGoesOnWithItsOwnLogAlone: what another log has does not come into the file, nor what
// another export writes.
func TestAnExportGoesOnWithItsOwnLogAlone(t *testing.T) {
	db, other, out := database(t.TempDir()), database(t.TempDir()), t.TempDir()
	fill(t, db, fills(40)...)
	fill(t, other, filled(10), filled(2000))
	whole, part := filepath.Join(out, "whole.jsonl"), filepath.Join(out, "part.jsonl")
	expect(t, auditLog(t, "", "export", "--db", db, "--output", whole), 0, "", "")
	lines := bytes.SplitAfter(contentOf(t, whole), []byte("\n"))
	write(t, out, "part.jsonl.part", string(bytes.Join(lines[:7], nil)))
	write(t, out, "part.jsonl.part-query", `{"format":"jsonl","flags":{},"query":""}`)
	for range 2 {
		expect(t, auditLog(t, "", "export", "--db", other, "--output", part, "--resume"), 2, "", "the last entry of the stopped export is not in this log")
	}
	running, err := os.OpenFile(part+".part", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := filelock.Try(running); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"--resume", "--force"} {
		expect(t, auditLog(t, "", "export", "--db", db, "--output", part, flag), 1, "", "another export writes to")
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, auditLog(t, "", "export", "--db", db, "--output", part, "--resume"), 0, "", "")
	if got := contentOf(t, part); !bytes.Equal(got, contentOf(t, whole)) {
		t.Errorf("%d bytes, and others", len(got))
	}
}

// TestWhatIsNotSetSelectsNotAll: a variable that is not set must not mean the whole log.
func TestWhatIsNotSetSelectsNotAll(t *testing.T) {
	db, all := database(t.TempDir()), fills(5)
	fill(t, db, all...)
	for _, flag := range []string{"--identifier", "--ip", "--action", "--status", "--severity", "--class", "--text", "--from", "--to"} {
		expect(t, auditLog(t, "", "list", "--db", db, flag, ""), 1, "", flag+" is empty")
	}
	expect(t, auditLog(t, "", "list", "--db", "", "--limit", "1"), 1, "", "--db is empty")
	day := all[4].CreatedAt.UTC().Format(time.DateOnly)
	expect(t, auditLog(t, "", "export", "--db", db, "--from", day, "--to", day), 0, all[4].ID, "")
	expect(t, auditLog(t, "", "export", "--db", db, "--to", day[:4]), 0, all[4].ID, "")
	expect(t, auditLog(t, "", "export", "--db", db, "--to", day+"T00:00:00Z"), 3, "", "nothing found")
}

// TestAKilledExportGoesOn after a real kill, Ctrl-C, and the end of its Caddy.
func TestAKilledExportGoesOn(t *testing.T) {
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db := database(dir)
	var entries []storage.Entry
	for i := range 6000 {
		e := filled(i)
		e.Metadata = json.RawMessage(fmt.Sprintf(`{"class":"sign-in","n":%d,"long":%q}`, i, strings.Repeat("x", 3000)))
		entries = append(entries, e)
	}
	fill(t, db, entries...)
	caddy := startWithAdmin(t, dir, port, site(db, port, authServer(t), "admin "+admin, "profile better_auth\n\t\tenabled off"))
	out := t.TempDir()
	args := func(name string, more ...string) []string {
		return slices.Concat([]string{"audit-log", "export", "--format", "csv", "--output", filepath.Join(out, name)}, more)
	}
	whole := exec.Command(harness.Binary(t), args("whole.csv", "--address", admin)...)
	if b, err := whole.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	want := contentOf(t, filepath.Join(out, "whole.csv"))
	for name, end := range map[string]func(*exec.Cmd) error{
		"killed.csv":  func(c *exec.Cmd) error { return c.Process.Kill() },
		"stopped.csv": func(c *exec.Cmd) error { return c.Process.Signal(syscall.SIGINT) },
	} {
		stopMidway(t, args(name, "--address", admin), filepath.Join(out, name), end, len(want), name == "stopped.csv")
		expect(t, auditLog(t, "", args(name, "--address", admin, "--resume")[1:]...), 0, "", "")
		if got := contentOf(t, filepath.Join(out, name)); !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
	stopMidway(t, args("alone.csv", "--address", admin), filepath.Join(out, "alone.csv"), func(*exec.Cmd) error { return caddy.Process.Kill() }, len(want), true)
	expect(t, auditLog(t, "", args("alone.csv", "--db", db, "--resume")[1:]...), 0, "", "")
	if got := contentOf(t, filepath.Join(out, "alone.csv")); !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d", len(got), len(want))
	}
}

// stopMidway runs an export and ends it when its file has begun. Unless it was killed it
// says itself that something is missing.
func stopMidway(t *testing.T, args []string, file string, end func(*exec.Cmd) error, whole int, says bool) {
	t.Helper()
	cmd := exec.Command(harness.Binary(t), args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	harness.Launch(t, cmd)
	for deadline := time.Now().Add(time.Minute); ; {
		if info, err := os.Stat(file + ".part"); err == nil && info.Size() > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
		time.Sleep(time.Millisecond)
	}
	if err := end(cmd); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if _, err := os.Stat(file); err == nil {
		t.Skipf("%s was complete before it could be stopped", filepath.Base(file))
	}
	size := len(contentOf(t, file+".part"))
	t.Logf("%s was stopped at %d of %d bytes", filepath.Base(file), size, whole)
	if says && (cmd.ProcessState.ExitCode() != 2 || !strings.Contains(errs.String(), "with --resume goes on")) {
		t.Errorf("status %d: %s", cmd.ProcessState.ExitCode(), errs.String())
	}
}

// tailed is what a tail prints first, in so many lines.
func tailed(t *testing.T, lines int, args ...string) string {
	t.Helper()
	l := startTail(t, args...)
	var out strings.Builder
	for n := 0; n < lines && l.out.Scan(); n++ {
		out.WriteString(l.out.Text() + "\n")
	}
	if err := l.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := l.cmd.Wait(); err != nil || strings.Count(out.String(), "\n") != lines {
		t.Errorf("it prints %q: %v", out.String(), err)
	}
	return out.String() + l.errs.String()
}

// TestOutputsObeyNothing: what stands in entries does nothing to a terminal, in each form.
func TestOutputsObeyNothing(t *testing.T) {
	db := database(t.TempDir())
	var entries []storage.Entry
	for i, p := range terminalPayloads() {
		e := filled(i)
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		e.UserID, e.Action, e.IPAddress, e.UserAgent = p, p, p, p
		e.Metadata = json.RawMessage(fmt.Sprintf(`{"class":%[1]s,"identifier":%[1]s,%[1]s:1,"error":{"code":%[1]s}}`, text))
		e.Sanitize()
		entries = append(entries, e)
	}
	fill(t, db, entries...)
	outputs := map[string]string{}
	for _, args := range [][]string{{"list", "--all"}, {"list", "--all", "--output", "json"}, {"list", "--all", "--output", "table"}, {"list", "--all", "--output", "table", "--wide"},
		{"stats"}, {"stats", "--output", "table"}, {"list", "--user", "\x1b[31m\u202e"}, {"list", "--status", "\x1b[31m\u202e"}, {"show", "\x1b[31m"}, {"list", "--since", "\x1b[31m"}} {
		name := strings.Join(args, " ")
		got := auditLog(t, "", append(args, "--db", db)...)
		outputs[name], outputs[name+", errors"] = got.out, got.errors
		shown := onTerminal(t, 100, nil, append(args, "--db", db)...)
		outputs[name+", terminal"] = sgr.ReplaceAllString(shown.out, "")
		if n := strings.Count(shown.out, "\x1b[31mred"); n > 0 {
			t.Errorf("%s colours what it prints: %q", name, shown.out)
		}
	}
	for _, e := range entries[:20] {
		outputs["show "+e.ID] = auditLog(t, "", "show", e.ID, "--db", db).out
		outputs["show "+e.ID+", table"] = auditLog(t, "", "show", e.ID, "--db", db, "--output", "table").out
	}
	outputs["tail"] = tailed(t, len(entries)+1, "--db", db, "--lines", "500", "--output", "table")
	for name, out := range outputs {
		if inTerminal(out) || strings.Contains(out, "\nforged") || strings.Contains(out, "\n{\"level\":\"info\"") {
			t.Errorf("%s prints %.400q", name, out)
		}
	}
	if got := strings.Count(outputs["list --all"], "\n"); got != len(entries) {
		t.Errorf("%d lines, want %d", got, len(entries))
	}
	for line := range strings.Lines(outputs["list --all"]) { // it is JSON still, and the same
		var e struct{ UserID, Action string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || !slices.ContainsFunc(entries, func(want storage.Entry) bool { return want.UserID == e.UserID && want.Action == e.Action }) {
			t.Errorf("%v: %q", err, line)
		}
	}
}

// TestTheRecipeThatPulls is that of docs/api.md: run again and again it has each entry once, as it is
// now, also those that are written later than others of their time, and goes on only when nothing waits.
func TestTheRecipeThatPulls(t *testing.T) {
	for _, program := range []string{"sh", "jq", "curl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: the recipe of docs/api.md needs %s, install it", err, program)
		}
	}
	docs, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile("(?s)```sh\n(#!/bin/sh\n.*?)```").FindSubmatch(docs)
	if found == nil {
		t.Fatal("there is no recipe")
	}
	dir, port, admin := t.TempDir(), harness.FreePort(t), "127.0.0.1:"+itoa(harness.FreePort(t))
	db, now := database(dir), time.Now()
	entry := func(n int, age time.Duration, status storage.Status) storage.Entry {
		e := filled(n)
		e.CreatedAt, e.Status = now.Add(-age), status
		e.ID = storage.NewIDAt(e.CreatedAt)
		e.Sanitize()
		return e
	}
	old, open, recent := entry(0, 48*time.Hour, storage.Failed), entry(1, 10*time.Minute, storage.Unknown), entry(2, time.Minute, storage.Success)
	late := entry(3, 20*time.Minute, storage.Success)
	fill(t, db, old, open, recent)
	startWithAdmin(t, dir, port, site(db, port, authServer(t), "admin "+admin, "profile better_auth\n\t\tenabled off"))

	work, bin := t.TempDir(), t.TempDir()
	if err := os.Symlink(harness.Binary(t), filepath.Join(bin, "caddy")); err != nil {
		t.Fatal(err)
	}
	script := strings.Replace(string(found[1]), "admin=localhost:2019", "admin="+admin, 1)
	pull := func() map[string]string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
		cmd.Dir, cmd.Env = work, append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return pulled(t, filepath.Join(work, "log.jsonl"))
	}
	want := map[string]string{old.ID: "failed", open.ID: "unknown", recent.ID: "success"}
	if got := pull(); !maps.Equal(got, want) {
		t.Errorf("at first it has %v, want %v", got, want)
	}
	mark := contentOf(t, filepath.Join(work, "from"))
	if at, err := time.Parse(time.RFC3339, strings.TrimSpace(string(mark))); err != nil || now.Sub(at) < 59*time.Minute || now.Sub(at) > 61*time.Minute {
		t.Errorf("it goes on from %q: %v", mark, err)
	}
	open.Status = storage.Failed
	fill(t, db, late, open)
	want[late.ID], want[open.ID] = "success", "failed"
	if got := pull(); !maps.Equal(got, want) {
		t.Errorf("then it has %v, want %v", got, want)
	}
	if got := pull(); !maps.Equal(got, want) {
		t.Errorf("again it has %v, want %v", got, want)
	}
	if err := os.WriteFile(filepath.Join(work, "from"), []byte("2099-01-01"), 0o600); err != nil {
		t.Fatal(err)
	}
	waits := "#!/bin/sh\necho '{\"state\":\"healthy\",\"stores\":[{\"waiting\":1}]}'\n"
	if err := os.WriteFile(filepath.Join(bin, "curl"), []byte(waits), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := pull(); !maps.Equal(got, want) { // of a time without entries
		t.Errorf("when there is nothing it has %v, want %v", got, want)
	}
	if mark := contentOf(t, filepath.Join(work, "from")); string(mark) != "2099-01-01" {
		t.Errorf("while entries wait it goes on to %q", mark)
	}
}

// pulled are the outcomes of the entries in a file by their ids; each may be there once.
func pulled(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for line := range strings.Lines(string(b)) {
		var e struct{ ID, Status string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if _, twice := got[e.ID]; twice {
			t.Errorf("%s is there twice", e.ID)
		}
		got[e.ID] = e.Status
	}
	return got
}
