package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
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
	late := s.late.Take()
	if _, err := s.read.Exec(ctx, "SELECT pg_notify($1, $2)", s.channel(), payload(late)); err != nil {
		s.late.Add(late...) // for the next one
		if ctx.Err() == nil {
			s.log.Debug("those who follow the audit log could not be notified", "server", s.target, "error", err)
		}
	}
}

// wrote says that entries were written.
func (s *Store) wrote(entries []storage.Entry) {
	for i, limit := 0, time.Now().Add(-storage.LateAfter); i < len(entries); i++ {
		if at := entries[i].CreatedAt; at.Before(limit) {
			s.late.Add(storage.Span{From: at, To: at})
		}
	}
	select {
	case s.written <- struct{}{}:
	default: // it is known
	}
}

// payload are spans in a notification: pairs of times in milliseconds since 1970.
func payload(late storage.Spans) string {
	var words []string
	for _, s := range late {
		words = append(words, strconv.FormatInt(s.From.UnixMilli(), 10), strconv.FormatInt(s.To.UnixMilli(), 10))
	}
	return strings.Join(words, " ")
}

// spansOf reads a payload up to what it does not understand: other versions write to the same log.
func spansOf(payload string) (late storage.Spans) {
	for words := strings.Fields(payload); len(words) > 1; words = words[2:] {
		from, err := strconv.ParseInt(words[0], 10, 64)
		to, toErr := strconv.ParseInt(words[1], 10, 64)
		if err != nil || toErr != nil || from > to {
			break
		}
		late = late.Add(storage.Span{From: time.UnixMilli(from), To: time.UnixMilli(to)})
	}
	return late
}

// Watch implements storage.Watcher, with a connection of its own: LISTEN. Behind a pooler
// that gives each transaction another connection nothing is heard.
func (s *Store) Watch(ctx context.Context, woken func(storage.Spans)) {
	watch(ctx, func() (Options, bool) { return s.options, true }, woken)
}

// Watch implements storage.Watcher, also while the database is not open.
func (k *Keeper) Watch(ctx context.Context, woken func(storage.Spans)) {
	watch(ctx, func() (Options, bool) {
		k.mu.RLock()
		defer k.mu.RUnlock()
		return k.options, !k.closed
	}, woken)
}

// watch listens, again and again.
func watch(ctx context.Context, options func() (Options, bool), woken func(storage.Spans)) {
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
func listen(ctx context.Context, o Options, woken func(storage.Spans)) (heard bool, err error) {
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
	var late storage.Spans
	for {
		woken(late)
		heard, err := conn.WaitForNotification(ctx)
		if err != nil {
			return true, err
		}
		late = spansOf(heard.Payload)
	}
}
