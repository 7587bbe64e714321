package lint

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// PositionOption is an option of the adaptation that the directive audit_log looks
// for: with it, handlers have the member "@position", file and line, in their JSON.
// Caddy would refuse that JSON; nobody loads it.
const PositionOption = "audit_log.lint"

// Caddyfile checks a Caddyfile. Findings have its file and line, or those of the file
// that it imports, and are in their order. The error is that of a Caddyfile which
// cannot be adapted.
func Caddyfile(filename string, body []byte, o Options) ([]Finding, error) {
	adapted, err := adapt(filename, body, func([]caddyfile.ServerBlock) {})
	if err != nil {
		return nil, err
	}
	findings, err := Check(adapted, o)
	if err != nil || len(findings) == 0 {
		return nil, err
	}
	blocks, err := caddyfile.Parse(filename, body)
	if err != nil {
		return nil, err
	}
	f := finder{filename, blocks, proxyPositions(filename, body)}
	for i := range findings {
		findings[i].File, findings[i].Line = f.find(findings[i].where)
	}
	slices.SortStableFunc(findings, func(a, b Finding) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File)
		}
		return a.Line - b.Line
	})
	return findings, nil
}

// adapt makes JSON of a Caddyfile after change, with the positions of audit_log.
func adapt(filename string, body []byte, change func([]caddyfile.ServerBlock)) ([]byte, error) {
	blocks, err := caddyfile.Parse(filename, body)
	if err != nil {
		return nil, err
	}
	change(blocks)
	config, _, err := httpcaddyfile.ServerType{}.Setup(blocks, map[string]any{"filename": filename, PositionOption: true})
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, errors.New("the Caddyfile has no configuration")
	}
	return json.Marshal(config)
}

// finder finds lines.
type finder struct {
	filename string
	blocks   []caddyfile.ServerBlock
	proxies  map[string]position // of reverse_proxy handlers, by JSON path
}

type position struct {
	file string
	line int
}

func positionOf(t caddyfile.Token) position { return position{t.File, t.Line} }

// Position is how a position stands in the JSON.
func Position(file string, line int) string { return file + ":" + strconv.Itoa(line) }

// find is the place of a finding; the first line if it cannot be told.
func (f *finder) find(w where) (string, int) {
	p := position{f.filename, 1}
	switch {
	case w.handler != "":
		file, line, _ := cutLast(w.handler, ":")
		if n, err := strconv.Atoi(line); err == nil {
			p = position{file, n}
		}
	case w.proxy != "":
		if known, ok := f.proxies[w.proxy]; ok {
			p = known
		}
	case w.log != "":
		p = f.log(w.log, p)
	case w.server != nil:
		p = f.server(w.server, p)
	}
	return p.file, p.line
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// log finds the log directive of a log: the global option, or that of a site. Caddy
// numbers the logs of sites that have no name.
func (f *finder) log(name string, otherwise position) position {
	unnamed := 0
	for i, block := range f.blocks {
		for _, segment := range block.Segments {
			if segment.Directive() != "log" {
				continue
			}
			own := defaultLog
			if args := lineOf(segment); len(args) > 1 {
				own = args[1].Text
			} else if !(i == 0 && len(block.Keys) == 0) {
				own = fmt.Sprintf("log%d", unnamed)
				unnamed++
			}
			if own == name {
				return positionOf(segment[0])
			}
		}
	}
	return otherwise
}

// lineOf are the tokens of a segment's first line, without a block.
func lineOf(segment caddyfile.Segment) []caddyfile.Token {
	for i, t := range segment {
		if t.Text == "{" || t.Line != segment[0].Line || t.File != segment[0].File {
			return segment[:i]
		}
	}
	return segment
}

// server finds trusted_proxies or client_ip_headers in the servers option for a
// listener, or else in any.
func (f *finder) server(listen []string, otherwise position) position {
	if len(f.blocks) == 0 || len(f.blocks[0].Keys) > 0 {
		return otherwise
	}
	found := otherwise
	for _, segment := range f.blocks[0].Segments {
		i := slices.IndexFunc(segment, func(t caddyfile.Token) bool { return t.Text == "trusted_proxies" || t.Text == "client_ip_headers" })
		if segment.Directive() != "servers" || i < 0 {
			continue
		}
		args := lineOf(segment)
		if len(args) > 1 && slices.Contains(listen, args[1].Text) {
			return positionOf(segment[i])
		}
		if len(args) == 1 || found == otherwise {
			found = positionOf(segment[i])
		}
	}
	return found
}

// marked is the host of upstreams in the adaptation of proxyPositions.
const marked = ".audit-log-lint.invalid"

// proxyPositions finds out which directive became which reverse_proxy handler: it gives
// every upstream in the Caddyfile a name of its own, and looks where that turns up. If
// the result cannot be adapted, no position is known.
func proxyPositions(filename string, body []byte) map[string]position {
	var places []position
	adapted, err := adapt(filename, body, func(blocks []caddyfile.ServerBlock) {
		for _, block := range blocks {
			for _, segment := range block.Segments {
				places = mark(segment, places)
			}
		}
	})
	if err != nil {
		return nil
	}
	var c config
	if err := json.Unmarshal(adapted, &c); err != nil {
		return nil
	}
	l := &linter{config: &c}
	l.walkServers()
	found := make(map[string]position)
	for _, p := range l.proxies {
		for _, u := range p.Upstreams {
			text, _, ok := strings.Cut(u.Dial, marked)
			if n, err := strconv.Atoi(strings.TrimPrefix(text, "p")); ok && err == nil && n < len(places) {
				found[p.path] = places[n]
			}
		}
	}
	return found
}

// mark replaces the upstreams in a segment.
func mark(segment caddyfile.Segment, places []position) []position {
	for i := range segment {
		switch segment[i].Text {
		case "reverse_proxy", "forward_auth", "php_fastcgi", "to":
		default:
			continue
		}
		if !startsLine(segment, i) {
			continue
		}
		for j := i + 1; j < len(segment) && segment[j].Line == segment[i].Line && segment[j].File == segment[i].File && segment[j].Text != "{"; j++ {
			if text := segment[j].Text; j > i+1 || !isMatcher(text) {
				segment[j].Text = markUpstream(text, len(places))
				places = append(places, positionOf(segment[i]))
			}
		}
	}
	return places
}

func startsLine(segment caddyfile.Segment, i int) bool {
	return i == 0 || segment[i-1].Line != segment[i].Line || segment[i-1].File != segment[i].File || segment[i-1].Text == "{"
}

func isMatcher(text string) bool {
	return text == "*" || strings.HasPrefix(text, "@") || strings.HasPrefix(text, "/")
}

// markUpstream gives an upstream another host. The scheme stays: it decides about TLS.
func markUpstream(text string, n int) string {
	scheme, _, ok := strings.Cut(text, "://")
	host := fmt.Sprintf("p%d%s", n, marked)
	if ok {
		return scheme + "://" + host
	}
	return host + ":80"
}
