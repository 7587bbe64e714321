package lint

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// The names of loggers (Caddy's modules/caddyhttp/app.go, and ours).
const (
	accessLogger = "http.log.access"
	errorLogger  = "http.log.error"
	proxyLogger  = "http.handlers.reverse_proxy"
	ownLogger    = "audit_log.entries"
	defaultLog   = "default"
)

// logger is one log of Caddy.
type logger struct {
	Writer struct {
		Output string `json:"output"`
	} `json:"writer"`
	Encoder json.RawMessage `json:"encoder"`
	Level   string          `json:"level"`
	Include []string        `json:"include"`
	Exclude []string        `json:"exclude"`
}

// takes says whether the log has lines of a logger of a level or above.
func (g *logger) takes(name string, level zapcore.Level) bool {
	if g.Writer.Output == "discard" || len(g.Include) > 0 && longest(g.Include, name) == 0 {
		return false
	}
	if excluded := longest(g.Exclude, name); excluded > 0 && excluded >= longest(g.Include, name) {
		return false
	}
	at, err := zapcore.ParseLevel(g.Level) // "" is info
	return err == nil && at <= level
}

// longest is the length of the longest namespace that a logger's name is in.
func longest(namespaces []string, name string) int {
	n := 0
	for _, space := range namespaces {
		if space == "*" || strings.HasPrefix(name+".", space+".") {
			n = max(n, len(space))
		}
	}
	return n
}

// checkLogs reports logs that show what Caddy itself does not hide.
func (l *linter) checkLogs() {
	logs := maps.Clone(l.config.Logging.Logs)
	if logs == nil {
		logs = make(map[string]*logger)
	}
	if logs[defaultLog] == nil {
		logs[defaultLog] = new(logger) // Caddy's own
	}
	for _, name := range slices.Sorted(maps.Keys(logs)) {
		if logs[name] != nil {
			l.checkLog(name, logs[name])
		}
	}
}

func (l *linter) checkLog(name string, g *logger) {
	path := "logging/logs/" + name
	if name == defaultLog && g.takes(ownLogger, zapcore.InfoLevel) {
		l.add(Finding{
			Rule: EntriesInLog, Severity: Medium, Path: path, where: where{log: name},
			Text:   "entries, with user ids and addresses, stand in Caddy's default log too",
			Remedy: "add to the log in the global options: exclude audit_log.entries",
		})
	}
	var leaks []string
	for _, a := range l.handlers {
		for _, leak := range l.leaks(g, a) {
			if !slices.Contains(leaks, leak) {
				leaks = append(leaks, leak)
			}
		}
	}
	if len(leaks) == 0 {
		return
	}
	l.add(Finding{
		Rule: UnfilteredLog, Severity: High, Path: path, where: where{log: name},
		Text:   fmt.Sprintf("the log %s shows secrets of the auth server, which Caddy does not hide by itself: %s", name, strings.Join(leaks, ", ")),
		Remedy: "give the log an encoder that filters them: import the snippet audit_log_filter of Caddyfile.example",
	})
}

// leaks are the secrets of a handler's server that a log shows, each with its field.
func (l *linter) leaks(g *logger, a *auditor) []string {
	c := canaries{l.profiles(a), a.server.Logs != nil && a.server.Logs.ShouldLogCredentials, nil}
	var lines [][]zapcore.Field
	for _, name := range a.server.Logs.names(a.hosts) {
		if a.server.Logs != nil && g.takes(accessLogger+name, zapcore.ErrorLevel) {
			lines = append(lines, c.access())
		}
		if g.takes(errorLogger+name, zapcore.ErrorLevel) {
			lines = append(lines, c.request())
		}
	}
	if g.takes(proxyLogger, zapcore.DebugLevel) {
		lines = append(lines, c.proxy())
	}
	return c.shown(g, lines)
}

// names are what is appended to the loggers of a server for the hosts: "" for nothing,
// else ".name".
func (s *serverLogs) names(hosts []string) []string {
	if s == nil {
		return []string{""}
	}
	if len(hosts) == 0 {
		hosts = append(slices.Sorted(maps.Keys(s.LoggerNames)), "")
	}
	var names []string
	for _, host := range hosts {
		if slices.Contains(s.SkipHosts, host) {
			continue
		}
		list, named := s.LoggerNames[strings.ToLower(host)]
		if !named && s.SkipUnmappedHosts {
			continue
		}
		if !named {
			list = []string{s.DefaultLoggerName}
		}
		for _, name := range list {
			if name != "" {
				name = "." + name
			}
			names = append(names, name)
		}
	}
	return names
}

// profiles are those that the handler may have.
func (l *linter) profiles(a *auditor) []*profile.Profile {
	names := []string{a.Profile}
	if auto(a.Profile) {
		names = []string{"generic", "better_auth"}
	}
	var all []*profile.Profile
	for _, name := range names {
		if p, err := l.options.Profile(name); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// canaries makes lines as Caddy's own modules write them, with a secret of its own in
// each place, and looks which of them an encoder lets through. That judges any encoder
// by what it does, not by how it is configured.
type canaries struct {
	profiles    []*profile.Profile
	credentials bool // log_credentials
	// places are where the secrets are; the n-th is canary(n).
	places []string
}

// canary is a value that is found again, and that no filter knows by its form.
func canary(n int) string { return fmt.Sprintf("canary-%03d-secret", n) }

// plant makes a secret for a place.
func (c *canaries) plant(place string) string {
	c.places = append(c.places, place)
	return canary(len(c.places) - 1)
}

// request is the field that lines about requests have.
func (c *canaries) request() []zapcore.Field {
	h := http.Header{"Referer": {"https://example.com/?token=" + c.plant("tokens in Referer (request>headers>Referer)")}}
	names := []string{}
	if c.credentials {
		names = []string{"Cookie", "Authorization"}
	}
	for _, p := range c.profiles {
		names = append(names, p.Credentials.Headers...)
	}
	for _, name := range names {
		if _, there := h[name]; !there && (c.credentials || name != "Authorization") {
			h.Set(name, c.plant(fmt.Sprintf("%s (request>headers>%[1]s)", name)))
		}
	}
	// The path of a token first: a filter must not depend on the query.
	uri := c.path() + "?token=" + c.plant("?token= (request>uri)")
	r := &http.Request{Method: http.MethodGet, RequestURI: uri, Host: "example.com", RemoteAddr: "192.0.2.1:1", URL: &url.URL{Path: "/"}, Header: h, Proto: "HTTP/1.1"}
	return []zapcore.Field{zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r, ShouldLogCredentials: c.credentials})}
}

// path is one with a token in it, if the server has such.
func (c *canaries) path() string {
	for _, p := range c.profiles {
		for _, r := range p.Routes {
			before, _, found := strings.Cut(r.Path, "/:token")
			if found && !strings.Contains(before, ":") {
				place := before + "/<token> (request>uri)"
				return strings.TrimSuffix(p.Base(), "/") + before + "/" + c.plant(place)
			}
		}
	}
	return "/"
}

// response are the headers of an answer in a field.
func (c *canaries) response(field string) zapcore.Field {
	h := http.Header{"Location": {"https://example.com/?token=" + c.plant(fmt.Sprintf("tokens in redirects (%s>Location)", field))}}
	names := []string{}
	if c.credentials {
		names = append(names, "Set-Cookie")
	}
	for _, p := range c.profiles {
		names = append(names, p.Credentials.ResponseHeaders...)
	}
	for _, name := range names {
		if h.Get(name) == "" {
			h.Set(name, c.plant(fmt.Sprintf("%s (%s>%[1]s)", name, field)))
		}
	}
	return zap.Object(field, caddyhttp.LoggableHTTPHeader{Header: h, ShouldLogCredentials: c.credentials})
}

// access is a line of the access log.
func (c *canaries) access() []zapcore.Field {
	return append(c.request(), zap.Int("status", 200), c.response("resp_headers"))
}

// proxy is a line of reverse_proxy's debug log.
func (c *canaries) proxy() []zapcore.Field { return append(c.request(), c.response("headers")) }

// shown are the places whose secrets are in the lines as the log writes them. What
// cannot be loaded here is a module that this Caddy has not: Caddy refuses it too.
func (c *canaries) shown(g *logger, lines [][]zapcore.Field) []string {
	if len(lines) == 0 {
		return nil
	}
	encoder, cancel, err := loadEncoder(g)
	if err != nil {
		return nil
	}
	defer cancel()
	var text strings.Builder
	for _, fields := range lines {
		line, err := encoder.Clone().EncodeEntry(zapcore.Entry{Level: zapcore.InfoLevel, Time: time.Unix(0, 0), LoggerName: accessLogger, Message: "handled request"}, fields)
		if err == nil {
			text.Write(line.Bytes())
			line.Free()
		}
	}
	var places []string
	for n, place := range c.places {
		if strings.Contains(text.String(), canary(n)) {
			places = append(places, place)
		}
	}
	return places
}

// loadEncoder makes the encoder of a log, without opening its writer.
func loadEncoder(g *logger) (zapcore.Encoder, context.CancelFunc, error) {
	raw := g.Encoder
	if len(raw) == 0 {
		raw = json.RawMessage(`{"format":"json"}`) // what is shown is the same on a console
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	var named struct{ Format string }
	if err := json.Unmarshal(raw, &named); err != nil {
		cancel()
		return nil, nil, err
	}
	module, err := ctx.LoadModuleByID("caddy.logging.encoders."+named.Format, withoutName(raw))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	encoder, ok := module.(zapcore.Encoder)
	if d, wants := module.(caddy.ConfiguresFormatterDefault); wants && err == nil {
		err = d.ConfigureDefaultFormat(caddy.StderrWriter{})
	}
	if !ok || err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%s is no encoder", named.Format)
	}
	return encoder, cancel, nil
}

// withoutName takes the key out that names the module.
func withoutName(raw json.RawMessage) json.RawMessage {
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil {
		return raw
	}
	delete(fields, "format")
	out, err := json.Marshal(fields)
	if err != nil {
		return raw // cannot happen: it was JSON
	}
	return out
}
