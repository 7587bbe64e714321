package caddymodule

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/recorder"
)

// auto is the profile that is found out from the traffic.
const auto = "auto"

// reading is how a handler understands its traffic at one time. It is immutable.
type reading struct {
	profile *profile.Profile
	routes  map[string]recorder.RouteOptions
	// recognizer looks on for what the server is; nil when that is settled.
	recognizer *profile.Recognizer
	// known is how certain the profile is.
	known profile.Certainty
}

// guessed says whether the profile is one that traffic has shown, by a sign that is not a server's alone.
func (now *reading) guessed() bool {
	return now.known != profile.Nothing && now.known != profile.Certain
}

// firstReading is the reading of a handler that has seen nothing yet.
func (h *Handler) firstReading() (*reading, error) {
	if h.Profile != "" && h.Profile != auto {
		p, err := loadProfile(h.Profile)
		if err != nil {
			return nil, err
		}
		return h.read(p, nil, profile.Certain)
	}
	all, err := profile.Builtins()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		h.bases = append(h.bases, p.Base())
	}
	if h.BasePath != "" {
		h.bases = []string{strings.TrimRight(h.BasePath, "/")}
	}
	i := slices.IndexFunc(all, func(p *profile.Profile) bool { return p.Name == "generic" }) // it is embedded with the others
	return h.read(all[i], profile.NewRecognizer(all), profile.Nothing)
}

// read makes a reading of a profile with the options of the configuration.
func (h *Handler) read(p *profile.Profile, recognizer *profile.Recognizer, known profile.Certainty) (*reading, error) {
	var err error
	if h.BasePath != "" {
		if p, err = p.WithBasePath(h.BasePath); err != nil {
			return nil, err
		}
	}
	r := &reading{profile: p, recognizer: recognizer, known: known}
	if recognizer != nil && known == profile.Nothing {
		return r, nil // the options of single routes are for the server that will be recognised
	}
	r.profile, r.routes, err = h.customize(p)
	return r, err
}

// recognize adopts the profile of the server that an exchange shows, and returns
// the recorder for it; nil if it shows nothing new.
func (h *Handler) recognize(store *openStore, x *profile.Exchange) *recorder.Recorder {
	now := h.reading.Load()
	if now.recognizer != nil {
		found, ok := now.recognizer.Recognize(x, now.known)
		if !ok {
			return nil
		}
		if !h.adopt(now, found) {
			return nil
		}
		store.recognized.remember(h.site.Load(), found)
	}
	run, err := h.running(store, h.reading.Load())
	if err != nil {
		h.log.Error("the auth server was recognised, but its profile cannot be used", "error", err)
		return nil
	}
	return run.recorder
}

// adopt goes over to the profile of a recognised server, unless another request has
// done so meanwhile.
func (h *Handler) adopt(now *reading, found profile.Recognition) bool {
	recognizer := now.recognizer
	if found.Certainty == profile.Certain {
		recognizer = nil
	}
	next, err := h.read(found.Profile, recognizer, found.Certainty)
	if err != nil {
		h.log.Error("the auth server was recognised, but the options of audit_log do not fit it: name the profile to see the error at start", "profile", found.Profile.Name, "error", err)
		return false
	}
	if h.reading.CompareAndSwap(now, next) {
		h.log.Info("the auth server was recognised", "server", found.Profile.Title, "by", found.Why, "base_path", cmp.Or(next.profile.Base(), "/"),
			"sure", found.Certainty == profile.Certain, "pin", fmt.Sprintf("profile %s in the block of audit_log", found.Profile.Name))
	}
	return true
}

// current is the reading of the handler's traffic. After a reload it is what the configuration
// before has recognised for the same site.
func (h *Handler) current() *reading {
	now := h.reading.Load()
	if now.recognizer == nil || now.known != profile.Nothing {
		return now
	}
	if found, ok := h.app.pooled.recognized.recall(h.site.Load()); ok {
		h.adopt(now, found)
		return h.reading.Load()
	}
	return now
}

// match reads a request. As long as nobody knows the server for certain, what the
// profile that seems to be its own has no route for is read as if nothing were known, if that knows
// more: clients choose what they ask for, and one that has made something look like another
// server must not blind the log to the real one.
func (h *Handler) match(r *http.Request) (*reading, profile.Match, bool) {
	now, method := h.current(), profile.MethodOf(r)
	m, mine := now.profile.Match(method, r.URL)
	if now.known == profile.Certain || now == h.first || mine && (m.Route.Known() || isItsAPI(now, r.URL)) {
		return now, m, mine
	}
	if other, taken := h.first.profile.Match(method, r.URL); !mine || taken && other.Route.Known() {
		return h.first, other, taken
	}
	return now, m, mine
}

// isItsAPI says whether a request is for the API of a reading.
func isItsAPI(now *reading, u *url.URL) bool {
	_, api, _ := httpapi.Path(now.profile, u)
	return api
}

// mayAuthorize says whether the server's word counts for who may read the log: not
// where only traffic has shown its base path. Whoever can put files onto the site could
// answer there in the place of the auth server.
func (h *Handler) mayAuthorize(now *reading) bool {
	return h.BasePath != "" || now.profile.Base() == strings.TrimRight(now.profile.BasePath, "/")
}

// elsewhere answers a question for the API at a base path that only traffic has shown.
func elsewhere(w http.ResponseWriter) error {
	writeError(w, http.StatusServiceUnavailable, "BASE_PATH_UNCONFIRMED", "The auth server was recognised, but not at its usual base path. Give the path in the configuration (base_path PATH in the block of audit_log) to read the audit log here.")
	return nil
}

// maxSites bounds the sites for which a recognition is remembered.
const maxSites = 200

// recognitions remembers by site (see siteOf) what was recognised, across reloads. It is safe
// for concurrent use.
type recognitions struct {
	// mu protects the field below.
	mu    sync.RWMutex
	sites map[string]profile.Recognition
}

// remember keeps the surest recognition: of two exchanges that end at the same time the
// less certain one may come last. A site that is nil is not known yet.
func (m *recognitions) remember(site *string, found profile.Recognition) {
	if site == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sites == nil {
		m.sites = make(map[string]profile.Recognition)
	}
	old, known := m.sites[*site]
	if known && old.Certainty > found.Certainty {
		return
	}
	if !known && len(m.sites) >= maxSites { // sites come and go with configurations: any may be of an old one
		for other := range m.sites {
			delete(m.sites, other)
			break
		}
	}
	m.sites[*site] = found
}

func (m *recognitions) recall(site *string) (profile.Recognition, bool) {
	if site == nil {
		return profile.Recognition{}, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	found, ok := m.sites[*site]
	return found, ok
}

// tellSites tells each handler of the configuration which site it is for.
func tellSites(app *caddyhttp.App) {
	for _, found := range findHandlers(app) {
		site := siteOf(&found)
		found.site.Store(&site)
	}
}

// siteOf is by what a handler is known again after a reload: where it listens, for which hosts,
// and who is asked behind it. Nothing of it is a client's to choose.
func siteOf(h *foundHandler) string {
	return strings.Join([]string{strings.Join(h.server.Listen, " "), strings.Join(h.hosts, " "), strings.Join(h.behind, " "), h.BasePath}, "\n")
}

// maybeAPI says whether a path may be one of the API's while nobody knows the server: under
// the configured base path, or that of a server that may be recognised.
func (h *Handler) maybeAPI(path string) bool {
	if !strings.Contains(path, httpapi.Prefix+"/") { // almost all
		return false
	}
	return slices.ContainsFunc(h.bases, func(base string) bool { return strings.HasPrefix(path, base+httpapi.Prefix+"/") })
}

// isOperators says whether an escaped path is one that audit_log_api may answer, in its only
// spelling: what is passed on to it is not recorded, and no server may read it as another path.
func isOperators(escaped string) bool {
	rest, ok := strings.CutPrefix(escaped, httpapi.Prefix+"/")
	if !ok || rest == "" {
		return ok
	}
	for segment := range strings.SplitSeq(strings.TrimSuffix(rest, "/"), "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(c rune) bool {
			return c != '-' && c != '_' && c != '.' && (c < '0' || '9' < c) && (c < 'a' || 'z' < c) && (c < 'A' || 'Z' < c)
		}) {
			return false
		}
	}
	return true
}

// unrecognised answers a question for the API while nobody knows the server whose
// sessions it needs.
func unrecognised(w http.ResponseWriter) error {
	w.Header().Set("Retry-After", "5")
	writeError(w, http.StatusServiceUnavailable, "AUTH_SERVER_UNKNOWN", "The audit log has not recognised the auth server yet. Sign in once, or name it in the configuration (profile NAME in the block of audit_log).")
	return nil
}
