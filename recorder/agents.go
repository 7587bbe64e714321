package recorder

import (
	"sync"
	"sync/atomic"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxAgents bounds the user agents whose redacted form is remembered: there are few, and
// redacting one costs as much as a small answer.
const maxAgents = 1024

// agents redacts user agents. It is safe for concurrent use, and who reads it waits for
// nobody.
type agents struct {
	redactor *redact.Redactor
	known    sync.Map // from what was sent to what is shown, both strings
	count    atomic.Int32
}

// text is a user agent as entries show it.
func (a *agents) text(sent string) string {
	if text, ok := a.known.Load(sent); ok {
		return text.(string) //nolint:forcetypeassert // nothing else is put there
	}
	text := a.redactor.Text(storage.Clean(sent, storage.MaxUserAgent))
	if len(sent) > storage.MaxUserAgent {
		return text // whoever sends such ones sends many
	}
	if a.count.Add(1) > maxAgents {
		a.known.Clear() // the usual ones come again
		a.count.Store(1)
	}
	a.known.Store(sent, text)
	return text
}
