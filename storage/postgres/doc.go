// Package postgres is the store for more than one machine: any number of Caddys
// write one log in a PostgreSQL database, version 14 or newer.
//
// # What is kept
//
// One row for each entry, in a table that is partitioned by months of the sort key
// (storage.Entry.SortKey: the time, then bits of the id). A view under the
// configured name shows the log to anybody with psql:
//
//	psql "$DSN" -c 'SELECT * FROM "auditLog" ORDER BY "createdAt" DESC LIMIT 10'
//
// Metadata is text, not jsonb. jsonb does not give the same bytes back (it reorders
// members, drops spaces and repeated names, and writes 1e400 as 401 digits), so lists
// would differ from SQLite's; and it refuses what JSON allows: \u0000, half a
// surrogate pair, 1e200000 (threats.md X14). A value that PostgreSQL refuses would
// cost the entry. What searches need of the metadata stands in columns of its own.
// The view has it as json, which keeps the text, so that
// metadata->>'identifier' works.
//
// # Why no entry is lost, doubled or put back
//
// A write is an upsert by id: a retry after a commit in doubt finds the row and
// writes it again. Its key is derived from the entry, so the row is found by the
// primary key. A unique index on the id in each partition makes two rows with one
// id impossible within a month. Ids that are not a UUIDv7 of the entry's own month
// (an import's) are looked for in all months before they are written; those that are a
// UUIDv7 of another month stand in a table of strays, which every write asks.
//
// One goroutine writes for each store, in the order of the calls. It sends COMMIT
// only after the server has answered the INSERT: the rows are locked by then, and
// whatever is written later under the same id, over another connection, waits for
// the outcome of this commit. So an intent whose connection stalled can never be
// committed after, and over, its outcome: either it was locked first, or its
// connection is gone and it is rolled back. A call that gave up waiting while it was
// still in the queue is taken out of it.
//
// # Partitions
//
// A month's partition is made when its first entry comes, and those of this month
// and the next two ahead of time. What no month has goes to a default partition: an
// entry is never refused because a table is missing, or because the role may not make
// one. Retention drops partitions that are old as a whole, and deletes the rest row by
// row. Dropping waits for running statements for a second at most: longer, and
// everybody would wait behind it.
package postgres
