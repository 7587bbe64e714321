package recorder

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/profile"
)

// ErrNoEndpoint says that a profile names no session endpoint that could be asked.
var ErrNoEndpoint = errors.New("the profile has no session endpoint that can be asked")

// Probe asks the auth server who is signed in without any credential, to see whether it
// answers as its profile says: the right answer is nobody, the zero Session. It is for
// those who look after a deployment; nothing is remembered of it.
func Probe(ctx context.Context, p *profile.Profile, ask Asker) (Session, error) {
	s, err := NewSessions(p, make([]byte, 32)) // it hashes no credential
	if err != nil {
		return Session{}, err
	}
	failed := ErrNoEndpoint
	for _, endpoint := range p.Session {
		target := endpoint.Target(p.Base(), nil)
		if target == "" {
			continue
		}
		session, err := s.askNow(ctx, new(credentials), ask, endpoint, target, time.Now().Add(lookupTimeout))
		if err == nil {
			return session, nil // one that answers is enough
		}
		failed = err
	}
	return Session{}, failed
}
