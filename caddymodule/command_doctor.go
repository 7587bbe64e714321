package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule/lint"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// The exit statuses of the doctor; 0 if all is well.
	exitWarnings = 1
	exitFailures = 2
	// dialTimeout bounds one try to reach an upstream, maxAddresses how many addresses of
	// this machine are tried.
	dialTimeout  = 500 * time.Millisecond
	maxAddresses = 32
	// maxAnswer bounds what is read of an answer of Caddy.
	maxAnswer = 64 << 20
)

func doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [--upstream <host:port>]... [--json] [--address <admin> | --config <file>]",
		Short: "Looks whether a running audit log is well",
		Long: `
Looks, through the admin endpoint of a running Caddy, whether its audit log is well: which auth server was recognised
and by what, whether its session endpoint answers (it is asked once, without credentials), clocks, disk space, modes of
files, the writer, and what caddy audit-log lint would say of the running configuration. Run it on Caddy's machine: it
also tries whether the auth server can be reached past Caddy, on the other addresses of this machine; --upstream adds
addresses to those of the configuration.

Exit status: 0 if all is well, 1 if there are warnings, 2 if something is broken or Caddy cannot be asked.`,
	}
	f := cmd.Flags()
	f.StringArray("upstream", nil, "host:port or http(s) URL of an auth server that must not be reachable past Caddy; may be repeated")
	f.Bool("json", false, "print one JSON object")
	f.String("address", "", "the admin address of the running Caddy")
	f.StringP("config", "c", "", "the configuration file that names the admin address")
	f.StringP("adapter", "a", "", "the adapter of that file")
	return calledWith(cmd, func(caddycmd.Flags) int { return 0 }, runDoctor)
}

func runDoctor(f caddycmd.Flags) (int, error) {
	upstreams, err := f.GetStringArray("upstream")
	if err != nil {
		return exitFailures, err
	}
	if f.Changed("upstream") && len(upstreams) == 0 {
		upstreams = []string{""} // one empty value is lost in the flag
	}
	address, err := adminAddress(f)
	if err != nil {
		return exitFailures, err
	}
	d, err := visit(address, upstreams)
	if err != nil {
		return exitFailures, err
	}
	if f.Bool("json") {
		err = printJSON(Stdout(), map[string]any{"checks": d})
	} else {
		err = d.print(Stdout())
	}
	if err != nil {
		return exitFailures, err
	}
	return d.exit()
}

// exit is the exit status, with an error that counts.
func (d diagnosis) exit() (int, error) {
	count := func(v verdict) (n int) {
		for _, f := range d {
			if f.Verdict == v {
				n++
			}
		}
		return n
	}
	failures, warnings := count(failure), count(warning)
	switch {
	case failures > 0:
		return exitFailures, fmt.Errorf("the audit log is not well: %d failures, %d warnings", failures, warnings)
	case warnings > 0:
		return exitWarnings, fmt.Errorf("the audit log works, with %d warnings", warnings)
	}
	return caddy.ExitCodeSuccess, nil
}

// visit asks the running Caddy and looks around on this machine.
func visit(address string, upstreams []string) (diagnosis, error) {
	var f facts
	answered, err := ask(address, adminDoctor, &f)
	if err != nil {
		return nil, err
	}
	d := diagnose(f, time.Now(), answered)
	d.health(address)
	elsewhere, err := otherAddresses()
	if err != nil {
		d.add(warning, "upstream", "", "the addresses of this machine cannot be listed: "+err.Error(), "try by hand whether the auth server answers on them")
	}
	for _, dial := range distinct(f.Upstreams, upstreams) {
		d = append(d, reach(dial, elsewhere))
	}
	d.configuration(address)
	return d, nil
}

func distinct(lists ...[]string) []string {
	var all []string
	for _, s := range slices.Concat(lists...) {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// ask reads an answer of the admin endpoint, and the time in its head; zero if there is
// none.
func ask(address, path string, into any) (time.Time, error) {
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, path, nil, nil)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking Caddy at %s: %w (the doctor looks at a running Caddy: start it, or name its --address)", address, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(into); err != nil {
		return time.Time{}, fmt.Errorf("reading the answer of Caddy at %s: %w", address, err)
	}
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, nil
	}
	return date, nil
}

// health asks what the log says of itself, where this Caddy can say it.
func (d *diagnosis) health(address string) {
	resp, err := caddycmd.AdminAPIRequest(address, http.MethodGet, adminHealth, nil, nil)
	switch {
	case err == nil:
		defer func() { _ = resp.Body.Close() }()
		var h struct{ Stores []storeHealth }
		if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&h); err != nil {
			d.add(warning, "health", "", "what the log says of itself cannot be read: "+err.Error(), "look at "+adminHealth)
		}
		for _, s := range h.Stores {
			d.healthOf(s)
		}
	case !strings.Contains(err.Error(), "HTTP 404"):
		d.add(failure, "health", "", "the log says that it is not well: "+err.Error(), "look at "+adminHealth+" and into Caddy's log")
	}
}

// healthOf judges a store that takes entries, in its database or in its journal.
func (d *diagnosis) healthOf(s storeHealth) {
	of := cmp.Or(s.Path, s.Store)
	switch {
	case s.State != storage.Healthy:
		why := ""
		if s.Reason != storage.Unspecified {
			why = fmt.Sprintf(" (%s)", s.Reason)
		}
		d.add(warning, "health", of, fmt.Sprintf("the log is %s%s: %d entries wait in its journal", s.State, why, s.Waiting), s.Remedy)
	case s.Damaged > 0:
		d.add(warning, "health", of, fmt.Sprintf("the log takes entries; %d parts of its journal were damaged", s.Damaged), "Caddy's log says which, and when")
	case s.Refused > 0:
		d.add(warning, "health", of, fmt.Sprintf("the log takes entries; %d were refused as they were, and have no metadata there", s.Refused), "look into the file beside the journal whose name ends in .refused, where they are whole; Caddy's log says why they were refused")
	default:
		d.add(fine, "health", of, "the log says that it is well", "")
	}
}

// configuration says what lint finds in the running configuration.
func (d *diagnosis) configuration(address string) {
	var raw json.RawMessage
	if _, err := ask(address, "/config/", &raw); err != nil {
		d.add(warning, "configuration", "", "it cannot be read: "+err.Error(), "run caddy audit-log lint on its file")
		return
	}
	findings, err := lint.Check(raw, lint.Options{Profile: loadProfile})
	if err != nil {
		d.add(warning, "configuration", "", "it cannot be looked through: "+err.Error(), "run caddy audit-log lint on its file")
		return
	}
	for _, f := range findings {
		v := warning
		if f.Severity == lint.Low {
			v = fine
		}
		d.add(v, "configuration", f.Path, f.Text, f.Remedy)
	}
	if len(findings) == 0 {
		d.add(fine, "configuration", "", "lint has nothing to say", "")
	}
}

// otherAddresses are those of this machine that are not loopback.
func otherAddresses() ([]netip.Addr, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []netip.Addr
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || p.Addr().IsLoopback() || len(all) == maxAddresses {
				continue
			}
			addr := p.Addr()
			if addr.IsLinkLocalUnicast() && addr.Is6() {
				addr = addr.WithZone(i.Name)
			}
			all = append(all, addr)
		}
	}
	return all, nil
}

// reach tries whether an upstream on this machine answers on one of its other addresses:
// then others may use it without Caddy (threats.md A25).
func reach(dial string, elsewhere []netip.Addr) finding {
	f := finding{Verdict: fine, Check: "upstream", Of: dial}
	address := dial
	if u, err := url.Parse(dial); err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") {
		address = dialOf(u)
	}
	a, err := caddy.ParseNetworkAddress(address)
	switch {
	case strings.Contains(dial, "{"):
		f.Text = "its address is known only when a request comes: try it yourself with --upstream"
		return f
	case err != nil:
		f.Verdict, f.Text, f.Remedy = warning, "its address cannot be read: "+err.Error(), "give host:port"
		return f
	case a.IsUnixNetwork():
		f.Text = "a socket in the file system, which only this machine can reach"
		return f
	case a.StartPort == 0:
		f.Verdict, f.Text, f.Remedy = warning, "it has no port: nothing was tried", "give host:port"
		return f
	case !onThisMachine(a.Host, elsewhere):
		f.Text = "it is on another machine or in a container: only the firewall there can see to it that nobody reaches it past Caddy"
		return f
	}
	for _, addr := range elsewhere {
		at := net.JoinHostPort(addr.String(), strconv.FormatUint(uint64(a.StartPort), 10))
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(context.Background(), "tcp", at)
		if err != nil {
			continue
		}
		_ = c.Close()
		f.Verdict, f.Text = warning, fmt.Sprintf("it also answers on %s: whoever reaches that address passes the log by", at)
		f.Remedy = "let the auth server listen on 127.0.0.1 or on a unix socket only, or close the port in the firewall for all but Caddy"
		return f
	}
	f.Text = "it answers on no other address of this machine"
	return f
}

// onThisMachine says whether a host is one of this machine's names or addresses.
func onThisMachine(host string, elsewhere []netip.Addr) bool {
	if host == "" || isLoopback(strings.ToLower(host)) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a netip.Addr) bool {
		a = a.Unmap()
		return a.IsLoopback() || a.IsUnspecified() || slices.ContainsFunc(elsewhere, func(own netip.Addr) bool { return own.WithZone("") == a.WithZone("") })
	})
}

// print writes the findings for people: a table, remedies below their line.
func (d diagnosis) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var errs []error
	for _, f := range d {
		_, err := fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Verdict, f.Check, oneLine(cmp.Or(f.Of, "-")), oneLine(f.Text))
		if errs = append(errs, err); f.Remedy != "" {
			_, err = fmt.Fprintf(t, "\t\t\t-> %s\n", oneLine(f.Remedy))
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, t.Flush())...)
}
