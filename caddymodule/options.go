package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
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
	if err := h.checkServer(); err != nil {
		return err
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
		if strings.Contains(o, "*") {
			return fmt.Errorf("bad trusted origin %q: patterns fit nothing, name each origin, such as https://app.example.com", o)
		}
		if u, err := url.Parse(o); err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" {
			return fmt.Errorf("bad trusted origin %q: give scheme and host, such as https://app.example.com", o)
		}
	}
	if err := h.checkLimits(); err != nil {
		return err
	}
	for i := range h.Paths {
		if err := h.Paths[i].check(); err != nil {
			return err
		}
	}
	_, err := h.redactor(make([]byte, keyBytes), nil) // the real key is read when the store opens
	return err
}

// checkServer checks what says where the auth server is, as far as that can be done
// without reading files.
func (h *Handler) checkServer() error {
	if h.Profile != "" && h.Profile != auto && !isFile(h.Profile) {
		if _, err := profile.Text(h.Profile); err != nil {
			return err
		}
	}
	if h.BasePath != "" {
		if _, err := new(profile.Profile).WithBasePath(h.BasePath); err != nil {
			return err
		}
	}
	for _, path := range h.Before {
		if path == "off" && len(h.Before) > 1 {
			return errors.New("before off takes no route beside it: give off alone, or routes alone")
		}
		if path != "off" && !strings.HasPrefix(path, "/") {
			return fmt.Errorf("bad before %q: give routes such as /sign-out, or /revoke-* for several, or off", path)
		}
	}
	if h.SessionEndpoint == "" {
		return nil
	}
	_, err := newEndpointAsker(h.SessionEndpoint)
	return err
}

// isFile says whether the name of a profile is the path of a file.
func isFile(name string) bool { return strings.ContainsAny(name, "/.\\") }

func (h *Handler) redactor(key []byte, secrets []string) (*redact.Redactor, error) {
	// What was redacted may be longer than it was; the limit itself is checked on
	// what comes in.
	limits := h.limits()
	o := redact.Options{Strategy: redact.Mask, Key: key, MaxBytes: max(256, limits.MaxBytes+limits.MaxBytes/4), MaxDepth: limits.MaxDepth}
	if r := h.Redact; r != nil {
		if r.Strategy != "" {
			o.Strategy = redact.Strategy(r.Strategy)
		}
		o.Fields, o.AddFields = r.Fields, r.AddFields
	}
	o.AddFields = append(slices.Clip(o.AddFields), secrets...)
	return redact.New(o)
}

// limits are the limits of metadata with their defaults.
func (h *Handler) limits() MetadataLimits {
	l := MetadataLimits{}
	if h.MetadataLimits != nil {
		l = *h.MetadataLimits
	}
	l.MaxBytes = cmp.Or(l.MaxBytes, recorder.DefaultMaxMetadata)
	l.MaxDepth = cmp.Or(l.MaxDepth, 5)
	return l
}

// maxRollUp is the greatest number of rollup: more is as good as off.
const maxRollUp = 10000

// rollUpAfter is RollUp with its default.
func (h *Handler) rollUpAfter() int {
	if h.RollUp == nil {
		return recorder.DefaultRollUpAfter
	}
	return *h.RollUp
}

func (h *Handler) checkLimits() error {
	if n := h.rollUpAfter(); n < 0 || n > maxRollUp {
		return fmt.Errorf("bad rollup %d: use 1 to %d failures a minute, or 0 for off", n, maxRollUp)
	}
	l := h.limits()
	if l.MaxBytes < 1 || l.MaxBytes > 1<<20-4096 {
		return fmt.Errorf("bad metadata_limits max_bytes %d: use 1 to %d", l.MaxBytes, 1<<20-4096)
	}
	if l.MaxDepth < 1 || l.MaxDepth > 100 {
		return fmt.Errorf("bad metadata_limits max_depth %d: use 1 to 100", l.MaxDepth)
	}
	return nil
}

// capture applies what is given to a default.
func capture(c recorder.Capture, given *Capture) recorder.Capture {
	if given != nil {
		set(&c.IPAddress, given.IPAddress)
		set(&c.UserAgent, given.UserAgent)
		set(&c.RequestBody, given.RequestBody)
		set(&c.Session, given.Session)
	}
	return c
}

func set(field, value *bool) {
	if value != nil {
		*field = *value
	}
}
