package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// rateCommand: what a request waits more than behind plain, at a rate that leaves the
// machine idle.
func rateCommand() *cobra.Command {
	o, perSecond := options{}, 0
	c := &cobra.Command{
		Use: "rate", Short: "Latency at a fixed rate, beside plain reverse_proxy",
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := atRate(c.Context(), o, perSecond, signIn)
			return shown(c.OutOrStdout(), &r, err)
		},
	}
	o.flags(c)
	c.Flags().IntVar(&perSecond, "per-second", 500, "requests a second")
	return c
}

// signInCommand: the same with a server that hashes a password, as real ones do.
func signInCommand() *cobra.Command {
	o, perSecond := options{}, 0
	c := &cobra.Command{
		Use: "sign-in", Short: "A real sign-in: the server hashes with bcrypt for about 60 ms",
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := atRate(c.Context(), o, perSecond, slowSignIn)
			return shown(c.OutOrStdout(), &r, err)
		},
	}
	o.flags(c)
	c.Flags().IntVar(&perSecond, "per-second", 15, "sign-ins a second")
	return c
}

// slowSignIn is a sign-in whose password the server behind hashes.
var slowSignIn = request{"POST", "/api/auth/sign-in/username", `{"username":"ada","password":"correct horse battery staple"}`}

// twoPages of 4 KiB, with their heads, are what SQLite's log has of one entry.
const twoPages = 2 * (4096 + 24)

// rateRun is what all variants have shown at a fixed rate.
type rateRun struct {
	How       string
	PerSecond int
	Fdatasync float64 // ms for one of two pages at this rate
	Upstream  float64 // µs of CPU of the server behind for a request
	Figures   []rateFigures
}

// rateFigures are those of one variant; Added is what it has more than plain.
type rateFigures struct {
	Variant         string
	P50, Added, P99 float64 // ms
	Micros          float64 // of CPU a request
	Share           float64 // of what the server behind needs, in percent, more than plain
}

// of returns the figures of a variant.
func (r *rateRun) of(variant string) rateFigures {
	for _, f := range r.Figures {
		if f.Variant == variant {
			return f
		}
	}
	return rateFigures{variant, none, none, none, none, none}
}

// print writes them as a paragraph and a table.
func (r *rateRun) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\n%d requests/s, %s; one fdatasync of two pages at this rate: %.2f ms; CPU of the server behind: %.0f µs a request\n\n", r.PerSecond, r.How, r.Fdatasync, r.Upstream)
	var rows [][]string
	for _, v := range r.Figures {
		rows = append(rows, []string{v.Variant, fmt.Sprintf("%.2f", v.P50), fmt.Sprintf("%+.2f", v.Added), fmt.Sprintf("%.2f", v.P99), fmt.Sprintf("%.0f", v.Micros), fmt.Sprintf("%+.2f %%", v.Share)})
	}
	table{"variant", "p50 ms", "added p50 ms", "p99 ms", "CPU µs", "added CPU / the server's"}.print(w, rows)
}

func atRate(ctx context.Context, o options, perSecond int, rq request) (all rateRun, err error) {
	of := o.chosen()
	f, err := startAll(ctx, o, of)
	if err != nil {
		return all, err
	}
	defer f.stop()
	var upstream []float64
	measured, err := f.interleaved(ctx, of, o.rounds, func(s *server, v *variant) (*result, error) {
		before, err := f.upstream.cpu()
		if err != nil {
			return nil, err
		}
		sent := rq
		if v.request.path != signIn.path {
			sent.path = "/assets" + strings.TrimPrefix(rq.path, "/api/auth") // the same work for the server behind
		}
		r, err := open(s, sent, perSecond, time.Duration(o.seconds)*time.Second)
		if err != nil {
			return nil, err
		}
		after, err := f.upstream.cpu()
		upstream = append(upstream, (after-before)/float64(r.requests)*1e6)
		return r, err
	})
	if err != nil {
		return all, err
	}
	paced, err := fsyncTime(f.dir, twoPages, time.Second/time.Duration(perSecond))
	all = rateRun{How: o.how(), PerSecond: perSecond, Fdatasync: milliseconds(paced), Upstream: quantile(upstream, 0.5)}
	at := func(r []*result, q float64) float64 { return median(r, func(r *result) float64 { return r.at(q) }) }
	base := measured[plain]
	for _, v := range of {
		if m := measured[v.name]; m != nil {
			cpu := median(m, (*result).cpuPerRequest)
			more := cpu - median(base, (*result).cpuPerRequest)
			all.Figures = append(all.Figures, rateFigures{v.name, at(m, 50), at(m, 50) - at(base, 50), at(m, 99), cpu, 100 * more / all.Upstream})
		}
	}
	return all, err
}
