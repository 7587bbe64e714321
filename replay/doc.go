// Package replay reads recorded exchanges with real auth servers, plays them once
// more, and scores what the audit log says about them against what really happened.
//
// Read reads recordings (testdata/traffic/README.md describes them). Run plays one
// through a recorder, without a network; package e2e/wire plays the same through a
// real Caddy. An Oracle stands for the auth server's session endpoint. ScoreFile
// compares the entries with the truth, and Secrets lists what must not stand in any
// entry.
package replay
