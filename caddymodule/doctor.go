package caddymodule

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule/lint"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// probeTimeout bounds the question to one session endpoint.
	probeTimeout = 3 * time.Second
	// maxProbes bounds the handlers that are looked at.
	maxProbes = 50
	// doctorAgent is the User-Agent of those questions, for the auth server's own log.
	doctorAgent = "caddy-audit-log doctor"
)

// facts is what GET /audit-log/doctor says: how the running configuration is. It judges
// nothing; see diagnose.
type facts struct {
	// Now is the time of Caddy's machine.
	Now       time.Time      `json:"now"`
	Handlers  []handlerFacts `json:"handlers"`
	Stores    []storeFacts   `json:"stores"`
	Upstreams []string       `json:"upstreams"`
}

// handlerFacts is what it says of one audit_log handler.
type handlerFacts struct {
	// At is its path in the configuration.
	At    string   `json:"at"`
	Hosts []string `json:"hosts"`
	// Configured is the profile as the configuration names it, Profile the one that is
	// used now, with its base path.
	Configured string `json:"configured"`
	Profile    string `json:"profile"`
	Title      string `json:"title"`
	BasePath   string `json:"basePath"`
	// Known is how certain it is, of profile auto: nothing, standard, path, shape or
	// certain. By are the signs.
	Known string        `json:"known"`
	By    string        `json:"by,omitempty"`
	Probe *sessionProbe `json:"session,omitempty"`
}

// sessionProbe is what the session endpoint said to a question without credentials.
type sessionProbe struct {
	// Missing is true when the profile has none that could be asked.
	Missing bool `json:"missing,omitempty"`
	// User is whom it named; nobody, "", is right.
	User  string `json:"user"`
	Error string `json:"error,omitempty"`
	// Date is the clock of the auth server, by its answer; null if it did not say.
	Date *time.Time `json:"date"`
	// Asked is when the answer came, by the clock of this machine.
	Asked time.Time `json:"asked"`
}

// storeFacts is what it says of one store.
type storeFacts struct {
	storeStatus
	// Newest entry's time; null if there is none.
	Newest *time.Time `json:"newest"`
	// LastWrite and its duration, since the store was opened; null if there was none.
	LastWrite     *time.Time `json:"lastWrite"`
	LastWriteTook float64    `json:"lastWriteSeconds"`
	Files         []fileMode `json:"files"`
	Disk          *diskSpace `json:"disk"` // null if the store has no file, or the system does not say
	Error         string     `json:"error,omitempty"`
}

// fileMode is who may use a file of the log.
type fileMode struct {
	// What it is: folder, database, journal, lock or key.
	What string `json:"what"`
	Path string `json:"path"`
	// Mode are the permission bits.
	Mode uint32 `json:"mode"`
}

// diskSpace is that of the file system of the database's folder, in bytes.
type diskSpace struct {
	Folder string `json:"folder"`
	Free   uint64 `json:"free"`
	Total  uint64 `json:"total"`
	// Network is what it is called if other machines may share it, such as NFS.
	Network string `json:"network,omitempty"`
}

// serveDoctor answers with facts.
func serveDoctor(w http.ResponseWriter, r *http.Request) error {
	// Servers that hang take longer together than Caddy's admin server gives a request to be
	// read, whose end would end the questions to all others.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	f := facts{Now: time.Now().UTC(), Handlers: []handlerFacts{}, Stores: []storeFacts{}, Upstreams: []string{}}
	for _, p := range pooledStores() {
		f.Stores = append(f.Stores, p.facts(r.Context()))
	}
	if app, ok := activeHTTP(); ok {
		f.Upstreams = append(f.Upstreams, upstreamsOf(app)...)
		all := findHandlers(app)
		for _, found := range all[:min(len(all), maxProbes)] {
			f.Handlers = append(f.Handlers, found.facts(r.Context()))
		}
	}
	return writeJSON(w, f)
}

// activeHTTP is the http app of the configuration that runs.
func activeHTTP() (*caddyhttp.App, bool) {
	app, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		return nil, false
	}
	running, ok := app.(*caddyhttp.App)
	return running, ok
}

func upstreamsOf(app *caddyhttp.App) []string {
	config, err := describe(app)
	if err != nil {
		return nil
	}
	dials, err := lint.Upstreams(config)
	if err != nil {
		return nil
	}
	return dials
}

// foundHandler is an audit_log handler of the configuration that runs.
type foundHandler struct {
	*Handler
	at     string
	hosts  []string
	behind []string // addresses of the servers that the routes behind it, or around it, forward to
	server *caddyhttp.Server
}

// findHandlers lists the handlers, each once.
func findHandlers(app *caddyhttp.App) []foundHandler {
	var all []foundHandler
	for _, name := range slices.Sorted(maps.Keys(app.Servers)) {
		s := app.Servers[name]
		f := handlerFinder{server: s}
		f.routes(s.Routes, "apps/http/servers/"+name+"/routes", nil, nil)
		for _, route := range slices.Sorted(maps.Keys(s.NamedRoutes)) {
			f.route(caddyhttp.RouteList{*s.NamedRoutes[route]}, "apps/http/servers/"+name+"/named_routes/"+route, nil, nil)
		}
		all = append(all, f.found...)
	}
	return all
}

type handlerFinder struct {
	server *caddyhttp.Server
	found  []foundHandler
}

func (f *handlerFinder) routes(routes caddyhttp.RouteList, path string, hosts, behind []string) {
	for i := range routes {
		f.route(routes[i:], fmt.Sprintf("%s/%d", path, i), hosts, behind)
	}
}

// route looks into the first of the routes.
func (f *handlerFinder) route(routes caddyhttp.RouteList, path string, hosts, behind []string) {
	r := &routes[0]
	if own := hostsOf(r); own != nil {
		hosts = own
	}
	if own := dialsOf(routes); len(own) > 0 {
		behind = own
	}
	for i, h := range r.Handlers {
		at := fmt.Sprintf("%s/handle/%d", path, i)
		switch h := h.(type) {
		case *Handler:
			f.found = append(f.found, foundHandler{h, at, hosts, behind, f.server})
		case *caddyhttp.Subroute:
			f.routes(h.Routes, at+"/routes", hosts, behind)
		}
	}
}

// dialsOf are the addresses that routes forward to, in their order.
func dialsOf(routes caddyhttp.RouteList) (dials []string) {
	for i := range routes {
		for _, h := range routes[i].Handlers {
			switch h := h.(type) {
			case *reverseproxy.Handler:
				for _, u := range h.Upstreams {
					dials = append(dials, u.Dial)
				}
			case *caddyhttp.Subroute:
				dials = append(dials, dialsOf(h.Routes)...)
			}
		}
	}
	return dials
}

// hostsOf are the hosts that a route is for; nil for all.
func hostsOf(r *caddyhttp.Route) []string {
	var hosts []string
	for _, set := range r.MatcherSets {
		for _, m := range set {
			if h, ok := m.(*caddyhttp.MatchHost); ok {
				hosts = append(hosts, *h...)
			}
		}
	}
	return hosts
}

func (h *foundHandler) facts(ctx context.Context) handlerFacts {
	now := h.reading.Load()
	f := handlerFacts{
		At: h.at, Hosts: append([]string{}, h.hosts...), Configured: cmp.Or(h.Handler.Profile, auto), Profile: now.profile.Name, Title: now.profile.Title,
		BasePath: cmp.Or(now.profile.Base(), "/"), Known: certainties[now.known],
	}
	if f.Configured == auto {
		f.By = h.app.pooled.recognized.why(now.profile.Name)
	}
	if now.known != profile.Nothing {
		f.Probe = h.probe(ctx, now.profile)
	}
	return f
}

// certainties are the names of profile.Certainty.
var certainties = map[profile.Certainty]string{
	profile.Nothing: "nothing", profile.Standard: "standard", profile.Path: "path", profile.Shape: "shape", profile.Certain: "certain",
}

// why is by what a server with a profile was recognised.
func (m *recognitions) why(name string) string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, site := range slices.Sorted(maps.Keys(m.sites)) {
		if found := m.sites[site]; found.Profile.Name == name {
			return found.Why
		}
	}
	return ""
}

// probe asks the session endpoint who is signed in, without credentials.
func (h *foundHandler) probe(ctx context.Context, p *profile.Profile) *sessionProbe {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	asker := &doorAsker{server: h.server, host: firstHost(h.hosts)}
	if h.endpoint != nil {
		asker.client, asker.target = h.endpoint.client, h.endpoint.url.String()
	}
	session, err := recorder.Probe(ctx, p, asker)
	result := &sessionProbe{User: session.UserID, Date: asker.date, Asked: time.Now().UTC()}
	switch {
	case errors.Is(err, recorder.ErrNoEndpoint):
		result.Missing = true
	case err != nil:
		result.Error = err.Error()
	}
	return result
}

// firstHost is a host that a matcher takes; "" for any.
func firstHost(hosts []string) string {
	if len(hosts) == 0 {
		return ""
	}
	return strings.ReplaceAll(hosts[0], "*", "audit-log-doctor")
}

// doorAsker asks through the front door: the listener of the site, from this machine; or
// at the session_endpoint of the configuration.
type doorAsker struct {
	server *caddyhttp.Server
	host   string
	client *http.Client
	target string
	// date is what the last answer said.
	date *time.Time
}

// Ask implements recorder.Asker.
func (a *doorAsker) Ask(r *http.Request) (int, []byte, error) {
	client := a.client
	if client == nil {
		var err error
		if client, err = a.front(r); err != nil {
			return 0, nil, err
		}
		defer client.CloseIdleConnections()
	} else if u, err := r.URL.Parse(a.target); err == nil {
		if u.RawQuery == "" {
			u.RawQuery = r.URL.RawQuery
		}
		r.URL = u
	}
	r.Header.Set("User-Agent", doctorAgent)
	res, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = res.Body.Close() }()
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		a.date = &date
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, recorder.MaxSessionBody))
	return res.StatusCode, body, err
}

// front points a request at the site's listener.
func (a *doorAsker) front(r *http.Request) (*http.Client, error) {
	network, address, err := doorOf(a.server)
	if err != nil {
		return nil, err
	}
	r.URL.Scheme, r.URL.Host, r.Host = "http", cmp.Or(a.host, address), cmp.Or(a.host, address)
	if network == "unix" && a.host == "" {
		r.URL.Host, r.Host = "localhost", "localhost"
	}
	if len(a.server.TLSConnPolicies) > 0 {
		r.URL.Scheme = "https"
	}
	dialer := new(net.Dialer)
	return &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, network, address)
			},
			// It is this very process, and no secret is sent: whose certificate it has does
			// not matter.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// doorOf is where a server can be reached from this machine.
func doorOf(s *caddyhttp.Server) (network, address string, err error) {
	for _, listen := range s.Listen {
		a, err := caddy.ParseNetworkAddress(listen)
		if err != nil || a.IsFdNetwork() {
			continue
		}
		if a.IsUnixNetwork() {
			return "unix", a.JoinHostPort(0), nil
		}
		if ip := net.ParseIP(a.Host); a.Host == "" || ip != nil && ip.IsUnspecified() {
			a.Host = "127.0.0.1"
		}
		return "tcp", a.JoinHostPort(0), nil
	}
	return "", "", errors.New("the site listens nowhere that can be reached from here")
}

// facts of a store. It does not open it.
func (p *pooledStore) facts(ctx context.Context) storeFacts {
	f := storeFacts{storeStatus: p.status(), Files: []fileMode{}}
	if !f.Open {
		return f
	}
	stats := p.now().writer
	if !stats.LastWrite.IsZero() {
		last := stats.LastWrite.UTC()
		f.LastWrite, f.LastWriteTook = &last, stats.LastWriteTook.Seconds()
	}
	newest, err := p.newest(ctx)
	if f.Newest = newest; err != nil {
		f.Error = err.Error()
	}
	file := p.file(f.Path)
	if file != "" {
		if f.Disk = diskOf(filepath.Dir(file)); f.Disk != nil {
			f.Disk.Network = networkOf(f.Disk.Folder)
		}
	}
	f.Files = modes(file, p.keyFile)
	return f
}

// file is the database's file or, where the database is elsewhere, what its journal is
// named after; "" for neither.
func (p *pooledStore) file(path string) string {
	if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
		return path
	}
	open, err := p.lease()
	if err != nil {
		return ""
	}
	defer p.release()
	if j, ok := storage.As[interface{ Journal() string }](open.store); ok {
		return strings.TrimSuffix(j.Journal(), ".spill")
	}
	return path
}

// newest is the time of the newest entry; nil if there is none, or the store cannot list.
func (p *pooledStore) newest(ctx context.Context) (*time.Time, error) {
	open, err := p.lease()
	if err != nil {
		return nil, err
	}
	defer p.release()
	lister, ok := storage.As[storage.Lister](open.store)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sizeTimeout)
	defer cancel()
	page, err := lister.List(ctx, storage.Query{Limit: 1})
	if err != nil || len(page.Entries) == 0 {
		return nil, err
	}
	return &page.Entries[0].CreatedAt, nil
}

// modes are those of the log's files. They are looked at, never opened: SQLite's locks
// on a file end when this process closes it (threats.md X13).
func modes(database, key string) []fileMode {
	list := []fileMode{}
	add := func(what, path string) {
		if info, err := os.Stat(path); path != "" && err == nil {
			list = append(list, fileMode{what, path, uint32(info.Mode() & fs.ModePerm)})
		}
	}
	if database != "" {
		add("folder", filepath.Dir(database))
		add("database", database)
		add("journal", database+"-wal")
		add("journal", database+"-shm")
		add("journal", database+".spill")
		add("lock", database+".lock")
	}
	add("key", key)
	return list
}

// describe is the running http app as JSON, for lint.
func describe(app *caddyhttp.App) ([]byte, error) {
	return json.Marshal(object{"apps": object{"http": object{"servers": describeServers(app)}}})
}
