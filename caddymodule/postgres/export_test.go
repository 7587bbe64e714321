package postgres

// SourceOf names a log in the notes of the other one, for tests that leave some.
var SourceOf = sourceOf
