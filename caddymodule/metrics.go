package caddymodule

import (
	"context"
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
)

// sizeTimeout bounds how long a scrape waits for the size of the store.
const sizeTimeout = time.Second

// registerMetrics adds the store's metrics to the registry of a configuration. Each
// configuration has a registry of its own; the counters belong to the pooled store
// and go on after a reload.
func registerMetrics(ctx caddy.Context, p *pooledStore) error {
	err := ctx.GetMetricsRegistry().Register(&collector{p})
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		return nil
	}
	return err
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName("caddy", "audit_log", name), help, labels, nil)
}

// The metrics. Labels have few, fixed values.
var (
	entriesDesc       = desc("entries_total", "Requests to the auth server of which an entry was made, by class of event and outcome.", "class", "outcome")
	writtenDesc       = desc("written_total", "Entries that the store took, intents and outcomes counted apart.")
	writeSecondsDesc  = desc("write_seconds", "How long writes to the store took.")
	queueDesc         = desc("queue_length", "Entries that wait to be written in the background.")
	droppedDesc       = desc("dropped_total", "Entries lost because the queue was full or the process ended.")
	writeErrorsDesc   = desc("write_errors_total", "Writes that failed, repeated tries included.")
	refusedDesc       = desc("refused_total", "Requests answered with 503 because their entry could not be written.")
	lookupsDesc       = desc("lookups_total", "Questions to the auth server who is signed in, by result.", "result")
	rolledUpDesc      = desc("rolled_up_total", "Events that stand in a roll-up instead of an entry of their own, by kind. entries_total counts them too.", "kind")
	unknownRoutesDesc = desc("unknown_routes_total", "Requests under the base path that no route of the profile describes.")
	hookFailuresDesc  = desc("hook_failures_total", "Hooks and rules that failed; the entry was written all the same.")
	suppressedDesc    = desc("suppressed_total", "Entries that a hook or a rule has suppressed.")
	untoldDesc        = desc("events_dropped_total", "Events and log lines of entries that were lost, because what listens to them is too slow; the entries are stored.")
	sanitizedDesc     = desc("forwarding_headers_dropped_total", "Headers X-Forwarded-Proto and X-Forwarded-Host of trusted proxies that are no scheme or host, and did not reach the auth server.")
	storeBytesDesc    = desc("store_bytes", "Bytes of the store on disk.")
	deletedDesc       = desc("retention_deleted_total", "Entries deleted because of their age, by the retention or by hand.")
	lastRunDesc       = desc("retention_last_run_timestamp_seconds", "When the retention last ran, in seconds since 1970; 0 for never.")
	healthDesc        = desc("health", "How the store is: 1 for its state, 0 for the other ones.", "state")
	spilledDesc       = desc("spilled_entries", "Entries that wait in the journal because the database fails.")
	failedDesc        = desc("retention_failed", "1 if the last run of the retention did not delete all that it should, else 0.")
)

// collector makes metrics of what a store counts, at the moment of a scrape.
type collector struct{ pooled *pooledStore }

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		entriesDesc, writtenDesc, writeSecondsDesc, queueDesc, droppedDesc, writeErrorsDesc, refusedDesc, lookupsDesc,
		unknownRoutesDesc, rolledUpDesc, hookFailuresDesc, storeBytesDesc, deletedDesc, lastRunDesc, failedDesc,
		healthDesc, spilledDesc, suppressedDesc, untoldDesc, sanitizedDesc,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	m := c.pooled.metrics.Snapshot()
	for class, outcomes := range m.Entries {
		for outcome, n := range outcomes {
			counter(entriesDesc, n, class, string(outcome))
		}
	}
	for result, n := range m.Lookups {
		counter(lookupsDesc, n, result)
	}
	for kind, n := range m.RolledUp {
		counter(rolledUpDesc, n, kind)
	}
	counter(refusedDesc, m.Refused)
	counter(unknownRoutesDesc, m.UnknownRoutes)
	counter(hookFailuresDesc, m.HookFailures)
	counter(suppressedDesc, m.Suppressed)
	counter(sanitizedDesc, c.pooled.sanitized.Load())
	out <- prometheus.MustNewConstHistogram(writeSecondsDesc, m.WriteCount, m.WriteSum, m.Writes)

	now := c.pooled.now()
	counter(writtenDesc, now.writer.Written)
	counter(droppedDesc, now.writer.Dropped)
	counter(writeErrorsDesc, now.writer.WriteErrors)
	counter(deletedDesc, now.retention.Deleted)
	counter(untoldDesc, now.events.Dropped)
	gauge(out, queueDesc, float64(now.writer.Queued))
	if now.sized {
		gauge(out, storeBytesDesc, float64(now.size))
	}
	gauge(out, spilledDesc, float64(now.health.Waiting))
	for _, state := range storage.States() {
		is := 0.0
		if now.health.State == state {
			is = 1
		}
		out <- prometheus.MustNewConstMetric(healthDesc, prometheus.GaugeValue, is, string(state))
	}
	gauge(out, lastRunDesc, unixSeconds(now.retention.LastRun))
	failed := 0.0
	if now.retention.Err != nil {
		failed = 1
	}
	gauge(out, failedDesc, failed)
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, v float64) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
}

func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// condition is how a store is right now.
type condition struct {
	open      bool
	path      string
	writer    recorder.Stats
	retention retention.Status
	health    storage.Health
	events    DispatchStats
	// size in bytes, if sized.
	size  int64
	sized bool
}

// now returns how the store is. It does not open it.
func (p *pooledStore) now() condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		return condition{health: storage.Health{State: storage.Refusing, Reason: storage.Unspecified, Err: errNoStore}}
	}
	c := condition{open: true, writer: p.open.writer.Stats(), retention: p.open.retention.Status(), events: p.open.news.stats()}
	c.health = healthOf(p.open.store, c.writer)
	if named, ok := storage.As[interface{ Path() string }](p.open.store); ok {
		c.path = named.Path()
	}
	if sizer, ok := storage.As[storage.Sizer](p.open.store); ok {
		ctx, cancel := context.WithTimeout(context.Background(), sizeTimeout)
		defer cancel()
		size, err := sizer.Size(ctx)
		c.size, c.sized = size, err == nil
	}
	return c
}

var _ prometheus.Collector = (*collector)(nil)
