package recorder

import (
	"context"
	"net/http"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Draft is an entry that is about to be written for the last time, with what it
// was made of. Hooks may change the entry or suppress it.
type Draft struct {
	// Entry to be written. What a hook changes is sanitised and redacted again.
	Entry *storage.Entry
	// Skip is set by a hook to suppress the entry.
	Skip bool
	// Kept is true when the entry cannot be suppressed, because it is written already, or may
	// be: Skip does nothing then, but what hooks change counts. Read-only.
	Kept bool
	// Request facts, for rules; read-only.
	Request RequestFacts
	// Identity of the actor as the auth server said it; zero for nobody.
	Identity Session
	// Redactor is that of the site, with its fields and the profile's; for what a hook copies
	// from the request. Nil in a Draft of tests.
	Redactor *redact.Redactor

	exchange *Exchange // nil in a Draft of tests
}

// ShownPath is the request's path as the log shows one: without what is for one person, codes,
// addresses, parameters. Not to be called after the hook has returned.
func (d *Draft) ShownPath() string {
	path := d.Request.Path
	if d.exchange != nil {
		path = d.exchange.shown(path)
	}
	if d.Redactor != nil {
		path = d.Redactor.URL(path)
	}
	return path
}

// RequestFacts are what rules may look at of a request. Header may hold secrets:
// a rule may compare them, never copy them.
type RequestFacts struct {
	Method, Path, Host, ClientIP string
	Header                       http.Header
}

// Hook is asked before an entry is written (the plugin's beforeLog). It runs in
// the request's goroutine and must be quick; its context ends after 2 s, and not when the
// client leaves. An error, a panic or an invalid entry
// keeps the original entry and is counted.
type Hook interface {
	BeforeLog(ctx context.Context, d *Draft) error
}

// Observer hears of entries that were written (the plugin's afterLog) and of
// writes that failed (onWriteError). Both must return at once: whoever has more to
// do puts it into a bounded queue of his own.
type Observer interface {
	EntryWritten(e storage.Entry)
	WriteFailed(err error, entries []storage.Entry)
}
