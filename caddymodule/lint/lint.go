// Package lint finds what makes an audit log blind, or lets secrets out beside it, in a
// Caddy configuration (threats.md A0.1, A25, D8, X6, X12). It reads JSON; Caddyfile says
// where in a Caddyfile a finding stands.
//
// It judges what a configuration says, not what runs: an upstream that can be reached
// without Caddy is for `caddy audit-log doctor`.
package lint

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// Severity says how bad a finding is.
type Severity string

// The severities.
const (
	// High: events can pass the log by, or secrets stand in another log.
	High Severity = "high"
	// Medium: the log may say something wrong, or an option does nothing.
	Medium Severity = "medium"
	// Low: worth knowing.
	Low Severity = "low"
)

// Rule names what a finding is about.
type Rule string

// The rules.
const (
	// ScopedHandler: audit_log behind a path matcher.
	ScopedHandler Rule = "scoped-handler"
	// UnauditedRoute: a way to an audited upstream without audit_log.
	UnauditedRoute Rule = "unaudited-route"
	// UnfilteredLog: one of Caddy's logs shows secrets of the auth server.
	UnfilteredLog Rule = "unfiltered-log"
	// ClientAddress: clients can choose the address that entries show.
	ClientAddress Rule = "client-address"
	// HandlerOrder: audit_log where it does nothing: behind reverse_proxy, or again.
	HandlerOrder Rule = "handler-order"
	// AsyncClosed: durability async with options that want more.
	AsyncClosed Rule = "async-closed"
	// AdminRole: administrators by role, where sessions have none.
	AdminRole Rule = "admin-role"
	// AutoRoutes: options for single routes, which wait for the server to be recognised.
	AutoRoutes Rule = "auto-routes"
	// UnknownPath: path or before with a path that is no route of the profile.
	UnknownPath Rule = "unknown-path"
	// EntriesInLog: entries stand in Caddy's default log too.
	EntriesInLog Rule = "entries-in-log"
)

// Finding is something to change.
type Finding struct {
	Rule     Rule     `json:"rule"`
	Severity Severity `json:"severity"`
	// Path is where it stands in the JSON configuration, as Caddy's admin endpoint
	// /config/ takes it. "" if something is missing from the whole.
	Path string `json:"path"`
	// File and Line are where it stands in a Caddyfile.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
	// Text says what is wrong, and Remedy what to do.
	Text   string `json:"text"`
	Remedy string `json:"remedy"`

	// where helps to find the line.
	where where
}

// where is what a Caddyfile has of a finding. At most one field is set.
type where struct {
	handler string // the position that audit_log left in the JSON
	proxy   string // the JSON path of a reverse_proxy
	log     string // the name of a log
	server  []string
}

// Options of Check.
type Options struct {
	// Profile loads a profile by the name in the configuration. An error means that
	// what depends on it is not checked. nil knows the builtin ones.
	Profile func(name string) (*profile.Profile, error)
	// NoLogs leaves Caddy's logs out: their configuration is not known.
	NoLogs bool
}

// Check looks through a JSON configuration of Caddy. Findings are in the order of the
// configuration. One without audit_log has none.
func Check(raw []byte, o Options) ([]Finding, error) {
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if o.Profile == nil {
		o.Profile = profile.Builtin
	}
	l := &linter{config: &c, options: o}
	l.walkServers()
	if len(l.handlers) == 0 {
		return nil, nil
	}
	l.checkRoutes()
	l.checkHandlers()
	l.checkServers()
	if !o.NoLogs {
		l.checkLogs()
	}
	slices.SortStableFunc(l.findings, func(a, b Finding) int { return cmp.Compare(a.Path, b.Path) })
	return l.findings, nil
}

// Upstreams are the addresses that requests reach through audit_log, as the configuration
// has them. Whoever reaches one of them otherwise passes the log by.
func Upstreams(raw []byte) ([]string, error) {
	l := &linter{config: new(config)}
	if err := json.Unmarshal(raw, l.config); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	l.walkServers()
	var dials []string
	for _, p := range l.proxies {
		if !p.audited && len(p.behind) == 0 || p.fixed() {
			continue
		}
		for _, u := range p.Upstreams {
			if !slices.Contains(dials, u.Dial) {
				dials = append(dials, u.Dial)
			}
		}
	}
	return dials, nil
}

// linter is one run.
type linter struct {
	config   *config
	options  Options
	handlers []*auditor
	proxies  []*proxy
	findings []Finding
}

// add keeps a finding, once: a named route may be invoked from several places.
func (l *linter) add(f Finding) {
	for _, known := range l.findings {
		if known.Rule == f.Rule && known.Path == f.Path && known.Text == f.Text {
			return
		}
	}
	l.findings = append(l.findings, f)
}
