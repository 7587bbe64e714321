package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/tidwall/gjson"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// newsCapacity bounds the news that wait for a dispatcher.
	newsCapacity = 1024
	// drainWait bounds how long the end of a configuration or of a store waits for
	// news to be told.
	drainWait = time.Second
	// startWait bounds how long the first events wait until all apps have started.
	startWait = 5 * time.Second

	// The names of our events.
	eventEntry       = "audit_log.entry"
	eventWriteFailed = "audit_log.write_failed"
)

// outputs is where one configuration tells of entries: its events app and its
// logs.
type outputs struct {
	ctx    caddy.Context
	events *caddyevents.App
	// log is named audit_log.entries; logs says of which levels it takes lines.
	log  *zap.Logger
	logs map[zapcore.Level]bool
	// running is set once all apps of the configuration have started, or it is at its
	// end. Before that the events app may still be taking subscriptions.
	running atomic.Bool
}

// newOutputs is called when the app is provisioned.
func newOutputs(ctx caddy.Context) (*outputs, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, err
	}
	own, _ := caddy.NewContext(ctx) // ends with ctx
	source, err := own.LoadModuleByID("audit_log.entries", nil)
	if err != nil {
		return nil, err
	}
	c := source.(*entrySource).ctx
	o := &outputs{ctx: c, events: app.(*caddyevents.App), log: c.Logger(), logs: make(map[zapcore.Level]bool)}
	for _, level := range []zapcore.Level{zapcore.InfoLevel, zapcore.WarnLevel} {
		o.logs[level] = o.log.Check(level, lineOfEntry) != nil
	}
	return o, nil
}

// lineOfEntry is the message of an entry's line in the log.
const lineOfEntry = "audit log entry"

// levelOf is the level of that line.
func levelOf(e *storage.Entry) zapcore.Level {
	if e.Severity >= severity.High {
		return zapcore.WarnLevel
	}
	return zapcore.InfoLevel
}

// deaf says whether nobody listens to entries such as this one, now and as long as the
// configuration lives.
func (o *outputs) deaf(e *storage.Entry) bool {
	return o.alive() && o.running.Load() && !o.logs[levelOf(e)] && !o.events.ShouldEmit(eventEntry)
}

func init() {
	caddy.RegisterModule(new(entrySource))
}

// entrySource is the origin of our events and the name of our log lines. It is a
// module with a context of its own, because Caddy may overwrite the last module of
// a context that others were derived from.
type entrySource struct{ ctx caddy.Context }

// CaddyModule returns the Caddy module information.
func (*entrySource) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.entries", New: func() caddy.Module { return new(entrySource) }}
}

// Provision keeps the context.
func (s *entrySource) Provision(ctx caddy.Context) error {
	s.ctx = ctx
	return nil
}

// alive says whether the configuration has not ended.
func (o *outputs) alive() bool { return o != nil && o.ctx.Err() == nil }

// activeOutputs are those of the configuration that runs, or nil.
func activeOutputs() *outputs {
	app, err := caddy.ActiveContext().AppIfConfigured("audit_log")
	if err != nil {
		return nil
	}
	if a, ok := app.(interface{ newsOutputs() *outputs }); ok {
		return a.newsOutputs()
	}
	return nil
}

// awaitRunning waits until the configuration runs, or has ended.
func (o *outputs) awaitRunning(ctx context.Context) {
	for end := time.Now().Add(startWait); !o.running.Load() && o.ctx.Err() == nil && ctx.Err() == nil; {
		if activeOutputs() == o || time.Now().After(end) {
			o.running.Store(true)
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// news is what a dispatcher tells: an entry that was written, or a write that
// failed.
type news struct {
	from  *observer
	entry storage.Entry
	// err and count are set for a write that failed.
	err   error
	count int
	// told is set instead of all else to ask for an answer when it is its turn.
	told chan struct{}
}

// DispatchStats counts what became of news about entries.
type DispatchStats struct {
	// Told news, and Dropped ones: the queue was full, or the time at the end was
	// over.
	Told, Dropped uint64
	// Missed events: no configuration was left that could emit them. Their log
	// lines are written all the same.
	Missed uint64
	// Queued news wait right now.
	Queued int
}

// dispatcher tells events, logs and guest modules about entries, in one goroutine
// and outside of requests. It belongs to an open store, so that it outlives
// configurations as requests do: what an ended configuration has left is told to
// the next one.
type dispatcher struct {
	queue chan news
	quit  chan struct{}
	done  chan struct{}
	log   *slog.Logger
	// ctx ends when the dispatcher gives up on what it is telling.
	ctx    context.Context
	cancel context.CancelFunc
	// last is where the newest configuration that was seen tells of entries. While
	// Caddy stops, that configuration still lives but is not the active one.
	last atomic.Pointer[outputs]

	closing               sync.Once
	told, dropped, missed atomic.Uint64
	warnings              throttle
}

// newDispatcher starts a dispatcher; close ends it.
func newDispatcher(log *slog.Logger) *dispatcher {
	d := &dispatcher{queue: make(chan news, newsCapacity), quit: make(chan struct{}), done: make(chan struct{}), log: log}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	go d.run()
	return d
}

// current returns o while its configuration lives, after that the outputs of the
// configuration that took its place, or nil if there is none.
func (d *dispatcher) current(o *outputs) *outputs {
	for _, find := range []func() *outputs{func() *outputs { return o }, activeOutputs, d.last.Load} {
		if o := find(); o.alive() {
			return o
		}
	}
	return nil
}

// stats returns the current counts.
func (d *dispatcher) stats() DispatchStats {
	return DispatchStats{Told: d.told.Load(), Dropped: d.dropped.Load(), Missed: d.missed.Load(), Queued: len(d.queue)}
}

// put leaves news to the goroutine, and never waits.
func (d *dispatcher) put(n news) {
	select {
	case <-d.quit:
	default:
		select {
		case d.queue <- n:
			return
		default:
		}
	}
	d.drop(1)
}

func (d *dispatcher) drop(n uint64) {
	if total := d.dropped.Add(n); d.warnings.allow() {
		d.log.Warn("events and log lines of entries are lost, because what listens to them is too slow; the entries are stored", "lost", total)
	}
}

// flush waits until everything that was put so far is told, up to drainWait. It is
// for the end of the configuration of out, while its modules still work.
func (d *dispatcher) flush(out *outputs) {
	out.running.Store(true) // no app starts any more, also if it never ran
	timer := time.NewTimer(drainWait)
	defer timer.Stop()
	told := make(chan struct{})
	select {
	case d.queue <- news{told: told}:
	case <-d.done:
		return
	case <-timer.C:
		return
	}
	select {
	case <-told:
	case <-d.done:
	case <-timer.C:
	}
}

// close tells what is left, up to drainWait, and ends the goroutine.
func (d *dispatcher) close() {
	d.closing.Do(func() { close(d.quit) })
	defer d.cancel()
	select {
	case <-d.done:
	case <-time.After(drainWait):
	}
}

func (d *dispatcher) run() {
	defer close(d.done)
	for {
		select {
		case n := <-d.queue:
			d.tell(&n)
		case <-d.quit:
			for {
				select {
				case n := <-d.queue:
					d.tell(&n)
				default:
					return
				}
			}
		}
	}
}

// tell tells one piece of news.
func (d *dispatcher) tell(n *news) {
	if n.told != nil {
		close(n.told)
		return
	}
	if d.ctx.Err() != nil {
		d.drop(1)
		return
	}
	defer func() {
		if p := recover(); p != nil { // of an event handler or a log encoder
			d.log.Error("telling of an entry panicked", "panic", p, "stack", string(debug.Stack()))
		}
		d.told.Add(1)
	}()
	out := d.current(n.from.outputs)
	if n.err == nil {
		n.from.writeLog(out, &n.entry)
		for _, g := range n.from.after {
			g.afterLog(d.ctx, n.entry)
		}
	}
	d.emit(out, n)
}

// emit emits the event. Its context is not that of a configuration that may end
// meanwhile, but has its values.
func (d *dispatcher) emit(out *outputs, n *news) {
	if out == nil {
		d.missed.Add(1)
		return
	}
	out.awaitRunning(d.ctx)
	name := eventEntry
	if n.err != nil {
		name = eventWriteFailed
	}
	if !out.events.ShouldEmit(name) {
		return
	}
	data, err := n.data()
	if err != nil {
		d.log.Error("an entry cannot be an event", "error", err)
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(out.ctx))
	defer cancel()
	defer context.AfterFunc(d.ctx, cancel)()
	c := out.ctx
	c.Context = ctx
	out.events.Emit(c, name, data)
}

// data is what the event carries.
func (n *news) data() (map[string]any, error) {
	if n.err != nil {
		return map[string]any{"error": n.err.Error(), "count": n.count}, nil //nolint:nilerr // the failure is what the event tells
	}
	b, err := json.Marshal(n.entry)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, err
	}
	return map[string]any{"entry": fields}, nil
}

// observer is a handler's ear at its recorder: it passes on what it hears to the
// dispatcher of the store.
type observer struct {
	dispatcher *dispatcher
	// outputs of the handler's configuration; nil for those of the one that runs.
	outputs *outputs
	after   []*guestListener
}

// observer returns the observer of a handler with its guest modules.
func (d *dispatcher) observer(out *outputs, after []*guestListener) *observer {
	if out.alive() {
		d.last.Store(out)
	}
	return &observer{dispatcher: d, outputs: out, after: after}
}

// EntryWritten implements recorder.Observer.
func (o *observer) EntryWritten(e storage.Entry) {
	if len(o.after) == 0 && o.outputs.deaf(&e) {
		o.dispatcher.told.Add(1)
		return
	}
	o.dispatcher.put(news{from: o, entry: e})
}

// WriteFailed implements recorder.Observer.
func (o *observer) WriteFailed(err error, entries []storage.Entry) {
	if err == nil {
		err = fmt.Errorf("%d entries were not written", len(entries))
	}
	o.dispatcher.put(news{from: o, err: err, count: len(entries)})
}

// writeLog writes the entry as a log line: of the configuration that runs or, if
// there is none any more, of the handler's own.
func (o *observer) writeLog(out *outputs, e *storage.Entry) {
	if out == nil {
		out = o.outputs
	}
	if out == nil {
		return
	}
	line := out.log.Check(levelOf(e), lineOfEntry)
	if line == nil {
		return
	}
	line.Write(
		zap.String("id", e.ID), orNull("userId", e.UserID), zap.String("action", logged(e.Action)), zap.String("status", string(e.Status)),
		zap.String("severity", e.Severity.String()), orNull("ipAddress", e.IPAddress), orNull("userAgent", e.UserAgent),
		zap.Object("metadata", logObject(gjson.ParseBytes(e.Metadata))), zap.String("createdAt", e.CreatedAt.UTC().Format(storage.TimeLayout)),
	)
}

// logged is a text for the log: an encoder escapes control characters, but not those
// beyond ASCII, nor what turns the direction of text.
func logged(s string) string { return printable(s, ascii) }

// ascii are the control characters that JSON cannot have as they are.
const ascii = "\x00\x01\x02\x03\x04\x05\x06\x07\x08\t\n\x0b\x0c\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f"

// orNull is a field that is null when nobody knows it.
func orNull(key, value string) zap.Field {
	if value == "" {
		return zap.Reflect(key, nil)
	}
	return zap.String(key, logged(value))
}

// logObject is a JSON object as a structured field, so that an encoder can filter
// what is in it.
type logObject gjson.Result

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (o logObject) MarshalLogObject(enc zapcore.ObjectEncoder) (err error) {
	if !gjson.Result(o).IsObject() {
		return nil
	}
	gjson.Result(o).ForEach(func(k, v gjson.Result) bool {
		key := logged(k.Str)
		switch {
		case v.IsObject():
			err = enc.AddObject(key, logObject(v))
		case v.Type == gjson.String:
			enc.AddString(key, logged(v.Str))
		case v.IsBool():
			enc.AddBool(key, v.Bool())
		default: // numbers as they are written, lists, null
			err = enc.AddReflected(key, json.RawMessage(logged(v.Raw)))
		}
		return err == nil
	})
	return err
}

var _ recorder.Observer = (*observer)(nil)
