package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// exportTimeout bounds one page of an export: a text of which there is little may be
// looked for in the whole log.
const exportTimeout = 30 * time.Second

// encoder writes the entries of an export in one format.
type encoder interface {
	// Encode writes an entry; it may keep it back until Flush.
	Encode(e *storage.Entry) error
	// Flush writes what was kept back, as far as the format allows.
	Flush() error
	// Close writes the end. Without it what was written is not complete.
	Close() error
}

// format is a format of exports.
type format struct {
	media, extension string
	encoder          func(q *request, w io.Writer) encoder
}

// formats by their names.
var formats = map[string]format{
	"csv":     {"text/csv; charset=utf-8; header=present", "csv", func(q *request, w io.Writer) encoder { return newCSV(w, q.operator) }},
	"parquet": {"application/vnd.apache.parquet", "parquet", func(q *request, w io.Writer) encoder { return newParquet(w, q.operator) }},
	"jsonl":   {"application/x-ndjson", "jsonl", func(q *request, w io.Writer) encoder { return &lines{q, w} }},
}

// export streams everything that the query selects, newest first, page after page, in
// constant memory. What ends before its end must not look complete: the connection is
// aborted.
func (q *request) export() {
	lister, ok := storage.As[storage.Lister](q.Store)
	if !ok {
		q.lacks("list")
		return
	}
	f, ok := q.format()
	if !ok {
		return
	}
	wanted, ok := q.wanted()
	if !ok {
		return
	}
	if q.Streams != nil {
		leave, ok := q.enter(&q.Streams.exports)
		if !ok {
			return
		}
		defer leave()
	}
	mayLast(q.w)
	wanted.Limit, wanted.NoTotal = storage.MaxLimit, true
	first, err := q.boundedPage(lister, wanted, exportTimeout)
	if err != nil {
		q.storeFailed(err, "Failed to retrieve audit logs")
		return
	}
	q.attachment(f)
	if err := q.stream(lister, wanted, first, f.encoder(q, q.w)); err != nil {
		q.Logger.Warn("an export of the audit log broke off: the connection is cut, so that what came does not look complete", "error", err)
		panic(http.ErrAbortHandler)
	}
}

// format is the format that the request asks for. It answers what is wrong with it.
func (q *request) format() (format, bool) {
	if !q.r.ProtoAtLeast(1, 1) {
		q.fail(http.StatusHTTPVersionNotSupported, "HTTP_VERSION", "An export needs HTTP/1.1: before it an answer that breaks off looks complete")
		return format{}, false
	}
	p := problems{values: q.r.URL.Query()}
	f, ok := formats[p.option("format", "csv", "jsonl", "parquet")]
	if !ok && len(p.list) == 0 {
		p.add("query.format", `Invalid option: expected one of "csv"|"jsonl"|"parquet"`)
	}
	if !ok {
		q.invalid(p.list...)
	}
	return f, ok
}

// attachment begins the answer: a file that has a name.
func (q *request) attachment(f format) {
	h := q.w.Header()
	h.Set("Content-Type", f.media)
	h.Set("Content-Disposition", `attachment; filename="audit-log-`+time.Now().UTC().Format("20060102T150405Z")+"."+f.extension+`"`)
	h.Set("X-Accel-Buffering", "no")
	q.w.WriteHeader(http.StatusOK)
}

// stream writes page after page.
func (q *request) stream(lister storage.Lister, wanted storage.Query, page storage.Page, out encoder) error {
	pace := newPace(q.w, q.ending(), q.exiting)
	defer pace.end()
	for {
		pace.next()
		for i := range page.Entries {
			if err := out.Encode(&page.Entries[i]); err != nil {
				return err
			}
		}
		if page.NextCursor == "" {
			return out.Close()
		}
		if err := out.Flush(); err != nil {
			return err
		}
		if q.exiting() {
			return errors.New("the server ends")
		}
		wanted.Cursor, wanted.Offset = page.NextCursor, 0
		var err error
		if page, err = q.boundedPage(lister, wanted, exportTimeout); err != nil {
			return err
		}
	}
}

// lines is JSON lines: each entry as list shows it.
type lines struct {
	q *request
	w io.Writer
}

// Encode implements encoder.
func (l *lines) Encode(e *storage.Entry) error {
	b, err := json.Marshal(l.q.shown(e))
	if err != nil {
		return err
	}
	_, err = l.w.Write(append(escaped(b), '\n'))
	return err
}

// Flush implements encoder.
func (*lines) Flush() error { return nil }

// Close implements encoder.
func (*lines) Close() error { return nil }
