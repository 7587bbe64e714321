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
			return atRate(c.Context(), c.OutOrStdout(), o, perSecond, signIn)
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
			return atRate(c.Context(), c.OutOrStdout(), o, perSecond, request{"POST", "/api/auth/sign-in/username", `{"username":"ada","password":"correct horse battery staple"}`})
		},
	}
	o.flags(c)
	c.Flags().IntVar(&perSecond, "per-second", 15, "sign-ins a second")
	return c
}

// twoPages of 4 KiB, with their heads, are what SQLite's log has of one entry.
const twoPages = 2 * (4096 + 24)

func atRate(ctx context.Context, w io.Writer, o options, perSecond int, rq request) error {
	of := o.chosen()
	f, err := startAll(ctx, o, of)
	if err != nil {
		return err
	}
	defer f.stop()
	var upstream []float64
	measured, err := f.interleaved(of, o.rounds, func(s *server, v *variant) (*result, error) {
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
		return err
	}
	paced, err := fsyncTime(f.dir, twoPages, time.Second/time.Duration(perSecond))
	if err != nil {
		return err
	}
	base := measured[plain]
	at := func(r []*result, q float64) float64 { return median(r, func(r *result) float64 { return r.at(q) }) }
	_, _ = fmt.Fprintf(w, "\n%d requests/s, %d rounds of %d s, interleaved; one fdatasync: %s, of two pages at this rate %s; CPU of the server behind: %.0f µs a request\n\n",
		perSecond, o.rounds, o.seconds, f.fsync.Round(time.Microsecond), paced.Round(time.Microsecond), quantile(upstream, 0.5))
	var rows [][]string
	for _, v := range of {
		m := measured[v.name]
		if m == nil {
			continue
		}
		cpu := median(m, (*result).cpuPerRequest)
		more := cpu - median(base, (*result).cpuPerRequest)
		rows = append(rows, []string{v.name, fmt.Sprintf("%.2f", at(m, 50)), fmt.Sprintf("%+.2f", at(m, 50)-at(base, 50)), fmt.Sprintf("%.2f", at(m, 99)),
			fmt.Sprintf("%.0f", cpu), fmt.Sprintf("%+.2f %%", 100*more/quantile(upstream, 0.5))})
	}
	table{"variant", "p50 ms", "added p50 ms", "p99 ms", "CPU µs", "added CPU / the server's"}.print(w, rows)
	return nil
}
