// Package pathspell lists every plausible spelling of a request path.
//
// Caddy sends the path upstream as it came: dot segments, "%2e", "//", ";", case and trailing slashes all arrive
// verbatim, and every upstream reads them in its own way (reference/threats.md X1). Whoever compares one spelling with a
// route misses requests that the upstream executes: of 29,180 executable targets, path.Clean missed 18.6 % (X3). So the
// profile asks for all readings, audits the request when any of them is under the base path, and lets the most severe
// route decide (A0.3). This package knows nothing of routes; it only spells.
//
// # How to compare
//
// Candidates come in the case of the request and, in addition, in lower case; with their trailing slashes and, in
// addition, without. A caller with a template that has upper-case letters or a trailing slash compares in folded form:
// template in lower case and without trailing slash, against every candidate. A parameter such as ":token" stands for
// one segment, and the segment may be empty: Fastify runs "/reset-password/:token" for "/reset-password/". Segments of a
// candidate may hold percent escapes: both the escaped and the decoded reading of "/callback/a%2Fb" are candidates,
// because routers disagree about which is the route.
//
// # Rules
//
// Starting with the bytes that are sent upstream and with the path decoded once, the set is closed, three steps deep,
// under the rules of A0.2: dot segments as WHATWG reads them, path.Clean, one more percent-decode, "\" as "/", no
// ";params", lower case, no trailing slash, the remainder after a pseudo-authority. X3 judged one route without
// parameters; with parameters and more servers, the tests of this package found five rules that A0.2 lacks:
//
//   - percent-decode all but "%2F": Go's ServeMux decodes segment by segment, Hono and Fastify keep "%2F", so
//     "/%63allback/a%2Fb" is the route "/callback/:id";
//   - merge slashes without resolving dots: an Express 4 router under app.use, Fastify's ignoreDuplicateSlashes;
//   - cut at the first ";", not only per segment: Fastify 4 reads it as "?";
//   - resolve dots but leave "%2e" alone, after decoding: to IIS and Kestrel the "%2e" of "%252e" is a name;
//   - the path in an opaque target: Go parses "x:http://h/api/auth/sign-out" with an empty u.Path and forwards
//     "http://h/api/auth/sign-out", which Express, Fastify, Hono and Go execute.
//
// The set is bounded. What the known servers read comes first and always fits; what may be missing from a full set are
// readings of a server that nobody described, of a target that is ambiguous in any case.
//
// # Limits
//
// Only spellings of the path are listed. A server that routes by method override, query, header or a rewrite rule of its
// own, that strips a trailing dot or blank from a segment, or that normalises Unicode (NFKC, best fit) is not covered.
package pathspell
