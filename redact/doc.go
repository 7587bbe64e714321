// Package redact takes secrets out of what the audit log is about to keep:
// request bodies (JSON, forms, multipart), queries, URLs, headers, path
// segments and free text such as error messages.
//
// It is the last stop before a store, so it errs towards removing too much.
// Two things make a value secret: the name it stands under (see
// DefaultFields) and its own shape (a JWT, a "Bearer ..." credential, a PEM
// block, an otpauth:// URI, an API key such as "glpat-...", a long random string).
//
// The package is pure: no files, no network, no clock, no logging, no
// globals that change. A Redactor may be used by any number of goroutines.
// Redact once, when a value enters the log; reading never redacts again.
package redact
