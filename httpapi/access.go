package httpapi

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// administrator says whether the caller may read everybody's entries, by what the
// auth server says of the session. Whoever acts as somebody else is not: an
// administrator who impersonates has that user's rights, and so has a thief of
// that session. Nor is who still owes a factor: that may be a thief of the password.
func (q *request) administrator() bool {
	if q.session.UserID == "" || q.session.ImpersonatedBy != "" || q.session.Partial {
		return false
	}
	isAdmin := func(role string) bool { return role != "" && slices.Contains(q.AdminRoles, role) }
	isUser := func(id string) bool { return storage.CleanUserID(id) == q.session.UserID }
	return slices.ContainsFunc(q.AdminIDs, isUser) || slices.ContainsFunc(q.session.Roles, isAdmin)
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
	wanted.foreign = q.operator || wanted.all || wanted.hasUserID && wanted.userID != q.session.UserID || wanted.identifierHash != ""
	admin := q.everything()
	switch {
	case wanted.foreign && !admin:
		return false
	case wanted.foreign && wanted.identifierHash != "":
		wanted.UserID, wanted.IdentifierHash = nil, wanted.identifierHash
	case wanted.foreign && wanted.hasUserID:
		wanted.UserID = &wanted.userID
	case wanted.foreign:
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

// Door is what the server in front knows of whoever asks for the operators' surface.
// The zero value is closed.
type Door struct {
	// Decided: somebody else has let them in, Caddy's admin endpoint or a process that
	// reads its own database.
	Decided bool
	// User is whom Caddy itself has authenticated.
	User string
	// Forwarded is whom another server named when Caddy asked it about this request.
	Forwarded string
	// Certificate: the client has shown a certificate that Caddy has verified.
	Certificate bool
	// Local: only programs on this machine reach the listener, over loopback or a unix
	// socket.
	Local bool
}

// lets says whether the request may see the whole log. What is local may still be a
// browser that a page of another site drives by a name that it resolves to this machine
// (DNS rebinding), or a proxy that passes on what is not local.
func (d *Door) lets(r *http.Request) bool {
	if d.Decided || d.User != "" || d.Forwarded != "" || d.Certificate {
		return true
	}
	return d.Local && isLocalName(r.Host) && !slices.ContainsFunc(proxyHeaders, func(name string) bool { return len(r.Header[name]) > 0 })
}

// proxyHeaders are those by which proxies say for whom they ask.
var proxyHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"}

// isLocalName says whether a Host header, with or without a port, names this machine
// whatever the resolver says.
func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
