package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// checkHandlers reports options and places of audit_log that do not do what they seem
// to.
func (l *linter) checkHandlers() {
	for _, a := range l.handlers {
		l.checkOrder(a)
		l.checkAsync(a)
		l.checkAdmins(a)
		l.checkAuto(a)
	}
}

func (l *linter) checkOrder(a *auditor) {
	f := Finding{Rule: HandlerOrder, Path: a.path, where: where{handler: a.Position}}
	switch {
	case a.late:
		f.Severity, f.Text = High, "audit_log comes after reverse_proxy, which answers: no request gets here"
		f.Remedy = "put audit_log in front of reverse_proxy; outside of route blocks Caddy does that by itself, unless an order option says otherwise"
	case a.again:
		f.Severity, f.Text = Low, "every request has passed another audit_log before: this one does nothing"
		f.Remedy = "remove one of them"
	default:
		return
	}
	l.add(f)
}

// checkAsync looks for wishes that durability async does not grant. The handler itself
// refuses fail closed.
func (l *linter) checkAsync(a *auditor) {
	if a.Durability != "async" {
		return
	}
	f := Finding{Rule: AsyncClosed, Path: a.path, where: where{handler: a.Position}, Remedy: "use durability commit or fsync"}
	for _, p := range a.Paths {
		if p.Fail == "closed" {
			f.Severity, f.Text = Medium, fmt.Sprintf("path %s is to fail closed, but with durability async no request waits for its entry: it does not, but for a destructive one when the queue is full", p.Path)
			l.add(f)
			return
		}
	}
	if len(a.Before) > 0 && !slices.Equal(a.Before, []string{"off"}) {
		f.Severity, f.Text = Low, "entries of before routes are to be there before the request is forwarded, but with durability async they only wait in memory: a kill loses them"
		l.add(f)
	}
}

// checkAdmins looks whether the session endpoint can make anybody an administrator.
func (l *linter) checkAdmins(a *auditor) {
	if a.Admins == nil || auto(a.Profile) {
		return
	}
	p, err := l.options.Profile(a.Profile)
	if err != nil {
		return
	}
	f := Finding{Rule: AdminRole, Severity: Medium, Path: a.path, where: where{handler: a.Position}}
	switch has := func(f func(*profile.Session) bool) bool { return slices.ContainsFunc(p.Session, f) }; {
	case !has(func(s *profile.Session) bool { return s.Path != "" }):
		f.Text = fmt.Sprintf("admins names administrators, but profile %s has no session endpoint: the API knows nobody", a.Profile)
		f.Remedy = "use a profile with a session endpoint"
	case len(a.Admins.Roles) > 0 && !has(func(s *profile.Session) bool { return s.Role != "" }):
		f.Text = fmt.Sprintf("admins has role %s, but the session endpoint of profile %s says no roles: nobody is an administrator by it", strings.Join(a.Admins.Roles, " "), a.Profile)
		f.Remedy = "name the administrators by id, or give the profile's session a role"
	default:
		return
	}
	l.add(f)
}

// checkAuto names options that wait.
func (l *linter) checkAuto(a *auditor) {
	if !auto(a.Profile) || len(a.Paths)+len(a.Before) == 0 {
		return
	}
	l.add(Finding{
		Rule: AutoRoutes, Severity: Low, Path: a.path, where: where{handler: a.Position},
		Text:   "path and before work only once the auth server is recognised, usually with its first or second answer after a start",
		Remedy: "name the profile (caddy audit-log doctor says which one was recognised)",
	})
}

// auto says whether the profile is found out from the traffic.
func auto(name string) bool { return cmp.Or(name, "auto") == "auto" }
