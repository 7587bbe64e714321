// Package hook is an example of a hook: Go code that sees every entry of the audit
// log before it is written. Copy it, and change BeforeLog.
package hook

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func init() {
	caddy.RegisterModule(Tag{})
}

// Tag says in metadata.team whom an entry concerns.
type Tag struct {
	// The team of the actions that begin with a prefix, such as
	// `{"admin:": "platform"}`. The longest prefix that fits decides.
	Teams map[string]string `json:"teams,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Tag) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.hooks.tag", New: func() caddy.Module { return new(Tag) }}
}

// Validate checks the configuration.
func (t *Tag) Validate() error {
	if len(t.Teams) == 0 {
		return errors.New("tag needs at least one prefix with its team")
	}
	return nil
}

// BeforeLog implements caddymodule.HookModule. To suppress an entry it would return
// nil.
func (t *Tag) BeforeLog(_ context.Context, e *storage.Entry) (*storage.Entry, error) {
	team := t.team(e.Action)
	if team == "" || gjson.GetBytes(e.Metadata, "team").Exists() {
		return e, nil
	}
	member, err := json.Marshal(map[string]string{"team": team})
	if err != nil {
		return nil, err
	}
	e.Metadata = join(e.Metadata, member)
	return e, nil
}

// team returns the team of an action; "" if it has none.
func (t *Tag) team(action string) string {
	longest := ""
	for prefix := range t.Teams {
		if strings.HasPrefix(action, prefix) && len(prefix) >= len(longest) {
			longest = prefix
		}
	}
	return t.Teams[longest]
}

// join appends the members of one JSON object to those of another, which stay as
// they are: the log redacts what a hook has changed.
func join(object, more json.RawMessage) json.RawMessage {
	members := strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(object)), "}"))
	if members == "" || members == "{" {
		return more
	}
	return json.RawMessage(members + "," + string(more[1:]))
}

// UnmarshalCaddyfile sets up the hook from Caddyfile tokens. Syntax:
//
//	hook tag {
//		prefix <prefix of an action> <team>
//	}
func (t *Tag) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the hook's name
	if d.NextArg() {
		return d.ArgErr()
	}
	t.Teams = make(map[string]string)
	for d.NextBlock(0) {
		if d.Val() != "prefix" {
			return d.Errf("unrecognized tag subdirective '%s': use prefix", d.Val())
		}
		var prefix, team string
		if !d.AllArgs(&prefix, &team) {
			return d.Err("prefix takes the prefix of an action and a team, such as prefix admin: platform")
		}
		if _, twice := t.Teams[prefix]; twice {
			return d.Errf("prefix %s is there twice", prefix)
		}
		t.Teams[prefix] = team
	}
	return nil
}

var (
	_ caddymodule.HookModule = (*Tag)(nil)
	_ caddy.Validator        = (*Tag)(nil)
	_ caddyfile.Unmarshaler  = (*Tag)(nil)
)
