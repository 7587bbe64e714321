package httpapi

import (
	"net/http"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// administrator says whether the caller may read everybody's entries, by what the
// auth server says of the session. Whoever acts as somebody else is not: an
// administrator who impersonates has that user's rights, and so has a thief of
// that session.
func (q *request) administrator() bool {
	if q.session.UserID == "" || q.session.ImpersonatedBy != "" {
		return false
	}
	isAdmin := func(role string) bool { return role != "" && slices.Contains(q.AdminRoles, role) }
	return slices.Contains(q.AdminIDs, q.session.UserID) || slices.ContainsFunc(q.session.Roles, isAdmin)
}

// own selects the caller's own entries: those of the user, and those without a
// user that are failed or unfinished attempts on the user's account.
func (q *request) own() storage.Query {
	query := storage.Query{UserID: &q.session.UserID}
	typed := strings.ToLower(strings.TrimSpace(q.session.Identifier))
	if typed == "" {
		return query
	}
	if tag := q.Redactor.HashTag("identifier", typed); tag != redact.Placeholder {
		query.IdentifierHash = tag
	}
	return query
}

// narrow puts into a list's query whose entries it may show: the caller's own,
// unless an administrator asks for others. It answers the refusal itself.
func (q *request) narrow(wanted *listQuery) bool {
	foreign := wanted.all || wanted.hasUserID && wanted.userID != q.session.UserID
	admin := q.administrator()
	switch {
	case foreign && !admin:
		q.fail(http.StatusForbidden, "FORBIDDEN", "Cannot query other users' audit logs")
		return false
	case foreign && wanted.hasUserID:
		wanted.UserID = &wanted.userID
	case foreign:
		wanted.UserID = nil
	default:
		own := q.own()
		wanted.UserID, wanted.IdentifierHash = own.UserID, own.IdentifierHash
	}
	wanted.TextInAgent = admin // nobody else may find out what is never shown
	return true
}

// mayRead says whether the caller may see an entry: any that the own list would
// show, and administrators every one.
func (q *request) mayRead(e *storage.Entry) bool {
	own := q.own()
	return own.Matches(e) || q.administrator()
}
