package spill

import (
	"os"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// File is what tests put in front of a journal's file.
type File = file

// WithFile has f look at, or change, what the journal's file does.
func (o Options) WithFile(f func(*os.File) File) Options {
	o.open = func(path string) (file, error) {
		opened, err := openFile(path)
		if err != nil {
			return nil, err
		}
		return f(opened.(*os.File)), nil
	}
	return o
}

// WithOpen has the journal's file not open when before fails.
func (o Options) WithOpen(before func() error) Options {
	o.open = func(path string) (file, error) {
		if err := before(); err != nil {
			return nil, err
		}
		return openFile(path)
	}
	return o
}

// Acknowledged is the length of the journal's file of which every byte was
// acknowledged.
func Acknowledged(s storage.Store) int64 {
	if u, ok := s.(*unlinker); ok {
		s = u.Store
	}
	j := s.(*Store).journal
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}
