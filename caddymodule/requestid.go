package caddymodule

import (
	"context"
	"fmt"
	"reflect"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/uuid"
	"go.uber.org/zap"
)

// RequestID is Caddy's own id of the request, which its access log shows too. Caddy keeps
// it among the request's variables when somebody first asks. A request that was passed on
// may have a goroutine of reverse_proxy that still reads them, while it dials: then nothing
// may be added, and the access log is told by itself.
func (e *edge) RequestID() string {
	ctx := e.origin.Context()
	if e.passedOn {
		if id, known := caddyhttp.GetVar(ctx, uuidVar).(fmt.Stringer); known {
			return id.String()
		}
		id := uuid.NewString()
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Set(zap.String("uuid", id))
		}
		return id
	}
	if id := unloggedRequestID(ctx); id != "" {
		return id
	}
	repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	id, _ := repl.GetString("http.request.uuid")
	if kept, ok := caddyhttp.GetVar(ctx, uuidVar).(fmt.Stringer); ok && kept.String() == id {
		if t := reflect.TypeOf(kept); t.Kind() == reflect.Pointer {
			requestIDs.Store(&t)
		}
	}
	return id
}

// uuidVar is where Caddy keeps a request's id.
const uuidVar = "uuid"

// requestIDs is the type that Caddy keeps them in, which it does not export, once one was
// seen: a pointer to what is an id as soon as it is asked for its String.
var requestIDs atomic.Pointer[reflect.Type]

// unloggedRequestID is the id that the placeholder {http.request.uuid} has, or will have,
// where the server has no access log. Asking for the placeholder leaves a note for that log,
// in a sync.Map that is made for it: two thirds of what it costs. It returns "" if the
// placeholder must be asked.
func unloggedRequestID(ctx context.Context) string {
	t := requestIDs.Load()
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if t == nil || !ok || server.Logs != nil {
		return ""
	}
	kept := caddyhttp.GetVar(ctx, uuidVar)
	if reflect.TypeOf(kept) != *t {
		kept = reflect.New((*t).Elem()).Interface()
		caddyhttp.SetVar(ctx, uuidVar, kept)
	}
	id, _ := kept.(fmt.Stringer)
	return id.String()
}
