package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// entry is what clients see: all but the user agent, which is for forensics.
type entry struct {
	ID        string          `json:"id"`
	UserID    *string         `json:"userId"`
	Action    string          `json:"action"`
	Status    storage.Status  `json:"status"`
	Severity  string          `json:"severity"`
	IPAddress *string         `json:"ipAddress"`
	Metadata  json.RawMessage `json:"metadata"`
	CreatedAt string          `json:"createdAt"`
}

// operatorEntry is what operators see: all.
type operatorEntry struct {
	entry
	UserAgent *string `json:"userAgent"`
}

// shown is the entry as this surface shows it.
func (q *request) shown(e *storage.Entry) any {
	if !q.operator {
		return shown(e)
	}
	out := operatorEntry{entry: shown(e)}
	out.UserAgent = orNull(e.UserAgent)
	return out
}

func shown(e *storage.Entry) entry {
	out := entry{
		ID: e.ID, Action: e.Action, Status: e.Status, Severity: e.Severity.String(), Metadata: e.Metadata,
		CreatedAt: e.CreatedAt.UTC().Format(storage.TimeLayout),
	}
	if len(out.Metadata) == 0 {
		out.Metadata = json.RawMessage("{}")
	}
	out.UserID, out.IPAddress = orNull(e.UserID), orNull(e.IPAddress)
	return out
}

// listTimeout bounds one list, so that searches for a text, which no index helps,
// cannot pile up.
const listTimeout = 2 * time.Second

// page is the answer of list.
type page struct {
	Entries       []any  `json:"entries"`
	Total         int    `json:"total"`
	TotalIsCapped bool   `json:"totalIsCapped,omitempty"`
	NextCursor    string `json:"nextCursor,omitempty"`
}

func (q *request) list() {
	lister, ok := storage.As[storage.Lister](q.Store)
	if !ok {
		q.lacks("list")
		return
	}
	wanted, ok := q.wanted()
	if !ok {
		return
	}
	if wanted.Limit > firstRead && q.Streams != nil {
		leave, ok := q.enter(&q.Streams.answers)
		if !ok {
			return
		}
		defer leave()
		q.entered = true
	}
	found, err := q.boundedPage(lister, wanted, listTimeout)
	if err != nil {
		q.storeFailed(err, "Failed to retrieve audit logs")
		return
	}
	out := page{Entries: make([]any, len(found.Entries)), Total: found.Total, TotalIsCapped: found.TotalIsCapped, NextCursor: found.NextCursor}
	for i := range found.Entries {
		out.Entries[i] = q.shown(&found.Entries[i])
	}
	q.answer(http.StatusOK, out)
}

// maxPageBytes bounds a page, roughly: entries may have much metadata, and a client may read
// slowly.
const maxPageBytes = 4 << 20

// firstRead is how many entries of a page are read at first; how many more at a time depends on
// their size.
const firstRead = 50

// boundedPage is listPage for a page that ends at maxPageBytes. It reads a page of many entries
// in parts, so that what does not fit is not in memory either.
func (q *request) boundedPage(lister storage.Lister, wanted storage.Query, limit time.Duration) (storage.Page, error) {
	part, until := wanted, time.Now().Add(limit)
	part.Limit = min(wanted.Limit, firstRead)
	page, err := q.listPage(lister, part, limit)
	if err != nil {
		return page, err
	}
	for page.NextCursor != "" && len(page.Entries) < wanted.Limit && len(page.Entries) > 0 {
		size := metadataSize(page.Entries)
		if size >= maxPageBytes {
			break
		}
		part.Cursor, part.Offset, part.NoTotal = page.NextCursor, 0, true
		part.Limit = min(wanted.Limit-len(page.Entries), 1+(maxPageBytes-size)/(1+size/len(page.Entries)))
		more, err := q.listPage(lister, part, time.Until(until))
		if err != nil {
			return page, err
		}
		page.Entries, page.NextCursor = append(page.Entries, more.Entries...), more.NextCursor
	}
	if n := fitting(page.Entries); n < len(page.Entries) {
		wanted.Limit, wanted.NoTotal = n, true // so that the store says where the next page begins
		first, err := q.listPage(lister, wanted, time.Until(until))
		if err != nil {
			return page, err
		}
		page.Entries, page.NextCursor = first.Entries, first.NextCursor
	}
	return page, nil
}

func metadataSize(entries []storage.Entry) (size int) {
	for i := range entries {
		size += len(entries[i].Metadata)
	}
	return size
}

// fitting is how many of the entries make a page, one at least.
func fitting(entries []storage.Entry) int {
	size := 0
	for i := range entries {
		if size += len(entries[i].Metadata); size > maxPageBytes && i > 0 {
			return i
		}
	}
	return len(entries)
}

// wanted is what the request asks for, of what it may read. It answers what is wrong
// with it itself.
func (q *request) wanted() (storage.Query, bool) {
	wanted, problems := q.parse()
	if problems = append(problems, q.unknown()...); len(problems) > 0 {
		q.invalid(problems...)
		return storage.Query{}, false
	}
	if !q.narrow(&wanted) {
		q.foreign()
		return storage.Query{}, false
	}
	q.noteQuery(&wanted)
	return wanted.Query, true
}

// parse reads the request's query.
func (q *request) parse() (listQuery, []string) {
	wanted, problems := parseQuery(q.r.URL.RawQuery)
	if wanted.identifier != "" {
		if wanted.identifierHash = q.identifierHash(wanted.identifier); wanted.identifierHash == "" {
			problems = append(problems, "[query.identifier] Invalid input: there is no key here to hash it with; use identifierHash")
		}
	}
	return wanted, problems
}

// foreign answers whoever asks for the entries of others without the right to.
func (q *request) foreign() {
	q.fail(http.StatusForbidden, "FORBIDDEN", "Cannot query other users' audit logs")
}

// identifierHash is the hash that entries carry of what was typed, "" without a key.
func (q *request) identifierHash(typed string) string {
	if q.Redactor == nil {
		return ""
	}
	if tag := q.Redactor.HashTag("identifier", typed); tag != redact.Placeholder {
		return tag
	}
	return ""
}

// listPage asks the store for one page, within the time that one may take.
func (q *request) listPage(lister storage.Lister, wanted storage.Query, limit time.Duration) (storage.Page, error) {
	return timed(q.ctx, limit, func(ctx context.Context) (storage.Page, error) { return lister.List(ctx, wanted) })
}

// timed asks the store something that may take so long, and says so if it did.
func timed[T any](ctx context.Context, limit time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	found, err := ask(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err) // what the store says of it is its own
	}
	return found, err
}

// get answers one entry. An entry of somebody else is answered exactly as one
// that does not exist.
func (q *request) get(id string) {
	getter, ok := storage.As[storage.Getter](q.Store)
	if !ok {
		q.lacks("find single")
		return
	}
	e, err := getter.Get(q.ctx, id)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		q.storeFailed(err, "Failed to retrieve audit log entry")
		return
	}
	if err != nil || !q.mayRead(&e) {
		q.fail(http.StatusNotFound, "NOT_FOUND", "Audit log entry not found")
		return
	}
	q.noteEntry(&e)
	q.answer(http.StatusOK, q.shown(&e))
}

// getByBody answers what the README's client call getAuditLog sends:
// {"params":{"id":"..."}}.
func (q *request) getByBody() {
	body, ok := q.readBody()
	if !ok {
		return
	}
	id := profile.LookupString(body, "/params/id")
	if id == "" {
		id = profile.LookupString(body, "/id")
	}
	if id == "" {
		q.invalid("[body.params.id] Invalid input: expected string, received undefined")
		return
	}
	q.get(id)
}
