// Package replay plays recorded exchanges with a real auth server through a
// proxy once more, and scores what the proxy's audit log says about them against
// what really happened.
//
// Read reads recordings (testdata/traffic/README.md describes them). A Server
// stands for the auth server: it gives the recorded answers. Send stands for the
// client: it sends the recorded request, byte by byte. Score compares the entries
// with the truth, and Secrets lists what must not stand in any entry.
package replay
