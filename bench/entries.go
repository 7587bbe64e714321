package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// source makes entries as an auth server's day makes them: a hundred thousand users, one
// of whom has 2 % of all entries, a dozen actions, one failure in twelve.
type source struct {
	rand *rand.Rand
	time time.Time
}

func newSource(seed uint64) *source {
	return &source{rand.New(rand.NewPCG(seed, 1)), time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
}

const (
	users    = 100_000
	busyUser = "user-000000"
)

// actions and their share in percent.
var actions = []struct {
	name  string
	share int
	level severity.Level
}{
	{"sign-in:email", 34, severity.Low}, {"get-session", 20, severity.Low}, {"sign-out", 12, severity.Low},
	{"token", 12, severity.Low}, {"sign-in:social", 8, severity.Low}, {"sign-up:email", 4, severity.Low},
	{"update-user", 3, severity.Medium}, {"change-password", 2, severity.Medium}, {"reset-password", 2, severity.Medium},
	{"revoke-session", 2, severity.Medium}, {"admin:ban-user", 1, severity.High},
}

func (s *source) next() storage.Entry {
	s.time = s.time.Add(time.Duration(s.rand.IntN(2000)) * time.Millisecond)
	e := storage.Entry{ID: storage.NewIDAt(s.time), Status: storage.Success, CreatedAt: s.time, UserAgent: fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64; rv:%d.0) Gecko/20100101 Firefox/%[1]d.0", 100+s.rand.IntN(40))}
	n := s.rand.IntN(100)
	for _, a := range actions {
		if n -= a.share; n < 0 || a.name == "admin:ban-user" {
			e.Action, e.Severity = a.name, a.level
			break
		}
	}
	e.UserID = busyUser
	if s.rand.IntN(50) > 0 {
		e.UserID = fmt.Sprintf("user-%06d", s.rand.IntN(users))
	}
	code := 200
	if s.rand.IntN(12) == 0 {
		e.Status, e.Severity, e.UserID, code = storage.Failed, severity.Medium, "", 401
		e.IdentifierHash = fmt.Sprintf("hmac-sha256:6da8786a:%022d", s.rand.IntN(users))
	}
	e.IPAddress = fmt.Sprintf("203.0.%d.%d", s.rand.IntN(256), s.rand.IntN(256))
	e.Metadata = s.metadata(e.Action, code, e.IdentifierHash)
	e.Sanitize()
	return e
}

// metadata is what the recorder writes of an exchange.
func (s *source) metadata(action string, code int, identifierHash string) json.RawMessage {
	class, _, _ := strings.Cut(action, ":")
	failure := ""
	if identifierHash != "" {
		failure = fmt.Sprintf(`"error":{"status":"UNAUTHORIZED","code":"INVALID_EMAIL_OR_PASSWORD","message":"Invalid email or password"},`+
			`"identifier":"a***@example.com","identifierHash":%q,`, identifierHash)
	}
	return fmt.Appendf(nil, `{"requestId":%q,"method":"POST","statusCode":%d,"durationMs":%.3f,"class":%q,%s"source":"proxy"}`,
		storage.NewID(), code, s.rand.Float64()*300, class, failure)
}

func entriesCommand() *cobra.Command {
	o, n := options{}, 0
	c := &cobra.Command{
		Use: "entries", Short: "Durable entries a second, beside a bare file with group fdatasync",
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := entries(c.Context(), o, n)
			return shown(c.OutOrStdout(), &r, err)
		},
	}
	o.flags(c)
	c.Flags().IntVar(&n, "in-the-log", 0, "how many entries the log has before")
	c.Flags().StringVar(&o.db, "db", "", "the log is a copy of this database of `log --db`, which has --in-the-log entries")
	return c
}

// entriesRun is how many durable entries a second there were.
type entriesRun struct {
	How   string
	InLog int     // entries before
	Bulk  float64 // rows a second of SQLite's own bulk insert
	Rates []entriesRate
}

// entriesRate is what one way wrote with so many writers; Share is of the bare file.
type entriesRate struct {
	Writers   int
	Way       string
	PerSecond float64
	Share     float64
}

// of returns the rate of a way with so many writers.
func (r *entriesRun) of(way string, writers int) entriesRate {
	for _, e := range r.Rates {
		if e.Way == way && e.Writers == writers {
			return e
		}
	}
	return entriesRate{writers, way, none, none}
}

// print writes them as a paragraph and a table.
func (r *entriesRun) print(w io.Writer) {
	_, _ = fmt.Fprintf(w, "\n%d entries in the log before; %s\n\n", r.InLog, r.How)
	var rows [][]string
	for _, e := range r.Rates {
		rows = append(rows, []string{strconv.Itoa(e.Writers), e.Way, fmt.Sprintf("%.0f", e.PerSecond), fmt.Sprintf("%.0f %%", 100*e.Share)})
	}
	rows = append(rows, []string{"1", "SQLite's own bulk insert: one table, no index, one transaction of 200,000, not durable before its end", fmt.Sprintf("%.0f", r.Bulk), ""})
	table{"writers", "way", "entries/s", "of the bare file"}.print(w, rows)
}

func entries(ctx context.Context, o options, n int) (r entriesRun, err error) {
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path, missing := filepath.Join(dir, "audit.db"), n
	if o.db != "" {
		if err := copyFile(path, o.db); err != nil {
			return r, fmt.Errorf("copying %s: %w", o.db, err)
		}
		missing = 0
	}
	s, err := filled(ctx, path, missing)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	floor, err := newGroup(filepath.Join(dir, "floor"))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, floor.close()) }()
	from := newSource(uint64(time.Now().UnixNano()))
	from.time = time.Now()
	var mu sync.Mutex
	next := func() storage.Entry { mu.Lock(); defer mu.Unlock(); return from.next() }
	ways := []way{
		{bareFile, floor.write},
		{inSQLite, func() error { return s.Write(ctx, next()) }},
	}
	if o.dsn != "" {
		there, openErr := postgres.Open(ctx, postgres.Options{DSN: o.dsn})
		if openErr != nil {
			return r, openErr
		}
		defer func() { err = errors.Join(err, there.Close()) }()
		ways = append(ways, way{inServer, func() error { return there.Write(ctx, next()) }})
	}
	r = entriesRun{How: o.how(), InLog: n}
	if r.Rates, err = measure(ctx, ways, o); err != nil {
		return r, err
	}
	r.Bulk, err = bulkInsert(ctx, filepath.Join(dir, "bulk.db"))
	return r, err
}

const (
	bareFile = "bare file, group fdatasync"
	inSQLite = "audit log (SQLite), fsync"
	inServer = "audit log (PostgreSQL), fsync"
)

// way is one way to make an entry durable.
type way struct {
	name  string
	write func() error
}

// measure measures the ways, interleaved, with more and more writers. The first way is
// the measure of the others.
func measure(ctx context.Context, ways []way, o options) (all []entriesRate, err error) {
	for _, writers := range []int{1, 16, 64, 256} {
		rates := make([][]float64, len(ways))
		for range o.rounds {
			for i := range ways {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				r, err := perSecond(writers, time.Duration(o.seconds)*time.Second, ways[i].write)
				if err != nil {
					return nil, err
				}
				rates[i] = append(rates[i], r)
			}
		}
		for i := range ways {
			rate := quantile(rates[i], 0.5)
			all = append(all, entriesRate{writers, ways[i].name, rate, rate / quantile(rates[0], 0.5)})
		}
		progress("%d writers measured", writers)
	}
	return all, nil
}

// perSecond is how often all writers together can call f.
func perSecond(writers int, d time.Duration, f func() error) (float64, error) {
	var wg sync.WaitGroup
	counts, errs := make([]int, writers), make([]error, writers)
	began := time.Now()
	for i := range writers {
		wg.Go(func() {
			for time.Since(began) < d && errs[i] == nil {
				errs[i] = f()
				counts[i]++
			}
		})
	}
	wg.Wait()
	total := 0
	for _, c := range counts {
		total += c
	}
	return float64(total) / time.Since(began).Seconds(), errors.Join(errs...)
}

// group is the floor for durable entries: an append of 300 bytes for each, and one
// fdatasync for all that wait.
type group struct {
	f     *os.File
	queue chan chan error
	done  chan struct{}
}

func newGroup(path string) (*group, error) {
	f, err := os.Create(path)
	g := &group{f, make(chan chan error, 1024), make(chan struct{})}
	go g.run()
	return g, err
}

func (g *group) run() {
	defer close(g.done)
	line := make([]byte, 300)
	for first := range g.queue {
		batch := []chan error{first}
		for more := true; more && len(batch) < 256; {
			select {
			case c, ok := <-g.queue:
				if more = ok; ok {
					batch = append(batch, c)
				}
			default:
				more = false
			}
		}
		buf := make([]byte, 0, len(batch)*len(line))
		for range batch {
			buf = append(buf, line...)
		}
		_, err := g.f.Write(buf)
		err = errors.Join(err, syscall.Fdatasync(int(g.f.Fd())))
		for _, c := range batch {
			c <- err
		}
	}
}

func (g *group) write() error {
	c := make(chan error, 1)
	g.queue <- c
	return <-c
}

func (g *group) close() error {
	close(g.queue)
	<-g.done
	return g.f.Close()
}

// bulkInsert is what SQLite's driver can do at most, in rows a second.
func bulkInsert(ctx context.Context, path string) (float64, error) {
	const rows = 200_000
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(ctx, `CREATE TABLE t (key INTEGER PRIMARY KEY, id, user, action, ip, agent, metadata)`); err != nil {
		return 0, err
	}
	from, all := newSource(1), make([]storage.Entry, rows)
	for i := range all {
		all[i] = from.next()
	}
	began := time.Now()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	insert, err := tx.PrepareContext(ctx, `INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return 0, err
	}
	defer func() { _ = insert.Close() }()
	for i := range all {
		e := &all[i]
		if _, err := insert.ExecContext(ctx, i, e.ID, e.UserID, e.Action, e.IPAddress, e.UserAgent, string(e.Metadata)); err != nil {
			return 0, err
		}
	}
	err = tx.Commit()
	return rows / time.Since(began).Seconds(), err
}

// filled opens a log with n entries in it.
func filled(ctx context.Context, path string, n int) (*sqlite.Store, error) {
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path})
	if err != nil {
		return nil, err
	}
	from, batch := newSource(1), make([]storage.Entry, 500)
	for done := 0; done < n; done += len(batch) {
		for i := range batch {
			batch[i] = from.next()
		}
		if err := s.Write(ctx, batch...); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		if done%500_000 == 0 {
			progress("%d of %d entries written", done, n)
		}
	}
	return s, nil
}
