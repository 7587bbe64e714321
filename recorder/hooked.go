package recorder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// errInvalid says that a hook made an entry that cannot be stored.
var errInvalid = errors.New("the entry is invalid: it needs an action and a status of success, failed, pending or unknown")

// ErrOwnAction says that a hook or a rule made an action of the log's own.
var ErrOwnAction = errors.New("actions that begin with audit-log: are the log's own: choose another")

// hooked asks the hooks about an entry. False suppresses it, which cannot be said of one that is
// stored already, or may be: it gets its outcome. A hook that fails, or
// makes an invalid entry, leaves the entry as it was before it.
func (x *Exchange) hooked(e *storage.Entry) bool {
	if len(x.rec.Hooks) == 0 {
		return true
	}
	d := &Draft{Entry: e, Identity: x.actor, Kept: x.begun(), Redactor: x.rec.Redactor, exchange: x}
	if x.request != nil { // the Recorder that took the request may have had no hooks
		d.Request = *x.request
	}
	// A client that leaves must not decide whether hooks apply.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), hookTimeout)
	defer cancel()
	return x.rec.ask(ctx, d)
}

// hookTimeout is how long all hooks of one entry may take together, if they look at their context:
// a request waits for them.
const hookTimeout = 2 * time.Second

// Parts is a Hook of parts, such as rules, of which one may fail while what the others changed
// stays.
type Parts interface {
	Hook
	// BeforeLogParts is BeforeLog, and says how many parts have failed. The hook has logged why.
	BeforeLogParts(ctx context.Context, d *Draft) (failed int)
}

func (rec *Recorder) ask(ctx context.Context, d *Draft) bool {
	for _, h := range rec.Hooks {
		before := *d.Entry
		changed := before
		try := *d
		try.Entry = &changed
		if err := rec.askOne(ctx, h, &try); err != nil {
			rec.hookFailed()
			rec.Logger.Error("a hook failed, the entry stays as it was", "error", err, "action", before.Action)
			continue
		}
		switch {
		case try.Skip && d.Kept:
			continue
		case try.Skip:
			return false
		}
		changed.ID, changed.CreatedAt = before.ID, before.CreatedAt // its place in the log is not for hooks
		changed.Metadata = rec.redactAdded(before.Metadata, changed.Metadata)
		if changed.Action != before.Action {
			changed.Action = rec.redactAction(changed.Action)
		}
		if changed.UserAgent != before.UserAgent {
			changed.UserAgent = rec.Redactor.Text(changed.UserAgent)
		}
		if changed.IPAddress != before.IPAddress {
			changed.IPAddress = rec.Redactor.Text(changed.IPAddress)
		}
		changed.Sanitize()
		*d.Entry = changed
	}
	return true
}

func (rec *Recorder) hookFailed() {
	rec.hookFailures.Add(1)
	rec.Writer.Metrics.HookFailed()
}

// askOne calls a hook and checks what it made.
func (rec *Recorder) askOne(ctx context.Context, h Hook, d *Draft) (err error) {
	action := d.Entry.Action
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it panicked: %v", p)
		}
	}()
	if parts, ok := h.(Parts); ok {
		for range parts.BeforeLogParts(ctx, d) {
			rec.hookFailed()
		}
	} else if err := h.BeforeLog(ctx, d); err != nil {
		return err
	}
	if d.Skip {
		return nil
	}
	if d.Entry == nil || d.Entry.Action == "" || !d.Entry.Status.Valid() {
		return errInvalid
	}
	if d.Entry.Action != action && storage.IsOwnAction(d.Entry.Action) {
		return ErrOwnAction
	}
	if m := d.Entry.Metadata; len(m) > 0 && (m[0] != '{' || !json.Valid(m)) {
		return errors.New("the entry is invalid: its metadata is no JSON object")
	}
	if len(d.Entry.Metadata) > rec.MaxMetadata {
		return fmt.Errorf("the entry is invalid: its metadata has more than %d bytes", rec.MaxMetadata)
	}
	return nil
}

// redactAdded redacts the members that a hook added or changed; the recorder's own
// are clean, and redacting them again would spoil error codes.
func (rec *Recorder) redactAdded(before, after json.RawMessage) json.RawMessage {
	if string(before) == string(after) || len(after) == 0 {
		return after
	}
	known := make(map[string]string)
	gjson.ParseBytes(before).ForEach(func(k, v gjson.Result) bool {
		known[k.Str] = v.Raw
		return true
	})
	out := []byte{'{'}
	gjson.ParseBytes(after).ForEach(func(k, v gjson.Result) bool {
		member := k.Raw + ":" + v.Raw
		if known[k.Str] != v.Raw {
			member = rec.redactMember(member)
		}
		if member != "" {
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(out, member...)
		}
		return true
	})
	return append(out, '}')
}

// redactAction takes out of an action what looks like a secret or a mail address. Its parts are judged one by
// one: "token:refresh" names no token.
func (rec *Recorder) redactAction(action string) string {
	parts := strings.Split(action, ":")
	for i, s := range parts {
		if strings.Contains(s, "@") || redact.Segment(s) != s || rec.Redactor.Text(s) != s {
			parts[i] = ":redacted"
		}
	}
	return strings.Join(parts, ":")
}

// redactMember redacts one member of an object; "" when it is removed.
func (rec *Recorder) redactMember(member string) string {
	redacted, err := rec.Redactor.JSON([]byte("{" + member + "}"))
	if err != nil || len(redacted) < 2 {
		return ""
	}
	return string(redacted[1 : len(redacted)-1])
}
