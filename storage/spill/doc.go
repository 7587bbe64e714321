// Package spill lets a store survive its disk: while the database takes no entries,
// they are kept in a journal beside it, as durably, and written to the database, in
// order, when it works again.
//
// A Store is healthy, degraded (the primary fails, the journal takes entries) or
// refusing (neither does). When healthy, calls go straight to the primary. The first
// that fails opens the circuit: from then on entries go to the journal at once, and
// those that still wait for the primary too. In the background the primary is tried
// again until it works; then the journal is read from its beginning, and the circuit
// closes when it is empty.
//
// Why nothing is lost, doubled or undone:
//   - An entry is acknowledged when the primary has it, or when a record with it is
//     on the disk under the journal's name.
//   - Writing is an upsert by id, so that what is both in the journal and in the
//     primary, because a call ended in doubt or a replay did, is there once.
//   - Nothing is written past the journal while something is in it: one goroutine
//     appends, and the same one closes the circuit. So the order of calls is kept.
//   - What was read is removed from the disk before the circuit closes. An older
//     state of an entry cannot come back after a power cut.
//
// An entry that the primary works without but will never take (storage.ErrRejected) goes there
// without its metadata, and whole into a file beside the journal (refused.go).
//
// Lists show what the database has.
package spill
