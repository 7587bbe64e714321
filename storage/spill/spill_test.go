package spill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/storagetest"
)

// rig is a store, its primary and its journal.
type rig struct {
	t    testing.TB
	p    *primary
	s    storage.Store
	path string
	log  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) lines() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.FieldsFunc(l.b.String(), func(r rune) bool { return r == '\n' })
}

// open returns a store on p with a journal in dir.
func open(t testing.TB, p storage.Store, dir string, o spill.Options) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(dir, "audit.db.spill"), log: new(lockedBuffer)}
	r.p, _ = p.(*primary)
	o.Logger = slog.New(slog.NewTextHandler(r.log, nil))
	var err error
	if r.s, err = spill.New(p, r.path, o); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) close() {
	r.t.Helper()
	c, ok := storage.As[storage.Closer](r.s)
	if !ok {
		r.t.Fatal("the store cannot be closed")
	}
	if err := c.Close(); err != nil {
		r.t.Error(err)
	}
}

func (r *rig) write(entries ...storage.Entry) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := r.s.Write(ctx, entries...); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) unlink(user string) int {
	r.t.Helper()
	u, ok := storage.As[storage.Unlinker](r.s)
	if !ok {
		r.t.Fatal("the store cannot unlink")
	}
	n, err := u.Unlink(context.Background(), user)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

func (r *rig) health() storage.Health {
	h, ok := storage.As[storage.Reporter](r.s)
	if !ok {
		r.t.Fatal("the store reports no health")
	}
	return h.Health()
}

// is fails the test if the store is in another state.
func (r *rig) is(state storage.State, reason storage.Reason, waiting int) {
	r.t.Helper()
	if h := r.health(); h.State != state || h.Reason != reason || h.Waiting != waiting {
		r.t.Errorf("%s (%q), %d waiting; want %s (%q), %d; %v", h.State, h.Reason, h.Waiting, state, reason, waiting, h.Err)
	}
}

// holds fails the test if the primary has other entries than these, in any order.
func (r *rig) holds(want ...storage.Entry) {
	r.t.Helper()
	got := map[string]string{}
	for _, e := range r.p.Entries() {
		got[e.ID] = text(r.t, e)
	}
	if len(got) != len(want) {
		r.t.Errorf("the primary has %d entries, want %d", len(got), len(want))
	}
	for _, e := range want {
		if got[e.ID] != text(r.t, e) {
			r.t.Errorf("the primary has %s\nwant %s", got[e.ID], text(r.t, e))
		}
	}
}

// text is an entry with all its fields.
func text(t testing.TB, e storage.Entry) string {
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + " " + e.IdentifierHash
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func entries(n int) []storage.Entry {
	all := make([]storage.Entry, n)
	for i := range all {
		all[i] = storagetest.Entry(i)
	}
	return all
}

func TestSuite(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Store {
		r := open(t, memory.New(1<<20), t.TempDir(), spill.Options{})
		t.Cleanup(r.close)
		return r.s
	})
}

func TestAStoreClaimsWhatItsPrimaryCanDoAndNoMore(t *testing.T) {
	can := func(s storage.Store) string {
		var all []string
		add := func(name string, ok bool) {
			if ok {
				all = append(all, name)
			}
		}
		_, ok := storage.As[storage.Lister](s)
		add("list", ok)
		_, ok = storage.As[storage.Getter](s)
		add("get", ok)
		_, ok = storage.As[storage.Pruner](s)
		add("prune", ok)
		_, ok = storage.As[storage.Unlinker](s)
		add("unlink", ok)
		_, ok = storage.As[storage.Sizer](s)
		add("size", ok)
		_, ok = storage.As[storage.Closer](s)
		add("close", ok)
		return strings.Join(all, " ")
	}
	for _, c := range []struct {
		name    string
		primary storage.Store
		want    string
	}{
		{"memory", memory.New(1), "list get prune unlink close"},
		{"write only", writeOnly{memory.New(1)}, "close"},
	} {
		r := open(t, c.primary, t.TempDir(), spill.Options{})
		if got := can(r.s); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		r.close()
	}
}

func TestEntriesOfADatabaseThatFailsAreWrittenWhenItWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		all := entries(600)
		all[3].IdentifierHash, all[3].Metadata = "tag", []byte(`{"identifierHash":"tag", "html":"<b>&\u2028","n":1.0}`)
		all[4].Metadata = nil
		r.write(all[0])
		r.is(storage.Healthy, "", 0)
		r.p.set(fails)
		r.write(all[1:5]...)
		for i := range all[5:] {
			r.write(all[5+i])
		}
		r.is(storage.Degraded, storage.Unspecified, 599)
		if n := len(r.p.Entries()); n != 1 {
			t.Errorf("the primary has %d entries, want 1", n)
		}
		failed := time.Now()
		r.p.set(works)
		time.Sleep(2 * time.Second)
		r.is(storage.Healthy, "", 0)
		if h := r.health(); h.Since.Sub(failed) > 2*time.Second {
			t.Errorf("it took %v", h.Since.Sub(failed))
		}
		r.holds(all...)
		if n := size(t, r.path); n != 0 {
			t.Errorf("the journal has %d bytes, want 0", n)
		}
		if lines := r.log.lines(); len(lines) != 2 || !strings.Contains(lines[0], "takes no entries: they are kept in its journal") || !strings.Contains(lines[1], "takes entries again") {
			t.Errorf("log:\n%s", strings.Join(lines, "\n"))
		}
	})
}

func TestTheFirstFailureOpensTheCircuit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		r.p.set(hangs)
		began := time.Now()
		var wg sync.WaitGroup
		all := entries(60)
		for i := range 50 {
			wg.Go(func() { r.write(all[i]) })
		}
		wg.Wait()
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("50 writes with 3 s each took %v, want half of that", took)
		}
		began = time.Now()
		for i := range 10 {
			r.write(all[50+i])
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("10 writes after the first failure took %v, want none to wait", took)
		}
		r.is(storage.Degraded, storage.Slow, 60)
		r.p.set(works)
		time.Sleep(10 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.holds(all...)
	})
}

func TestAJobThatWasLeftDoesNotUndoWhatCameAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		intent := storagetest.Entry(1)
		outcome := intent
		intent.Status = storage.Unknown
		r.p.set(hangs)
		r.write(intent) // the worker has it, and the journal
		r.write(outcome)
		r.p.set(works)
		time.Sleep(10 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.holds(outcome)
	})
}

func TestUnlinkingKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		all := entries(4)
		for i := range all {
			all[i].UserID = "u"
		}
		r.write(all[0])
		r.p.set(fails)
		r.write(all[1])
		if n := r.unlink("u"); n != 0 {
			t.Errorf("%d entries, want 0: nobody knows yet", n)
		}
		r.write(all[2], all[3])
		r.is(storage.Degraded, storage.Unspecified, 4)
		r.p.set(works)
		time.Sleep(2 * time.Second)
		all[0].UserID, all[1].UserID = "", ""
		r.holds(all...)
		if n := r.unlink("u"); n != 2 {
			t.Errorf("%d entries, want 2", n)
		}
	})
}

func TestTheNextStartWritesWhatIsLeftBeforeAnythingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, all := t.TempDir(), entries(3)
		r := open(t, newPrimary(), dir, spill.Options{})
		r.p.set(fails)
		r.write(all[:2]...)
		r.close()
		p := newPrimary()
		p.set(fails)
		r = open(t, p, dir, spill.Options{}) // it fails still
		r.is(storage.Degraded, storage.Unspecified, 2)
		r.write(all[2])
		r.close()
		r = open(t, newPrimary(), dir, spill.Options{})
		r.is(storage.Healthy, "", 0)
		r.holds(all...)
		if lines := r.log.lines(); len(lines) != 1 || !strings.Contains(lines[0], "an earlier process left") || !strings.Contains(lines[0], "entries=3") {
			t.Errorf("log: %q", lines)
		}
		r.close()
		if _, err := os.Stat(r.path); err == nil {
			t.Error("an empty journal is left")
		}
	})
}

func TestAJournalHasItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{Limit: 1000})
		defer r.close()
		r.p.set(fails)
		var err error
		kept := []storage.Entry{}
		for i := 0; err == nil; i++ {
			e := storagetest.Entry(i)
			if err = r.s.Write(t.Context(), e); err == nil {
				kept = append(kept, e)
			}
		}
		if f := storage.FaultOf("", err); f.Reason != storage.LimitReached || !strings.Contains(err.Error(), "1000 bytes") || !strings.Contains(f.Remedy, "spill") {
			t.Errorf("a full journal says %v", err)
		}
		if n := size(t, r.path); n > 1000 || len(kept) < 2 {
			t.Errorf("%d bytes, %d entries", n, len(kept))
		}
		r.is(storage.Refusing, storage.Unspecified, len(kept))
		r.p.set(works)
		time.Sleep(3 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.holds(kept...)
		if lines := r.log.lines(); len(lines) != 3 || !strings.Contains(lines[1], "takes no entries, neither its database nor its journal") {
			t.Errorf("log:\n%s", strings.Join(lines, "\n"))
		}
	})
}

func TestWithoutAJournalThePrimaryIsStillTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tended{primary: newPrimary()}
		r := open(t, p, t.TempDir(), spill.Options{Limit: -1})
		defer r.close()
		p.fail(storage.NewFault(storage.Deleted, "/x/audit.db", errDown), false)
		time.Sleep(time.Second)
		if err := r.s.Write(t.Context(), storagetest.Entry(1)); !errors.Is(err, errDown) {
			t.Errorf("Write says %v", err)
		}
		r.is(storage.Refusing, storage.Deleted, 0)
		if _, err := os.Stat(r.path); err == nil {
			t.Error("there is a journal")
		}
		p.fail(nil, true)
		time.Sleep(2 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.write(storagetest.Entry(1))
	})
}

func TestAPrimaryThatSaysItChangedIsRevived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tended{primary: newPrimary()}
		r := open(t, p, t.TempDir(), spill.Options{})
		defer r.close()
		began := time.Now()
		p.fail(storage.NewFault(storage.Deleted, "/x/audit.db", errDown), false)
		time.Sleep(time.Second)
		r.is(storage.Degraded, storage.Deleted, 0)
		if h := r.health(); h.Since.Sub(began) > time.Second || !strings.Contains(h.Remedy, "/x/audit.db") {
			t.Errorf("%+v, %v after it", h, h.Since.Sub(began))
		}
		time.Sleep(10 * time.Second)
		tries := p.tries()
		for i, at := range tries[1:] {
			if gap := at.Sub(tries[i]); gap < 100*time.Millisecond || gap > 2*time.Second {
				t.Errorf("try %d came after %v", i+1, gap)
			}
		}
		e := storagetest.Entry(1)
		r.write(e)
		p.fail(nil, true)
		time.Sleep(2 * time.Second)
		r.is(storage.Healthy, "", 0)
		if n := len(p.Entries()); n != 1 {
			t.Errorf("%d entries, want 1", n)
		}
	})
}

// refused are the entries in the file of what a primary refused.
func (r *rig) refused() (all []storage.Entry) {
	r.t.Helper()
	b, err := os.ReadFile(r.path + ".refused")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var l struct {
			At    time.Time
			Error string
			Entry struct {
				ID, Action, Metadata string
			}
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.At.IsZero() || !strings.Contains(l.Error, storage.ErrRejected.Error()) {
			r.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, storage.Entry{ID: l.Entry.ID, Action: l.Entry.Action, Metadata: json.RawMessage(l.Entry.Metadata)})
	}
	return all
}

func TestAnEntryThatIsRejectedIsNobodysFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		all := entries(5)
		r.p.reject = all[2].ID
		r.write(all[2])
		r.is(storage.Healthy, "", 0)
		r.p.set(fails)
		for _, e := range all {
			r.write(e)
		}
		r.p.set(works)
		time.Sleep(2 * time.Second)
		r.is(storage.Healthy, "", 0)
		r.holds(all[0], all[1], all[3], all[4])
		if kept := r.refused(); len(kept) != 1 || kept[0].ID != all[2].ID { // the same one again
			t.Errorf("in the file: %+v", kept)
		}
		if h := r.health(); h.Damaged != 0 || h.Refused != 2 {
			t.Errorf("%d are counted as lost and %d as refused, want 0 and 2", h.Damaged, h.Refused)
		}
	})
}

// TestAnEntryWhoseMetadataAreRefusedGoesWithoutThem, whether it comes from a caller or from
// the journal, alone or among others; whole it is in a file. A torn line there costs no other.
func TestAnEntryWhoseMetadataAreRefusedGoesWithoutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		all := entries(6)
		all[1].Metadata, all[4].Metadata = json.RawMessage(`{"n":1e200000}`), json.RawMessage(`{"n":1e200000}`)
		r.p.refuse = `{"n":1e200000}`
		r.write(all[:3]...)
		file := r.path + ".refused"
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatal(info.Mode(), err)
		}
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		r.p.set(fails)
		r.write(all[3:]...)
		r.p.set(works)
		time.Sleep(2 * time.Second)
		r.is(storage.Healthy, "", 0)
		if kept := r.refused(); len(kept) != 2 || string(kept[0].Metadata) != r.p.refuse || kept[1].ID != all[4].ID {
			t.Errorf("in the file: %+v", kept)
		}
		if err := os.WriteFile(file, whole[:len(whole)-5], 0o600); err != nil { // as a power cut leaves it
			t.Fatal(err)
		}
		r.write(all[1])
		if after, err := os.ReadFile(file); err != nil || strings.Count(string(after), "\n") != 2 || !strings.Contains(string(after), "\n{") {
			t.Errorf("%v: %s", err, after)
		}
		all[1].Metadata, all[4].Metadata = json.RawMessage(`{"metadataDropped":{"bytes":14}}`), json.RawMessage(`{"metadataDropped":{"bytes":14}}`)
		r.holds(all...)
	})
}

// TestWhatNobodyTakesIsAnError: neither the database nor the file.
func TestWhatNobodyTakesIsAnError(t *testing.T) {
	r := open(t, newPrimary(), t.TempDir(), spill.Options{})
	defer r.close()
	if err := os.Mkdir(r.path+".refused", 0o700); err != nil {
		t.Fatal(err)
	}
	all := entries(2)
	r.p.reject = all[0].ID
	if err := r.s.Write(t.Context(), all[0]); !errors.Is(err, storage.ErrRejected) || !strings.Contains(err.Error(), ".refused") {
		t.Errorf("Write says %v", err)
	}
	all[1].Metadata = json.RawMessage(`{"x":1}`)
	r.p.refuse = `{"x":1}`
	r.write(all[1])
	all[1].Metadata = json.RawMessage(`{"metadataDropped":{"bytes":7}}`)
	r.holds(all[1])
}

// TestUnlinkingManyEntriesIsNoFailure: a call that has not come to the end, but on, leaves the
// store healthy; from the journal it goes on until it is done.
func TestUnlinkingManyEntriesIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		slow := result{500, context.DeadlineExceeded}
		r.p.unlinks = []result{slow}
		u, _ := storage.As[storage.Unlinker](r.s)
		if n, err := u.Unlink(t.Context(), "user-1"); n != 500 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
		r.is(storage.Healthy, "", 0)
		all := entries(3)
		r.p.set(fails)
		r.write(all[:2]...)
		if _, err := u.Unlink(t.Context(), all[0].UserID); err != nil {
			t.Fatal(err)
		}
		r.write(all[2])
		r.p.unlinks = []result{slow, slow, slow, slow, slow}
		r.p.set(works)
		time.Sleep(3 * time.Second)
		r.is(storage.Healthy, "", 0)
		if n := len(r.p.Entries()); n != 3 || r.p.Entries()[0].UserID != "" || len(r.p.unlinks) != 0 {
			t.Errorf("%+v", r.p.Entries())
		}
	})
}

// TestCloseDoesNotWaitForAPrimaryThatHangs longer than it says.
func TestCloseDoesNotWaitForAPrimaryThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		r.p.stuck = make(chan struct{})
		began := time.Now()
		c, _ := storage.As[storage.Closer](r.s)
		if err := c.Close(); err == nil || !strings.Contains(err.Error(), "is not closed") || time.Since(began) > 6*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		close(r.p.stuck)
	})
}

func TestACallerThatLeavesProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		r.p.set(hangs)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := r.s.Write(ctx, storagetest.Entry(1)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Write says %v", err)
		}
		r.is(storage.Healthy, "", 0)
		r.p.set(works)
	})
}

func TestAJournalThatIsRemovedIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), filepath.Join(t.TempDir(), "new"), spill.Options{})
		defer r.close()
		all := entries(4)
		r.p.set(fails)
		r.write(all[0], all[1])
		for i, remove := range []func() error{
			func() error { return os.Remove(r.path) },
			func() error { return os.RemoveAll(filepath.Dir(r.path)) },
		} {
			before := size(t, r.path)
			if err := remove(); err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				r.write(all[2])
			} else {
				time.Sleep(300 * time.Millisecond) // without any entry
			}
			if after := size(t, r.path); after < before {
				t.Errorf("%d bytes were in the journal, %d are", before, after)
			}
		}
		r.write(all[3])
		kept, err := os.ReadFile(r.path)
		if err != nil {
			t.Fatal(err)
		}
		r.p.set(works)
		time.Sleep(2 * time.Second)
		r.holds(all...)
		crashed := t.TempDir() // what a crash in between would have left
		if err := os.WriteFile(filepath.Join(crashed, filepath.Base(r.path)), kept, 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, newPrimary(), crashed, spill.Options{})
		defer again.close()
		again.holds(all...)
	})
}

func TestAJournalThatIsReplacedIsNotTouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		r.p.set(fails)
		r.write(storagetest.Entry(1))
		other := r.path + ".other"
		if err := errors.Join(os.WriteFile(other, []byte("mine"), 0o600), os.Rename(other, r.path)); err != nil {
			t.Fatal(err)
		}
		if err := r.s.Write(t.Context(), storagetest.Entry(2)); err == nil || !strings.Contains(err.Error(), "move that away") {
			t.Errorf("Write says %v", err)
		}
		r.is(storage.Refusing, storage.Unspecified, 1)
		if b, err := os.ReadFile(r.path); string(b) != "mine" {
			t.Errorf("the other file is %q, %v", b, err)
		}
		if err := os.Remove(r.path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		r.write(storagetest.Entry(3))
		r.is(storage.Degraded, storage.Unspecified, 2)
		r.p.set(works)
		time.Sleep(3 * time.Second)
		if n := len(r.p.Entries()); n != 2 {
			t.Errorf("%d entries, want 2", n)
		}
	})
}

func TestFilesThatCannotBeAJournalAreRefused(t *testing.T) {
	dir := t.TempDir()
	others := map[string]func(path string) error{
		"link":   func(p string) error { return os.Symlink("/dev/null", p) },
		"folder": func(p string) error { return os.Mkdir(p, 0o700) },
	}
	for name, f := range others {
		path := filepath.Join(dir, name)
		if err := f(path); err != nil {
			t.Fatal(err)
		}
		if _, err := spill.New(memory.New(1), path, spill.Options{}); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "no regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := open(t, memory.New(1), dir, spill.Options{})
	defer r.close()
	if _, err := spill.New(memory.New(1), r.path, spill.Options{}); err == nil || !strings.Contains(err.Error(), "locked by somebody else") {
		t.Errorf("a journal that is in use: %v", err)
	}
}

func TestAJournalIsForItsOwnerOnly(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := filepath.Join(t.TempDir(), "new")
	mode := func(path string) os.FileMode {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	r := open(t, newPrimary(), dir, spill.Options{})
	if f, d := mode(r.path), mode(dir); f != 0o600 || d != 0o700 {
		t.Errorf("modes %o and %o", f, d)
	}
	r.p.set(fails)
	r.write(storagetest.Entry(1))
	r.close()
	if err := os.Chmod(r.path, 0o644); err != nil { //nolint:gosec // that is the point
		t.Fatal(err)
	}
	r = open(t, newPrimary(), dir, spill.Options{})
	defer r.close()
	if f := mode(r.path); f != 0o600 {
		t.Errorf("mode %o", f)
	}
}

func TestTheLimitCanBeChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{Limit: -1})
		defer r.close()
		limiter, ok := storage.As[interface{ SetLimit(int64) }](r.s)
		if !ok {
			t.Fatal("it has no SetLimit")
		}
		r.p.set(fails)
		for i, c := range []struct {
			limit int64
			works bool
		}{{-1, false}, {0, true}, {-1, false}, {100, false}, {spill.DefaultLimit, true}} {
			limiter.SetLimit(c.limit)
			if err := r.s.Write(t.Context(), storagetest.Entry(i)); (err == nil) != c.works {
				t.Errorf("with limit %d Write says %v", c.limit, err)
			}
			time.Sleep(2 * time.Second) // an era or two
		}
		r.p.set(works)
		time.Sleep(3 * time.Second)
		if n := len(r.p.Entries()); n != 2 {
			t.Errorf("%d entries, want 2", n)
		}
	})
}

// TestIntentsAndOutcomesAreReplayedTogether: a journal in which most ids are twice is
// written in few batches, each entry as it was last.
func TestIntentsAndOutcomesAreReplayedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newPrimary(), t.TempDir(), spill.Options{})
		defer r.close()
		r.p.set(fails)
		var want []storage.Entry
		for i := range 100 {
			e := storagetest.Entry(i)
			e.Status = storage.Unknown
			r.write(e)
			later := e
			later.Status, later.CreatedAt = storage.Success, e.CreatedAt.Add(time.Hour)
			r.write(later)
			e.Status = storage.Success // its place stays
			want = append(want, e)
		}
		r.p.takes.Store(int64(100 * time.Millisecond))
		r.p.set(works)
		began := time.Now()
		for r.health().State != storage.Healthy && time.Since(began) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the replay took %v, with 100 ms for each batch", took)
		}
		r.holds(want...)
	})
}

// TestManyWriteWhileItRecovers: nothing is lost, doubled or undone when the circuit
// closes under load.
func TestManyWriteWhileItRecovers(t *testing.T) {
	r := open(t, newPrimary(), t.TempDir(), spill.Options{})
	defer r.close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	want := map[string]storage.Entry{}
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				e := storagetest.Entry(i)
				for v := range 3 {
					e.Action = fmt.Sprintf("writer %d, version %d", w, v)
					if err := r.s.Write(context.Background(), e); err != nil {
						t.Error(err)
					}
				}
				mu.Lock()
				want[e.ID] = e
				mu.Unlock()
			}
		})
	}
	eras := 0
	for i := 0; ctx.Err() == nil; i++ {
		r.p.set([]mode{fails, works, doubts, works}[i%4])
		for end := time.Now().Add(time.Second); i%2 == 1 && r.health().State != storage.Healthy && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		if i%2 == 1 && r.health().State == storage.Healthy {
			eras++
		}
		time.Sleep(20 * time.Millisecond)
	}
	r.p.set(works)
	wg.Wait()
	for end := time.Now().Add(10 * time.Second); r.health().State != storage.Healthy && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	r.is(storage.Healthy, "", 0)
	got := r.p.Entries()
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	for _, e := range got {
		if w := want[e.ID]; text(t, e) != text(t, w) {
			t.Fatalf("got  %s\nwant %s", text(t, e), text(t, w))
		}
	}
	t.Logf("%d entries of 3 versions, %d recoveries", len(want), eras)
}

// TestWaitingSaysWhatAJournalHas, in use or not.
func TestWaitingSaysWhatAJournalHas(t *testing.T) {
	dir := t.TempDir()
	if n, err := spill.Waiting(filepath.Join(dir, "audit.db.spill")); n != 0 || err != nil {
		t.Errorf("of none: %d, %v", n, err)
	}
	r := open(t, newPrimary(), dir, spill.Options{})
	r.p.set(fails)
	r.write(entries(3)...)
	r.write(entries(1)...)
	if n, err := spill.Waiting(r.path); n != 4 || err != nil {
		t.Errorf("in use: %d, %v", n, err)
	}
	r.close()
	if n, err := spill.Waiting(r.path); n != 4 || err != nil {
		t.Errorf("afterwards: %d, %v", n, err)
	}
}
