package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres/pgtest"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// TestAPromotedStandbyTakesOver: the primary is killed under load, its standby promoted.
// With synchronous_standby_names every entry that was acknowledged is there once, whether
// a database or the journal had taken it. Without, the standby may be behind: what it had
// not heard of is lost, and the control shows it.
func TestAPromotedStandbyTakesOver(t *testing.T) {
	for _, c := range []struct {
		name        string
		synchronous bool
	}{{"synchronous", true}, {"asynchronous, the control", false}} {
		t.Run(c.name, func(t *testing.T) {
			primary := pgtest.Start(t)
			standby := pgtest.StartStandby(t, primary)
			if c.synchronous {
				command(t, primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
				command(t, primary, "SELECT pg_reload_conf()")
				for end := time.Now().Add(hang); number(t, primary.DSN(), `SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'`) == 0; time.Sleep(10 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatal("the standby does not follow")
					}
				}
			}
			dsn := fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres sslmode=disable", primary.Port, standby.Port)
			s := spilled(t, keep(t, postgres.Options{DSN: dsn, Password: primary.Password}))
			load := begin(t, s)
			load.await(200)
			if !c.synchronous {
				must(t, standby.Stop()) // it hears of nothing any more
				load.await(load.count() + 200)
			}
			must(t, primary.Kill())
			if !c.synchronous {
				must(t, standby.Start())
			}
			load.await(load.count() + 50)
			must(t, standby.Promote())
			load.await(load.count() + 50)
			load.end()
			awaitHealthy(t, s)
			if lost := load.lost(standby.DSN()); lost > 0 == c.synchronous {
				t.Errorf("%d of %d entries are lost", lost, load.count())
			}
		})
	}
}

func command(t *testing.T, s *pgtest.Server, sql string) {
	t.Helper()
	must(t, s.Exec(sql))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// load writes entries from four goroutines until its end.
type load struct {
	t       *testing.T
	stop    context.CancelFunc
	writers sync.WaitGroup
	mu      sync.Mutex
	done    []storage.Entry // acknowledged
	slowest time.Duration
}

func begin(t *testing.T, s storage.Store) *load {
	ctx, stop := context.WithCancel(t.Context())
	l := &load{t: t, stop: stop}
	t.Cleanup(func() { l.end() })
	for range 4 {
		l.writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				e := storagetest.Entry(i)
				e.CreatedAt = time.Now().UTC().Truncate(time.Millisecond)
				e.ID = storage.NewIDAt(e.CreatedAt)
				began := time.Now()
				err := s.Write(context.WithoutCancel(ctx), e)
				l.mu.Lock()
				if err == nil {
					l.done = append(l.done, e)
				}
				l.slowest = max(l.slowest, time.Since(began))
				l.mu.Unlock()
				time.Sleep(time.Millisecond)
			}
		})
	}
	return l
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done)
}

// await waits until so many entries were acknowledged.
func (l *load) await(n int) {
	l.t.Helper()
	for end := time.Now().Add(hang); l.count() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%d entries, want %d", l.count(), n)
		}
	}
}

// end stops the writers and returns what was acknowledged.
func (l *load) end() []storage.Entry {
	l.stop()
	l.writers.Wait()
	return l.done
}

// lost is how many of the entries that were acknowledged are not in a database. None may be there
// twice, and none may have been waited for.
func (l *load) lost(dsn string) (lost int) {
	l.t.Helper()
	log := open(l.t, postgres.Options{DSN: dsn})
	for _, e := range l.done {
		if _, err := log.Get(l.t.Context(), e.ID); err != nil {
			lost++
		}
	}
	doubled := number(l.t, dsn, `SELECT count(*) - count(DISTINCT id) FROM "auditLog"`)
	l.t.Logf("%d acknowledged, %d lost, %d doubled, the slowest call %v", len(l.done), lost, doubled, l.slowest)
	if doubled > 0 || l.slowest > 3*time.Second {
		l.t.Errorf("%d entries are doubled, the slowest call took %v", doubled, l.slowest)
	}
	return lost
}
