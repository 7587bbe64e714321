package sqlite

import "sync/atomic"

// guard keeps a writer from going on with a database that is not to be trusted. The
// zero value trusts it.
type guard struct {
	// verify, if not nil, says whether the files are those that were opened. It is
	// asked before each transaction, and after its COMMIT, before anybody hears of it:
	// what was committed to a file without a name is not acknowledged.
	verify func() error
	// broken is why nothing is written any more; nil if things are.
	broken atomic.Pointer[error]
}

// err is why nothing is written any more.
func (g *guard) err() error {
	if err := g.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// poison ends all writing, for good. The first reason stays.
func (g *guard) poison(why error) { g.broken.CompareAndSwap(nil, &why) }

// distrust poisons if the error asks for it.
func (g *guard) distrust(err error) {
	if poisons(err) {
		g.poison(err)
	}
}

// check is why nothing may be written, or was, now.
func (g *guard) check() error {
	if err := g.err(); err != nil || g.verify == nil {
		return err
	}
	err := g.verify()
	if err != nil {
		g.poison(err)
	}
	return err
}

// attempt is transact under the guard, and heals what it can.
func (w *writer) attempt(batch []*job) error {
	if err := w.guard.check(); err != nil {
		return err
	}
	err := w.transact(batch)
	if err != nil {
		err = w.heal(err, batch)
	}
	if err != nil {
		w.guard.distrust(err)
		return err
	}
	return w.guard.check()
}

// hopeless says whether an error of a batch is also that of each of its jobs: they
// would wait for the lock one after the other, or meet the guard.
func (w *writer) hopeless(err error) bool { return busy(err) || w.guard.err() != nil }
