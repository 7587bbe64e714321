package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profile takes a CPU profile of each Caddy under a load, for go tool pprof. It does
// nothing if no folder was asked for.
func (f *fleet) profile(ctx context.Context, of []variant, l load, o options) error {
	if f.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(f.profiles, 0o700); err != nil {
		return err
	}
	for i := range of {
		v := &of[i]
		s := f.of[v.name]
		if s == nil || s.admin == 0 {
			continue
		}
		path := filepath.Join(f.profiles, strings.Map(plainName, fmt.Sprintf("%s, %s", v.name, l))+".pprof")
		taken := make(chan error, 1)
		go func() { taken <- s.takeProfile(ctx, path, o.seconds) }()
		r, err := closed(s, v.request.sized(l.Body, l.Answer), l.Clients, time.Duration(o.seconds)*time.Second)
		if err = first(<-taken, err); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
		progress("%s: %d requests", path, r.requests)
	}
	return nil
}

// plainName makes a name of a file of any text.
func plainName(r rune) rune {
	switch r {
	case ' ', ',', '\'':
		return '-'
	}
	return r
}

// takeProfile writes what the server does in the next seconds to a file.
func (s *server) takeProfile(ctx context.Context, path string, seconds int) (err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/profile?seconds=%d", s.admin, seconds), nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = first(err, answer.Body.Close()) }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("no profile: %s", answer.Status)
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, answer.Body)
	return first(err, file.Close())
}
