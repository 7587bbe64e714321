package httpapi_test

import (
	"encoding/csv"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
)

// TestNoCellIsAFormulaAndEachComesBack: of every beginning that a spreadsheet may take
// for one, in the fields that clients fill.
func TestNoCellIsAFormulaAndEachComesBack(t *testing.T) {
	store := memory.New(0)
	var values []string
	for _, lead := range []string{"", " ", "'", "''", "\"", "\t", "\n", "\r", "\ufeff", "\u00a0", "\u200b", " '\""} {
		for _, rest := range []string{"=1+1", "+1", "-1", "@SUM(1)", "=cmd|' /C calc'!A0", "＝1", "＋1", "－1", "＠x", "plain", "", "\t=1"} {
			values = append(values, lead+rest)
		}
	}
	for i, v := range values {
		e := storage.Entry{UserID: v, Action: v, UserAgent: v, Status: storage.Failed, IPAddress: fmt.Sprint("192.0.2.", i)}
		e.Sanitize()
		must(t, store.Write(t.Context(), e))
	}
	s := operator(t, store)
	for i, v := range values {
		_, body := fetch(t, s.URL+"/export?format=csv&ip="+url.QueryEscape(fmt.Sprint("192.0.2.", i)))
		rows, err := csv.NewReader(strings.NewReader(body)).ReadAll()
		must(t, err)
		if len(rows) != 2 {
			t.Fatalf("%q: %d rows", v, len(rows))
		}
		for _, column := range []int{2, 3, 8} {
			cell := rows[1][column]
			if begin := strings.TrimLeft(cell, " \"\u00a0\ufeff\u200b"); begin != "" && strings.ContainsAny(begin[:1], "=+-@\t\r\n") || strings.IndexAny(begin, "＝＋－＠") == 0 {
				t.Errorf("%q is the cell %q", v, cell)
			}
			if cell != v && strings.TrimPrefix(cell, "'") != v || cell == v && strings.HasPrefix(v, "'=") {
				t.Errorf("%q came back as %q", v, cell)
			}
		}
	}
}
