package rule

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"
	"github.com/tidwall/gjson"

	"github.com/caddy-audit-log/caddy-audit-log/recorder"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
)

// entryView is `entry` in an expression.
type entryView struct {
	ID        string    `cel:"id"`
	UserID    string    `cel:"userId"` // "" for nobody
	Action    string    `cel:"action"`
	Status    string    `cel:"status"`
	Severity  string    `cel:"severity"`
	IPAddress string    `cel:"ipAddress"`
	UserAgent string    `cel:"userAgent"`
	CreatedAt time.Time `cel:"createdAt"`
	Metadata  *members  `cel:"metadata"`
	Class     string    `cel:"class"`
}

// members is a JSON object in an expression: map(string, dyn), which is a type that
// CEL does not find in a Go map of any by itself.
type members struct{ traits.Mapper }

// Type implements ref.Val; CEL asks the zero value for it.
func (*members) Type() ref.Type { return types.NewMapType(types.StringType, types.DynType) }

// noMembers stands for metadata that nobody mentions.
var noMembers = newMembers(nil)

// newMembers parses a JSON object. What is none has no members. A number that Go cannot hold
// (1e400) is null, and costs no other member: clients write numbers.
func newMembers(object json.RawMessage) *members {
	m := map[string]any{}
	if len(object) > 0 {
		err := json.Unmarshal(object, &m)
		if _, number := errors.AsType[*json.UnmarshalTypeError](err); m == nil || err != nil && !number {
			m = map[string]any{}
		}
	}
	return &members{types.DefaultTypeAdapter.NativeToValue(m).(traits.Mapper)}
}

// requestView is `request` in an expression. In `set` it is redacted, because
// what a set reads may end up in the log; in `skip` it is as the client sent it.
type requestView struct {
	Method   string              `cel:"method"`
	Path     string              `cel:"path"`
	Host     string              `cel:"host"`
	ClientIP string              `cel:"clientIp"`
	Headers  map[string][]string `cel:"headers"` // names in lower case
}

// identityView is `identity` in an expression: the actor as the auth server said.
type identityView struct {
	UserID         string   `cel:"userId"`
	ImpersonatedBy string   `cel:"impersonatedBy"`
	Roles          []string `cel:"roles"`
}

// views are the variables of an expression by name.
var views = map[string]reflect.Type{
	"entry":    reflect.TypeFor[entryView](),
	"request":  reflect.TypeFor[requestView](),
	"identity": reflect.TypeFor[identityView](),
}

// environment declares the variables and functions of expressions.
func environment() (*cel.Env, error) {
	options := []cel.EnvOption{
		cel.ParserExpressionSizeLimit(MaxExpression),
		ext.Strings(),
	}
	natives := []any{ext.ParseStructTags(true)}
	for name, view := range views {
		natives = append(natives, view)
		options = append(options, cel.Variable(name, cel.ObjectType(view.String())))
	}
	return cel.NewEnv(append(options, ext.NativeTypes(natives...))...)
}

// fieldsOf lists the fields of a view for an error message.
func fieldsOf(view reflect.Type) string {
	var names []string
	for i := range view.NumField() {
		names = append(names, view.Field(i).Tag.Get("cel"))
	}
	return strings.Join(names, ", ")
}

// needs says which costly fields an expression mentions: only those are made.
type needs struct{ metadata, class, headers bool }

// needsOf looks for the fields in a checked expression. A variable that is used as
// a whole may be asked for anything.
func needsOf(checked *cel.Ast) needs {
	var n needs
	for _, e := range ast.MatchDescendants(ast.NavigateAST(checked.NativeRep()), ast.KindMatcher(ast.IdentKind)) {
		field := ""
		if parent, ok := e.Parent(); ok && parent.Kind() == ast.SelectKind {
			field = parent.AsSelect().FieldName()
		}
		switch e.AsIdent() {
		case "entry":
			n.metadata = n.metadata || field == "" || field == "metadata"
			n.class = n.class || field == "" || field == "class"
		case "request":
			n.headers = n.headers || field == "" || field == "headers"
		}
	}
	return n
}

// facts are the variables of one evaluation, made when they are asked for. They
// implement cel.Activation.
type facts struct {
	draft *recorder.Draft
	needs needs
	// clean is set for expressions whose value goes into the log.
	clean *redact.Redactor
}

// ResolveName returns a variable.
func (f *facts) ResolveName(name string) (any, bool) {
	switch name {
	case "entry":
		return f.entry(), true
	case "request":
		return f.request(), true
	case "identity":
		i := &f.draft.Identity
		return &identityView{UserID: i.UserID, ImpersonatedBy: i.ImpersonatedBy, Roles: i.Roles}, true
	}
	return nil, false
}

// Parent says that there are no other variables.
func (*facts) Parent() cel.Activation { return nil }

func (f *facts) entry() *entryView {
	e := f.draft.Entry
	v := &entryView{
		ID: e.ID, UserID: e.UserID, Action: e.Action, Status: string(e.Status), Severity: e.Severity.String(),
		IPAddress: e.IPAddress, UserAgent: e.UserAgent, CreatedAt: e.CreatedAt, Metadata: noMembers,
	}
	if f.needs.metadata {
		v.Metadata = newMembers(e.Metadata)
	}
	if f.needs.class {
		v.Class = gjson.GetBytes(e.Metadata, "class").String()
	}
	return v
}

func (f *facts) request() *requestView {
	r := &f.draft.Request
	v := &requestView{Method: r.Method, Path: r.Path, Host: r.Host, ClientIP: r.ClientIP}
	if f.clean != nil {
		v.Path = f.clean.URL(f.draft.ShownPath())
	}
	if !f.needs.headers {
		return v
	}
	v.Headers = make(map[string][]string, len(r.Header))
	for name, values := range r.Header {
		lower := strings.ToLower(name)
		if f.clean == nil {
			v.Headers[lower] = values
			continue
		}
		for _, value := range values {
			v.Headers[lower] = append(v.Headers[lower], f.clean.Header(lower, value))
		}
	}
	return v
}
