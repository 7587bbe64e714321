package spill

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// change is what one call asks of the primary: entries to write, or a user to
// unlink.
type change struct {
	entries []storage.Entry
	unlink  string
}

// apply does it, and returns how many entries were unlinked.
func (c change) apply(ctx context.Context, to storage.Store) (int, error) {
	if c.unlink == "" {
		return 0, to.Write(ctx, c.entries...)
	}
	u, ok := storage.As[storage.Unlinker](to)
	if !ok {
		return 0, fmt.Errorf("%w: it does not unlink users", storage.ErrRejected)
	}
	return u.Unlink(ctx, c.unlink)
}

// weight is how many of what waits a change is, as Health counts it.
func (c change) weight() int { return max(1, len(c.entries)) }

// The form of a record: marker, length of the payload, weight, CRC-32C of these two
// and the payload (all numbers little-endian), payload. The marker's first byte
// does not occur in JSON, so that a reader that has met damage finds the next record.
const (
	markerSize = 4
	headerSize = 16
)

// marker begins a record; its last byte is the version of the form.
var marker = []byte{0xff, 'A', 'L', 1}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// payload is a change as JSON.
type payload struct {
	Entries []jsonEntry `json:"entries,omitempty"`
	Unlink  string      `json:"unlink,omitempty"`
}

// jsonEntry has every field of an entry. Metadata is a string, so that not a byte of
// it changes on the way, and severity a number, so that any has a form.
type jsonEntry struct {
	ID             string         `json:"id"`
	UserID         string         `json:"userId,omitempty"`
	Action         string         `json:"action"`
	Status         storage.Status `json:"status"`
	Severity       uint8          `json:"severity"`
	IPAddress      string         `json:"ipAddress,omitempty"`
	UserAgent      string         `json:"userAgent,omitempty"`
	Metadata       string         `json:"metadata,omitempty"`
	CreatedAt      int64          `json:"createdAt"` // milliseconds since 1970
	IdentifierHash string         `json:"identifierHash,omitempty"`
}

func jsonOf(e *storage.Entry) jsonEntry {
	return jsonEntry{
		ID: e.ID, UserID: e.UserID, Action: e.Action, Status: e.Status, Severity: uint8(e.Severity), IPAddress: e.IPAddress, UserAgent: e.UserAgent,
		Metadata: string(e.Metadata), CreatedAt: e.CreatedAt.UnixMilli(), IdentifierHash: e.IdentifierHash,
	}
}

// encode returns the change as a record.
func encode(c change) ([]byte, error) {
	p := payload{Unlink: c.unlink}
	for i := range c.entries {
		p.Entries = append(p.Entries, jsonOf(&c.entries[i]))
	}
	body, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	record := make([]byte, headerSize, headerSize+len(body))
	copy(record, marker)
	binary.LittleEndian.PutUint32(record[4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(record[8:], uint32(c.weight()))
	record = append(record, body...)
	binary.LittleEndian.PutUint32(record[12:], checksum(record))
	return record, nil
}

// checksum is that of a whole record.
func checksum(record []byte) uint32 {
	return crc32.Update(crc32.Checksum(record[4:12], castagnoli), castagnoli, record[headerSize:])
}

// decode is the inverse of encode, for a record whose checksum is right.
func decode(record []byte) (change, error) {
	var p payload
	if err := json.Unmarshal(record[headerSize:], &p); err != nil {
		return change{}, err
	}
	c := change{unlink: p.Unlink}
	for i := range p.Entries {
		j := &p.Entries[i]
		e := storage.Entry{
			ID: j.ID, UserID: j.UserID, Action: j.Action, Status: j.Status, Severity: severity.Level(j.Severity), IPAddress: j.IPAddress,
			UserAgent: j.UserAgent, CreatedAt: time.UnixMilli(j.CreatedAt).UTC(), IdentifierHash: j.IdentifierHash,
		}
		if j.Metadata != "" {
			e.Metadata = json.RawMessage(j.Metadata)
		}
		c.entries = append(c.entries, e)
	}
	if c.unlink == "" && len(c.entries) == 0 {
		return c, errors.New("it is of a form that this version does not know")
	}
	return c, nil
}

// found is a record in a file.
type found struct {
	record []byte
	weight int
	// next is where the record ends, and skipped how many bytes before it were no
	// record.
	next, skipped int64
}

// window is how much of a file is looked at in one step.
const window = 64 << 10

// find returns the first record from an offset on, before end. It returns io.EOF
// when there is none, and other errors only when the file cannot be read.
func find(f io.ReaderAt, from, end int64) (found, error) {
	for at := from; at+headerSize <= end; {
		record, err := recordAt(f, at, end)
		if err != nil {
			return found{}, err
		}
		if record != nil {
			weight := int(binary.LittleEndian.Uint32(record[8:]))
			return found{record, weight, at + int64(len(record)), at - from}, nil
		}
		if at, err = nextMarker(f, at+1, end); err != nil {
			return found{}, err
		}
	}
	return found{}, io.EOF
}

// recordAt returns the whole record at an offset; nil if there is none that is
// sound.
func recordAt(f io.ReaderAt, at, end int64) ([]byte, error) {
	header := make([]byte, headerSize)
	if err := readAt(f, header, at); err != nil {
		return nil, err
	}
	length := int64(binary.LittleEndian.Uint32(header[4:]))
	if !bytes.Equal(header[:markerSize], marker) || length == 0 || at+headerSize+length > end {
		return nil, nil
	}
	record := slices.Concat(header, make([]byte, length))
	if err := readAt(f, record[headerSize:], at+headerSize); err != nil {
		return nil, err
	}
	if checksum(record) != binary.LittleEndian.Uint32(record[12:]) {
		return nil, nil
	}
	return record, nil
}

// wholeLength says whether what stands at an offset is as long as a record says that it is, sound
// or not.
func wholeLength(f io.ReaderAt, at, end int64) bool {
	header := make([]byte, headerSize)
	if at+headerSize > end || readAt(f, header, at) != nil {
		return false
	}
	length := int64(binary.LittleEndian.Uint32(header[4:]))
	return bytes.Equal(header[:markerSize], marker) && length > 0 && at+headerSize+length <= end
}

// nextMarker returns the offset of the first marker from an offset on; end if there
// is none.
func nextMarker(f io.ReaderAt, from, end int64) (int64, error) {
	buf := make([]byte, window)
	for at := from; at+markerSize <= end; at += window - markerSize + 1 {
		b := buf[:min(window, end-at)]
		if err := readAt(f, b, at); err != nil {
			return 0, err
		}
		if i := bytes.Index(b, marker); i >= 0 {
			return at + int64(i), nil
		}
	}
	return end, nil
}

// readAt fills b; a file that ends before is an error.
func readAt(f io.ReaderAt, b []byte, at int64) error {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // io.EOF is the end of the records
	}
	return err
}
