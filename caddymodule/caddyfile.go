package caddymodule

import (
	"math"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule/lint"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("audit_log", parseGlobalOption)
	httpcaddyfile.RegisterHandlerDirective("audit_log", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("audit_log", httpcaddyfile.After, "encode")
}

// parseGlobalOption sets up the app. Syntax:
//
//	{
//		audit_log {
//			store    <name> { ... }
//			key_file <file>
//			retention <age>
//			reads on|off
//		}
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next()
		return nil, d.Err("audit_log is there twice: put everything into one block")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "audit_log", Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from Caddyfile tokens.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the option's name
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': the global option audit_log takes a block", d.Val())
	}
	for d.NextBlock(0) {
		switch d.Val() {
		case "store":
			if err := unmarshalStore(d, &a.StoreRaw); err != nil {
				return err
			}
		case "key_file":
			if err := oneValue(d, &a.KeyFile); err != nil {
				return err
			}
		case "retention":
			if err := a.unmarshalRetention(d); err != nil {
				return err
			}
		case "reads":
			if err := onOff(d, &a.Reads); err != nil {
				return err
			}
		default:
			return d.Errf("unrecognized audit_log option '%s': use store, key_file, retention or reads here; what concerns one site goes into its audit_log directive", d.Val())
		}
	}
	return nil
}

// storeNames lists the stores that this Caddy was built with.
func storeNames() []string {
	var names []string
	for _, m := range caddy.GetModules("audit_log.stores") {
		names = append(names, m.ID.Name())
	}
	return names
}

func parseDirective(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	h.Next()
	at := lint.Position(h.File(), h.Line())
	h.Reset()
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	if h.Option(lint.PositionOption) != nil {
		return &positioned{handler, at}, nil
	}
	return handler, nil
}

// positioned is a handler whose JSON says where the Caddyfile has it.
type positioned struct {
	*Handler
	Position string `json:"@position"`
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	audit_log {
//		enabled          on|off
//		profile          <name or file>
//		base_path        <path>
//		durability       fsync|commit|async
//		non_blocking                        # the same as durability async
//		fail             open|closed
//		path <route> {
//			severity low|medium|high|critical
//			capture  <what...>
//			fail     open|closed
//		}
//		before           <routes...>|off
//		skip             <CEL expression>
//		set              <field> <CEL expression>
//		hook             <name> { ... }
//		unlink           on|off
//		rollup           off|<failures a minute>
//		metadata_limits {
//			max_bytes <size>
//			max_depth <levels>
//		}
//		admins {
//			role <roles...>
//			id   <user ids...>
//		}
//		ambiguous_path   record|reject
//		session_endpoint <url>
//		trusted_origins  <origins...>
//		capture {
//			ip_address   on|off
//			user_agent   on|off
//			request_body on|off
//			session      on|off
//		}
//		redact mask|hash|remove {
//			fields     <names...>
//			add_fields <names...>
//		}
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the directive's name
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': audit_log takes a block", d.Val())
	}
	words := map[string]*string{
		"profile": &h.Profile, "base_path": &h.BasePath, "durability": &h.Durability, "fail": &h.Fail,
		"ambiguous_path": &h.AmbiguousPath, "session_endpoint": &h.SessionEndpoint,
	}
	switches := map[string]**bool{"enabled": &h.Enabled, "unlink": &h.Unlink, "checks": &h.Checks}
	for d.NextBlock(0) {
		var err error
		switch name := d.Val(); name {
		case "enabled", "unlink", "checks":
			err = onOff(d, switches[name])
		case "rollup":
			err = h.unmarshalRollUp(d)
		case "non_blocking":
			err = h.unmarshalNonBlocking(d)
		case "path":
			err = h.unmarshalPath(d)
		case "before":
			err = values(d, &h.Before)
		case "metadata_limits":
			err = h.unmarshalLimits(d)
		case "admins":
			err = h.unmarshalAdmins(d)
		case "trusted_origins":
			err = values(d, &h.TrustedOrigins)
		case "capture":
			err = unmarshalCapture(d, &h.Capture)
		case "hook":
			err = h.unmarshalHook(d)
		case "skip":
			err = h.unmarshalSkip(d)
		case "set":
			err = h.unmarshalSet(d)
		case "redact":
			err = h.unmarshalRedact(d)
		default:
			field, ok := words[name]
			if !ok {
				return d.Errf("unrecognized audit_log subdirective '%s': use "+directiveWords, name)
			}
			err = oneValue(d, field)
		}
		if err != nil {
			return err
		}
		if err := h.parseOptions(); err != nil { // here, so that the error names the line
			return d.WrapErr(err)
		}
	}
	if h.Profile != "" && !isFile(h.Profile) && len(h.Paths)+len(h.Before) > 0 {
		if _, err := h.firstReading(); err != nil { // routes that the profile does not have
			return d.WrapErr(err)
		}
	}
	return nil
}

// directiveWords are what the block of the directive may have.
const directiveWords = "enabled, profile, base_path, durability, non_blocking, fail, path, before, capture, metadata_limits, redact, skip, set, hook, checks, unlink, rollup, admins, " +
	"ambiguous_path, session_endpoint or trusted_origins"

// unmarshalRollUp reads "off" or a number.
func (h *Handler) unmarshalRollUp(d *caddyfile.Dispenser) error {
	if h.RollUp != nil {
		return d.Err("rollup is there twice")
	}
	var word string
	if !d.AllArgs(&word) {
		return d.Err("rollup takes off, or how many failures a minute are written singly")
	}
	if word == "off" {
		h.RollUp = new(int)
		return nil
	}
	n, err := strconv.Atoi(word)
	if err != nil || n < 1 || n > maxRollUp {
		return d.Errf("bad rollup '%s': use off, or 1 to %d failures a minute", word, maxRollUp)
	}
	h.RollUp = &n
	return nil
}

// unmarshalNonBlocking is the plugin's name for durability async.
func (h *Handler) unmarshalNonBlocking(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': non_blocking takes none", d.Val())
	}
	if h.Durability != "" {
		return d.Err("non_blocking is durability async, and durability is there already")
	}
	h.Durability = "async"
	return nil
}

func (h *Handler) unmarshalPath(d *caddyfile.Dispenser) error {
	var o PathOptions
	if !d.NextArg() || !strings.HasPrefix(d.Val(), "/") {
		return d.Err("path takes a route such as /sign-in/email, or /two-factor/* for several")
	}
	o.Path = d.Val()
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': one path for each block", d.Val())
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "severity":
			err = oneValue(d, &o.Severity)
		case "fail":
			err = oneValue(d, &o.Fail)
		case "capture":
			err = unmarshalCapture(d, &o.Capture)
		default:
			return d.Errf("unrecognized path subdirective '%s': use severity, fail or capture", d.Val())
		}
		if err == nil {
			err = o.check()
		}
		if err != nil {
			return d.WrapErr(err)
		}
	}
	h.Paths = append(h.Paths, o)
	return nil
}

func (h *Handler) unmarshalLimits(d *caddyfile.Dispenser) error {
	if h.MetadataLimits != nil || d.NextArg() {
		return d.Err("metadata_limits takes one block")
	}
	h.MetadataLimits = new(MetadataLimits)
	limits := map[string]*int{"max_bytes": &h.MetadataLimits.MaxBytes, "max_depth": &h.MetadataLimits.MaxDepth}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name, text := d.Val(), ""
		limit := limits[name]
		if limit == nil {
			return d.Errf("unrecognized metadata_limits subdirective '%s': use max_bytes or max_depth", name)
		}
		if *limit != 0 {
			return d.Errf("%s is there twice", name)
		}
		if err := oneValue(d, &text); err != nil {
			return err
		}
		n, err := humanize.ParseBytes(text)
		if err != nil || n == 0 {
			return d.Errf("bad %s '%s': give a positive number, of bytes also as 64KiB", name, text)
		}
		*limit = int(min(n, math.MaxInt)) //nolint:gosec // it fits; checkLimits says what is too much
	}
	return nil
}

func (h *Handler) unmarshalAdmins(d *caddyfile.Dispenser) error {
	if h.Admins != nil || d.NextArg() {
		return d.Err("admins takes one block")
	}
	h.Admins = new(Admins)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "role":
			err = values(d, &h.Admins.Roles)
		case "id":
			err = values(d, &h.Admins.IDs)
		default:
			return d.Errf("unrecognized admins subdirective '%s': use role or id", d.Val())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unmarshalCapture reads a block of switches, or the names of what is on.
func unmarshalCapture(d *caddyfile.Dispenser, target **Capture) error {
	if *target != nil {
		return d.Err("capture is there twice: put everything into one block")
	}
	c := new(Capture)
	*target = c
	fields := map[string]**bool{"ip_address": &c.IPAddress, "user_agent": &c.UserAgent, "request_body": &c.RequestBody, "session": &c.Session}
	on := true
	for d.NextArg() {
		field, ok := fields[d.Val()]
		if !ok {
			return d.Errf("unrecognized capture '%s': use ip_address, user_agent, request_body or session", d.Val())
		}
		*field = &on
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		field, ok := fields[d.Val()]
		if !ok {
			return d.Errf("unrecognized capture subdirective '%s': use ip_address, user_agent, request_body or session", d.Val())
		}
		if err := onOff(d, field); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) unmarshalRedact(d *caddyfile.Dispenser) error {
	if h.Redact != nil {
		return d.Err("redact is there twice: put everything into one block")
	}
	h.Redact = new(Redact)
	if d.NextArg() {
		h.Redact.Strategy = d.Val()
	}
	if d.NextArg() {
		return d.ArgErr()
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var err error
		switch d.Val() {
		case "fields":
			err = values(d, &h.Redact.Fields)
		case "add_fields":
			err = values(d, &h.Redact.AddFields)
		default:
			return d.Errf("unrecognized redact subdirective '%s': use fields or add_fields", d.Val())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// oneValue reads exactly one argument, once.
func oneValue(d *caddyfile.Dispenser, field *string) error {
	name := d.Val()
	if *field != "" {
		return d.Errf("%s is there twice", name)
	}
	if !d.AllArgs(field) {
		return d.Errf("%s takes exactly one value", name)
	}
	if *field == "" {
		return d.Errf("%s is empty", name)
	}
	return nil
}

// values reads one or more arguments.
func values(d *caddyfile.Dispenser, list *[]string) error {
	name := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s takes at least one value", name)
	}
	*list = append(*list, args...)
	return nil
}

// onOff reads "on" or "off".
func onOff(d *caddyfile.Dispenser, field **bool) error {
	name := d.Val()
	if *field != nil {
		return d.Errf("%s is there twice", name)
	}
	var word string
	if !d.AllArgs(&word) || word != "on" && word != "off" {
		return d.Errf("%s takes on or off", name)
	}
	on := word == "on"
	*field = &on
	return nil
}

var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
)
