// Package plugintable reads the table that the Better Auth plugin
// better-auth-audit-logs keeps, so that its entries can be taken over: from the
// SQLite file itself, or from JSON lines that any other database can export
// (PostgreSQL's row_to_json, mongoexport, ...).
//
// Ids and times stay, so that reading a table twice gives the same entries. Values
// are made storable (storage.Entry.Sanitize), nothing is redacted: what the plugin
// kept, it kept.
package plugintable
