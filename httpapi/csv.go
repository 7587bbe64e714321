package httpapi

import (
	"bufio"
	"io"
	"strings"
	"unicode"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// csvWriter writes RFC 4180: every cell quoted, lines ended by CRLF, a header first.
// encoding/csv would change line breaks within cells.
type csvWriter struct {
	w      *bufio.Writer
	agents bool
}

// newCSV writes the header. With agents there is a column for the user agent.
func newCSV(w io.Writer, agents bool) *csvWriter {
	c := &csvWriter{bufio.NewWriterSize(w, 64<<10), agents}
	header := []string{"id", "createdAt", "userId", "action", "class", "status", "severity", "ipAddress"}
	if agents {
		header = append(header, "userAgent")
	}
	c.record(append(header, "metadata")...)
	return c
}

// Encode implements encoder.
func (c *csvWriter) Encode(e *storage.Entry) error {
	cells := []string{e.ID, isoTime(e.CreatedAt), e.UserID, e.Action, storage.ClassIn(e.Metadata), string(e.Status), e.Severity.String(), e.IPAddress}
	if c.agents {
		cells = append(cells, e.UserAgent)
	}
	c.record(append(cells, metadataOf(e))...)
	return nil // a bufio.Writer keeps its error for Flush
}

// record writes a line. A bufio.Writer keeps its error for Flush.
func (c *csvWriter) record(cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			_ = c.w.WriteByte(',')
		}
		_ = c.w.WriteByte('"')
		_, _ = c.w.WriteString(strings.ReplaceAll(formulaSafe(cell), `"`, `""`))
		_ = c.w.WriteByte('"')
	}
	_, _ = c.w.WriteString("\r\n")
}

// Flush implements encoder.
func (c *csvWriter) Flush() error { return c.w.Flush() }

// Close implements encoder.
func (c *csvWriter) Close() error { return c.w.Flush() }

// formulaSafe keeps a spreadsheet from reading a cell as a formula: it puts an
// apostrophe before what begins like one, also after quotes and white space (OWASP,
// CSV Injection). Whoever reads the file back takes one apostrophe away from each
// cell that begins like a formula; none is ambiguous, because what needs the
// apostrophe still does with it.
func formulaSafe(cell string) string {
	if beginsLikeFormula(cell) {
		return "'" + cell
	}
	return cell
}

func beginsLikeFormula(cell string) bool {
	for _, r := range cell {
		switch {
		case strings.ContainsRune("=+-@\t\r\n＝＋－＠", r):
			return true
		case r == '\'' || r == '"' || r == '\ufeff' || r == '\u200b' || unicode.IsSpace(r):
		default:
			return false
		}
	}
	return false
}
