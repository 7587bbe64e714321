package caddymodule

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/tap"
)

// logFilter keeps the auth server's secrets out of Caddy's logs: the filter of
// Caddyfile.example, in JSON. A test holds them alike.
//
//go:embed log_filter.json
var logFilter []byte

const (
	// viewerListen is where the log can be looked at unless something is there already.
	viewerListen = "127.0.0.1:8089"
	// proxyGrace is how long requests have to end after Ctrl-C.
	proxyGrace = 5 * time.Second
)

func proxyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "proxy --to <host:port> [--from <address>] [--profile <name>] [--base-path <path>] [--db <file>] [--viewer <address>]",
		Short: "Runs a reverse proxy with the audit log, without a Caddyfile",
		Long: `
Stands in front of an auth server as caddy reverse-proxy does, with the audit log in between, until Ctrl-C. The log can
be looked at on a port that only this machine reaches. --from is an address as in a Caddyfile: with a host name it is
served over HTTPS with a certificate, with a port alone over HTTP, on every address of this machine. localhost is served
to this machine alone.

This Caddy has no admin endpoint: read its log with --db, as it says when it starts. For more than trying out, write a
Caddyfile.

Exit status: 0 after Ctrl-C, 1 if it cannot start.`,
		Example: `  caddy audit-log proxy --to localhost:3000
  caddy audit-log proxy --to localhost:3000 --from :9000 --profile keycloak --db /tmp/audit.db
  caddy audit-log proxy --to https://auth.internal --from auth.example.com`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
	}
	f := cmd.Flags()
	f.StringP("to", "t", "", "the auth server: host:port, or an http or https URL without a path")
	f.StringP("from", "f", "http://localhost:8080", "the address to serve; :8080 is every address of this machine")
	f.String("profile", auto, "the auth server's profile: auto, a builtin one, or a file")
	complete(cmd, "profile", append([]string{auto}, profile.Names()...)...)
	f.String("base-path", "", "where the auth server's routes are, if not where the profile says")
	f.String("db", "", "the database (default audit_log/audit.db in Caddy's data directory)")
	complete(cmd, "db")
	f.String("key-file", "", "the key of keyed hashes (default hash.key beside --db, or in Caddy's data directory)")
	f.String("viewer", "", "where to look at the log: an address of this machine (default "+viewerListen+", or any free port)")
	f.Bool("access-log", false, "write an access log, without the auth server's secrets")
	f.Bool("change-host-header", false, "set the Host header to the auth server's address")
	cmd.RunE = Command(runProxy)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return Command(func(caddycmd.Flags) (int, error) {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("%w: the command is caddy audit-log %s", err, cmd.Use)
		})(cmd, nil)
	})
	return cmd
}

// proxyOptions are its flags, checked.
type proxyOptions struct {
	to       *url.URL
	from     httpcaddyfile.Address
	viewer   string
	db, key  string
	handler  *Handler
	host     bool // change the Host header
	accesses bool
}

func runProxy(f caddycmd.Flags) (int, error) {
	o, err := parseProxyOptions(f)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	caddy.TrapSignals()
	if err := caddy.Run(o.config()); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	o.greet()
	select {} // until a signal
}

func parseProxyOptions(f caddycmd.Flags) (o *proxyOptions, err error) {
	o = &proxyOptions{host: f.Bool("change-host-header"), accesses: f.Bool("access-log")}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: name the auth server with --to", f.Arg(0))
	}
	if f.String("to") == "" {
		return nil, errors.New("--to is required: the auth server, such as localhost:3000")
	}
	if o.to, err = tap.ParseTarget(f.String("to")); err != nil {
		return nil, fmt.Errorf("--to: %w", err)
	}
	if o.from, err = parseFrom(f.String("from")); err != nil {
		return nil, fmt.Errorf("--from: %w", err)
	}
	if o.viewer, err = parseViewer(f.String("viewer")); err != nil {
		return nil, fmt.Errorf("--viewer: %w", err)
	}
	o.handler = &Handler{Profile: f.String("profile"), BasePath: f.String("base-path")}
	store := &SQLiteStore{Path: f.String("db")}
	if err := store.Provision(caddy.Context{}); err != nil {
		return nil, fmt.Errorf("--db: %w", err)
	}
	o.db, o.key = store.Path, f.String("key-file")
	if o.key == "" && f.String("db") != "" {
		o.key = keyBeside(o.db)
	}
	return o, nil
}

// parseFrom completes an address as caddy reverse-proxy does.
func parseFrom(text string) (httpcaddyfile.Address, error) {
	a, err := httpcaddyfile.ParseAddress(text)
	if err != nil {
		return a, fmt.Errorf("bad address %q: %w", text, err)
	}
	if a.Path != "" {
		return a, fmt.Errorf("bad address %q: give it without a path", text)
	}
	if a.Scheme == "" {
		a.Scheme = "https"
		if a.Port == strconv.Itoa(caddyhttp.DefaultHTTPPort) || a.Host == "" {
			a.Scheme = "http"
		}
	}
	if a.Port == "" {
		a.Port = strconv.Itoa(caddyhttp.DefaultHTTPSPort)
		if a.Scheme == "http" {
			a.Port = strconv.Itoa(caddyhttp.DefaultHTTPPort)
		}
	}
	return a, nil
}

// parseViewer checks that an address is this machine's own; without one it is the usual, or
// a port that is free.
func parseViewer(text string) (string, error) {
	if text != "" {
		host, _, err := net.SplitHostPort(text)
		if err != nil || !isLoopback(strings.ToLower(host)) {
			return "", fmt.Errorf("bad address %q: give one that only this machine reaches, such as %s", text, viewerListen)
		}
		return text, nil
	}
	for _, address := range []string{viewerListen, "127.0.0.1:0"} {
		l, err := net.Listen("tcp", address) //nolint:noctx // it ends at once
		if err == nil {
			address = l.Addr().String()
			return address, l.Close()
		}
	}
	return "", errors.New("no port is free: name an address")
}

// config is the configuration: the proxy, and beside it the log.
func (o *proxyOptions) config() *caddy.Config {
	store := caddyconfig.JSONModuleObject(SQLiteStore{Path: o.db}, "backend", "sqlite", nil)
	apps := caddy.ModuleMap{
		"audit_log": caddyconfig.JSON(App{StoreRaw: store, KeyFile: o.key}, nil),
		"http": caddyconfig.JSON(caddyhttp.App{
			GracePeriod: caddy.Duration(proxyGrace),
			Servers:     map[string]*caddyhttp.Server{"proxy": o.proxy(), "log": o.log()},
		}, nil),
	}
	persist := false
	quiet := &caddy.CustomLog{BaseLog: caddy.BaseLog{EncoderRaw: logFilter}, Exclude: []string{"audit_log.entries"}}
	return &caddy.Config{
		Admin:   &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &persist}},
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{caddy.DefaultLoggerName: quiet}},
		AppsRaw: apps,
	}
}

// proxy is the server in front of the auth server.
func (o *proxyOptions) proxy() *caddyhttp.Server {
	proxy := map[string]any{"handler": "reverse_proxy", "upstreams": []map[string]string{{"dial": dialOf(o.to)}}}
	if o.to.Scheme == "https" {
		proxy["transport"] = map[string]any{"protocol": "http", "tls": struct{}{}}
	}
	if o.host || o.to.Scheme == "https" {
		proxy["headers"] = map[string]any{"request": map[string]any{"set": map[string][]string{"Host": {"{http.reverse_proxy.upstream.hostport}"}}}}
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(o.handler, "handler", "audit_log", nil),
		caddyconfig.JSON(proxy, nil),
	}}
	alone := isLoopback(o.from.Host)
	if o.from.Host != "" && !(alone && o.from.Scheme == "http") { // 127.0.0.1 is as good as localhost
		route.MatcherSetsRaw = []caddy.ModuleMap{{"host": caddyconfig.JSON(caddyhttp.MatchHost{o.from.Host}, nil)}}
	}
	s := &caddyhttp.Server{Listen: []string{":" + o.from.Port}, Routes: caddyhttp.RouteList{route}}
	if alone {
		s.Listen = loopback(o.from.Port)
	}
	if o.from.Scheme == "http" {
		s.AutoHTTPS = &caddyhttp.AutoHTTPSConfig{Disabled: true}
	}
	if o.accesses {
		s.Logs = &caddyhttp.ServerLogConfig{}
	}
	return s
}

// loopback are the addresses that only this machine reaches.
func loopback(port string) []string {
	listen := []string{net.JoinHostPort("127.0.0.1", port)}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil { //nolint:noctx // it ends at once
		_ = l.Close() // it shows that there is IPv6
		listen = append(listen, net.JoinHostPort("::1", port))
	}
	return listen
}

// log is the server that shows the log, to this machine alone.
func (o *proxyOptions) log() *caddyhttp.Server {
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{caddyconfig.JSON(map[string]string{"handler": "audit_log_api"}, nil)}}
	return &caddyhttp.Server{
		Listen: []string{o.viewer}, Routes: caddyhttp.RouteList{route}, AutoHTTPS: &caddyhttp.AutoHTTPSConfig{Disabled: true},
	}
}

// dialOf is where to dial a URL.
func dialOf(u *url.URL) string {
	port := "80"
	if u.Scheme == "https" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), port))
}

// greet says where everything is.
func (o *proxyOptions) greet() {
	at := o.from
	at.Host = cmp.Or(at.Host, "localhost")
	_, port, _ := net.SplitHostPort(o.viewer) // parseViewer has looked at it
	viewer := "http://" + net.JoinHostPort("localhost", port) + httpapi.Prefix + "/"
	if !strings.HasPrefix(o.viewer, "127.") && !strings.HasPrefix(o.viewer, "localhost") {
		viewer = "http://" + o.viewer + httpapi.Prefix + "/"
	}
	fmt.Fprintf(os.Stderr, "\n  auth server  %s\n  through      %s://%s\n  its log      %s\n  look at it   %s\n  or with      caddy audit-log tail --db %s\n\nCtrl-C ends it.\n\n",
		oneLine(o.to.String()), at.Scheme, oneLine(net.JoinHostPort(at.Host, at.Port)), oneLine(o.db), viewer, oneLine(o.db))
}
