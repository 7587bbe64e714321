package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/retention"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

func agent(i int, name string) storage.Entry {
	e := storagetest.Entry(i)
	e.UserAgent = name
	return e
}

func write(t testing.TB, s *sqlite.Store, entries ...storage.Entry) {
	t.Helper()
	if err := s.Write(context.Background(), entries...); err != nil {
		t.Fatal(err)
	}
}

// texts lists what the texts table holds.
func texts(t *testing.T, path string) []string {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	rows, err := db.Query(`SELECT text FROM auditLog_texts ORDER BY text`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var all []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCompactDropsTheTextsThatNoEntryUses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s := open(t, path)
	for i := range 300 {
		write(t, s, agent(i, fmt.Sprintf("old/%d", i)))
	}
	write(t, s, agent(1000, "new/1"), agent(1001, ""))
	for limit := 7; ; limit = 100 {
		if n, err := s.Prune(t.Context(), storagetest.Entry(300).CreatedAt, limit); err != nil {
			t.Fatal(err)
		} else if n == 0 {
			break
		}
	}
	if n, err := s.Compact(t.Context()); err != nil || n != 300 {
		t.Errorf("%d texts dropped, %v; want 300", n, err)
	}
	if got := texts(t, path); !slices.Equal(got, []string{"new/1", "sign-in:email"}) {
		t.Errorf("texts left: %q", got)
	}
	again := agent(2000, "old/7") // its code was remembered
	write(t, s, again)
	if e, err := s.Get(t.Context(), again.ID); err != nil || e.UserAgent != "old/7" || e.Action != again.Action {
		t.Errorf("an entry after it has agent %q, %v", e.UserAgent, err)
	}
}

// TestCompactKeepsWhatIsWrittenMeanwhile: entries with texts that were unused come
// and go while it runs, through this store and through another one.
func TestCompactKeepsWhatIsWrittenMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, other := open(t, path), open(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[string]string{}
	for w, store := range []*sqlite.Store{s, s, other} {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if w == 2 && i%50 != 0 {
					time.Sleep(time.Millisecond) // seldom, or Compact would never delete
					continue
				}
				old, e := agent(w, fmt.Sprintf("agent/%d", (i+7)%40)), agent(100000+i, fmt.Sprintf("agent/%d", i%40))
				write(t, store, old, e)
				mu.Lock()
				want[e.ID] = e.UserAgent
				mu.Unlock()
				if i%10 == 0 {
					if _, err := store.Prune(context.Background(), storagetest.Entry(100+i*2).CreatedAt, 1000); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	runs := 0
	for ; ctx.Err() == nil; runs++ {
		if _, err := s.Compact(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for id, name := range want {
		if e, err := s.Get(t.Context(), id); err != nil || e.UserAgent != name {
			t.Fatalf("entry %s has agent %q instead of %q, %v", id, e.UserAgent, name, err)
		}
	}
	t.Logf("%d entries written during %d compactions", len(want), runs)
}

// TestAnotherProcessMayCompact: the codes that a store remembers are forgotten when
// somebody else has written.
func TestAnotherProcessMayCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.db")
	s, other := open(t, path), open(t, path)
	write(t, s, agent(1, "a"), agent(2, "b"))
	if _, err := other.Prune(t.Context(), time.Now().AddDate(100, 0, 0), 10); err != nil {
		t.Fatal(err)
	}
	if n, err := other.Compact(t.Context()); err != nil || n != 3 {
		t.Fatalf("%d texts dropped, %v; want 3", n, err)
	}
	e := agent(3, "b")
	write(t, s, e)
	if got, err := s.Get(t.Context(), e.ID); err != nil || got.UserAgent != "b" || got.Action != e.Action {
		t.Errorf("agent %q, action %q, %v", got.UserAgent, got.Action, err)
	}
}

func TestCountBeforeAndSize(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	before, err := s.Size(t.Context())
	if err != nil || before == 0 {
		t.Fatalf("size %d, %v", before, err)
	}
	for i := range 500 {
		write(t, s, storagetest.Entry(i))
	}
	if n, err := s.CountBefore(t.Context(), storagetest.Entry(200).CreatedAt); err != nil || n != 200 {
		t.Errorf("%d entries are older, %v; want 200", n, err)
	}
	if after, err := s.Size(t.Context()); err != nil || after <= before {
		t.Errorf("size %d after 500 entries, %d before, %v", after, before, err)
	}
}

const (
	// promised is how long nobody waits longer for retention.
	promised = 5 * time.Millisecond
	// Periods of TestNobodyWaitsForRetention, in turn.
	quietPeriod, busyPeriod = 5 * time.Second, 10 * time.Second
)

// TestNobodyWaitsForRetention measures how long durable writes take while old
// entries are deleted and while not, in turn, so that the disk's own moods show in
// both. Asserted is what retention alone is to blame for: how long a write stood in
// the writer's queue because the writer was busy for retention.
//
// The bound is wide, for the race detector and busy machines: it finds a writer
// that is held for all of the deleting. RETENTION_ROWS sets how many entries there
// are, and makes the bound the promised 5 ms. Where the disk or other processes make
// writes late without retention too, some wait for work that waits itself: then not
// a hundredth as many may be late because of retention as are late without it.
// RETENTION_TIME, such as 5m, is after how long deleting may end early.
func TestNobodyWaitsForRetention(t *testing.T) {
	rows, bound, atMost := 3_000, time.Second, time.Hour
	if v := os.Getenv("RETENTION_ROWS"); v != "" {
		rows, bound = parse(t, v, strconv.Atoi), promised
	}
	if v := os.Getenv("RETENTION_TIME"); v != "" {
		atMost = parse(t, v, time.ParseDuration)
	}
	s := open(t, filepath.Join(t.TempDir(), "audit.db"))
	fill(t, s, rows)
	time.Sleep(1200 * time.Millisecond) // the checkpoint of the fill
	var waits summary
	sqlite.OnWait(t, s, func(d time.Duration) { waits = append(waits, d) })

	meter := &meter{Store: s}
	var quiet, busy summary
	var took time.Duration
	n := 0
	for done := false; !done && took < atMost; {
		quiet = append(quiet, load(t, s, func(context.Context) { time.Sleep(quietPeriod) })...)
		busy = append(busy, load(t, s, func(ctx context.Context) {
			began := time.Now()
			ctx, cancel := context.WithTimeout(ctx, busyPeriod)
			defer cancel()
			_, err := retention.Sweep(ctx, meter, storagetest.Entry(rows).CreatedAt, func(k int) { n += k })
			if done = err == nil; !done && !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			took += time.Since(began)
		})...)
	}
	compacting := load(t, s, func(ctx context.Context) {
		if _, err := s.Compact(ctx); err != nil {
			t.Error(err)
		}
	})
	sqlite.OnWait(t, s, nil)

	left, err := s.CountBefore(t.Context(), storagetest.Entry(rows).CreatedAt)
	if err != nil || left > 0 && took < atMost {
		t.Errorf("%d of %d entries are left, %v", left, rows, err)
	}
	size, _ := s.Size(t.Context())
	t.Logf("%d of %d entries deleted in %v (%.0f/s), database and log %d MiB", n, rows, took.Round(time.Millisecond), float64(n)/took.Seconds(), size>>20)
	t.Logf("durable writes without:      %s", quiet)
	t.Logf("durable writes meanwhile:    %s", busy)
	t.Logf("durable writes, compacting:  %s", compacting)
	t.Logf("steps, waits included:       %s", summary(meter.took))
	t.Logf("writes that met idle work:   %s, of %d", positive(waits), len(waits))
	if longest := slices.Max(waits); longest > bound && waits.late() > quiet.late()/100 {
		t.Errorf("a write waited %v because of retention, want at most %v", longest, bound)
	}
}

func parse[T any](t *testing.T, text string, f func(string) (T, error)) T {
	t.Helper()
	v, err := f(text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// positive returns the durations that are not zero.
func positive(d summary) summary {
	return slices.DeleteFunc(slices.Clone(d), func(v time.Duration) bool { return v == 0 })
}

// meter notes how long the steps take, their wait for the writer included.
type meter struct {
	*sqlite.Store
	took []time.Duration
}

func (m *meter) Prune(ctx context.Context, before time.Time, limit int) (int, error) {
	began := time.Now()
	n, err := m.Store.Prune(ctx, before, limit)
	m.took = append(m.took, time.Since(began))
	return n, err
}

type summary []time.Duration

func (d summary) String() string {
	d = slices.Sorted(slices.Values(d))
	if len(d) == 0 {
		return "none"
	}
	at := func(q float64) time.Duration { return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("%6d, p50 %v, p99 %v, p99.9 %v, slowest %v, over 5 ms %d (%.3f %%)",
		len(d), at(.5), at(.99), at(.999), at(1), countOver(d, promised), 100*d.late())
}

// late is the share of those that took longer than promised.
func (d summary) late() float64 { return float64(countOver(d, promised)) / float64(len(d)) }

func countOver(d []time.Duration, limit time.Duration) int {
	n := 0
	for _, v := range d {
		if v > limit {
			n++
		}
	}
	return n
}

// fill writes entries of 5,000 users with 200 user agents, a minute apart.
func fill(t testing.TB, s *sqlite.Store, rows int) {
	t.Helper()
	batch := make([]storage.Entry, 0, 500)
	for i := range rows {
		e := agent(i, fmt.Sprintf("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/%d.0.0.0 Safari/537.36", i%200))
		e.UserID = fmt.Sprintf("user-%d", i*7919%5000)
		e.Metadata = []byte(fmt.Sprintf(`{"requestId":"01a208c5-7938-73e0-963d-%012d","method":"POST","statusCode":200,"durationMs":94.368,"class":"sign-in","source":"proxy","identifier":"a***@example.com"}`, i))
		if batch = append(batch, e); len(batch) == cap(batch) || i == rows-1 {
			write(t, s, batch...)
			batch = batch[:0]
		}
	}
}

// load writes one durable entry about every 2 ms from each of 4 callers while f
// runs, and returns how long each write took.
func load(t testing.TB, s *sqlite.Store, f func(context.Context)) summary {
	t.Helper()
	stop := make(chan struct{})
	var mu sync.Mutex
	var took summary
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(2 * time.Millisecond):
				}
				e := agent(10_000_000+i*4+w, fmt.Sprintf("new/%d", i%50))
				began := time.Now()
				if err := s.Write(context.Background(), e); err != nil {
					t.Error(err)
				}
				mu.Lock()
				took = append(took, time.Since(began))
				mu.Unlock()
			}
		})
	}
	f(t.Context())
	close(stop)
	wg.Wait()
	return took
}
