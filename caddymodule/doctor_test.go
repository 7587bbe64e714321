package caddymodule

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *time.Time {
	t := noon.Add(d)
	return &t
}

// healthy is a deployment where all is well.
func healthy() facts {
	return facts{
		Now: noon,
		Handlers: []handlerFacts{{
			At: "apps/http/servers/srv0/routes/0/handle/0", Hosts: []string{"auth.example.com"}, Configured: "auto", Profile: "better_auth", Title: "Better Auth",
			BasePath: "/api/auth", Known: "certain", By: "the cookie", Probe: &sessionProbe{Date: at(0), Asked: noon},
		}},
		Stores: []storeFacts{{
			storeStatus: storeStatus{Store: "sqlite", Path: "/data/audit.db", Open: true, Written: 10},
			Newest:      at(-time.Minute), LastWrite: at(-time.Minute), LastWriteTook: 0.002,
			Files: []fileMode{{"folder", "/data", 0o700}, {"database", "/data/audit.db", 0o600}, {"key", "/data/hash.key", 0o600}},
			Disk:  &diskSpace{Folder: "/data", Free: 50 << 30, Total: 100 << 30},
		}},
	}
}

func TestWhatTheDoctorSays(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*facts)
		// check and verdict of what differs from a healthy deployment; a part of its text.
		check   string
		verdict verdict
		text    string
	}{
		{"all is well", func(*facts) {}, "", fine, ""},
		{"no handler", func(f *facts) { f.Handlers = nil }, "handler", failure, "nothing is recorded"},
		{"a server that is not recognised", func(f *facts) { f.Handlers[0].Known, f.Handlers[0].Probe = "nothing", nil }, "profile", warning, "not recognised yet"},
		{"a sign that is weak", func(f *facts) { f.Handlers[0].Known = "standard" }, "profile", warning, "other servers may have too (the cookie)"},
		{"a profile that is named", func(f *facts) { f.Handlers[0].Configured = "better_auth" }, "", fine, ""},
		{"a session endpoint that is not there", func(f *facts) { f.Handlers[0].Probe.Error = "it answered 404" }, "session", failure, "it answered 404"},
		{"a session endpoint that knows everybody", func(f *facts) { f.Handlers[0].Probe.User = "alice" }, "session", failure, "the wrong user"},
		{"no session endpoint", func(f *facts) { f.Handlers[0].Probe = &sessionProbe{Missing: true} }, "", fine, ""},
		{"an auth server whose clock is a little behind", func(f *facts) { f.Handlers[0].Probe.Date = at(-4 * time.Second) }, "", fine, ""},
		{"an auth server whose clock is behind", func(f *facts) { f.Handlers[0].Probe.Date = at(-time.Minute) }, "clock", warning, "59s apart"},
		{"an auth server whose clock is far ahead", func(f *facts) { f.Handlers[0].Probe.Date = at(time.Hour) }, "clock", failure, "59m59s apart"},
		{"a store that is not open", func(f *facts) { f.Stores[0].Open = false }, "store", failure, "not open"},
		{"a store that cannot be read", func(f *facts) { f.Stores[0].Error = "malformed" }, "entries", failure, "malformed"},
		{"no entries yet", func(f *facts) { f.Stores[0].Newest, f.Stores[0].LastWrite = nil, nil }, "", fine, ""},
		{"an entry of the future", func(f *facts) { f.Stores[0].Newest = at(time.Hour) }, "entries", warning, "1h0m0s in the future"},
		{"an entry of the far future", func(f *facts) { f.Stores[0].Newest = at(48 * time.Hour) }, "entries", warning, "48h0m0s in the future"},
		{"a long queue", func(f *facts) { f.Stores[0].Queued, f.Stores[0].LastWrite = 1000, at(0) }, "writer", warning, "1000 entries wait"},
		{"a queue that does not move", func(f *facts) { f.Stores[0].Queued = 1 }, "writer", failure, "takes nothing"},
		{"a queue that never moved", func(f *facts) { f.Stores[0].Queued, f.Stores[0].LastWrite, f.Stores[0].WriteErrors = 1, nil, 3 }, "writer", failure, "takes nothing"},
		{"slow writes", func(f *facts) { f.Stores[0].LastWriteTook = 1.5 }, "writer", warning, "took 1.5s"},
		{"lost entries", func(f *facts) { f.Stores[0].Dropped = 7 }, "writer", warning, "7 events were lost"},
		{"a retention that failed", func(f *facts) { f.Stores[0].Retention = &retentionStatus{Error: "the clock moved"} }, "retention", warning, "the clock moved"},
		{"a retention that works", func(f *facts) { f.Stores[0].Retention = new(retentionStatus) }, "", fine, ""},
		{"less than a twentieth free", func(f *facts) { f.Stores[0].Disk.Free = 4 << 30 }, "disk", warning, "4.0 GiB of 100 GiB are free (4.0 %)"},
		{"less than 100 MiB free", func(f *facts) { *f.Stores[0].Disk = diskSpace{Free: 99 << 20, Total: 1 << 30} }, "disk", warning, "99 MiB"},
		{"nothing free", func(f *facts) { f.Stores[0].Disk.Free = 1 << 20 }, "disk", failure, "1.0 MiB"},
		{"a database on a network", func(f *facts) { f.Stores[0].Disk.Network = "NFS" }, "disk", warning, "it is on NFS"},
		{"a system that does not say", func(f *facts) { f.Stores[0].Disk = nil }, "", fine, ""},
		{"a database that others may read", func(f *facts) { f.Stores[0].Files[1].Mode = 0o644 }, "database", failure, "mode 0644"},
		{"a key that the group may read", func(f *facts) { f.Stores[0].Files[2].Mode = 0o640 }, "key", failure, "mode 0640"},
		{"a folder that others may look into", func(f *facts) { f.Stores[0].Files[0].Mode = 0o755 }, "folder", warning, "mode 0755"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := healthy()
			c.change(&f)
			d := diagnose(f, noon, noon)
			i := slices.IndexFunc(d, func(f finding) bool { return f.Verdict != fine })
			if c.verdict == fine {
				if i >= 0 {
					t.Errorf("%+v", d[i])
				}
				return
			}
			if i < 0 || d[i].Check != c.check || d[i].Verdict != c.verdict || !strings.Contains(d[i].Text, c.text) || d[i].Remedy == "" {
				t.Errorf("%+v", d)
			} else if strings.Contains(d[i].Remedy, "{ ") {
				t.Errorf("Caddy takes no block on one line: %s", d[i].Remedy)
			}
			if rest := slices.ContainsFunc(d[i+1:], func(f finding) bool { return f.Verdict != fine }); rest {
				t.Errorf("more than one finding: %+v", d)
			}
		})
	}
}

func TestTheDoctorsExitStatusIsItsWorstFinding(t *testing.T) {
	for _, c := range []struct {
		verdicts []verdict
		status   int
	}{{nil, 0}, {[]verdict{fine, fine}, 0}, {[]verdict{fine, warning}, 1}, {[]verdict{failure, warning}, 2}} {
		var d diagnosis
		for _, v := range c.verdicts {
			d.add(v, "x", "", "text", "remedy")
		}
		if status, err := d.exit(); status != c.status || (err != nil) != (status > 0) {
			t.Errorf("%v: %d, %v", c.verdicts, status, err)
		}
	}
}

func TestTheDoctorPrintsRemediesBelowWhatTheyAreFor(t *testing.T) {
	var d diagnosis
	d.add(fine, "disk", "/data", "enough", "not shown")
	d.add(warning, "key", "/data/hash.key", "mode 0644", "chmod 0600 /data/hash.key")
	var out bytes.Buffer
	if err := d.print(&out); err != nil {
		t.Fatal(err)
	}
	const want = "ok    disk  /data           enough\nwarn  key   /data/hash.key  mode 0644\n                            -> chmod 0600 /data/hash.key\n"
	if out.String() != want {
		t.Errorf("%q\nwant\n%q", out.String(), want)
	}
}

// TestAnUpstreamThatAnswersElsewhereIsFound takes other loopback addresses for those of
// the network: tests listen on loopback only.
func TestAnUpstreamThatAnswersElsewhereIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	open, closed := []netip.Addr{netip.MustParseAddr("127.0.0.1")}, []netip.Addr{netip.MustParseAddr("127.0.0.7")}
	for _, c := range []struct {
		dial      string
		elsewhere []netip.Addr
		verdict   verdict
		text      string
	}{
		{"127.0.0.1:" + port, closed, fine, "no other address"},
		{"localhost:" + port, nil, fine, "no other address"},
		{"127.0.0.9:" + port, append(closed, open...), warning, "also answers on 127.0.0.1:" + port},
		{"localhost:" + port, open, warning, "also answers"},
		{":" + port, open, warning, "also answers"},
		{"unix//run/auth.sock", open, fine, "socket"},
		{"192.0.2.99:" + port, open, fine, "another machine"},
		{"{env.UPSTREAM}", open, fine, "known only when"},
		{"localhost:x", open, warning, "cannot be read"},
		{"http://127.0.0.9:" + port + "/api/auth", open, warning, "also answers on 127.0.0.1:" + port},
		{"https://localhost:" + port, closed, fine, "no other address"},
		{"https://localhost", closed, fine, "no other address"},
		{"tcp/localhost:" + port, open, warning, "also answers"},
		{"localhost", open, warning, "has no port"},
		{"nonsense", open, warning, "has no port"},
		{"", open, warning, "has no port"},
	} {
		if f := reach(c.dial, c.elsewhere); f.Verdict != c.verdict || !strings.Contains(f.Text, c.text) || (f.Remedy == "") != (f.Verdict == fine) {
			t.Errorf("%s: %+v", c.dial, f)
		}
	}
}

func TestTheAddressesOfThisMachineAreNotLoopback(t *testing.T) {
	all, err := otherAddresses()
	if err != nil || slices.ContainsFunc(all, netip.Addr.IsLoopback) {
		t.Errorf("%v, %v", all, err)
	}
}

func TestModesAreThoseOfTheFilesThatAreThere(t *testing.T) {
	dir := t.TempDir()
	db, key := filepath.Join(dir, "audit.db"), filepath.Join(dir, "hash.key")
	for path, mode := range map[string]os.FileMode{db: 0o640, db + "-wal": 0o600, key: 0o600} {
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	var got []string
	for _, f := range modes(db, key) {
		got = append(got, f.What+" "+os.FileMode(f.Mode).String())
	}
	if len(got) != 4 || got[1] != "database -rw-r-----" || got[2] != "journal -rw-------" || got[3] != "key -rw-------" {
		t.Errorf("%q", got)
	}
	if list := modes("", filepath.Join(dir, "none")); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

func TestTheSpaceOfAFolderIsKnown(t *testing.T) {
	if d := diskOf(t.TempDir()); d == nil || d.Total == 0 || d.Free > d.Total {
		t.Errorf("%+v", d)
	}
	if d := diskOf(filepath.Join(t.TempDir(), "none")); d != nil {
		t.Errorf("%+v", d)
	}
}

func TestTheFrontDoorOfASite(t *testing.T) {
	for _, c := range []struct {
		listen  []string
		network string
		address string
	}{
		{[]string{":8443"}, "tcp", "127.0.0.1:8443"},
		{[]string{"[::]:8443"}, "tcp", "127.0.0.1:8443"},
		{[]string{"127.0.0.5:80"}, "tcp", "127.0.0.5:80"},
		{[]string{"fd/3", "unix//run/caddy.sock"}, "unix", "/run/caddy.sock"},
		{nil, "", ""},
	} {
		network, address, err := doorOf(&caddyhttp.Server{Listen: c.listen})
		if network != c.network || address != c.address || (err != nil) != (c.network == "") {
			t.Errorf("%v: %s %s, %v", c.listen, network, address, err)
		}
	}
}
