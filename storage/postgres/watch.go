package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// tellEvery is the least time between two notifications of one Store: PostgreSQL puts
	// them into one queue for the whole server, under a lock.
	tellEvery = 200 * time.Millisecond
	// tellTimeout bounds one. A lost one costs listeners a second, see storage/follow.
	tellTimeout = time.Second
	// firstListen and lastListen space the tries to listen.
	firstListen = 100 * time.Millisecond
	lastListen  = 30 * time.Second
)

// channel is the name under which those who write to the log tell those who follow it.
func (n namer) channel() string { return fmt.Sprintf("caddy_audit_log_%x", uint64(n.lock())) } //nolint:gosec // any number

// tell notifies everybody who follows the log, soon after something was written, until ctx
// ends. It is a statement of its own: within the transaction of entries it would make
// commits wait for each other.
func (s *Store) tell(ctx context.Context) {
	defer close(s.toldAll)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.written:
		}
		s.notify(ctx)
		select {
		case <-ctx.Done():
			return
		case <-time.After(tellEvery):
		}
	}
}

func (s *Store) notify(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	late := s.late.take()
	if _, err := s.read.Exec(ctx, "SELECT pg_notify($1, $2)", s.channel(), payload(late)); err != nil {
		s.late.add(late) // for the next one
		if ctx.Err() == nil {
			s.log.Debug("those who follow the audit log could not be notified", "server", s.target, "error", err)
		}
	}
}

// wrote says that entries were written.
func (s *Store) wrote(entries []storage.Entry) {
	var late storage.Span
	for i, limit := 0, time.Now().Add(-storage.LateAfter); i < len(entries); i++ {
		if at := entries[i].CreatedAt; at.Before(limit) {
			late = late.With(storage.Span{From: at, To: at})
		}
	}
	if !late.Empty() {
		s.late.add(late)
	}
	select {
	case s.written <- struct{}{}:
	default: // it is known
	}
}

// lateEntries is of which time late entries were written that nobody was told of yet.
type lateEntries struct {
	mu   sync.Mutex
	span storage.Span
}

func (l *lateEntries) add(s storage.Span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.span = l.span.With(s)
}

func (l *lateEntries) take() storage.Span {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.span = storage.Span{} }()
	return l.span
}

// payload is a span in a notification: two times in milliseconds since 1970, nothing for none.
func payload(late storage.Span) string {
	if late.Empty() {
		return ""
	}
	return fmt.Sprintf("%d %d", late.From.UnixMilli(), late.To.UnixMilli())
}

// spanOf reads a payload; what is not understood is of none: other versions write to the same log.
func spanOf(payload string) storage.Span {
	var from, to int64
	if n, err := fmt.Sscanf(payload, "%d %d", &from, &to); err != nil || n != 2 || from > to {
		return storage.Span{}
	}
	return storage.Span{From: time.UnixMilli(from), To: time.UnixMilli(to)}
}

// Watch implements storage.Watcher, with a connection of its own: LISTEN. Behind a pooler
// that gives each transaction another connection nothing is heard.
func (s *Store) Watch(ctx context.Context, woken func(storage.Span)) {
	watch(ctx, func() (Options, bool) { return s.options, true }, woken)
}

// Watch implements storage.Watcher, also while the database is not open.
func (k *Keeper) Watch(ctx context.Context, woken func(storage.Span)) {
	watch(ctx, func() (Options, bool) {
		k.mu.RLock()
		defer k.mu.RUnlock()
		return k.options, !k.closed
	}, woken)
}

// watch listens, again and again.
func watch(ctx context.Context, options func() (Options, bool), woken func(storage.Span)) {
	for pause := firstListen; ctx.Err() == nil; pause = min(2*pause, lastListen) {
		o, more := options()
		if !more {
			return
		}
		if heard, err := listen(ctx, o, woken); err != nil && ctx.Err() == nil {
			o.withDefaults().Logger.Debug("what others write to the audit log is not heard; it is looked for every second", "error", err)
			if heard {
				pause = firstListen
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// listen calls woken for each notification, and once in the beginning: something may have
// been written before. heard says whether it could listen at all.
func listen(ctx context.Context, o Options, woken func(storage.Span)) (heard bool, err error) {
	c, err := o.parse()
	if err != nil {
		return false, err
	}
	o = o.withDefaults()
	dialing, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(dialing, c.ConnConfig)
	if err != nil {
		return false, err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellTimeout)
		defer cancel()
		_ = conn.Close(closing) // it is of no more use
	}()
	if _, err := conn.Exec(dialing, "LISTEN "+pgx.Identifier{namer{o.Schema, o.Table}.channel()}.Sanitize()); err != nil {
		return false, err
	}
	var late storage.Span
	for {
		woken(late)
		heard, err := conn.WaitForNotification(ctx)
		if err != nil {
			return true, err
		}
		late = spanOf(heard.Payload)
	}
}
