package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// retentionRun is how long durable writes at a fixed rate take while retention deletes,
// and while it does not.
type retentionRun struct {
	Rows, Writes       int // entries before; writes a second
	Deleted, PerSecond float64
	Without, Meanwhile waits
}

// waits are what writers wait, in ms.
type waits struct{ P50, P99, Slowest float64 }

func (w waits) String() string {
	return fmt.Sprintf("p50 %.2f, p99 %.2f, slowest %.1f ms", w.P50, w.P99, w.Slowest)
}

// print writes it as a paragraph.
func (r *retentionRun) print(w io.Writer) {
	if r.Rows == 0 {
		_, _ = fmt.Fprintln(w, "Not measured.")
		return
	}
	_, _ = fmt.Fprintf(w, "\nOf %d entries %.0f were deleted (%.0f/s) beside %d durable writes a second: %s; without: %s. At p99 %.1f times as long.\n",
		r.Rows, r.Deleted, r.PerSecond, r.Writes, r.Meanwhile, r.Without, r.Meanwhile.P99/r.Without.P99)
}

func retentionCommand() *cobra.Command {
	o, n := options{}, 0
	c := &cobra.Command{
		Use: "retention", Short: "What writers wait more while retention deletes",
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := beside(c.Context(), o, n)
			return shown(c.OutOrStdout(), &r, err)
		},
	}
	o.flags(c)
	c.Flags().IntVar(&n, "entries", 1_000_000, "how many there are, all of them too old")
	return c
}

// beside measures periods without and with deleting in turn, so that the disk's moods are
// in both. A period is o.seconds without, and twice as long with; there are o.rounds.
func beside(ctx context.Context, o options, n int) (r retentionRun, err error) {
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := filled(ctx, filepath.Join(dir, "audit.db"), n)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	now := time.Now()
	period := time.Duration(o.seconds) * time.Second
	r = retentionRun{Rows: n, Writes: 500}
	var without, meanwhile []time.Duration
	var deleting time.Duration
	for range o.rounds {
		quiet, err := writes(s, r.Writes, func() error { time.Sleep(period); return nil })
		if err = first(err, ctx.Err()); err != nil {
			return r, err
		}
		busy, err := writes(s, r.Writes, func() error {
			began := time.Now()
			defer func() { deleting += time.Since(began) }()
			ctx, cancel := context.WithTimeout(ctx, 2*period)
			defer cancel()
			_, err := retention.Sweep(ctx, s, now, func(k int) { r.Deleted += float64(k) })
			if errors.Is(err, context.DeadlineExceeded) {
				return nil
			}
			return err
		})
		if err != nil {
			return r, err
		}
		without, meanwhile = append(without, quiet...), append(meanwhile, busy...)
		progress("retention: %.0f deleted", r.Deleted)
	}
	if len(without) == 0 || len(meanwhile) == 0 {
		return r, errors.New("nothing was written: the periods are too short")
	}
	r.Without, r.Meanwhile = sumUp(without), sumUp(meanwhile)
	r.PerSecond = r.Deleted / deleting.Seconds()
	return r, nil
}

func sumUp(took []time.Duration) waits {
	return waits{milliseconds(quantile(took, 0.5)), milliseconds(quantile(took, 0.99)), milliseconds(quantile(took, 1))}
}

// writes makes so many durable entries a second, from four callers, while f runs, and
// returns how long each took from when it was due.
func writes(s *sqlite.Store, perSecond int, f func() error) (took []time.Duration, err error) {
	const callers = 4
	stop := make(chan struct{})
	var mu sync.Mutex
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			from := newSource(uint64(time.Now().UnixNano()) + uint64(c))
			from.time = time.Now()
			period := callers * time.Second / time.Duration(perSecond)
			for due := time.Now().Add(period * time.Duration(c) / callers); ; due = due.Add(period) { // none is left out because another took long
				select {
				case <-stop:
					return
				case <-time.After(time.Until(due)):
				}
				failed := s.Write(context.Background(), from.next())
				mu.Lock()
				took, err = append(took, time.Since(due)), first(err, failed)
				mu.Unlock()
			}
		})
	}
	failed := f()
	close(stop)
	wg.Wait()
	return took, first(err, failed)
}
