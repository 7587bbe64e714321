package httpapi

import (
	"net/http"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// readable says whose entries a list may show: the caller's own. It answers the
// refusal itself.
func (q *request) readable(userID string, given bool) (string, bool) {
	if given && userID != q.session.UserID {
		q.fail(http.StatusForbidden, "FORBIDDEN", "Cannot query other users' audit logs")
		return "", false
	}
	return q.session.UserID, true
}

// mayRead says whether the caller may see an entry. An entry without a user is
// nobody's own.
func (q *request) mayRead(e *storage.Entry) bool {
	return e.UserID != "" && e.UserID == q.session.UserID
}
