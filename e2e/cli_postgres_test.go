package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
)

// fillPostgres writes entries into the log of a server.
func fillPostgres(t *testing.T, server *pgtest.Server, entries ...storage.Entry) {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	pour(t, s, entries)
}

// TestReadingCommandsWithPostgreSQL: each command says the same of a log in PostgreSQL as of
// a file with the same entries, byte for byte.
func TestReadingCommandsWithPostgreSQL(t *testing.T) {
	server, entries := pgtest.Start(t), fills(1234)
	fillPostgres(t, server, entries...)
	db := database(t.TempDir())
	fill(t, db, entries...)
	n := newNode(t, authServer(t), server.DSN())
	n.config = strings.Replace(n.config, "durability fsync", "enabled off", 1)
	n.start()
	for _, c := range readCommands(entries) {
		t.Run(c.name, func(t *testing.T) { c.same(t, n.admin, db) })
	}
	pagesJoin(t, n.admin, entries)
}

// TestOperatingAFleetFromTheCommandLine: tails of two nodes show what either writes, over
// reloads, restarts and a PostgreSQL that is gone for a while; prune deletes for all.
func TestOperatingAFleetFromTheCommandLine(t *testing.T) {
	server := pgtest.Start(t)
	old := fills(300)
	for i := range old {
		old[i].CreatedAt = old[i].CreatedAt.Add(-100 * day)
	}
	fillPostgres(t, server, old...)
	up := authServer(t)
	nodes := []*node{newNode(t, up, server.DSN()), newNode(t, up, server.DSN())}
	var tails []*tailing
	for _, n := range nodes {
		n.start()
		tails = append(tails, startTail(t, "--address", n.admin, "-n", "1", "--text", "sign-in:email"))
	}
	for i, l := range tails {
		if e := l.next(t); e.ID != old[len(old)-1].ID && e.Action != "sign-in:email" {
			t.Errorf("node %d: %+v", i, e)
		}
	}
	signIn := func(n *node) {
		t.Helper()
		if code, body := call(t, http.MethodPost, fmt.Sprintf("http://%s/api/auth/sign-in/email", n.address()), `{"email":"a@example.com"}`); code != http.StatusUnauthorized {
			t.Fatal(code, body)
		}
		a, b := tails[0].next(t), tails[1].next(t)
		if a != b || a.Action != "sign-in:email" || a.Status != "failed" {
			t.Errorf("one node says %+v, the other %+v", a, b)
		}
	}
	signIn(nodes[0])
	signIn(nodes[1])
	reload(t, nodes[0].admin, nodes[0].config)
	signIn(nodes[1])
	nodes[1].stop()
	nodes[1].start()
	signIn(nodes[0])
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		n.awaitHealthy()
	}
	signIn(nodes[1])
	for _, l := range tails {
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

	prune := func(n *node, want string, more ...string) {
		t.Helper()
		expect(t, auditLog(t, "", append([]string{"prune", "--older-than", "90d", "--address", n.admin}, more...)...), 0, want, "")
	}
	prune(nodes[0], "300 entries from before", "--dry-run")
	prune(nodes[0], "300 entries from before")
	prune(nodes[1], "0 entries from before")
	if left := everyOf(t, openLog(t, server), time.Time{}); len(left) != 5 {
		t.Errorf("%d entries are left, want 5", len(left))
	}

	if err := os.Chmod(nodes[0].dir, 0o700); err != nil {
		t.Fatal(err)
	}
	got := auditLog(t, "", "doctor", "--address", nodes[0].admin)
	expect(t, got, 0, server.Address()+"/postgres", "")
	if strings.Contains(got.out+got.errors, server.DSN()) {
		t.Errorf("it shows the DSN: %s", got.out)
	}
}
