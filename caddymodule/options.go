package caddymodule

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

// parseOptions understands the options that are words.
func (h *Handler) parseOptions() error {
	switch h.Durability {
	case "", "fsync":
		h.durability = recorder.Fsync
	case "commit":
		h.durability = recorder.Commit
	case "async":
		h.durability = recorder.Async
	default:
		return fmt.Errorf("bad durability %q: use fsync, commit or async", h.Durability)
	}
	switch h.Fail {
	case "":
		h.fail = recorder.FailDefault
	case "open":
		h.fail = recorder.FailOpen
	case "closed":
		h.fail = recorder.FailClosed
	default:
		return fmt.Errorf("bad fail %q: use open or closed", h.Fail)
	}
	switch h.AmbiguousPath {
	case "", "record", "reject":
	default:
		return fmt.Errorf("bad ambiguous_path %q: use record or reject", h.AmbiguousPath)
	}
	if h.fail == recorder.FailClosed && h.durability == recorder.Async {
		return errors.New("fail closed does not go with durability async, which answers before it writes: use durability commit or fsync")
	}
	for _, o := range h.TrustedOrigins {
		if u, err := url.Parse(o); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			return fmt.Errorf("bad trusted origin %q: give scheme and host, such as https://app.example.com", o)
		}
	}
	_, err := h.redactor(make([]byte, keyBytes)) // the real key is read when the store opens
	return err
}

func (h *Handler) redactor(key []byte) (*redact.Redactor, error) {
	o := redact.Options{Strategy: redact.Mask, Key: key}
	if r := h.Redact; r != nil {
		if r.Strategy != "" {
			o.Strategy = redact.Strategy(r.Strategy)
		}
		o.Fields, o.AddFields = r.Fields, r.AddFields
	}
	return redact.New(o)
}

func (h *Handler) capture() recorder.Capture {
	c := recorder.Capture{IPAddress: true, UserAgent: true}
	if h.Capture != nil {
		set(&c.IPAddress, h.Capture.IPAddress)
		set(&c.UserAgent, h.Capture.UserAgent)
		set(&c.RequestBody, h.Capture.RequestBody)
	}
	return c
}

func set(field, value *bool) {
	if value != nil {
		*field = *value
	}
}
