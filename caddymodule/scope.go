package caddymodule

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// stopReason is why this configuration ends, if no other one is there. One that failed to start
// never was the active one.
func (a *App) stopReason() recorder.StopReason {
	switch {
	case caddy.Exiting():
		return recorder.StopExit
	case !a.active.Load():
		return recorder.StopFailed
	}
	return recorder.StopConfiguration
}

// scope is what a configuration has recorded, before the key is known by which its digest is
// made: what is in it are options that nobody should guess from a log.
type scope struct {
	options  []byte
	handlers int
	sites    []string
}

// digestSize is how much of the digest is kept, in bytes.
const digestSize = 8

// keyed is the scope with its digest. Equal options have equal digests wherever the key is the same.
func (s scope) keyed(key []byte) recorder.Scope {
	if s.handlers == 0 {
		return recorder.Scope{}
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("audit-log scope\n"))
	mac.Write(s.options)
	return recorder.Scope{Config: hex.EncodeToString(mac.Sum(nil)[:digestSize]), Handlers: s.handlers, Sites: s.sites}
}

// digest is of the options of a handler as they are configured, and of the profile that they name.
// It is called after the profile was read, and before the modules of the handler are loaded, which
// takes their options away.
func (h *Handler) digest() ([]byte, error) {
	options, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("the options of audit_log: %w", err)
	}
	means, err := json.Marshal(h.first.profile)
	if err != nil {
		return nil, fmt.Errorf("profile %s: %w", h.first.profile.Name, err)
	}
	sum := sha256.New()
	sum.Write(options)
	sum.Write([]byte{'\n'})
	sum.Write(means)
	return sum.Sum(nil), nil
}

// scope is what this configuration has recorded. The sites of its handlers are known, see tellSites.
func (a *App) scope(http *caddyhttp.App) scope {
	s := scope{}
	var each []string
	for _, h := range a.handlers {
		if h.Enabled != nil && !*h.Enabled {
			continue
		}
		s.handlers++
		site := ""
		if known := h.site.Load(); known != nil {
			site = *known
		}
		each = append(each, fmt.Sprintf("%s\n%x\n", site, h.options))
	}
	slices.Sort(each)
	s.options = fmt.Appendf(nil, "%d %t\n%s", a.Retention, a.reads(), strings.Join(each, ""))
	if http != nil {
		s.sites = sitesOf(http)
	}
	return s
}

// sitesOf names what the handlers of a configuration are for.
func sitesOf(http *caddyhttp.App) (sites []string) {
	for _, h := range findHandlers(http) {
		switch {
		case h.Enabled != nil && !*h.Enabled:
		case len(h.hosts) > 0:
			sites = append(sites, h.hosts...)
		default:
			sites = append(sites, h.server.Listen...)
		}
	}
	slices.Sort(sites)
	return slices.Compact(sites)
}

// applyScope tells the log what the newest configuration has recorded, if that is something else
// than before. why is for when it is nothing. The caller holds mu.
func (p *pooledStore) applyScope(why recorder.StopReason) {
	if p.open == nil {
		return
	}
	var now recorder.Scope // nothing, without a configuration
	if n := len(p.claims); n > 0 {
		now = p.claims[n-1].scope.keyed(p.open.key)
	}
	before := p.scope
	if now.Config == before.Config {
		return
	}
	p.scope = now
	if now.Config == "" {
		p.open.writer.Stopped(before, why)
		return
	}
	p.open.writer.Started(now, before.Config)
	p.tellAbandoned()
}
