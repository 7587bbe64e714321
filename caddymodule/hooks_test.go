package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/tidwall/gjson"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// testGuest is a guest module of both kinds.
type testGuest struct {
	before func(e *storage.Entry) (*storage.Entry, error)
	after  func(ctx context.Context, e storage.Entry)
}

func (g *testGuest) BeforeLog(_ context.Context, e *storage.Entry) (*storage.Entry, error) {
	return g.before(e)
}

func (g *testGuest) AfterLog(ctx context.Context, e storage.Entry) { g.after(ctx, e) }

func newTestEntry() storage.Entry {
	return storage.Entry{ID: "id", Action: "sign-in:email", Status: storage.Success, Metadata: json.RawMessage(`{"a":1}`), CreatedAt: time.Unix(1, 0)}
}

func hooksOf(t *testing.T, log *slog.Logger, g *testGuest) *Hooks {
	t.Helper()
	h := new(Hooks)
	if err := h.add(g, log); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestAGuestHook(t *testing.T) {
	for name, c := range map[string]struct {
		before func(e *storage.Entry) (*storage.Entry, error)
		want   HookStats
		action string
	}{
		"changes":    {func(e *storage.Entry) (*storage.Entry, error) { e.Action, e.ID = "x", "y"; return e, nil }, HookStats{Calls: 1}, "x"},
		"suppresses": {func(*storage.Entry) (*storage.Entry, error) { return nil, nil }, HookStats{Calls: 1, Suppressed: 1}, "sign-in:email"},
		"fails":      {func(e *storage.Entry) (*storage.Entry, error) { clear(e.Metadata); return nil, errors.New("no") }, HookStats{Calls: 1, Failed: 1}, "sign-in:email"},
		"panics":     {func(e *storage.Entry) (*storage.Entry, error) { e.Action = "x"; panic("no") }, HookStats{Calls: 1, Failed: 1}, "sign-in:email"},
		"is slow": {func(e *storage.Entry) (*storage.Entry, error) {
			time.Sleep(slowHook + 5*time.Millisecond)
			return e, nil
		}, HookStats{Calls: 1, Slow: 1}, "sign-in:email"},
		"is invalid": {func(e *storage.Entry) (*storage.Entry, error) { e.Metadata = []byte(`[]`); return e, nil }, HookStats{Calls: 1, Failed: 1}, "sign-in:email"},
		"is far too long": {func(e *storage.Entry) (*storage.Entry, error) {
			e.Metadata = bytes.Repeat([]byte{'{'}, 1<<20)
			return e, nil
		}, HookStats{Calls: 1, Failed: 1}, "sign-in:email"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			h := hooksOf(t, slog.New(slog.NewTextHandler(&out, nil)), &testGuest{before: c.before})
			e := newTestEntry()
			d := &recorder.Draft{Entry: &e}
			err := h.beforeLog[0].BeforeLog(context.Background(), d)
			got := h.hookStats()
			got.Slow = min(got.Slow, c.want.Slow) // on a busy machine any is slow
			if got != c.want || (err != nil) != (c.want.Failed > 0) || d.Skip != (c.want.Suppressed > 0) {
				t.Errorf("%+v, want %+v; %v, skip %v", got, c.want, err, d.Skip)
			}
			if e.Action != c.action || e.ID != "id" || string(e.Metadata) != `{"a":1}` {
				t.Errorf("%+v %s", e, e.Metadata)
			}
			if c.want.Slow > 0 && !strings.Contains(out.String(), "is slow") {
				t.Errorf("log: %s", out.String())
			}
		})
	}
}

func TestASlowHookIsLoggedOnceASecond(t *testing.T) {
	var out bytes.Buffer
	h := hooksOf(t, slog.New(slog.NewTextHandler(&out, nil)), &testGuest{before: func(e *storage.Entry) (*storage.Entry, error) {
		time.Sleep(slowHook + time.Millisecond)
		return e, nil
	}})
	for range 4 {
		e := newTestEntry()
		_ = h.beforeLog[0].BeforeLog(context.Background(), &recorder.Draft{Entry: &e})
	}
	if n := strings.Count(out.String(), "is slow"); n != 1 || h.hookStats().Slow != 4 {
		t.Errorf("%d warnings, %+v", n, h.hookStats())
	}
}

func TestWhatIsNoHookIsRefused(t *testing.T) {
	if err := new(Hooks).add(new(SQLiteStore), slog.Default()); err == nil || !strings.Contains(err.Error(), "HookModule") {
		t.Errorf("%v", err)
	}
}

func TestRuleSyntax(t *testing.T) {
	parse := func(text string) (*Hooks, error) {
		h, d := new(Hooks), caddyfile.NewTestDispenser(text)
		d.Next()
		switch d.Val() {
		case "skip":
			return h, h.unmarshalSkip(d)
		case "set":
			return h, h.unmarshalSet(d)
		}
		return h, h.unmarshalHook(d)
	}
	for text, want := range map[string]string{
		"skip `entry.userId == \"x\"`":                         `{"skip":["entry.userId == \"x\""]}`,
		`skip entry.userId == "x"`:                             `{"skip":["entry.userId == \"x\""]}`,
		"set status `\"failed\"`":                              `{"set":[{"field":"status","to":"\"failed\""}]}`,
		`set status entry.userId == "" ? "failed" : "success"`: `{"set":[{"field":"status","to":"entry.userId == \"\" ? \"failed\" : \"success\""}]}`,
	} {
		h, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := json.Marshal(h); err != nil || string(got) != want {
			t.Errorf("%s\ngives %s, %v\nwant  %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"skip":                         "skip needs an expression",
		"skip ``":                      "skip needs an expression",
		"skip `\n\nentry.usr == \"\"`": "Testfile:3: skip: line 3",
		"set":                          "set needs a field and an expression",
		"set action":                   "set needs a field and an expression",
		"set id `\"\"`":                `Testfile:1: set id: there is no field "id"`,
		"hook":                         "hook needs a name",
		"hook none":                    "unknown hook 'none': build Caddy with the module audit_log.hooks.none",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// newsTo returns an observer of a dispatcher whose only listener is f.
func newsTo(t *testing.T, log *slog.Logger, f func(context.Context, storage.Entry)) (*dispatcher, *observer) {
	t.Helper()
	d := newDispatcher(log)
	t.Cleanup(d.close)
	return d, d.observer(nil, hooksOf(t, log, &testGuest{after: f}).afterLog)
}

func TestNewsAreToldInOrderAndDrainedAtTheEnd(t *testing.T) {
	var got []string
	d, o := newsTo(t, slog.New(slog.DiscardHandler), func(_ context.Context, e storage.Entry) {
		time.Sleep(100 * time.Microsecond)
		got = append(got, e.ID)
	})
	for n := range 500 {
		o.EntryWritten(storage.Entry{ID: fmt.Sprint(n)})
	}
	d.flush(new(outputs))
	if len(got) != 500 || got[499] != "499" {
		t.Errorf("%d after flush", len(got))
	}
	for n := range 500 {
		o.EntryWritten(storage.Entry{ID: fmt.Sprint(n)})
	}
	d.close()
	if s := d.stats(); len(got) != 1000 || s != (DispatchStats{Told: 1000, Missed: 1000}) {
		t.Errorf("%d after close, %+v", len(got), s)
	}
	o.EntryWritten(storage.Entry{})
	d.flush(new(outputs))
	d.close()
	if s := d.stats(); s.Dropped != 1 {
		t.Errorf("after the end: %+v", s)
	}
}

func TestAListenerThatHangsCostsNewsAndNoTime(t *testing.T) {
	var out bytes.Buffer
	release := make(chan struct{})
	defer close(release)
	entered := make(chan struct{}, 1)
	d, o := newsTo(t, slog.New(slog.NewTextHandler(&out, nil)), func(ctx context.Context, _ storage.Entry) {
		select {
		case entered <- struct{}{}:
		default:
		}
		select {
		case <-release:
		case <-ctx.Done():
		}
	})
	o.EntryWritten(newTestEntry())
	<-entered
	began := time.Now()
	for range newsCapacity + 100 {
		o.EntryWritten(newTestEntry())
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("putting took %s", took)
	}
	if s := d.stats(); s.Dropped != 100 || s.Queued != newsCapacity || strings.Count(out.String(), "are lost") != 1 {
		t.Errorf("%+v, %s", s, out.String())
	}
	began = time.Now()
	d.close()
	if took := time.Since(began); took < drainWait || took > drainWait+time.Second {
		t.Errorf("closing took %s", took)
	}
	<-d.done // the context of AfterLog has ended
	if s := d.stats(); s.Dropped != 100+newsCapacity || s.Told != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAListenerThatPanicsIsCounted(t *testing.T) {
	d := newDispatcher(slog.New(slog.DiscardHandler))
	h := hooksOf(t, slog.New(slog.DiscardHandler), &testGuest{after: func(context.Context, storage.Entry) { panic("on purpose") }})
	o := d.observer(nil, h.afterLog)
	o.EntryWritten(newTestEntry())
	o.WriteFailed(errors.New("on purpose"), []storage.Entry{newTestEntry()})
	d.close()
	if s := d.stats(); s.Told != 2 || h.hookStats() != (HookStats{Calls: 1, Failed: 1}) {
		t.Errorf("%+v, %+v", s, h.hookStats())
	}
}

func TestALineOfTheLog(t *testing.T) {
	var out bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&out), zapcore.InfoLevel)
	outputs := &outputs{log: zap.New(core).Named("audit_log.entries")}
	e := storage.Entry{
		ID: "id", Action: "a\nb", Status: storage.Failed, Severity: severity.High, CreatedAt: time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC),
		Metadata: json.RawMessage(`{"n":12345678901234567890,"f":1.50,"s":"line\nbreak","b":true,"z":null,"l":[1,{"a":"b"}],"o":{"p":{"q":"r"}}}`),
	}
	new(observer).writeLog(outputs, &e)
	line := gjson.ParseBytes(out.Bytes())
	for path, want := range map[string]string{
		"level": `"warn"`, "logger": `"audit_log.entries"`, "userId": `null`, "ipAddress": `null`, "action": `"a\nb"`, "status": `"failed"`, "severity": `"high"`,
		"createdAt": `"2026-11-23T14:00:00.000Z"`, "metadata": string(e.Metadata),
	} {
		if got := line.Get(path).Raw; got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if strings.Count(out.String(), "\n") != 1 {
		t.Errorf("more than one line: %q", out.String())
	}
}

// TestAnEndBeforeTheFirstEventDoesNotWait ends a configuration that no longer is, or
// never was, the one that runs while its first event waits for that.
func TestAnEndBeforeTheFirstEventDoesNotWait(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	app := new(caddyevents.App)
	if err := app.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	var got []caddy.Event
	if err := app.On(eventEntry, eventFunc(func(e caddy.Event) { got = append(got, e) })); err != nil {
		t.Fatal(err)
	}
	d := newDispatcher(slog.New(slog.DiscardHandler))
	out := &outputs{ctx: ctx, events: app, log: zap.NewNop()}
	o := d.observer(out, nil)
	o.EntryWritten(newTestEntry())
	time.Sleep(20 * time.Millisecond)
	began := time.Now()
	d.flush(out)
	if took := time.Since(began); took > drainWait/2 || len(got) != 1 {
		t.Errorf("%d events after %s", len(got), took)
	}
	cancel()
	o.EntryWritten(newTestEntry())
	d.close()
	if s := d.stats(); len(got) != 1 || s.Missed != 1 || s.Told != 2 {
		t.Errorf("a configuration that has ended emits: %d events, %+v", len(got), s)
	}
}

// eventFunc handles events.
type eventFunc func(caddy.Event)

func (f eventFunc) Handle(_ context.Context, e caddy.Event) error {
	f(e)
	return nil
}

func BenchmarkEntryWritten(b *testing.B) {
	d := newDispatcher(slog.New(slog.DiscardHandler))
	defer d.close()
	o, e := d.observer(nil, nil), newTestEntry()
	b.ReportAllocs()
	for b.Loop() {
		o.EntryWritten(e)
	}
}
