package recorder_test

import (
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func countEverything(m *recorder.Metrics) {
	m.Entry("sign-in", storage.Failed)
	m.Entry("sign-in", storage.Failed)
	m.Entry("a class of somebody's own", storage.Success)
	m.Refused()
	m.UnknownRoute()
	m.HookFailed()
	m.Lookup(recorder.LookupUser)
	m.Lookup(recorder.LookupFailed)
	m.Lookup(77)
	m.RolledUp(recorder.RollUpSignIn)
	for _, d := range []time.Duration{0, 500 * time.Microsecond, 2 * time.Millisecond, time.Minute} {
		m.WriteDuration(d)
	}
}

func TestMetricsCount(t *testing.T) {
	m := new(recorder.Metrics)
	countEverything(m)
	s := m.Snapshot()
	if s.Entries["sign-in"][storage.Failed] != 2 || s.Entries["other"][storage.Success] != 1 || s.Entries["sign-in"][storage.Success] != 0 {
		t.Errorf("entries %v", s.Entries)
	}
	if s.Refused != 1 || s.UnknownRoutes != 1 || s.HookFailures != 1 || s.Lookups["user"] != 1 || s.Lookups["failed"] != 1 || s.Lookups["nobody"] != 0 ||
		s.RolledUp["sign-in"] != 1 || s.RolledUp["check"] != 0 {
		t.Errorf("%+v", s)
	}
	if s.WriteCount != 4 || s.Writes[0.0005] != 2 || s.Writes[0.001] != 2 || s.Writes[0.0025] != 3 || s.Writes[3] != 3 || s.WriteSum < 60 || s.WriteSum > 60.1 {
		t.Errorf("writes %v, %d in %v s", s.Writes, s.WriteCount, s.WriteSum)
	}
}

func TestNoMetricsCountNothing(t *testing.T) {
	var m *recorder.Metrics
	countEverything(m)
	if s := m.Snapshot(); s.WriteCount != 0 || s.Refused != 0 {
		t.Errorf("%+v", s)
	}
}

func TestMetricsDoNotAllocate(t *testing.T) {
	m := new(recorder.Metrics)
	if n := testing.AllocsPerRun(100, func() { countEverything(m) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
