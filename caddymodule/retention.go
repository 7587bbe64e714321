package caddymodule

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
)

// claim is how long one running configuration wants entries to be kept, and what it has recorded. While a
// reload is under way two configurations run, and the newer one counts; if it then
// fails to start, the older one counts again.
type claim struct {
	app   *App
	keep  time.Duration
	scope scope
}

// claim makes keep the retention, until a newer claim or withdraw, and s what is recorded.
func (p *pooledStore) claim(a *App, keep time.Duration, s scope) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims = append(p.claims, claim{a, keep, s})
	if err := p.applyClaims(); err != nil {
		p.claims = p.claims[:len(p.claims)-1]
		return fmt.Errorf("retention %s: %w", keep, err)
	}
	p.applyScope(recorder.StopConfiguration)
	return nil
}

// withdraw takes back what the configuration claimed, if anything.
func (p *pooledStore) withdraw(a *App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.claims {
		if p.claims[i].app == a {
			p.claims = append(p.claims[:i], p.claims[i+1:]...)
			break
		}
	}
	if err := p.applyClaims(); err != nil { // it was accepted before
		p.log.Error("setting the audit log's retention", "error", err)
	}
	p.applyScope(a.stopReason())
}

// applyClaims hands the newest claim to the open store: for how long it keeps entries, and whether
// it notes who reads them. The caller holds mu.
func (p *pooledStore) applyClaims() error {
	if p.open == nil {
		return nil
	}
	keep := time.Duration(0)
	reads := false
	if n := len(p.claims); n > 0 {
		keep, reads = p.claims[n-1].keep, p.claims[n-1].app.reads()
	}
	if err := p.open.retention.Keep(keep); err != nil {
		return err
	}
	p.open.readings.Enable(reads)
	return nil
}

// checkRetention says what is wrong with a retention, as far as that can be seen
// before the store is open.
func checkRetention(keep time.Duration, module any) error {
	if keep == 0 {
		return nil
	}
	if keep < retention.MinKeep {
		return fmt.Errorf("retention %s: it must be at least %s, such as 90d; leave it out to keep entries for ever", keep, retention.MinKeep)
	}
	_, store := module.(storage.Store)
	_, pruner := module.(storage.Pruner)
	if store && !pruner {
		return fmt.Errorf("retention %s: %w", keep, retention.ErrCannotDelete)
	}
	return nil
}

// unmarshalRetention reads the option retention.
func (a *App) unmarshalRetention(d *caddyfile.Dispenser) error {
	if a.Retention != 0 {
		return d.Err("retention is there twice")
	}
	var text string
	if err := oneValue(d, &text); err != nil {
		return err
	}
	keep, err := caddy.ParseDuration(text)
	if err != nil {
		return d.Errf("bad retention '%s': give a time such as 90d or 720h", text)
	}
	if keep <= 0 {
		return d.Errf("bad retention '%s': it must be at least %s, such as 90d; leave it out to keep entries for ever", text, retention.MinKeep)
	}
	if err := checkRetention(keep, nil); err != nil {
		return d.WrapErr(err)
	}
	a.Retention = caddy.Duration(keep)
	return nil
}
