package spill

import (
	"context"
	"log/slog"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// calm is how long the journal must not have failed before the store counts as
// degraded again, not refusing: near the limit short entries fit and long ones do
// not.
const calm = time.Second

// Health implements storage.Reporter.
func (s *Store) Health() storage.Health {
	s.mu.Lock()
	h := s.health
	s.mu.Unlock()
	h.Waiting, h.WaitingBytes = s.journal.left()
	h.LimitBytes, h.Damaged, h.Refused = s.journal.limit.Load(), s.journal.damaged.Load(), s.refusals.Load()
	return h
}

// SetLimit changes Options.Limit.
func (s *Store) SetLimit(limit int64) {
	if limit == 0 {
		limit = DefaultLimit
	}
	s.journal.limit.Store(max(0, limit))
	ctx, cancel := context.WithTimeout(s.ctx, time.Second) // a reload may wait for this
	defer cancel()
	_ = s.journal.submit(ctx, &op{do: s.journal.attachIfNeeded}) // or the first append does it
}

// down notes that the primary failed in an era; in nil, that it still fails.
func (s *Store) down(e *era, err error) {
	s.change(func() {
		if s.era.Load() != e {
			return // somebody else has noted it, and perhaps it works again
		}
		f := storage.FaultOf(s.path, err)
		s.health.Reason, s.health.Remedy, s.health.Err = f.Reason, f.Remedy, err
		if s.health.State == storage.Healthy {
			s.health.State = storage.Degraded
			if s.journal.limit.Load() == 0 {
				s.health.State = storage.Refusing
			}
		}
		if e != nil {
			s.era.Store(nil)
			e.end()
			select {
			case s.wake <- struct{}{}:
			default:
			}
		}
	})
}

// up notes that the primary works and the journal is empty.
func (s *Store) up() {
	s.change(func() {
		s.era.Store(newEra(s.ctx))
		s.health.State, s.health.Reason, s.health.Remedy, s.refused = storage.Healthy, "", "", nil
	})
}

// journaled notes how an append ended.
func (s *Store) journaled(err error) {
	s.change(func() {
		switch now := time.Now(); {
		case s.era.Load() != nil:
			return
		case err != nil:
			s.refused, s.refusedAt, s.health.State = err, now, storage.Refusing
		case s.refused != nil && now.Sub(s.refusedAt) > calm:
			s.refused, s.health.State = nil, storage.Degraded
		}
	})
}

// whyDown is why the primary does not take entries; errDirect if it does.
func (s *Store) whyDown() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.era.Load() != nil {
		return errDirect
	}
	return s.health.Err
}

// change runs f, which may change the state, and logs what came of it.
func (s *Store) change(f func()) {
	s.mu.Lock()
	before := s.health
	f()
	after, refused := s.health, s.refused
	if after.State != before.State {
		s.health.Since = time.Now()
	}
	s.mu.Unlock()
	if after.State != before.State || after.Reason != before.Reason {
		s.tell(before, after, refused)
	}
}

// tell logs a change of state, or of its reason.
func (s *Store) tell(before, after storage.Health, refused error) {
	waiting, _ := s.journal.left()
	why := []any{"reason", after.Reason, "remedy", after.Remedy, "error", after.Err, "journal", s.path, "waiting", waiting}
	lasted := slog.Duration("lasted", time.Since(before.Since).Round(time.Millisecond))
	switch after.State {
	case storage.Healthy:
		s.log.Warn("the audit log's database takes entries again, nothing waits any more", lasted, "was", before.State, "reason", before.Reason)
	case storage.Degraded:
		s.log.Error("the audit log's database takes no entries: they are kept in its journal", why...)
	case storage.Refusing:
		s.log.Error("the audit log takes no entries, neither its database nor its journal: requests are let through or refused as the option fail says",
			append(why, "journalError", refused)...)
	}
}
