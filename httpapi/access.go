package httpapi

import (
	"slices"
	"strings"

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
	query.IdentifierHash = q.identifierHash(typed)
	return query
}

// everything says whether the caller may read everybody's entries: whom Caddy let in
// to the operators' surface, and administrators on the users' own.
func (q *request) everything() bool { return q.operator || q.administrator() }

// narrow puts into a query whose entries it may show: on the operators' surface
// everybody's, elsewhere the caller's own, unless an administrator asks for others.
// It returns false to everybody else who does.
func (q *request) narrow(wanted *listQuery) bool {
	foreign := q.operator || wanted.all || wanted.hasUserID && wanted.userID != q.session.UserID || wanted.identifierHash != ""
	admin := q.everything()
	switch {
	case foreign && !admin:
		return false
	case foreign && wanted.identifierHash != "":
		wanted.UserID, wanted.IdentifierHash = nil, wanted.identifierHash
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
	if q.everything() {
		return true
	}
	own := q.own()
	return own.Matches(e)
}
