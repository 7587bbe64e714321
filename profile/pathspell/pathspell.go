package pathspell

import (
	"net/url"
	"path"
	"strings"
)

const (
	// maxCandidates bounds what one hostile request can cost. It leaves room for all readings of known, three forms each,
	// twice for an opaque target, so that a crowded target cannot push out what a server that we know would execute.
	maxCandidates = 80

	// inline is how many candidates live in the struct itself: all of them, unless the target is ambiguous or has
	// both honest escapes and a trailing slash.
	inline = 4

	// maxClosed is the longest path, in bytes, that the rules are combined on. No route is nearly as long, and a head of
	// 16 KiB would cost two milliseconds. Longer ones have the readings of known, and are ambiguous.
	maxClosed = 2048

	// depth is how many rules may act one after the other (threats.md A0.2).
	depth = 3
)

// Candidates are the spellings of one request target (threats.md A0.2). The zero value holds none; Of fills it.
// It is a value, safe to copy and, once filled, to read from several goroutines.
type Candidates struct {
	few       [inline]string // the first candidates, so that honest requests need no slice
	more      []string       // the rest; nil for nearly every request
	n         int            // how many there are in few and more
	ambiguous bool           // see Ambiguous
}

// Of lists the spellings of u, a request target as Go's server parsed it. Its sources are u.EscapedPath(), which is
// what a proxy built on net/http sends, and u.Path, the path decoded once (A0.2). They can disagree: when a byte of the
// target is not allowed in a path, EscapedPath encodes u.Path anew, and `/a/"%2F..%2Fb` is sent as `/a/%22/../b`.
// u.Opaque stands for both where it is set.
//
// The result has at least one candidate and never more than 80.
func Of(u *url.URL) Candidates {
	var c Candidates
	switch {
	case u.Opaque != "":
		c.ambiguous = true
		c.spellOpaque(u.Opaque)
	case u.RawPath == "" && Plain(u.Path):
		c.few[0], c.n = u.Path, 1
	case u.Path == "":
		c.add("/") // RequestURI sends "/"; CONNECT sends its authority, which is no path
	case u.Path == "*":
		c.ambiguous = true // asterisk-form names no path; HTTP/2 lets it through with any method (X4)
		c.add("*")
	default:
		c.spellPath(u)
	}
	return c
}

// Len is the number of candidates.
func (c *Candidates) Len() int { return c.n }

// At is the candidate at i, 0 <= i < Len(). At(0) is how a WHATWG URL parser (url.spec.whatwg.org, "path state") reads
// the bytes that are sent: dot segments are resolved, "%2e" is a dot, slashes are not merged, nothing else is decoded.
// The order of the others is stable and means nothing.
func (c *Candidates) At(i int) string {
	if i < inline {
		return c.few[:min(c.n, inline)][i]
	}
	return c.more[i-inline]
}

// Ambiguous reports that servers may disagree about which path this is (threats.md A0.4): an opaque or asterisk
// target, sent bytes that differ from the received ones, "//", ";", a dot segment in any encoding, an escape that
// nobody needs ("%73") or that hides structure ("%2F", "%5C", "%3F", "%23", "%25", "%3B"), a control character, U+FFFD
// or invalid UTF-8, or more readings than can be held.
//
// Differences that honest clients produce are not ambiguous, although they add candidates: upper case, one trailing
// slash, raw sub-delimiters ("!", "'", "@"), and escapes of what encodeURIComponent escapes and no router splits at
// ("%20", "%40", "%C3%A9"). This is narrower than A0.4's `RawPath != ""`, which Go also sets for a raw "!" and for "%40".
func (c *Candidates) Ambiguous() bool { return c.ambiguous }

func (c *Candidates) spellPath(u *url.URL) {
	sent, decoded := u.EscapedPath(), u.Path
	if u.RawPath != "" && sent != u.RawPath || sent[0] != '/' {
		c.ambiguous = true
	}
	sent, decoded = rooted(sent), rooted(decoded)
	if !c.ambiguous && !hasSigns(sent) && !oddText(decoded) {
		// Without a sign no rule but decoding has anything to do, and decoding finds nothing new in decoded.
		c.read(sent)
		if decoded != sent {
			c.read(decoded)
		}
		return
	}
	c.ambiguous = true
	c.known(sent, decoded)
	c.close(removeDots(sent), sent, decoded)
}

// spellOpaque is for targets such as "x:http://h/p", which Go parses as scheme "x" and an opaque rest and forwards as
// "http://h/p": servers that accept the absolute form read the path "/p".
func (c *Candidates) spellOpaque(sent string) {
	rest := sent
	for range depth {
		after, ok := cutScheme(rest)
		if !ok {
			break
		}
		rest = after
	}
	// Here, unlike in a path, "#" and "\" are sent as they are. WHATWG parsers end the path at the one and read the other
	// as "/"; Go, Fastify and others do not.
	web, _, _ := strings.Cut(flipBackslashes(rest), "#")
	web, raw := dropAuthority(rooted(web)), dropAuthority(rooted(rest))
	c.known(web, decode(web))
	c.known(raw, decode(raw))
	c.close(web, raw, rooted(rest))
}

func rooted(p string) string {
	if p == "" || p[0] != '/' {
		return "/" + p
	}
	return p
}

// known adds, before all others, what the servers read that the oracle in testdata models.
func (c *Candidates) known(sent, decoded string) {
	whatwg := removeDots(sent)
	segments := decodeKeepSlash(sent)
	for _, reading := range [...]string{
		whatwg,                                // Better Auth
		sent,                                  // Express, chi
		decodeKeepSlash(whatwg),               // Hono
		segments,                              // Fastify 5, Go's ServeMux
		decodeKeepSlash(cutParams(sent)),      // Fastify 4
		mergeSlashes(sent),                    // an Express router under app.use
		mergeSlashes(segments),                // Fastify with ignoreDuplicateSlashes
		removeDots(dropAuthority(sent)),       // new URL(req.url, base)
		decoded,                               // gin, gorilla/mux
		path.Clean(decoded),                   // nginx
		path.Clean(decode(dropParams(sent))),  // Tomcat
		resolveDots(segments),                 // Kestrel
		resolveDots(flipBackslashes(decoded)), // IIS
	} {
		c.read(reading)
	}
}

// close applies every rule to every reading, breadth first: where the set is full, what is missing is what needed the
// longest chain of rules. Folded forms are not rewritten again, because folding commutes with the rules.
func (c *Candidates) close(seeds ...string) {
	if len(seeds[0]) > maxClosed {
		return
	}
	rules := [...]func(string) string{
		removeDots, resolveDots, path.Clean, decode, flipBackslashes,
		dropParams, dropAuthority, decodeKeepSlash, mergeSlashes, cutParams,
	}
	readings := make([]string, 0, maxCandidates)
	visit := func(p string) bool {
		for _, known := range readings {
			if known == p {
				return true
			}
		}
		readings = append(readings, p)
		return c.read(p)
	}
	for _, p := range seeds {
		visit(p)
	}
	for step, from := 0, 0; step < depth; step++ {
		to := len(readings)
		for _, p := range readings[from:to] {
			for _, rule := range rules {
				if !visit(rule(p)) {
					return
				}
			}
		}
		from = to
	}
}

// read adds a reading and its folded forms, and reports whether there was room for all.
func (c *Candidates) read(p string) bool {
	trimmed := trimSlashes(p)
	return c.add(p) && c.add(trimmed) && c.add(lower(trimmed))
}

// add adds p unless it is there already. It reports false, and marks the target ambiguous, when there is no room: a
// target with that many readings is an attack, and the caller must not take the set for complete.
func (c *Candidates) add(p string) bool {
	for i := range c.n {
		if c.At(i) == p {
			return true
		}
	}
	switch {
	case c.n < inline:
		c.few[c.n] = p
	case c.n < maxCandidates:
		c.more = append(c.more, p)
	default:
		c.ambiguous = true
		return false
	}
	c.n++
	return true
}
