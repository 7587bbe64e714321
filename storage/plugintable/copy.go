package plugintable

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
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

// Imported is the entry that says what came into the log in this way, of now. account is who did it, by
// the operating system's name; failed is why it ended early.
func Imported(r Result, account string, failed error) storage.Entry {
	m := struct {
		Written int    `json:"written"`
		Skipped int    `json:"skipped"`
		Account string `json:"account,omitempty"`
		Error   string `json:"error,omitempty"`
		Node    string `json:"node,omitempty"`
		Class   string `json:"class"`
		Source  string `json:"source"`
	}{Written: r.Written, Skipped: r.Skipped, Account: account, Node: storage.Node(), Class: "custom", Source: "command"}
	e := storage.Entry{Action: storage.ActionImported, Status: storage.Success, Severity: severity.High}
	if failed != nil {
		e.Status, m.Error = storage.Failed, storage.Clean(failed.Error(), 500)
	}
	e.Metadata, _ = json.Marshal(m) // texts and numbers
	e.Sanitize()
	return e
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
