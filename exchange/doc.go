// Package exchange watches one HTTP exchange without changing it.
//
// An Observer stands between a handler and its http.ResponseWriter: it learns
// the final status and, where asked, the beginning of the body, and calls back
// just before the head of the answer goes out to the client. A RequestBody keeps
// a copy of the beginning of a request's body while somebody else reads it.
//
// Client and upstream see the same bytes with and without it: 1xx answers,
// flushes, upgrades, trailers, sendfile and aborts pass through. The package
// knows net/http only.
package exchange
