package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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
	if _, err := s.read.Exec(ctx, "SELECT pg_notify($1, '')", s.channel()); err != nil && ctx.Err() == nil {
		s.log.Debug("those who follow the audit log could not be notified", "server", s.target, "error", err)
	}
}

// wrote says that something was written.
func (s *Store) wrote() {
	select {
	case s.written <- struct{}{}:
	default: // it is known
	}
}

// Watch implements storage.Watcher, with a connection of its own: LISTEN. Behind a pooler
// that gives each transaction another connection nothing is heard.
func (s *Store) Watch(ctx context.Context, woken func()) {
	watch(ctx, func() (Options, bool) { return s.options, true }, woken)
}

// Watch implements storage.Watcher, also while the database is not open.
func (k *Keeper) Watch(ctx context.Context, woken func()) {
	watch(ctx, func() (Options, bool) {
		k.mu.RLock()
		defer k.mu.RUnlock()
		return k.options, !k.closed
	}, woken)
}

// watch listens, again and again.
func watch(ctx context.Context, options func() (Options, bool), woken func()) {
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
func listen(ctx context.Context, o Options, woken func()) (heard bool, err error) {
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
	for {
		woken()
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return true, err
		}
	}
}
