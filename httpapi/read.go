package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
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

func shown(e *storage.Entry) entry {
	out := entry{
		ID: e.ID, Action: e.Action, Status: e.Status, Severity: e.Severity.String(), Metadata: e.Metadata,
		CreatedAt: e.CreatedAt.UTC().Format(storage.TimeLayout),
	}
	if len(out.Metadata) == 0 {
		out.Metadata = json.RawMessage("{}")
	}
	if e.UserID != "" {
		out.UserID = &e.UserID
	}
	if e.IPAddress != "" {
		out.IPAddress = &e.IPAddress
	}
	return out
}

// listTimeout bounds one list, so that searches for a text, which no index helps,
// cannot pile up.
const listTimeout = 2 * time.Second

// page is the answer of list.
type page struct {
	Entries       []entry `json:"entries"`
	Total         int     `json:"total"`
	TotalIsCapped bool    `json:"totalIsCapped,omitempty"`
	NextCursor    string  `json:"nextCursor,omitempty"`
}

func (q *request) list() {
	lister, ok := storage.As[storage.Lister](q.Store)
	if !ok {
		q.lacks("list")
		return
	}
	wanted, problems := parseQuery(q.r.URL.RawQuery)
	if len(problems) > 0 {
		q.invalid(problems...)
		return
	}
	if !q.narrow(&wanted) {
		return
	}
	ctx, cancel := context.WithTimeout(q.ctx, listTimeout)
	defer cancel()
	found, err := lister.List(ctx, wanted.Query)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err) // what the store says of it is its own
	}
	if err != nil {
		q.storeFailed(err, "Failed to retrieve audit logs")
		return
	}
	out := page{Entries: make([]entry, len(found.Entries)), Total: found.Total, TotalIsCapped: found.TotalIsCapped, NextCursor: found.NextCursor}
	for i := range found.Entries {
		out.Entries[i] = shown(&found.Entries[i])
	}
	q.answer(http.StatusOK, out)
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
	q.answer(http.StatusOK, shown(&e))
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
