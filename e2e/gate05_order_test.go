package e2e

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/gates"
	"github.com/caddy-audit-log/caddy-audit-log/e2e/harness"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// TestGate05AcknowledgeOrder kills Caddy at the moment in which a client sees the first
// byte of an answer, over and over on one database: every answer of which a client saw
// a byte must have its entry, whatever the durability but async. The control writes the
// same entries to the same store, as durably, when the next handler has returned.
func TestGate05AcknowledgeOrder(t *testing.T) {
	kills, fewer := gates.Figure(20, 500), gates.Figure(6, 100)
	strict := orderKills(t, kills, "audit_log", "durability fsync")
	committed := orderKills(t, fewer, "audit_log", "durability commit")
	async := orderKills(t, fewer, "audit_log", "durability async")
	late := orderKills(t, fewer, "e2e_late", "")
	gates.Print(t, 5, "%d kills at the first byte, %d answers acknowledged: %d lost; durability commit: %d lost of %d; control, written after the handler: %d of %d kills lost something; async: %d of %d",
		kills, strict.acknowledged, strict.lost, committed.lost, committed.acknowledged, late.losing, fewer, async.losing, fewer)
	if strict.lost > 0 || committed.lost > 0 {
		t.Error("acknowledged entries are lost")
	}
	if late.lost == 0 || async.lost == 0 {
		t.Error("the control lost nothing: the rig kills too late to prove anything")
	}
}

// orderKills kills a Caddy with this directive at first bytes.
func orderKills(t *testing.T, kills int, directive, option string) tally {
	t.Helper()
	dir, port := memoryDir(t), harness.FreePort(t)
	auth := new(chunkedAuth)
	config := site(database(dir), port, harness.Upstream(t, auth), "grace_period 10s", option)
	command := func() *exec.Cmd { return harness.Command(t, harness.Binary(t), dir, config) }
	if directive == "e2e_late" {
		config = anyHost(database(dir), "", siteOf(port, "e2e_late * "+database(dir), harness.Upstream(t, auth)))
		command = func() *exec.Cmd { return testCommand(t, dir, config) }
	}
	rig := newKillRig(port)
	var total tally
	for n := 1; n <= kills; n++ {
		cmd := command()
		harness.Launch(t, cmd)
		harness.WaitFor(t, rig.address)
		rig.killAtFirstByte(cmd)
		if n%checkEvery == 0 || n == kills {
			total = rig.check(t, database(dir), auth)
		}
	}
	checkIntegrity(t, database(dir))
	if total.acknowledged < kills {
		t.Errorf("%d kills with %d acknowledged requests: every kill needs at least one", kills, total.acknowledged)
	}
	return total
}

// killAtFirstByte lets the clients loose and kills with the first byte of an answer,
// from the client that saw it.
func (k *killRig) killAtFirstByte(cmd *exec.Cmd) {
	var answers atomic.Int64
	last := int64(1 + rand.IntN(2*killClients)) // the answer whose first byte kills
	k.load(func() {
		if answers.Add(1) == last {
			_ = syscall.Kill(cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	_ = cmd.Wait() // it was killed
	k.kills.Add(1)
}

func init() {
	caddy.RegisterModule(new(lateHandler))
	httpcaddyfile.RegisterHandlerDirective("e2e_late", func(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		late := new(lateHandler)
		h.Next()
		h.Args(&late.Path)
		return late, nil
	})
	httpcaddyfile.RegisterDirectiveOrder("e2e_late", httpcaddyfile.Before, "reverse_proxy")
}

// lateHandler is an audit log in the naive order: the answer first, then its entry.
type lateHandler struct {
	// Path of the database.
	Path  string `json:"path"`
	store *sqlite.Store
}

func (*lateHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.e2e_late", New: func() caddy.Module { return new(lateHandler) }}
}

// Provision implements caddy.Provisioner.
func (l *lateHandler) Provision(ctx caddy.Context) (err error) {
	l.store, err = sqlite.Open(ctx, sqlite.Options{Path: l.Path})
	return err
}

// Cleanup implements caddy.CleanerUpper.
func (l *lateHandler) Cleanup() error {
	if l.store == nil {
		return nil
	}
	return l.store.Close()
}

func (l *lateHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	user := r.URL.Query().Get("token")
	if c, err := r.Cookie("better-auth.session_token"); err == nil {
		user = c.Value
	}
	if user == "" {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		user, r.Body = string(body), io.NopCloser(strings.NewReader(string(body)))
	}
	if err := next.ServeHTTP(w, r); err != nil {
		return err
	}
	e := storage.Entry{ID: storage.NewID(), UserID: user, Action: "request", Status: storage.Success, CreatedAt: time.Now()}
	e.Sanitize()
	return l.store.Write(storage.WithDurability(context.WithoutCancel(r.Context()), storage.Fsync), e)
}
