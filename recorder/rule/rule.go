package rule

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Rules are compiled rules. They implement recorder.Hook and are safe for
// concurrent use.
type Rules struct {
	skip, set []*program
	clean     *redact.Redactor // where a Draft has none
	log       *slog.Logger

	evaluated, skipped, failed atomic.Uint64
}

// Stats counts what rules did.
type Stats struct {
	// Evaluated expressions, and Failed ones: those that had no value or an invalid
	// one for an entry, which then stayed as it was.
	Evaluated, Failed uint64
	// Skipped entries.
	Skipped uint64
}

// Stats returns the current counts.
func (r *Rules) Stats() Stats {
	return Stats{Evaluated: r.evaluated.Load(), Failed: r.failed.Load(), Skipped: r.skipped.Load()}
}

// Empty says whether there is no rule.
func (r *Rules) Empty() bool { return len(r.skip) == 0 && len(r.set) == 0 }

// BeforeLog implements recorder.Hook. It never fails: an expression that does is
// counted and changes nothing.
func (r *Rules) BeforeLog(ctx context.Context, d *recorder.Draft) error {
	r.BeforeLogParts(ctx, d)
	return nil
}

// BeforeLogParts implements recorder.Parts: each expression is one.
func (r *Rules) BeforeLogParts(_ context.Context, d *recorder.Draft) (failed int) {
	clean := cmp.Or(d.Redactor, r.clean)
	for _, p := range r.skip {
		if d.Kept {
			break
		}
		v, err := r.value(p, &facts{draft: d, needs: p.needs})
		if err != nil {
			failed++
			r.fail(p, err, clean)
			continue
		}
		if v == types.True {
			r.skipped.Add(1)
			d.Skip = true
			return failed
		}
	}
	for _, p := range r.set {
		v, err := r.value(p, &facts{draft: d, needs: p.needs, clean: clean})
		if err == nil {
			err = p.assign(d.Entry, v)
		}
		if err != nil {
			failed++
			r.fail(p, err, clean)
		}
	}
	return failed
}

// value evaluates an expression.
func (r *Rules) value(p *program, f *facts) (ref.Val, error) {
	r.evaluated.Add(1)
	return p.eval(f)
}

// eval turns a panic in the CEL library into an error.
func (p *program) eval(f *facts) (v ref.Val, err error) {
	defer func() {
		if caught := recover(); caught != nil {
			err = fmt.Errorf("it panicked: %v", caught)
		}
	}()
	v, _, err = p.Eval(f)
	return v, err
}

// fail counts a failure and logs it, at most once a second for each rule, redacted:
// what CEL says may quote a value.
func (r *Rules) fail(p *program, err error, clean *redact.Redactor) {
	r.failed.Add(1)
	now, last := time.Now().UnixNano(), p.lastWarning.Load()
	if now-last < int64(time.Second) || !p.lastWarning.CompareAndSwap(last, now) {
		return
	}
	r.log.Warn("an expression failed, the entry stays as it was; ask first for what may be missing, as in \"x-tenant\" in request.headers or has(entry.metadata.tenant)", "rule", p.label, "error", clean.Text(storage.Clean(err.Error(), maxError)))
}

// assign gives the entry a value. It leaves the entry alone when it returns an
// error.
func (p *program) assign(e *storage.Entry, v ref.Val) error {
	if p.member != "" {
		return assignMember(e, p.member, v)
	}
	s, ok := v.Value().(string)
	if !ok {
		return fmt.Errorf("its value is of type %s, not string", v.Type().TypeName())
	}
	switch p.field {
	case "severity":
		level, err := severity.Parse(s)
		if err != nil {
			return errors.New("its value is no severity: use low, medium, high or critical")
		}
		e.Severity = level
	case "status":
		if !storage.Status(s).Valid() {
			return errors.New("its value is no status: use success, failed, pending or unknown")
		}
		e.Status = storage.Status(s)
	case "action":
		switch {
		case s == "":
			return errors.New("its value is empty: an entry needs an action")
		case s != e.Action && storage.IsOwnAction(s):
			return recorder.ErrOwnAction
		}
		e.Action = s
	case "ipAddress":
		e.IPAddress = s
	case "userAgent":
		e.UserAgent = s
	}
	return nil
}

// assignMember sets a member of the metadata; null removes it. The other members
// stay as they are, byte for byte and in their order.
func assignMember(e *storage.Entry, name string, v ref.Val) error {
	plain, err := native(v, 0)
	if err != nil {
		return err
	}
	value, err := json.Marshal(plain)
	if err != nil {
		return fmt.Errorf("its value is no JSON: %w", err)
	}
	if len(value)+len(e.Metadata) > storage.MaxMetadata {
		return fmt.Errorf("the metadata would be longer than %d bytes", storage.MaxMetadata)
	}
	key, err := json.Marshal(name)
	if err != nil {
		return err
	}
	out := []byte{'{'}
	add := func(key, value string) {
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, key...), ':'), value...)
	}
	gjson.ParseBytes(e.Metadata).ForEach(func(k, v gjson.Result) bool {
		if k.Str != name {
			add(k.Raw, v.Raw)
		}
		return true
	})
	if plain != nil {
		add(string(key), string(value))
	}
	out = append(out, '}')
	e.Metadata = out // a new one: others may hold the old
	return nil
}

// maxError is how much of an error is logged, in bytes.
const maxError = 256

// maxNesting bounds lists and maps in lists and maps.
const maxNesting = 32

// native turns a value into what encoding/json can write.
func native(v ref.Val, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("its value is nested deeper than %d", maxNesting)
	}
	switch x := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool, types.Int, types.Uint, types.Double, types.String:
		return x.Value(), nil
	case types.Timestamp:
		return x.UTC().Format(storage.TimeLayout), nil
	case types.Duration:
		return x.String(), nil
	case types.Bytes:
		return base64.StdEncoding.EncodeToString(x), nil
	case traits.Mapper:
		return nativeMap(x, depth)
	case traits.Lister:
		list := []any{}
		for it := x.Iterator(); it.HasNext() == types.True; {
			item, err := native(it.Next(), depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, item)
		}
		return list, nil
	}
	return nil, fmt.Errorf("its value is of type %s, which JSON cannot hold", v.Type().TypeName())
}

func nativeMap(m traits.Mapper, depth int) (any, error) {
	out := map[string]any{}
	for it := m.Iterator(); it.HasNext() == types.True; {
		k := it.Next()
		name, ok := k.Value().(string)
		if !ok {
			return nil, fmt.Errorf("its value has a key of type %s, not string", k.Type().TypeName())
		}
		item, err := native(m.Get(k), depth+1)
		if err != nil {
			return nil, err
		}
		out[name] = item
	}
	return out, nil
}

var _ recorder.Parts = (*Rules)(nil)
