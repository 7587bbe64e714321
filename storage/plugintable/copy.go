package plugintable

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// batchRows is how many entries one transaction writes: few, so that a Caddy that
// uses the same database gets its turn in between.
const batchRows = 200

// Result counts what became of rows.
type Result struct {
	// Written entries, those that were there before included.
	Written int
	// Skipped rows could not be entries; Reasons are those of the first few.
	Skipped int
	Reasons []string
}

// maxReasons bounds Result.Reasons.
const maxReasons = 10

// Copy writes the entries of all rows to the store. An entry whose id is there is
// replaced, so that Copy can be repeated after it was interrupted. progress is
// called after each batch; nil is allowed.
func Copy(ctx context.Context, rows iter.Seq2[Row, error], to storage.Store, progress func(Result)) (Result, error) {
	var result Result
	batch := make([]storage.Entry, 0, batchRows)
	flush := func() error {
		began := time.Now()
		if err := to.Write(ctx, batch...); err != nil {
			return fmt.Errorf("writing entries: %w", err)
		}
		result.Written += len(batch)
		batch = batch[:0]
		if progress != nil {
			progress(result)
		}
		return rest(ctx, time.Since(began))
	}
	for r, err := range rows {
		if err != nil {
			return result, fmt.Errorf("reading the table: %w", err)
		}
		if r.Err != nil {
			result.skip(r)
			continue
		}
		if batch = append(batch, r.Entry); len(batch) < batchRows {
			continue
		}
		if err := flush(); err != nil {
			return result, err
		}
	}
	return result, flush()
}

func (r *Result) skip(row Row) {
	r.Skipped++
	if len(r.Reasons) < maxReasons {
		r.Reasons = append(r.Reasons, fmt.Sprintf("row %d: %v", row.Number, row.Err))
	}
}

// rest leaves the database to others for as long as the last transaction took.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
