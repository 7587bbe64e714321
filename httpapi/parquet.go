package httpapi

import (
	"io"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// A row group of a Parquet file is in memory, compressed, until it is complete: it ends at
// so many rows, or so many bytes of them. What is known of each group stays in memory until
// the file ends, so that with small ones a file of many entries needs more, not less.
const (
	groupRows  = 40000
	groupBytes = 16 << 20
)

// parquetRow is an entry as a row. What nobody knows is null.
type parquetRow struct {
	ID        string    `parquet:"id"`
	CreatedAt time.Time `parquet:"createdAt,timestamp(millisecond)"`
	UserID    *string   `parquet:"userId,optional"`
	Action    string    `parquet:"action,dict"`
	Class     string    `parquet:"class,dict"`
	Status    string    `parquet:"status,dict"`
	Severity  string    `parquet:"severity,dict"`
	IPAddress *string   `parquet:"ipAddress,optional"`
	UserAgent *string   `parquet:"userAgent,optional"`
	Metadata  string    `parquet:"metadata,json"`
}

// parquetFile writes the rows of one surface.
type parquetFile struct {
	w           *parquet.GenericWriter[parquetRow]
	agents      bool
	rows, bytes int
}

// newParquet begins a file. Without agents the column for the user agent is empty.
func newParquet(w io.Writer, agents bool) *parquetFile {
	return &parquetFile{w: parquet.NewGenericWriter[parquetRow](w, parquet.Compression(&parquet.Snappy)), agents: agents}
}

// Encode implements encoder.
func (p *parquetFile) Encode(e *storage.Entry) error {
	row := parquetRow{
		ID: e.ID, CreatedAt: e.CreatedAt.UTC(), UserID: orNull(e.UserID), Action: e.Action, Class: storage.ClassIn(e.Metadata),
		Status: string(e.Status), Severity: e.Severity.String(), IPAddress: orNull(e.IPAddress), Metadata: metadataOf(e),
	}
	if p.agents {
		row.UserAgent = orNull(e.UserAgent)
	}
	if _, err := p.w.Write([]parquetRow{row}); err != nil {
		return err
	}
	p.rows++
	if p.bytes += 256 + len(e.Metadata); p.rows < groupRows && p.bytes < groupBytes {
		return nil
	}
	p.rows, p.bytes = 0, 0
	return p.w.Flush()
}

// Flush implements encoder: row groups end by themselves.
func (*parquetFile) Flush() error { return nil }

// Close implements encoder.
func (p *parquetFile) Close() error { return p.w.Close() }

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func metadataOf(e *storage.Entry) string {
	if len(e.Metadata) == 0 {
		return "{}"
	}
	return string(e.Metadata)
}
