package sqlite

import (
	"cmp"
	"database/sql/driver"
	"errors"
	"fmt"
	"slices"

	sqlite3 "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite/postings"
)

// Where an entry stands is said by its key. An id leads to a key (storage.IDKey), and most
// entries have that one: they are found without an index on ids. The others are strays.
const (
	noKey     int64 = 1 // the id leads nowhere
	nextKey   int64 = 2 // another entry had the key that the id leads to
	elsewhere int64 = 3 // the entry's time is another one than the id's
)

// Places of the arguments of an insert; those of update are some of them, then the key and
// the id.
const (
	argKey = iota
	argID
	argUserHash
	argUserID
	argAction
	argStatus
	argSeverity
	argIP
	argAgent
	argMetadata
	argIdentifier
	argStray
	insertArgs
)

// row is an entry as the database has it.
type row struct {
	id   string
	key  int64
	home int64 // where the id leads; see stray
	args [insertArgs]driver.Value
	group
}

// at puts the row at a key.
func (r *row) at(key int64, v *values) {
	r.key, r.args[argKey] = key, v.number(key)
	switch {
	case r.args[argStray] == noKey:
	case key < r.home || !storage.KeyTime(key).Equal(storage.KeyTime(r.home)):
		r.args[argStray] = elsewhere
	case key > r.home:
		r.args[argStray] = nextKey
	default:
		r.args[argStray] = nil
	}
}

// stray says whether the id does not lead to the row.
func (r *row) stray() bool { return r.args[argStray] != nil }

// place is what has to be known of an entry that changes.
type place struct {
	key int64
	group
}

// put writes the entries of the jobs.
func (w *writer) put(batch []*job) error {
	version, _, err := w.link.version.number()
	if err != nil {
		return err
	}
	if err := w.notice(version); err != nil {
		return err
	}
	w.rows = w.rows[:0]
	w.values.reset()
	defer func() { // nothing of people stays in memory
		clear(w.rows)
		w.rows = w.rows[:0]
		w.values.reset()
	}()
	for _, j := range batch {
		for i := range j.entries {
			if err := w.add(&j.entries[i]); err != nil {
				return err
			}
		}
	}
	if err := w.insertRows(); err != nil {
		return err
	}
	return w.changes.save(w.link)
}

// add gathers an entry that seems to be new, and writes any other at once.
func (w *writer) add(e *storage.Entry) error {
	r, err := w.row(e)
	if err != nil {
		return err
	}
	for i := range w.rows {
		switch old := &w.rows[i]; {
		case old.key != r.key:
		case old.id == r.id:
			*old = r // its outcome came with the same transaction
			return nil
		default:
			return w.putNow(&r)
		}
	}
	if old, there := w.open.Get(r.id); there && !r.stray() {
		w.open.Remove(r.id)
		if done, err := w.update(&r, old); done || err != nil {
			return err
		}
		return w.putNow(&r)
	}
	if r.stray() {
		return w.putNow(&r)
	}
	if done, err := w.updateHidden(&r); done || err != nil {
		return err
	}
	if w.rows = append(w.rows, r); len(w.rows) < maxTogether {
		return nil
	}
	return w.insertRows()
}

// row makes the row of an entry.
func (w *writer) row(e *storage.Entry) (r row, err error) {
	kind, err := w.code(text{e.Action, classOf(e), true})
	if err != nil {
		return r, err
	}
	v := &w.values
	var agent driver.Value
	if e.UserAgent != "" {
		code, err := w.code(text{text: e.UserAgent})
		if err != nil {
			return r, err
		}
		agent = v.number(code)
	}
	r = row{id: e.ID, group: group{kind, int8(e.Status.Code()), int8(e.Severity)}, args: [insertArgs]driver.Value{
		argID: v.id(e.ID), argUserHash: v.hashOrNull(e.UserID), argUserID: v.textOrNull(e.UserID), argAction: v.number(kind),
		argStatus: int64(e.Status.Code()), argSeverity: int64(e.Severity), argIP: v.textOrNull(e.IPAddress),
		argAgent: agent, argMetadata: v.metadata(e), argIdentifier: v.hashOrNull(e.IdentifierHash),
	}}
	home, ok := storage.IDKey(e.ID)
	if r.home = home; !ok {
		r.args[argStray] = noKey
	}
	r.at(e.SortKey(), v)
	return r, nil
}

// insertRows inserts the rows that were gathered.
func (w *writer) insertRows() error {
	rows := w.rows
	w.rows = w.rows[:0]
	defer clear(rows)
	done, err := w.insertTogether(rows)
	for i := range rows {
		switch {
		case err != nil:
			return err
		case done:
			err = w.inserted(&rows[i])
		default:
			err = w.putOne(&rows[i])
		}
	}
	return err
}

// insertTogether inserts rows with one statement. If one of them is there it does nothing,
// and done is false, as it is for a single one.
func (w *writer) insertTogether(rows []row) (done bool, err error) {
	if len(rows) < 2 {
		return false, nil
	}
	insert, err := w.link.together(len(rows))
	if err != nil {
		return false, err
	}
	for i := range rows {
		w.link.set(i, &rows[i])
	}
	_, err = w.link.insertRows(insert, len(rows))
	var failed *sqlite3.Error
	if errors.As(err, &failed) && failed.Code()&0xff == lib.SQLITE_CONSTRAINT {
		return false, nil
	}
	return err == nil, err
}

// inserted notes a row that is new.
func (w *writer) inserted(r *row) error {
	w.changes.add(hourOf(r.key), r.group, 1)
	switch {
	case r.args[argStray] == elsewhere:
		w.elsewhere = true
	case r.args[argStatus] == pendingCode:
		w.open.Add(r.id, place{r.key, r.group})
	}
	return w.index.insert(r.unindexed(r.key))
}

var pendingCode = int64(storage.Pending.Code())

// putNow is putOne after those that were gathered.
func (w *writer) putNow(r *row) error {
	if err := w.insertRows(); err != nil {
		return err
	}
	return w.putOne(r)
}

// putOne inserts, or updates if the id is there, or takes the next key if another entry
// has the same.
func (w *writer) putOne(r *row) error {
	if done, err := w.updateHidden(r); done || err != nil {
		return err
	}
	for key := r.key; ; key++ {
		r.at(key, &w.values)
		w.link.set(0, r)
		done, err := changed(w.link.insertRows(w.link.insert, 1))
		if err != nil {
			return err
		}
		if done {
			return w.inserted(r)
		}
		old, there, err := w.find(r)
		if err != nil {
			return err
		}
		if there {
			_, err := w.update(r, old)
			return err
		}
		if err := w.mustBeTaken(r, key); err != nil {
			return err
		}
	}
}

// mustBeTaken is for an entry that was not inserted although it is not there: if no other has its
// key, an index that somebody has added refuses it, and the error says so.
func (w *writer) mustBeTaken(r *row, key int64) error {
	var columns [7]driver.Value
	if taken, err := w.link.rowAt.first(columns[:], numbered(key)...); taken || err != nil {
		return err
	}
	plain, err := w.link.together(1)
	if err != nil {
		return err
	}
	w.link.set(0, r)
	_, err = w.link.insertRows(plain, 1)
	return cmp.Or(err, fmt.Errorf("key %d was taken and is free", key)) // cannot happen: the transaction is one
}

// updateHidden updates an entry that an insert at its key would not meet, since it is
// there at another time.
func (w *writer) updateHidden(r *row) (done bool, err error) {
	var old place
	switch {
	case r.args[argStray] == elsewhere:
		old, done, err = w.link.place(w.link.find, r, r.home)
	case !r.stray() && w.elsewhere:
		old, done, err = w.link.place(w.link.findStray, r)
	}
	if done && err == nil {
		_, err = w.update(r, old)
	}
	return done, err
}

// find looks where the entry is: where its id leads, and among the strays.
func (w *writer) find(r *row) (place, bool, error) {
	if r.args[argStray] != noKey {
		old, there, err := w.link.place(w.link.find, r, r.home)
		if there || err != nil {
			return old, there, err
		}
	}
	return w.link.place(w.link.findStray, r)
}

// update changes the entry that is at a place; done is false if it is not there.
func (w *writer) update(r *row, old place) (done bool, err error) {
	indexed, err := w.index.indexed(old.key)
	if err != nil {
		return false, err
	}
	var before, after []postings.Posting
	if indexed {
		if before, err = w.index.postings(old.key); err != nil {
			return false, err
		}
	}
	args := numbered(slices.Concat(r.args[argUserHash:argStray], []driver.Value{old.key, r.args[argID]})...)
	if done, err = changed(w.link.update.exec(args...)); !done || err != nil {
		return done, err
	}
	w.open.Remove(r.id) // whoever remembers it has another group
	w.changes.add(hourOf(old.key), old.group, -1)
	w.changes.add(hourOf(old.key), r.group, 1)
	if !indexed {
		w.index.update(r.unindexed(old.key))
		return true, nil
	}
	if after, err = w.index.postings(old.key); err == nil && !slices.Equal(before, after) {
		err = w.index.again([]int64{old.key}, before)
	}
	return true, err
}

// set prepares the arguments of the i-th row of an insert.
func (l *link) set(i int, r *row) {
	for j, v := range r.args {
		l.args[i*insertArgs+j].Value = v
	}
}

// insertRows inserts the first n rows that were set, and forgets them.
func (l *link) insertRows(insert statement, n int) (driver.Result, error) {
	args := l.args[:n*insertArgs]
	defer func() {
		for i := range args {
			args[i].Value = nil
		}
	}()
	return insert.exec(args...)
}

// place asks one of the statements that look for an entry.
func (l *link) place(find statement, r *row, key ...int64) (p place, ok bool, err error) {
	args := numbered(r.args[argID])
	if len(key) > 0 {
		args = numbered(r.args[argID], key[0])
	}
	var v [4]driver.Value
	ok, err = find.first(v[:], args...)
	if !ok || err != nil {
		return p, false, err
	}
	p.key, _ = v[0].(int64)
	p.group = groupOf(v[1], v[2], v[3])
	return p, true, nil
}

// groupOf is the group of what the database says of an entry.
func groupOf(kind, status, level driver.Value) (g group) {
	g.kind, _ = kind.(int64)
	s, _ := status.(int64)
	l, _ := level.(int64)
	g.status, g.severity = int8(s), int8(l) //nolint:gosec // codes
	return g
}
