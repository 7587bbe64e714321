package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// firstPause and longestPause space the tries on a server that is gone for a moment
// (threats.md E7.1: at most 2 s).
const (
	firstPause   = 10 * time.Millisecond
	longestPause = 500 * time.Millisecond
	// readPatience is how long a read tries again: a server that restarts is back by
	// then, and nobody waits longer for a page.
	readPatience = time.Second
)

// The settings of transactions. They are set in each one (SET LOCAL), not for the
// connection: behind PgBouncer in transaction mode the next transaction may have
// another connection, and startup parameters are refused. A client that vanished
// within a transaction holds its locks for ten seconds at most.
var (
	bounds = fmt.Sprintf(`set_config('statement_timeout', '%d', true), set_config('lock_timeout', '%d', true),
		set_config('idle_in_transaction_session_timeout', '10000', true)`, statementTimeout.Milliseconds(), lockTimeout.Milliseconds())
	// byIndex: what the writer looks for has an index. A plan that was made while a table
	// was small, or before it was analysed, would read the whole of it, for as long as the
	// plan is kept.
	byIndex = `set_config('enable_seqscan', 'off', true)`
	// settingsFsync repairs a synchronous_commit that is off for the role or the
	// database, and leaves the stronger ones alone.
	settingsFsync = `SELECT ` + bounds + `, ` + byIndex + `, set_config('synchronous_commit',
		CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)`
	settingsCommit = `SELECT ` + bounds + `, ` + byIndex + `, set_config('synchronous_commit', 'off', true)`
	// settingsRead: a plan that is made without knowing the values would not see how
	// few rows a page has, and which partial index fits.
	settingsRead = `SELECT ` + bounds + `, set_config('plan_cache_mode', 'force_custom_plan', true)`
)

func settings(d storage.Durability) string {
	if d == storage.Commit {
		return settingsCommit
	}
	return settingsFsync
}

// reading runs the statements that queue adds in one snapshot, in one round trip.
func (s *Store) reading(ctx context.Context, queue func(*pgx.Batch)) error {
	return s.again(ctx, readPatience, func() error {
		return s.with(ctx, s.read, func(c *pgxpool.Conn) error {
			b := new(pgx.Batch)
			b.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
			b.Queue(settingsRead)
			queue(b)
			b.Queue("COMMIT")
			return c.SendBatch(ctx, b).Close()
		})
	})
}

// with runs f with a connection of the pool, and leaves no transaction open.
func (s *Store) with(ctx context.Context, pool *pgxpool.Pool, f func(*pgxpool.Conn) error) error {
	c, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	err = f(c)
	if pg := c.Conn().PgConn(); err != nil && !pg.IsClosed() && pg.TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockTimeout)
		defer cancel()
		if _, rollbackErr := c.Exec(ctx, "ROLLBACK"); rollbackErr != nil {
			return errors.Join(err, rollbackErr) // Release drops the connection
		}
	}
	return err
}

// again calls f until it works, fails for good, or the patience or ctx is over.
func (s *Store) again(ctx context.Context, patience time.Duration, f func() error) error {
	began := time.Now()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := f()
		if err == nil || ctx.Err() != nil || !passing(err) || code(err) == queryCanceled {
			return err
		}
		if code(err) == readOnly {
			s.write.Reset() // it was demoted: the other connections are no better
			s.read.Reset()
		}
		limit := patience
		if gone(err) {
			limit = min(limit, s.goneFor)
		}
		if time.Since(began)+pause > limit {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// tx is a transaction of one connection.
type tx struct {
	c *pgxpool.Conn
	// opening is what begins the transaction. It goes with the first statement, to
	// save a round trip; nil after that.
	opening *pgx.Batch
}

func begin(c *pgxpool.Conn, settings string) *tx {
	b := new(pgx.Batch)
	b.Queue("BEGIN")
	b.Queue(settings)
	return &tx{c, b}
}

// each runs a statement and calls f for each row that it returns, which is in into.
func (t *tx) each(ctx context.Context, sql string, args, into []any, f func() error) error {
	b := t.opening
	if t.opening = nil; b == nil {
		b = new(pgx.Batch)
	}
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		_, err := pgx.ForEachRow(rows, into, f)
		return err
	})
	return t.c.SendBatch(ctx, b).Close()
}

// commit ends the transaction. The answer matters: COMMIT of a transaction that failed
// is answered with ROLLBACK and no error.
func (t *tx) commit(ctx context.Context) error {
	tag, err := t.c.Exec(ctx, "commit")
	if err != nil {
		return err
	}
	if tag.String() != "COMMIT" {
		return fmt.Errorf("the transaction was rolled back: the server answered %s", tag)
	}
	return nil
}
