package caddymodule

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/httpapi"
	"github.com/caddy-audit-log/caddy-audit-log/logclient"
	"github.com/caddy-audit-log/caddy-audit-log/redact"
	"github.com/caddy-audit-log/caddy-audit-log/storage/spill"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// openFile reads a database file: through the very handler that a Caddy would answer with,
// in this process. hashing is true if what is looked for has to be hashed.
func openFile(ctx context.Context, file, table, keyFile string, hashing bool) (*logclient.Client, func(), error) {
	store, err := sqlite.OpenReadOnly(ctx, sqlite.Options{Path: file, Table: table})
	if err != nil {
		return nil, nil, err
	}
	warnOfJournal(store.Path(), table)
	redactor, err := fileRedactor(store.Path(), keyFile, hashing)
	if err != nil {
		return nil, nil, err
	}
	streams := httpapi.NewStreams(store, slog.New(slog.DiscardHandler))
	operator := httpapi.NewOperator(httpapi.OperatorOptions{Redactor: redactor, Streams: streams})
	transport, end := inProcess(operator.Handler(store))
	return &logclient.Client{Transport: transport, Base: "http://file"}, func() {
		end()
		streams.Close()
	}, nil
}

// warnOfJournal tells whoever reads a file that it is not all: entries wait in its journal, of a
// disk that failed.
func warnOfJournal(db, table string) {
	journal := JournalOf(db, table)
	n, err := spill.Waiting(journal)
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "warning: the database's journal cannot be read, in which entries may wait: %v\n", err)
	case n > 0:
		fmt.Fprintf(os.Stderr, "warning: %d entries wait in %s and are not in the database yet: Caddy writes them there when it runs\n", n, journal)
	}
}

// fileRedactor hashes what is looked for, with the key that is beside the database unless
// another is named. Unless it has to hash it may have none.
func fileRedactor(db, keyFile string, hashing bool) (*redact.Redactor, error) {
	named := keyFile != ""
	if !named {
		keyFile = keyBeside(db)
	}
	key, err := readKey(keyFile)
	switch {
	case err != nil && hashing && !named:
		return nil, fmt.Errorf("%w: name the file of the option key_file with --key-file", err)
	case err != nil && (named || hashing):
		return nil, err
	}
	return redact.New(redact.Options{Key: key})
}

// keyBeside is the key file beside a database.
func keyBeside(db string) string { return filepath.Join(filepath.Dir(db), keyName) }

// inProcess serves a handler to this process alone, over pipes: with streams, deadlines and
// aborts as a network has them.
func inProcess(h http.Handler) (http.RoundTripper, func()) {
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go func() { _ = server.Serve(l) }() // it ends with done
	transport := &http.Transport{DialContext: l.dial}
	return transport, func() {
		transport.CloseIdleConnections()
		_ = server.Close()
	}
}

// pipes is a net.Listener within the process.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *pipes) Addr() net.Addr { return pipeAddr{} }

// dial makes a connection to it.
func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, fmt.Errorf("the file is closed: %w", net.ErrClosed)
	}
}

// pipeAddr is the address of both ends.
type pipeAddr struct{}

// Network implements net.Addr.
func (pipeAddr) Network() string { return "pipe" }

// String implements net.Addr.
func (pipeAddr) String() string { return "pipe" }
