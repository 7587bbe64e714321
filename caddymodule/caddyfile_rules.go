package caddymodule

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-audit-log/caddy-audit-log/recorder/rule"
)

// unmarshalHook adds a guest module. Syntax:
//
//	hook <name> [<arguments...>] {
//		...
//	}
func (h *Hooks) unmarshalHook(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("hook needs a name: that of a module in the namespace audit_log.hooks")
	}
	name := d.Val()
	if _, err := caddy.GetModule(hookNamespace + "." + name); err != nil {
		return d.Errf("unknown hook '%s': build Caddy with the module %s.%[1]s%[3]s", name, hookNamespace, knownHooks())
	}
	module, err := caddyfile.UnmarshalModule(d, hookNamespace+"."+name)
	if err != nil {
		return err
	}
	if !isHook(module) {
		return d.Errf("module %s.%s is no hook: it must implement caddymodule.HookModule or caddymodule.AfterLogModule", hookNamespace, name)
	}
	h.HooksRaw = append(h.HooksRaw, caddyconfig.JSONModuleObject(module, "hook", name, nil))
	return nil
}

// knownHooks lists the hooks that this Caddy was built with, for an error.
func knownHooks() string {
	var names []string
	for _, m := range caddy.GetModules(hookNamespace) {
		names = append(names, m.ID.Name())
	}
	if len(names) == 0 {
		return " (this Caddy has no hooks)"
	}
	return ", or use one of " + strings.Join(names, ", ")
}

// unmarshalSkip adds an expression that suppresses entries. Syntax:
//
//	skip <expression>
func (h *Hooks) unmarshalSkip(d *caddyfile.Dispenser) error {
	e, err := expression(d, "skip needs an expression, such as `entry.userId == \"service-account\"`")
	if err != nil {
		return err
	}
	if _, err := rule.Compile(rule.Spec{Skip: []rule.Expr{e}}); err != nil {
		return err // it names file and line
	}
	h.Skip = append(h.Skip, e.Text)
	return nil
}

// unmarshalSet adds an expression that gives a field its value. Syntax:
//
//	set <field> <expression>
func (h *Hooks) unmarshalSet(d *caddyfile.Dispenser) error {
	const usage = "set needs a field and an expression, such as severity `\"critical\"`"
	if !d.NextArg() {
		return d.Err(usage)
	}
	field := d.Val()
	e, err := expression(d, usage)
	if err != nil {
		return err
	}
	if _, err := rule.Compile(rule.Spec{Set: []rule.SetExpr{{Field: field, Expr: e}}}); err != nil {
		return err // it names file and line
	}
	h.Set = append(h.Set, Assignment{Field: field, To: e.Text})
	return nil
}

// expression reads the rest of the line. One argument is the expression, and its
// quotes are the Caddyfile's; of several the quotes are the expression's, as in
// Caddy's matcher `expression`.
func expression(d *caddyfile.Dispenser, usage string) (rule.Expr, error) {
	if d.CountRemainingArgs() > 1 {
		e := rule.Expr{File: d.File(), Line: d.Line()}
		e.Text = strings.Join(d.RemainingArgsRaw(), " ")
		return e, nil
	}
	if !d.NextArg() || strings.TrimSpace(d.Val()) == "" {
		return rule.Expr{}, d.Err(usage)
	}
	return rule.Expr{Text: d.Val(), File: d.File(), Line: d.Line()}, nil
}
