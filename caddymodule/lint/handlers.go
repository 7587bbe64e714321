package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/caddy-audit-log/caddy-audit-log/near"
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
		l.checkPaths(a)
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

// checkPaths names paths that are no route of the profile. Paths of one's own may be
// meant, but a mistyped one records nothing of what it was to be.
func (l *linter) checkPaths(a *auditor) {
	if auto(a.Profile) || len(a.Paths)+len(a.Before) == 0 {
		return
	}
	p, err := l.options.Profile(a.Profile)
	if err != nil {
		return
	}
	named := slices.Clone(a.Before)
	for _, o := range a.Paths {
		named = append(named, o.Path)
	}
	for _, path := range named {
		route := func(r *profile.Route) bool { return r.Path == path }
		if !strings.HasPrefix(path, "/") || strings.HasSuffix(path, "*") || slices.ContainsFunc(p.Routes, route) {
			continue
		}
		f := Finding{
			Rule: UnknownPath, Severity: Low, Path: a.path, where: where{handler: a.Position},
			Text:   fmt.Sprintf("path %s is no route of profile %s: it counts as a path of your own", path, a.Profile),
			Remedy: "nothing, if that is meant; the profile's routes are in caddy audit-log profile show " + a.Profile,
		}
		if strings.ContainsAny(a.Profile, "/.") { // a file
			f.Remedy = "nothing, if that is meant; the profile's routes are in its file"
		}
		if meant := nearest(path, p); meant != "" {
			f.Severity, f.Text = Medium, f.Text+"; the nearest is "+meant
			f.Remedy = fmt.Sprintf("write %s, unless a path of your own is meant", meant)
		}
		l.add(f)
	}
}

// nearest is the route of the profile that a mistyped path may be meant for; "" for none.
func nearest(path string, p *profile.Profile) string {
	const most = 4 // one letter in so many may be wrong: more is another path
	limit := len(path)/most + 1
	path = "/" + strings.Trim(strings.TrimPrefix(path, strings.TrimSuffix(p.BasePath, "/")+"/"), "/")
	routes := make([]string, len(p.Routes))
	for i, r := range p.Routes {
		routes[i] = r.Path
	}
	return near.Name(path, routes, limit)
}

// auto says whether the profile is found out from the traffic.
func auto(name string) bool { return cmp.Or(name, "auto") == "auto" }
