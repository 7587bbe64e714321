package recorder

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	startedAction = "audit-log:started"
	stoppedAction = "audit-log:stopped"
	// maxSites bounds the sites that such an entry names.
	maxSites = 20
	// scopeTimeout bounds how long a start or a stop waits for its entry.
	scopeTimeout = time.Second
)

// Scope is what one running configuration has recorded. The zero value is nothing.
type Scope struct {
	// Config is a digest of the options that decide what is recorded and for how long it is
	// kept: another one says that they have changed. "" if nothing is recorded.
	Config string `json:"config"`
	// Handlers is how many record, and Sites what they are for: host names, or addresses
	// to listen on.
	Handlers int      `json:"handlers"`
	Sites    []string `json:"sites,omitempty"`
}

// scopeMetadata is the metadata of an entry of the log about itself.
type scopeMetadata struct {
	Scope
	// MoreSites is how many there are beyond those named.
	MoreSites int `json:"moreSites,omitempty"`
	// PreviousConfig is what was recorded until then, if it was something else.
	PreviousConfig string `json:"previousConfig,omitempty"`
	// Reason is why it stopped: "exit", or "configuration" if Caddy goes on without it.
	Reason string `json:"reason,omitempty"`
	// Node is the machine's name: several may write to one log.
	Node   string `json:"node,omitempty"`
	Class  string `json:"class"`
	Source string `json:"source"`
}

// Started writes an entry that says what is recorded from now on, and the digest of what was
// until now; "" if nothing was (threats.md A30; PCI DSS 4.0, 10.2.1.6). If the store does not take
// it in a second, it is left to the background.
func (w *Writer) Started(now Scope, before string) {
	w.tellScope(startedAction, severity.Medium, now, scopeMetadata{PreviousConfig: before})
}

// Stopped writes an entry that says what is no longer recorded: because the process ends, or,
// which is more severe, while it goes on.
func (w *Writer) Stopped(was Scope, exit bool) {
	if exit {
		w.tellScope(stoppedAction, severity.Medium, was, scopeMetadata{Reason: "exit"})
		return
	}
	w.tellScope(stoppedAction, severity.High, was, scopeMetadata{Reason: "configuration"})
}

func (w *Writer) tellScope(action string, level severity.Level, s Scope, m scopeMetadata) {
	m.Scope, m.Class, m.Source = s, "custom", "recorder"
	if n := len(s.Sites) - maxSites; n > 0 {
		m.Sites, m.MoreSites = s.Sites[:maxSites], n
	}
	if name, err := os.Hostname(); err == nil {
		m.Node = name
	}
	metadata, err := json.Marshal(m)
	if err != nil {
		metadata = nil // cannot happen: texts and numbers
	}
	e := storage.Entry{Action: action, Status: storage.Success, Severity: level, Metadata: metadata}
	e.Sanitize()
	ctx, cancel := context.WithTimeout(storage.WithDurability(context.Background(), storage.Fsync), scopeTimeout)
	defer cancel()
	if err := w.write(ctx, []storage.Entry{e}); err != nil {
		w.Enqueue(storage.Fsync, e, w.Observer)
		return
	}
	if w.Observer != nil {
		w.Observer.EntryWritten(e)
	}
}
