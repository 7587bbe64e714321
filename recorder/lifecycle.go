package recorder

import (
	"context"
	"encoding/json"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// maxSites bounds the sites that such an entry names.
	maxSites = 20
	// scopeTimeout bounds how long a start or a stop waits for its entry.
	scopeTimeout = 500 * time.Millisecond
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
	// Reason is why it stopped.
	Reason StopReason `json:"reason,omitempty"`
	// Node is the machine's name: several may write to one log.
	Node   string `json:"node,omitempty"`
	Class  string `json:"class"`
	Source string `json:"source"`
}

// Started writes an entry that says what is recorded from now on, and the digest of what was
// until now; "" if nothing was (threats.md A30; PCI DSS 4.0, 10.2.1.6). If the store does not take
// it at once, it is left to the background.
func (w *Writer) Started(now Scope, before string) {
	w.tellScope(storage.ActionStarted, severity.Medium, now, scopeMetadata{PreviousConfig: before})
}

// StopReason is why nothing is recorded any more.
type StopReason string

// The reasons.
const (
	// StopExit: the process ends in an orderly way.
	StopExit StopReason = "exit"
	// StopFailed: a configuration began to record, and then failed to start.
	StopFailed StopReason = "failed start"
	// StopConfiguration: the process goes on with a configuration that does not record.
	StopConfiguration StopReason = "configuration"
)

// Stopped writes an entry that says what is no longer recorded. It is most severe while the
// process goes on.
func (w *Writer) Stopped(was Scope, why StopReason) {
	level := severity.Medium
	if why == StopConfiguration {
		level = severity.High
	}
	w.tellScope(storage.ActionStopped, level, was, scopeMetadata{Reason: why})
}

func (w *Writer) tellScope(action string, level severity.Level, s Scope, m scopeMetadata) {
	m.Scope, m.Node, m.Class, m.Source = s, storage.Node(), "custom", "recorder"
	if n := len(s.Sites) - maxSites; n > 0 {
		m.Sites, m.MoreSites = s.Sites[:maxSites], n
	}
	metadata, err := json.Marshal(m)
	if err != nil {
		metadata = nil // cannot happen: texts and numbers
	}
	e := storage.Entry{Action: action, Status: storage.Success, Severity: level, Metadata: metadata}
	e.Sanitize()
	w.WriteOwn(e)
}

// WriteOwn writes an entry of the log about itself, as durably as can be. If the store does not take
// it within a second, it is left to the background.
func (w *Writer) WriteOwn(e storage.Entry) {
	done := make(chan struct{})
	go func() { // a store may not heed its context
		defer close(done)
		w.writeOwn(e)
	}()
	select {
	case <-done:
	case <-time.After(2 * scopeTimeout):
	}
}

// writeOwn writes an entry of the log about itself, or leaves it to the background.
func (w *Writer) writeOwn(e storage.Entry) {
	ctx, cancel := context.WithTimeout(storage.WithDurability(context.Background(), storage.Fsync), scopeTimeout)
	defer cancel()
	switch err := w.write(ctx, []storage.Entry{e}); {
	case err == nil:
		w.tell(w.Observer, &e)
	case !w.Enqueue(storage.Fsync, e, w.Observer):
		w.log.Error("the audit log has no entry of what it did itself", "action", e.Action, "error", err)
	}
}
