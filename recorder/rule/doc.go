// Package rule is `skip` and `set` of the Caddyfile: expressions in CEL
// (https://cel.dev) that suppress or change an entry before it is written.
//
// Compile checks everything that can be checked before a request comes: the
// names of fields, the types, what an expression may cost. Rules then is a
// recorder.Hook. An expression that fails on an entry (a missing metadata member,
// a severity that does not exist) leaves the entry as it was and is counted.
//
// Expressions see three objects: entry, request and identity (view.go).
package rule
