package rule

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

const (
	// MaxExpression is the longest expression, in characters.
	MaxExpression = 4096
	// costLimit bounds one evaluation in CEL's units: about one per operation and
	// per ten characters that are read.
	costLimit = 10_000
	// maxGrowth bounds by how much the replace calls of an expression may lengthen
	// a text together: CEL counts the cost of a call only when it is done.
	maxGrowth = 64
	// maxDelimiter is the longest text that join may put between elements.
	maxDelimiter = 16
)

// Expr is an expression and where it stands.
type Expr struct {
	// Text of the expression.
	Text string
	// File and Line where it begins, for errors; "" and 0 if it came another way.
	File string
	Line int
}

// SetExpr gives a field of an entry the value of an expression.
type SetExpr struct {
	// Field is severity, status, action, ipAddress, userAgent or metadata.<name>.
	Field string
	Expr
}

// Spec is what Compile compiles.
type Spec struct {
	// Skip suppresses an entry when one of the expressions is true.
	Skip []Expr
	// Set changes an entry that was not suppressed, in order: each sees what those
	// before it have changed.
	Set []SetExpr
	// Logger hears of expressions that fail on an entry, of each once a second at most;
	// nil for nobody.
	Logger *slog.Logger
}

// program is a compiled expression.
type program struct {
	cel.Program
	needs needs
	// label names the expression in errors: where it stands and what it is.
	label string
	// field that the value is for; "" for skip.
	field string
	// member of the metadata that the value is for; "" for any other field.
	member string
	// lastWarning is when its failure was last logged, in Unix nanoseconds.
	lastWarning atomic.Int64
}

// Compile compiles rules. The error says where what is wrong, and how to mend it.
func Compile(spec Spec) (_ *Rules, err error) {
	defer func() {
		if p := recover(); p != nil { // a bug of the CEL library must not end Caddy
			err = fmt.Errorf("compiling the rules: %v", p)
		}
	}()
	env, err := environment()
	if err != nil {
		return nil, fmt.Errorf("preparing CEL: %w", err)
	}
	clean, err := redact.New(redact.Options{Strategy: redact.Mask})
	if err != nil {
		return nil, err
	}
	r := &Rules{clean: clean, log: cmp.Or(spec.Logger, slog.New(slog.DiscardHandler))}
	for _, e := range spec.Skip {
		p, err := compile(env, e, "")
		if err != nil {
			return nil, err
		}
		r.skip = append(r.skip, p)
	}
	for _, e := range spec.Set {
		p, err := compile(env, e.Expr, e.Field)
		if err != nil {
			return nil, err
		}
		r.set = append(r.set, p)
	}
	return r, nil
}

// compile compiles one expression, for a field or, if that is empty, for skip.
func compile(env *cel.Env, e Expr, field string) (*program, error) {
	p := &program{field: field, label: "skip"}
	if field != "" {
		p.label = "set " + field
		p.member, _ = strings.CutPrefix(field, "metadata.")
		if p.member == field {
			p.member = ""
		}
	}
	if e.File != "" {
		p.label = fmt.Sprintf("%s:%d: %s", e.File, e.Line, p.label)
	}
	if err := checkField(field); err != nil {
		return nil, fmt.Errorf("%s: %w", p.label, err)
	}
	checked, issues := env.Compile(e.Text)
	if issues != nil && issues.Err() != nil {
		return nil, positioned(e, field, issues)
	}
	if err := errors.Join(p.checkType(checked.OutputType()), checkGrowth(checked), p.checkConstants(checked.NativeRep().Expr())); err != nil {
		return nil, fmt.Errorf("%s: %w", p.label, err)
	}
	var err error
	p.needs = needsOf(checked)
	if p.Program, err = env.Program(checked, cel.CostLimit(costLimit), cel.InterruptCheckFrequency(100)); err != nil {
		return nil, fmt.Errorf("%s: %w", p.label, err)
	}
	return p, nil
}

// textFields are the fields that a text can be set to.
var textFields = []string{"severity", "status", "action", "ipAddress", "userAgent"}

// memberName is what may stand after "metadata.".
var memberName = regexp.MustCompile(`^metadata\.[A-Za-z0-9_-]{1,64}$`)

func checkField(field string) error {
	if field == "" || slices.Contains(textFields, field) || memberName.MatchString(field) {
		return nil
	}
	return fmt.Errorf("there is no field %q to set: use %s or metadata.<name>", field, strings.Join(textFields, ", "))
}

// checkType says whether an expression can give what it is for.
func (p *program) checkType(t *cel.Type) error {
	switch {
	case p.field == "" && !t.IsExactType(cel.BoolType):
		return fmt.Errorf("the expression is of type %s, it must be bool: compare it with something, as in entry.userId == \"service-account\"", t)
	case p.field == "":
		return nil
	case p.member == "" && !t.IsExactType(cel.StringType):
		return fmt.Errorf("the expression is of type %s, it must be string: string(...) makes one", t)
	case p.member != "" && !storable(t):
		return fmt.Errorf("the expression is of type %s, which JSON cannot hold: use a string, a number, a bool, a timestamp, a list or a map", plain(t.String()))
	}
	return nil
}

// checkConstants refuses a text in quotes that the field cannot have, also where it is one
// of the values between which the expression chooses.
func (p *program) checkConstants(e ast.Expr) error {
	if p.field == "" || p.member != "" {
		return nil
	}
	if e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.Conditional {
		choice := e.AsCall().Args()
		return errors.Join(p.checkConstants(choice[1]), p.checkConstants(choice[2]))
	}
	if text, ok := literal(e); ok {
		if err := p.assign(new(storage.Entry), types.String(text)); err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
	}
	return nil
}

// storable says whether values of the type can stand in metadata.
func storable(t *cel.Type) bool {
	switch t.Kind() {
	case types.BoolKind, types.DoubleKind, types.DurationKind, types.DynKind, types.IntKind, types.NullTypeKind,
		types.StringKind, types.TimestampKind, types.UintKind:
		return true
	case types.ListKind:
		return storable(t.Parameters()[0])
	case types.MapKind:
		return t.Parameters()[0].IsExactType(cel.StringType) && storable(t.Parameters()[1])
	}
	return false
}

// checkGrowth refuses texts that could grow without bound in one call.
func checkGrowth(checked *cel.Ast) error {
	growth := 1
	for _, e := range ast.MatchDescendants(ast.NavigateAST(checked.NativeRep()), ast.KindMatcher(ast.CallKind)) {
		call := e.AsCall()
		args := call.Args()
		switch name := call.FunctionName(); {
		case name == "replace" && len(args) >= 2:
			by, ok := literal(args[1])
			if !ok {
				return errors.New("replace needs its second argument as a text in quotes, so that the result cannot grow without bound")
			}
			old, _ := literal(args[0])
			growth *= max(1, (len(by)+max(1, len(old))-1)/max(1, len(old)))
			if old == "" {
				growth *= 2 // between the characters as well
			}
			if growth > maxGrowth {
				return fmt.Errorf("its replace calls could make a text more than %d times as long", maxGrowth)
			}
		case name == "join" && len(args) == 1:
			if by, ok := literal(args[0]); !ok || len(by) > maxDelimiter {
				return fmt.Errorf("join needs a text in quotes of at most %d characters", maxDelimiter)
			}
		case name == "format" && call.IsMemberFunction():
			if _, ok := literal(call.Target()); !ok {
				return errors.New("format needs its pattern as a text in quotes")
			}
		}
	}
	return nil
}

// literal returns a text that stands in the expression.
func literal(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().(types.String)
	return string(s), ok
}

// positioned words the first thing that the CEL compiler says.
func positioned(e Expr, field string, issues *cel.Issues) error {
	list := issues.Errors()
	first := slices.MinFunc(list, func(a, b *common.Error) int {
		return cmp.Or(a.Location.Line()-b.Location.Line(), a.Location.Column()-b.Location.Column())
	})
	what := "skip"
	if field != "" {
		what = "set " + field
	}
	line := max(1, first.Location.Line())
	at := fmt.Sprintf("column %d of the expression", first.Location.Column()+1)
	if line > 1 {
		at = fmt.Sprintf("line %d, %s", line, at)
	}
	message := plain(strings.TrimSpace(first.Message))
	if strings.HasPrefix(message, "undefined field") {
		message += hint(e.Text)
	}
	if e.File == "" {
		return fmt.Errorf("%s: %s: %s", what, at, message)
	}
	return fmt.Errorf("%s:%d: %s: %s: %s", e.File, e.Line+line-1, what, at, message)
}

// plain calls our types what an expression calls them.
func plain(message string) string {
	for name, view := range views {
		message = strings.ReplaceAll(message, view.String(), name)
	}
	return message
}

// hint lists the fields that there are, of the objects that the text names.
func hint(text string) string {
	var b strings.Builder
	for _, name := range []string{"entry", "request", "identity"} {
		if strings.Contains(text, name+".") {
			fmt.Fprintf(&b, "; %s has %s", name, fieldsOf(views[name]))
		}
	}
	return b.String()
}
