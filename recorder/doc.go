// Package recorder turns a watched exchange into a stored entry.
//
// A Recorder belongs to one configured handler. For each request it begins an
// Exchange, which writes the intent of a destructive route, hands out the
// response observer, and completes the entry (outcome, identity, severity,
// redaction) when the outcome is known and before the client sees it. A Writer
// stands between the recorders and a store: it writes with a deadline, and keeps
// in a bounded queue what may be written later. Sessions asks the auth server who
// a credential belongs to.
package recorder
