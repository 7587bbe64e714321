// Package sqlite is the default store: one SQLite database file, no server.
//
// One goroutine writes. It takes what callers have queued and commits it in one
// transaction (group commit), so that many waiting requests share one fsync.
// Readers use connections of their own and never block it. Keys are in order of
// time, and often repeated texts (actions, user agents) are kept once. Users,
// addresses and identifiers are found in sorted segments that the writer makes of
// some hundreds of entries at a time (segment.go), and among the youngest entries. A view
// under the configured name shows the log to anybody with a sqlite3 shell:
//
//	sqlite3 audit.db 'SELECT * FROM auditLog ORDER BY createdAt DESC LIMIT 10'
//
// A file that is in use is never opened other than through SQLite: closing a
// second descriptor would drop the process's locks (threats.md X13).
package sqlite
