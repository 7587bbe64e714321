// Package spelltest judges who understands a request path: a corpus of hostile
// targets (reference/threats.md X1, X2, X4), a generator of random ones, and an
// oracle, which says what some twenty routers would execute for the bytes that Caddy
// sends upstream. The oracle is a script that runs in Node.js, whose own URL parser
// it asks.
//
// It is for tests: of package pathspell, and of the acceptance suite.
package spelltest
