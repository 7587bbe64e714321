package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// variant is one way to stand in front of the auth server.
type variant struct {
	name    string
	site    string // Caddyfile directives; DIR is a folder of its own
	nginx   string // or an access_log directive of nginx
	store   string // of the audit log; "": SQLite
	request request
}

const (
	plain = "plain reverse_proxy"
	audit = "audit_log {\n profile better_auth\n durability %s\n %s\n}\n"
)

// variants are all that is compared; the first is the measure of the others.
var variants = []variant{
	{name: plain, request: signIn},
	{name: "a handler that does nothing", site: "route {\nbench_nothing\nreverse_proxy UPSTREAM\n}", request: signIn},
	{name: "audit log, not ours", site: fmt.Sprintf(audit, "fsync", ""), request: request{"POST", "/assets/sign-in/email", signIn.body}},
	{name: "audit log, async", site: fmt.Sprintf(audit, "async", ""), request: signIn},
	{name: "audit log, commit", site: fmt.Sprintf(audit, "commit", ""), request: signIn},
	{name: "audit log, fsync", site: fmt.Sprintf(audit, "fsync", ""), request: signIn},
	{name: "audit log, fsync, request bodies kept", site: fmt.Sprintf(audit, "fsync", "capture {\n request_body on\n}"), request: signIn},
	{name: "Caddy's JSON access log", site: "log {\noutput file DIR/access.log {\nroll_disabled\n}\nformat json\n}", request: signIn},
	{name: "coraza with its audit log", site: "route {\nbench_coraza * DIR/coraza.log\nreverse_proxy UPSTREAM\n}", request: signIn},
	{name: "nginx", nginx: "off", request: signIn},
	{name: "nginx with its access log", nginx: "DIR/access.log", request: signIn},
}

// fleet are the running servers of one measurement.
type fleet struct {
	dir      string
	upstream *server
	of       map[string]*server
	missing  []string      // variants that this machine does not have, and why
	profiles string        // folder for profiles of CPU; "": none
	db       string        // a database that each audit log gets a copy of; "": empty ones
	fsync    time.Duration // one fdatasync where the databases are
}

func (f *fleet) stop() {
	for _, s := range f.of {
		_ = s.stop()
	}
	_ = f.upstream.stop()
	f.warnOfLosses()
	_ = os.RemoveAll(f.dir)
}

// warnOfLosses says which logs have lost entries: what is not written costs nothing.
func (f *fleet) warnOfLosses() {
	files, _ := filepath.Glob(filepath.Join(f.dir, "*", "audit.db")) // its pattern is well formed
	for _, file := range files {
		ctx, dropped := context.Background(), storage.Query{Action: "audit-log:dropped", Limit: 1}
		var page storage.Page
		s, err := sqlite.OpenReadOnly(ctx, sqlite.Options{Path: file})
		if err == nil {
			page, err = s.List(ctx, dropped)
		}
		if err != nil || len(page.Entries) > 0 {
			fmt.Fprintf(os.Stderr, "WARNING: %s has lost entries, or cannot be read (%v): its figures are too good\n", filepath.Base(filepath.Dir(file)), err)
		}
	}
}

// startAll starts the variants; what is not on this machine is left out and named.
func startAll(ctx context.Context, o options, of []variant) (f *fleet, err error) {
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return nil, err
	}
	f = &fleet{dir: dir, of: map[string]*server{}, profiles: o.profiles, db: o.db}
	caddy, err := build(ctx, dir)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	if f.upstream, err = start(dir, "upstream", port, self, "upstream", strconv.Itoa(port)); err != nil {
		return nil, err
	}
	for i := range of {
		v := &of[i]
		if v.nginx != "" {
			if _, err := exec.LookPath("nginx"); err != nil {
				f.missing = append(f.missing, v.name+": "+err.Error())
				continue
			}
		}
		s, err := f.start(v, fmt.Sprintf("v%02d", i), caddy)
		if err != nil {
			f.stop()
			return nil, fmt.Errorf("%s: %w", v.name, err)
		}
		f.of[v.name] = s
	}
	if f.fsync, err = fsyncTime(dir, 512, 0); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

// copyFile copies a file to a new one.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// start starts one variant in a folder of its own.
func (f *fleet) start(v *variant, name, caddy string) (*server, error) {
	port, err := freePort()
	dir, admin, adminPort := filepath.Join(f.dir, name), "off", 0
	if err = errors.Join(err, os.Mkdir(dir, 0o700)); err != nil {
		return nil, err
	}
	if f.db != "" && v.store == "" && strings.HasPrefix(v.site, "audit_log") {
		if err := copyFile(filepath.Join(dir, "audit.db"), f.db); err != nil {
			return nil, fmt.Errorf("copying %s: %w", f.db, err)
		}
	}
	if f.profiles != "" {
		if adminPort, err = freePort(); err != nil {
			return nil, err
		}
		admin = fmt.Sprintf("127.0.0.1:%d", adminPort)
	}
	words := strings.NewReplacer("ADMIN", admin, "DIR", dir, "UPSTREAM", f.upstream.address(), "PORT", strconv.Itoa(port), "STORE", cmp.Or(v.store, "sqlite {\npath "+filepath.Join(dir, "audit.db")+"\n}"))
	if v.nginx != "" {
		config, err := write(dir, "nginx.conf", words.Replace(fmt.Sprintf(nginxConfig, v.nginx)))
		if err != nil {
			return nil, err
		}
		return start(f.dir, name, port, "nginx", "-c", config, "-p", dir)
	}
	site := v.site
	if !strings.HasPrefix(site, "route") {
		site += "\nreverse_proxy UPSTREAM"
	}
	config, err := write(dir, "Caddyfile", words.Replace(fmt.Sprintf(caddyConfig, site)))
	if err != nil {
		return nil, err
	}
	s, err := start(f.dir, name, port, caddy, "run", "--config", config, "--adapter", "caddyfile")
	if err == nil {
		s.admin = adminPort
	}
	return s, err
}

const caddyConfig = `{
	admin ADMIN
	persist_config off
	auto_https off
	log {
		exclude audit_log.entries
	}
	audit_log {
		store STORE
		key_file DIR/hash.key
	}
}
http://127.0.0.1:PORT {
%s
}
`

const nginxConfig = `daemon off;
pid DIR/nginx.pid;
error_log DIR/error.log;
worker_processes 2;
events { worker_connections 4096; }
http {
	access_log %s;
	client_body_temp_path DIR/b;
	proxy_temp_path DIR/p;
	fastcgi_temp_path DIR/f;
	uwsgi_temp_path DIR/u;
	scgi_temp_path DIR/s;
	upstream auth { server UPSTREAM; keepalive 128; }
	server {
		listen 127.0.0.1:PORT;
		location / {
			proxy_pass http://auth;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
		}
	}
}
`

func proxyCommand() *cobra.Command {
	o := options{}
	c := &cobra.Command{
		Use: "proxy", Short: "CPU, throughput and latency of a request, beside plain reverse_proxy",
		RunE: func(c *cobra.Command, _ []string) error { return proxy(c.Context(), c.OutOrStdout(), o) },
	}
	o.flags(c)
	f := c.Flags()
	f.IntSliceVar(&o.clients, "clients", []int{64}, "connections")
	f.IntSliceVar(&o.answers, "answer", []int{0}, "bytes of JSON that the server answers; 0: a sign-in's 600")
	f.StringVar(&o.db, "db", "", "a database of `log --db`: each audit log gets a copy of it")
	f.StringVar(&o.profiles, "profiles", "", "a folder: CPU profiles of each Caddy, taken in a round more that does not count")
	f.IntSliceVar(&o.bodies, "body", []int{0}, "bytes of JSON that clients send; 0: a sign-in's 69")
	return c
}

// options are the flags that the commands share.
type options struct {
	dir     string
	rounds  int
	seconds int
	clients []int
	answers []int // sizes of the server's answers in bytes; 0 is that of a sign-in
	bodies  []int // sizes of the requests' bodies in bytes; 0 is that of a sign-in
	only    string
	dsn     string // a PostgreSQL to compare with

	profiles string // folder for profiles of CPU
	db       string // a database with entries for the audit logs
}

func (o *options) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "where databases and logs are written: the disk that counts (default: the system's folder for temporary files)")
	f.IntVar(&o.rounds, "rounds", 5, "how often each is measured")
	f.IntVar(&o.seconds, "seconds", 5, "how long each time")
	f.StringVar(&o.dsn, "postgres", "", "DSN of a PostgreSQL, for a variant with the log there")
	f.StringVar(&o.only, "only", "", "only variants with this in their name, beside the plain one")
}

func (o *options) chosen() []variant {
	all := slices.Clone(variants)
	if o.dsn != "" {
		all = append(all, variant{name: "audit log, fsync, PostgreSQL", site: fmt.Sprintf(audit, "fsync", ""), store: fmt.Sprintf("postgres {\ndsn %q\n}", o.dsn), request: signIn})
	}
	return slices.DeleteFunc(all, func(v variant) bool {
		return v.name != plain && !strings.Contains(v.name, o.only)
	})
}

func proxy(ctx context.Context, w io.Writer, o options) error {
	of := o.chosen()
	f, err := startAll(ctx, o, of)
	if err != nil {
		return err
	}
	defer f.stop()
	idle := map[string]int{}
	for name, s := range f.of {
		if idle[name], err = s.memory(); err != nil {
			return err
		}
	}
	for _, l := range o.loads() {
		measured, err := f.interleaved(of, o.rounds, func(s *server, v *variant) (*result, error) {
			return closed(s, v.request.sized(l.body, l.answer), l.clients, time.Duration(o.seconds)*time.Second)
		})
		if err != nil {
			return err
		}
		if err := f.print(w, of, measured, idle, fmt.Sprintf("%s, %d rounds of %d s, interleaved", l, o.rounds, o.seconds)); err != nil {
			return err
		}
		if err := f.profile(ctx, of, l, o); err != nil {
			return err
		}
	}
	for _, m := range f.missing {
		_, _ = fmt.Fprintf(w, "\nNot here: %s\n", m)
	}
	return nil
}

// load is what the clients do at a time.
type load struct{ clients, body, answer int }

func (l load) String() string {
	s := fmt.Sprintf("%d connections", l.clients)
	if l.body > 0 {
		s += fmt.Sprintf(", bodies of %d bytes", l.body)
	}
	if l.answer > 0 {
		s += fmt.Sprintf(", answers of %d bytes", l.answer)
	}
	return s
}

// loads are all combinations of what was asked for.
func (o *options) loads() (all []load) {
	for _, clients := range o.clients {
		for _, body := range o.bodies {
			for _, answer := range o.answers {
				all = append(all, load{clients, body, answer})
			}
		}
	}
	return all
}

// print prints what was measured of one load.
func (f *fleet) print(w io.Writer, of []variant, measured map[string][]*result, idle map[string]int, how string) error {
	base := measured[plain]
	_, _ = fmt.Fprintf(w, "\n%s; plain: %.0f requests/s, %.0f µs of CPU a request; one fdatasync: %s\n\n",
		how, median(base, (*result).throughput), median(base, (*result).cpuPerRequest), f.fsync.Round(time.Microsecond))
	var rows [][]string
	for i := range of {
		v := &of[i]
		if f.of[v.name] == nil {
			continue
		}
		memory, err := f.of[v.name].memory()
		if err != nil {
			return err
		}
		m := measured[v.name]
		rows = append(rows, []string{v.name, ratios(m, base, (*result).cpuPerRequest), ratios(m, base, (*result).throughput),
			fmt.Sprintf("%.1f", median(m, func(r *result) float64 { return r.at(50) })), fmt.Sprintf("%.1f", median(m, func(r *result) float64 { return r.at(99) })),
			strconv.Itoa(idle[v.name] >> 20), strconv.Itoa(memory >> 20)})
	}
	table{"variant", "CPU / plain", "throughput / plain", "p50 ms", "p99 ms", "MB idle", "MB after"}.print(w, rows)
	return nil
}

// interleaved measures all variants in each round, in an order of its own.
func (f *fleet) interleaved(of []variant, rounds int, measure func(*server, *variant) (*result, error)) (map[string][]*result, error) {
	all := map[string][]*result{}
	for round := range rounds + 1 { // the first warms up
		for _, i := range rand.Perm(len(of)) {
			v := &of[i]
			if f.of[v.name] == nil {
				continue
			}
			r, err := measure(f.of[v.name], v)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", v.name, err)
			}
			if round > 0 {
				all[v.name] = append(all[v.name], r)
			}
			progress("round %d of %d: %-40s %7.0f requests/s %6.0f µs", round, rounds, v.name, r.throughput(), r.cpuPerRequest())
		}
	}
	return all, nil
}

// ratios are those of the rounds, each to the same round's plain one: median (minimum-maximum).
func ratios(of, base []*result, f func(*result) float64) string {
	var all []float64
	for i := range of {
		all = append(all, f(of[i])/f(base[i]))
	}
	return fmt.Sprintf("%.2f (%.2f-%.2f)", quantile(all, 0.5), slices.Min(all), slices.Max(all))
}

func median(of []*result, f func(*result) float64) float64 {
	var all []float64
	for _, r := range of {
		all = append(all, f(r))
	}
	return quantile(all, 0.5)
}

// table is the head of a table of Markdown.
type table []string

func (t table) print(w io.Writer, rows [][]string) {
	line := func(cells []string) { _, _ = fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(t)
	line(slices.Repeat([]string{"---"}, len(t)))
	for _, row := range rows {
		line(row)
	}
}

// progress says on the terminal what goes on.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
