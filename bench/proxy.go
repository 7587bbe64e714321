package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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
	plain     = "plain reverse_proxy"
	notOurs   = "audit log, not ours"
	async     = "audit log, async"
	durable   = "audit log, fsync"
	bodies    = "audit log, fsync, request bodies kept"
	accessLog = "Caddy's JSON access log"
	// inPostgres is left out where there is no PostgreSQL.
	inPostgres = "audit log, fsync, PostgreSQL"

	audit = "audit_log {\n profile better_auth\n durability %s\n %s\n}\n"
)

// variants are all that is compared; the first is the measure of the others.
var variants = []variant{
	{name: plain, request: signIn},
	{name: "a handler that does nothing", site: "route {\nbench_nothing\nreverse_proxy UPSTREAM\n}", request: signIn},
	{name: notOurs, site: fmt.Sprintf(audit, "fsync", ""), request: request{"POST", "/assets/sign-in/email", signIn.body}},
	{name: async, site: fmt.Sprintf(audit, "async", ""), request: signIn},
	{name: "audit log, commit", site: fmt.Sprintf(audit, "commit", ""), request: signIn},
	{name: durable, site: fmt.Sprintf(audit, "fsync", ""), request: signIn},
	{name: bodies, site: fmt.Sprintf(audit, "fsync", "capture {\n request_body on\n}"), request: signIn},
	{name: accessLog, site: "log {\noutput file DIR/access.log {\nroll_disabled\n}\nformat json\n}", request: signIn},
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
	if f.upstream != nil {
		_ = f.upstream.stop()
	}
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
func startAll(ctx context.Context, o options, of []variant) (*fleet, error) {
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return nil, err
	}
	f := &fleet{dir: dir, of: map[string]*server{}, missing: slices.Clone(o.missing), profiles: o.profiles, db: o.db}
	if err := f.startAll(ctx, of); err != nil {
		f.stop()
		return nil, err
	}
	return f, nil
}

func (f *fleet) startAll(ctx context.Context, of []variant) error {
	caddy, err := build(ctx, f.dir)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	if f.upstream, err = start(f.dir, "upstream", port, self, "upstream", strconv.Itoa(port)); err != nil {
		return err
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
			return fmt.Errorf("%s: %w", v.name, err)
		}
		f.of[v.name] = s
	}
	f.fsync, err = fsyncTime(f.dir, 512, 0)
	return err
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
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := proxy(c.Context(), o)
			for i := range all {
				err = shown(c.OutOrStdout(), &all[i], err)
			}
			return err
		},
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
	dsn     string   // a PostgreSQL to compare with; private: one of the benchmark's own
	missing []string // what this machine does not have, and why

	profiles string // folder for profiles of CPU
	db       string // a database with entries for the audit logs
}

func (o *options) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "where databases and logs are written: the disk that counts (default: the system's folder for temporary files)")
	f.IntVar(&o.rounds, "rounds", 5, "how often each is measured")
	f.IntVar(&o.seconds, "seconds", 5, "how long each time")
	f.StringVar(&o.dsn, "postgres", "", "DSN of a PostgreSQL, for a variant with the log there; "+private+": one is started where temporary files are")
	f.StringVar(&o.only, "only", "", "only variants with this in their name, beside the plain one")
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		return o.withPostgres(func() error { return run(c, args) })
	}
}

// how says how often and how long each variant is measured.
func (o *options) how() string {
	return fmt.Sprintf("each %d × %d s, interleaved", o.rounds, o.seconds)
}

func (o *options) chosen() []variant {
	all := slices.Clone(variants)
	if o.dsn != "" {
		all = append(all, variant{name: inPostgres, site: fmt.Sprintf(audit, "fsync", ""), store: fmt.Sprintf("postgres {\ndsn %q\n}", o.dsn), request: signIn})
	}
	return slices.DeleteFunc(all, func(v variant) bool {
		return v.name != plain && !strings.Contains(v.name, o.only)
	})
}

// proxy measures each load that was asked for.
func proxy(ctx context.Context, o options) (all []proxyRun, err error) {
	of := o.chosen()
	f, err := startAll(ctx, o, of)
	if err != nil {
		return nil, err
	}
	defer f.stop()
	idle := map[string]int{}
	for name, s := range f.of {
		if idle[name], err = s.memory(); err != nil {
			return nil, err
		}
	}
	for _, l := range o.loads() {
		measured, err := f.interleaved(ctx, of, o.rounds, func(s *server, v *variant) (*result, error) {
			return closed(s, v.request.sized(l.Body, l.Answer), l.Clients, time.Duration(o.seconds)*time.Second)
		})
		if err != nil {
			return nil, err
		}
		r, err := f.figures(of, measured, idle)
		if err != nil {
			return nil, err
		}
		r.Load, r.How = l, o.how()
		all = append(all, r)
		if err := f.profile(ctx, of, l, o); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// load is what the clients do at a time.
type load struct{ Clients, Body, Answer int }

func (l load) String() string {
	s := fmt.Sprintf("%d connections", l.Clients)
	if l.Body > 0 {
		s += fmt.Sprintf(", bodies of %d bytes", l.Body)
	}
	if l.Answer > 0 {
		s += fmt.Sprintf(", answers of %d bytes", l.Answer)
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

// proxyRun is what all variants have shown under one load.
type proxyRun struct {
	Load      load
	How       string
	PerSecond float64 // requests that plain proxied
	Micros    float64 // of CPU for each of them
	Fdatasync float64 // ms for one of 512 bytes
	Figures   []proxyFigures
	Missing   []string // variants that this machine does not have, and why
}

// proxyFigures are those of one variant.
type proxyFigures struct {
	Variant         string
	CPU, Throughput ratio
	P50, P99        float64 // ms
	Idle, After     float64 // MB of memory before all loads and after this one
}

// ratio is a figure beside that of the plain proxy in the same round.
type ratio struct{ Median, Min, Max float64 }

func (r ratio) String() string { return fmt.Sprintf("%.2f (%.2f-%.2f)", r.Median, r.Min, r.Max) }

// none is the figure of what was not measured.
var none = math.NaN()

// of returns the figures of a variant.
func (r *proxyRun) of(variant string) proxyFigures {
	for i := range r.Figures {
		if r.Figures[i].Variant == variant {
			return r.Figures[i]
		}
	}
	return proxyFigures{variant, ratio{none, none, none}, ratio{none, none, none}, none, none, none, none}
}

// print writes them as a paragraph and a table.
func (r *proxyRun) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\n%s, %s; plain: %.0f requests/s, %.0f µs of CPU a request; one fdatasync: %.2f ms\n\n", r.Load, r.How, r.PerSecond, r.Micros, r.Fdatasync)
	var rows [][]string
	for _, v := range r.Figures {
		rows = append(rows, []string{v.Variant, v.CPU.String(), v.Throughput.String(), fmt.Sprintf("%.1f", v.P50), fmt.Sprintf("%.1f", v.P99), fmt.Sprintf("%.0f", v.Idle), fmt.Sprintf("%.0f", v.After)})
	}
	table{"variant", "CPU / plain", "throughput / plain", "p50 ms", "p99 ms", "MB idle", "MB after"}.print(w, rows)
	for _, m := range r.Missing {
		_, _ = fmt.Fprintf(w, "\nNot here: %s\n", m)
	}
}

// figures sums up the rounds of one load.
func (f *fleet) figures(of []variant, measured map[string][]*result, idle map[string]int) (r proxyRun, err error) {
	base := measured[plain]
	r = proxyRun{PerSecond: median(base, (*result).throughput), Micros: median(base, (*result).cpuPerRequest), Fdatasync: milliseconds(f.fsync), Missing: f.missing}
	for i := range of {
		name := of[i].name
		if f.of[name] == nil {
			continue
		}
		memory, err := f.of[name].memory()
		if err != nil {
			return r, err
		}
		m := measured[name]
		r.Figures = append(r.Figures, proxyFigures{name, ratios(m, base, (*result).cpuPerRequest), ratios(m, base, (*result).throughput),
			median(m, func(r *result) float64 { return r.at(50) }), median(m, func(r *result) float64 { return r.at(99) }), float64(idle[name]) / (1 << 20), float64(memory) / (1 << 20)})
	}
	return r, nil
}

// interleaved measures all variants in each round, in an order of its own.
func (f *fleet) interleaved(ctx context.Context, of []variant, rounds int, measure func(*server, *variant) (*result, error)) (map[string][]*result, error) {
	all := map[string][]*result{}
	for round := range rounds + 1 { // the first warms up
		for _, i := range rand.Perm(len(of)) {
			v := &of[i]
			if f.of[v.name] == nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
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

// ratios compares each round with the same round of the plain proxy.
func ratios(of, base []*result, f func(*result) float64) ratio {
	var all []float64
	for i := range of {
		all = append(all, f(of[i])/f(base[i]))
	}
	return ratio{quantile(all, 0.5), slices.Min(all), slices.Max(all)}
}

func median(of []*result, f func(*result) float64) float64 {
	var all []float64
	for _, r := range of {
		all = append(all, f(r))
	}
	return quantile(all, 0.5)
}

// shown prints what was measured, unless it could not be.
func shown(w io.Writer, r interface{ print(io.Writer) }, err error) error {
	if err == nil {
		r.print(w)
	}
	return err
}

// table is the head of a table of Markdown.
type table []string

func (t table) print(w io.Writer, rows [][]string) {
	line := func(cells []string) {
		for _, c := range cells {
			if _, _ = io.WriteString(w, "|"); c != "" {
				_, _ = io.WriteString(w, " "+c)
			}
			_, _ = io.WriteString(w, " ")
		}
		_, _ = io.WriteString(w, "|\n")
	}
	line(t)
	line(slices.Repeat([]string{"---"}, len(t)))
	for _, row := range rows {
		line(row)
	}
}

// progress says on the terminal what goes on.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
