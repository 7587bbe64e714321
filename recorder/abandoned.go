package recorder

import (
	"context"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// crashLoop is how soon after a start the next one comes if nobody can be sure that the first
	// has told of anything: then what is before that is told, perhaps once more.
	crashLoop = 10 * time.Minute
	// maxAbandoned bounds the intents that are told of at a start, maxLooked the entries that
	// are looked at for them, and for the start of the process before.
	maxAbandoned = 1000
	maxLooked    = 20 * storage.MaxLimit
)

// TellAbandoned tells the Observer of the intents that a process before this one has left without an
// outcome, because it was killed: observers hear of final entries only, and would never hear of
// them. opened is when this process has opened the store. They are looked for from the last start
// of this node on that came before, or of any node if this is the only one that writes: a container
// that is made anew has another name. It returns how many there are. Of several nodes with one log
// one may tell of what is under way at another, which tells of the outcome later.
func (w *Writer) TellAbandoned(ctx context.Context, opened time.Time, only bool) (n int, err error) {
	lister, ok := storage.As[storage.Lister](w.store)
	if !ok || w.Observer == nil {
		return 0, nil
	}
	opened = opened.Truncate(time.Millisecond) // as entries have it: our own start is not before
	from, err := lastStart(ctx, lister, opened, only)
	if err != nil || from.IsZero() {
		return 0, err
	}
	q := storage.Query{Status: storage.Unknown, From: from, To: opened, NoTotal: true}
	err = each(ctx, lister, q, func(e *storage.Entry) bool {
		if intended(e) {
			n++
			w.tell(w.Observer, e)
		}
		return n < maxAbandoned
	})
	return n, err
}

// lastStart is when this node's process before this one has begun to record, or any node's; zero if there
// was none, or if it ended in an orderly way. An entry audit-log:started that knows a configuration
// before it is one of a reload.
func lastStart(ctx context.Context, lister storage.Lister, before time.Time, anyNode bool) (at time.Time, err error) {
	node := storage.Node()
	ours := func(e *storage.Entry) bool {
		return e.CreatedAt.Before(before) && (anyNode || gjson.GetBytes(e.Metadata, "node").Str == node)
	}
	var exit time.Time
	err = each(ctx, lister, storage.Query{Action: storage.ActionStopped, To: before, NoTotal: true}, func(e *storage.Entry) bool {
		if ours(e) && gjson.GetBytes(e.Metadata, "reason").Str == string(StopExit) {
			exit = e.CreatedAt
		}
		return exit.IsZero()
	})
	if err != nil {
		return at, err
	}
	err = each(ctx, lister, storage.Query{Action: storage.ActionStarted, From: exit, To: before, NoTotal: true}, func(e *storage.Entry) bool {
		switch {
		case !ours(e), gjson.GetBytes(e.Metadata, "previousConfig").Exists():
			return true
		case at.IsZero(), at.Sub(e.CreatedAt) < crashLoop:
			at = e.CreatedAt
			return true
		}
		return false
	})
	return at, err
}

// each calls do with the entries of a query, the newest first, until do returns false; with
// maxLooked at most.
func each(ctx context.Context, lister storage.Lister, q storage.Query, do func(*storage.Entry) bool) error {
	q.Limit = storage.MaxLimit
	for range maxLooked / storage.MaxLimit {
		page, err := lister.List(ctx, q)
		if err != nil {
			return err
		}
		for i := range page.Entries {
			if !do(&page.Entries[i]) {
				return nil
			}
		}
		if q.Cursor = page.NextCursor; q.Cursor == "" {
			return nil
		}
	}
	return nil
}

// intended says whether an entry is an intent that has never got an outcome: no answer, and no end
// of the process that was an orderly one.
func intended(e *storage.Entry) bool {
	m := gjson.ParseBytes(e.Metadata)
	return m.Get("source").Str == "proxy" && !m.Get("durationMs").Exists() && !m.Get("statusCode").Exists() && !m.Get("interrupted").Exists()
}
