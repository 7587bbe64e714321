package caddymodule

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxRecord bounds one record of an export.
const maxRecord = 8 << 20

// resumePart opens the file of a stopped export behind its last complete entry, and says
// what to ask for to go on. Exports are in order of time: it asks for what is not newer
// than that entry, and skips what the file has of that very millisecond.
func resumePart(name string, now *wish) (*part, url.Values, error) {
	then, err := noteOf(name, now)
	if err != nil {
		return nil, nil, err
	}
	q, err := url.ParseQuery(then.Query)
	if err != nil {
		return nil, nil, fmt.Errorf("%s%s: %w: begin anew with --force", name, querySuffix, err)
	}
	file, err := os.OpenFile(name+partSuffix, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	locked, err := own(file)
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	s, err := survey(bufio.NewReaderSize(file, 64<<10), then.Format)
	if err == nil {
		err = file.Truncate(s.size)
	}
	if err == nil {
		_, err = file.Seek(s.size, io.SeekStart)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s%s: %w: begin anew with --force", name, partSuffix, err), file.Close())
	}
	p := &part{name: name, format: then.Format, file: file, size: s.size, resumed: true, locked: locked}
	if s.has == nil {
		return p, q, nil
	}
	p.skip = s
	return p, parameters(q, "cursor", s.cursor(q.Get("cursor"))), nil
}

// skipper knows the end of a file.
type skipper struct {
	// size of the records that are complete.
	size int64
	// header is the first line of a CSV file.
	header []byte
	// at is the time of the last entry, has the ids of all of that time; nil for a file
	// without entries.
	at  time.Time
	has map[string]bool
}

// cursor goes on from the time of the last entry, but never before where the export began.
func (s *skipper) cursor(began string) string {
	key := storage.EndKey(s.at)
	if first, err := storage.DecodeCursor(began); err == nil {
		key = min(key, first)
	}
	return storage.EncodeCursor(key)
}

// survey reads a file that may end anywhere.
func survey(in *bufio.Reader, format string) (*skipper, error) {
	s := new(skipper)
	for first := true; ; first = false {
		b, err := record(in, format)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			if s.has == nil {
				s.size, s.header = 0, nil // the header comes again
			}
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		s.size += int64(len(b))
		if first && format == formatCSV {
			s.header = b
			continue
		}
		id, at, err := identify(b, format)
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", s.size-int64(len(b)), err)
		}
		if !at.Equal(s.at) || s.has == nil {
			s.at, s.has = at, map[string]bool{}
		}
		s.has[id] = true
	}
}

// leaveOut copies what the file does not have of the time of its last entry, and stops
// behind the first entry of another time.
//
// A log that has none of those is another one, or its retention has deleted them.
func (s *skipper) leaveOut(in *bufio.Reader, out io.Writer, format string) error {
	met := false
	for first := true; ; first = false {
		b, err := record(in, format)
		if errors.Is(err, io.EOF) && met {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return errOtherLog
		}
		if err != nil {
			return err
		}
		if first && format == formatCSV {
			if !bytes.Equal(b, s.header) {
				return errors.New("the columns are others than those of the stopped export: begin anew with --force")
			}
			continue
		}
		id, at, err := identify(b, format)
		if err != nil {
			return err
		}
		if at.Equal(s.at) && s.has[id] {
			met = true
			continue
		}
		if !at.Equal(s.at) && !met {
			return errOtherLog
		}
		if _, err := out.Write(b); err != nil || !at.Equal(s.at) {
			return err
		}
	}
}

// errOtherLog says that an export cannot go on with what is read.
var errOtherLog = errors.New("the last entry of the stopped export is not in this log: name the log that it was of (--db, --table, --address, --store), or, if its retention has deleted it, begin anew with --force")

// record reads one record with its end: io.EOF if there is none, io.ErrUnexpectedEOF if it
// has no end. Lines end a record, but for those within quotes of a CSV file.
func record(in *bufio.Reader, format string) ([]byte, error) {
	var b []byte
	quoted := false
	for {
		line, err := in.ReadSlice('\n')
		b = append(b, line...)
		if len(b) > maxRecord {
			return nil, fmt.Errorf("a record is longer than %d bytes", maxRecord)
		}
		if format == formatCSV && bytes.Count(line, []byte{'"'})%2 == 1 {
			quoted = !quoted
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(b) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case !quoted && (format != formatCSV || bytes.HasSuffix(b, []byte("\r\n"))):
			return b, nil
		}
	}
}

// identify reads the id and the time of a record.
func identify(b []byte, format string) (id string, at time.Time, err error) {
	var e struct{ ID, CreatedAt string }
	if format == formatCSV {
		cells, err := csv.NewReader(bytes.NewReader(b)).Read()
		if err != nil || len(cells) < 2 {
			return "", at, fmt.Errorf("a record cannot be read: %w", errors.Join(err, csvTooShort(cells)))
		}
		e.ID, e.CreatedAt = cells[0], strings.TrimPrefix(cells[1], "'")
	} else if err := json.Unmarshal(b, &e); err != nil {
		return "", at, fmt.Errorf("a record cannot be read: %w", err)
	}
	at, err = time.Parse(storage.TimeLayout, e.CreatedAt)
	return e.ID, at, err
}

func csvTooShort(cells []string) error {
	if len(cells) < 2 {
		return errors.New("it has less than two cells")
	}
	return nil
}
