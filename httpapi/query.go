package httpapi

import (
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/severity"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// maxOffset bounds how deep an offset may reach; a cursor has no such bound
// (threats.md B15).
const maxOffset = 1 << 53

// listQuery is a parsed query of list.
type listQuery struct {
	storage.Query
	// userID is whose entries are asked for, "" for those without a user; it counts
	// only with hasUserID.
	userID    string
	hasUserID bool
	// all is true when everybody's entries are asked for.
	all bool
	// foreign is true once it is known that not only the caller's own are.
	foreign bool
	// identifier is what was typed to sign in, and identifierHash the keyed hash of it:
	// whose attempts are asked for. With one, the entries may be anybody's.
	identifier, identifierHash string
}

// parseQuery reads the parameters and returns what is wrong with them, in the
// words of the plugin's validator. What is unknown is request.unknown's; a known one
// may not be repeated.
func parseQuery(raw string) (listQuery, []string) {
	values, err := url.ParseQuery(raw)
	var q listQuery
	p := problems{values: values}
	if err != nil {
		p.add("query", "Invalid input: it cannot be decoded")
	}
	if q.userID, q.hasUserID = p.text("userId"); q.userID == "null" {
		q.userID = "" // as entries without a user show it
	}
	q.userID = storage.CleanUserID(q.userID) // as entries have it
	q.all = p.option("scope", "own", "all") == "all"
	q.Action, _ = p.text("action")
	q.Class, _ = p.text("class")
	q.IPAddress = p.address()
	q.identifier, q.identifierHash = p.identifier(q.hasUserID)
	q.Status = storage.Status(p.option("status", "success", "failed", "pending", "unknown"))
	q.Severity = p.severity()
	q.Limit = p.number("limit", 1, storage.MaxLimit, storage.DefaultLimit)
	q.Offset = p.number("offset", 0, maxOffset, 0)
	q.From = p.date("from")
	q.To = p.date("to")
	q.Text = p.search()
	q.Cursor, _ = p.text("cursor")
	return q, p.list
}

// problems collects what is wrong with a query.
type problems struct {
	values url.Values
	list   []string
}

func (p *problems) add(field, text string) {
	p.list = append(p.list, "["+field+"] "+text)
}

// text returns a parameter that may be given once.
func (p *problems) text(name string) (string, bool) {
	v := p.values[name]
	switch {
	case len(v) == 0:
		return "", false
	case len(v) > 1:
		p.add("query."+name, "Invalid input: expected string, received array")
		return "", false
	}
	return storage.Clean(v[0], 1024), true
}

// option returns a parameter that has to be one of a few words, "" if it is not
// there.
func (p *problems) option(name string, words ...string) string {
	v := p.values[name]
	if len(v) == 0 {
		return ""
	}
	if len(v) == 1 && slices.Contains(words, v[0]) {
		return v[0]
	}
	p.add("query."+name, `Invalid option: expected one of "`+strings.Join(words, `"|"`)+`"`)
	return ""
}

// identifier reads what was typed to sign in, or its hash.
func (p *problems) identifier(hasUserID bool) (typed, hash string) {
	typed, _ = p.text("identifier")
	hash, _ = p.text("identifierHash")
	switch {
	case typed != "" && hash != "":
		p.add("query.identifier", "Invalid input: expected one of identifier and identifierHash")
	case typed+hash != "" && hasUserID:
		p.add("query.userId", "Invalid input: it cannot be combined with identifier")
	}
	return strings.ToLower(strings.TrimSpace(typed)), hash
}

func (p *problems) severity() *severity.Level {
	level, err := severity.Parse(p.option("severity", "low", "medium", "high", "critical"))
	if err != nil {
		return nil // not there, or said to be wrong already
	}
	return &level
}

// address reads an address, in any spelling, and returns it as entries have it. A network is
// refused: stores find addresses by hashes of them.
func (p *problems) address() string {
	given, _ := p.text("ip")
	if given = strings.TrimSpace(given); given == "" {
		return ""
	}
	if _, err := netip.ParseAddr(given); err == nil {
		return storage.CleanAddress(given)
	}
	if _, err := netip.ParsePrefix(given); err == nil {
		p.add("query.ip", "Invalid address: "+given+" is a network, and only single addresses can be asked for; a search for text finds what begins alike, such as 203.0.113.")
		return ""
	}
	p.add("query.ip", "Invalid address: give one such as 203.0.113.9 or 2001:db8::1, without a port; a search for text finds a part of one")
	return ""
}

// search reads the text to look for.
func (p *problems) search() string {
	text, _ := p.text("q")
	if len(text) > storage.MaxText {
		p.add("query.q", fmt.Sprintf("Too big: expected string to have <=%d bytes", storage.MaxText))
		return ""
	}
	return text
}

// number reads a whole number as JavaScript's Number does, which is what the
// plugin's clients send to: "1e2" and "0x10" are numbers.
func (p *problems) number(name string, lowest, highest, missing int) int {
	v := p.values[name]
	if len(v) == 0 {
		return missing
	}
	n := math.NaN()
	if len(v) == 1 {
		n = jsNumber(v[0])
	}
	field := "query." + name
	switch {
	case math.IsNaN(n):
		p.add(field, "Invalid input: expected number, received NaN")
	case math.IsInf(n, 0):
		p.add(field, "Invalid input: expected number, received Infinity")
	case n < float64(lowest):
		p.add(field, "Too small: expected number to be >="+strconv.Itoa(lowest))
	case n > float64(highest) && name != "offset":
		p.add(field, "Too big: expected number to be <="+strconv.Itoa(highest))
	case n != math.Trunc(n):
		p.add(field, "Invalid input: expected int, received number")
	default:
		return int(min(n, float64(highest)))
	}
	return missing
}

// jsNumber is JavaScript's Number(string) (ECMA-262 StringToNumber).
func jsNumber(s string) float64 {
	s = strings.TrimSpace(s)
	if s == "" {
		return 0
	}
	if len(s) > 2 && s[0] == '0' && strings.ContainsRune("xXoObB", rune(s[1])) {
		n, err := strconv.ParseUint(s, 0, 64)
		if err != nil || strings.Contains(s, "_") {
			return math.NaN()
		}
		return float64(n)
	}
	switch s {
	case "Infinity", "+Infinity":
		return math.Inf(1)
	case "-Infinity":
		return math.Inf(-1)
	}
	if strings.Trim(s, "0123456789+-.eE") != "" {
		return math.NaN() // hexadecimal floats, "inf", "nan" and underscores are Go's alone
	}
	n, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(n, 0) {
		return math.NaN()
	}
	return n
}

// layouts of dates, besides milliseconds since 1970: ISO 8601 as far as
// JavaScript's Date reads it, and the dates of e-mails (RFC 2822).
var layouts = []string{
	time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02", "2006-01", "2006",
	time.RFC1123, time.RFC1123Z, "2 Jan 2006 15:04:05 -0700", "2 Jan 2006 15:04:05 MST",
}

// date reads a bound of the time. Empty counts as not given.
func (p *problems) date(name string) time.Time {
	s, ok := p.text(name)
	if !ok || s == "" {
		return time.Time{}
	}
	if seconds, ok := inSeconds(s); ok {
		p.add("query."+name, fmt.Sprintf("Invalid date: %s looks like seconds since 1970, and milliseconds are expected, such as %d", s, 1000*seconds))
		return time.Time{}
	}
	if t, ok := parseDate(s); ok {
		return t
	}
	p.add("query."+name, `Invalid date: use ISO 8601 such as 2026-01-31T12:00:00Z (a "+" is written %2B), or milliseconds since 1970`)
	return time.Time{}
}

// inSeconds recognises a number of nine to eleven digits. As milliseconds it would be before March
// 1973, so that a filter silently selected everything, or nothing.
func inSeconds(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n >= 1e8 && n < 1e11
}

func parseDate(s string) (time.Time, bool) {
	if ms, err := strconv.ParseInt(s, 10, 64); err == nil && len(s) > 8 {
		t := time.UnixMilli(ms).UTC()
		return t, t.Year() >= 1970 && t.Year() <= 9999
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), t.Year() >= 1970 && t.Year() <= 9999
		}
	}
	return time.Time{}, false
}
