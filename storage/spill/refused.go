package spill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxRefused bounds the file of what the primary refused. Clients can have a hand in what it
// refuses.
const maxRefused = 16 << 20

// refusedEntry is a line of that file.
type refusedEntry struct {
	At    time.Time `json:"at"`
	Error string    `json:"error"`
	Entry jsonEntry `json:"entry"`
}

// apply has the primary do what a change asks for, and returns how many entries were
// unlinked. Entries that it works without but will never take as they are
// (storage.ErrRejected), because of an index or a trigger that somebody has added to its
// tables, say, go there without their metadata, and whole into a file of their own.
func (s *Store) apply(ctx context.Context, c change) (int, error) {
	n, err := c.apply(ctx, s.primary)
	if c.unlink == "" && errors.Is(err, storage.ErrRejected) {
		return 0, s.rescue(ctx, c.entries, err)
	}
	return n, err
}

// rescue writes entries of which the primary refuses at least one, and says why: halves of them,
// and halves of those, until it is found.
func (s *Store) rescue(ctx context.Context, entries []storage.Entry, why error) error {
	if len(entries) == 1 {
		return s.withoutMetadata(ctx, entries[0], why)
	}
	middle := len(entries) / 2
	for _, half := range [][]storage.Entry{entries[:middle], entries[middle:]} {
		err := s.primary.Write(ctx, half...)
		if errors.Is(err, storage.ErrRejected) {
			err = s.rescue(ctx, half, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// withoutMetadata writes an entry that the primary refuses as it is.
func (s *Store) withoutMetadata(ctx context.Context, e storage.Entry, why error) error {
	kept := s.keepRefused(&e, why)
	s.tellRefused(&e, why, kept)
	e.Metadata = storage.DroppedMetadata(e.Metadata)
	err := s.primary.Write(ctx, e)
	if errors.Is(err, storage.ErrRejected) && kept == nil {
		return nil
	}
	if errors.Is(err, storage.ErrRejected) {
		return fmt.Errorf("%w, and the file for such entries does not take it either: %w", err, kept)
	}
	return err
}

func (s *Store) tellRefused(e *storage.Entry, why, kept error) {
	s.refusals.Add(1)
	s.refusalLog.Do(func() {
		if kept != nil {
			s.log.Error("the audit log's database refuses an entry, which loses its metadata: the file for such entries does not take it", "id", e.ID, "error", why, "file", s.refusedPath(), "fileError", kept)
			return
		}
		s.log.Error("the audit log's database refuses an entry as it is: it goes there without its metadata, and whole into a file; look for an index, a trigger or a constraint that somebody has added to its tables",
			"id", e.ID, "error", why, "file", s.refusedPath())
	})
}

func (s *Store) refusedPath() string { return s.path + ".refused" }

// keepRefused appends an entry, as a line of JSON, to the file of what was refused, durably.
func (s *Store) keepRefused(e *storage.Entry, why error) (err error) {
	line, err := json.Marshal(refusedEntry{time.Now().UTC(), why.Error(), jsonOf(e)})
	if err != nil {
		return err
	}
	s.refusedFile.Lock()
	defer s.refusedFile.Unlock()
	if jsonOf(e) == s.lastRefused { // it is tried again
		return nil
	}
	defer func() {
		if err == nil {
			s.lastRefused = jsonOf(e)
		}
	}()
	f, err := os.OpenFile(s.refusedPath(), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file: move it away", s.refusedPath())
	case info.Size()+int64(len(line)) > maxRefused:
		return fmt.Errorf("%s has its %d bytes: move it away", s.refusedPath(), maxRefused)
	}
	if torn(f, info.Size()) {
		line = append([]byte("\n"), line...)
	}
	if _, err = f.Write(append(line, '\n')); err == nil {
		err = errors.Join(f.Sync(), syncDir(filepath.Dir(s.refusedPath())))
	}
	return err
}

// torn says whether a file ends in the middle of a line, as a crash leaves it.
func torn(f *os.File, size int64) bool {
	last := []byte("\n")
	if size > 0 {
		_, _ = f.ReadAt(last, size-1) // what cannot be read is taken for whole
	}
	return !bytes.Equal(last, []byte("\n"))
}
