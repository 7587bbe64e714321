package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/caddy-audit-log/caddy-audit-log/storage/plugintable"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

// The formats of a source.
const (
	formatSQLite = "sqlite"
	formatJSONL  = "jsonl"
)

// source is what an import reads.
type source struct {
	rows iter.Seq2[plugintable.Row, error]
	// total is how much there is to read, in bytes or else in rows; -1 if nobody
	// knows. done is how much of it was read.
	total int64
	bytes bool
	done  func(plugintable.Result) int64
	close func()
}

// openSource opens what an import reads.
func openSource(ctx context.Context, file, format, table string) (*source, error) {
	if format == "" {
		var err error
		if format, err = formatOf(file); err != nil {
			return nil, err
		}
	}
	switch format {
	case formatSQLite:
		return openTable(ctx, file, table)
	case formatJSONL:
		return openLines(file)
	}
	return nil, fmt.Errorf("unknown format %q: use sqlite or jsonl", format)
}

// formatOf looks how a file begins.
func formatOf(file string) (string, error) {
	if file == "-" {
		return formatJSONL, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", err
	}
	if string(head) == magic {
		return formatSQLite, nil
	}
	return formatJSONL, nil
}

func openTable(ctx context.Context, file, table string) (*source, error) {
	db, err := sqlite.OpenForeign(ctx, file)
	if err != nil {
		return nil, err
	}
	n, err := plugintable.Count(ctx, db, table)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), db.Close())
	}
	return &source{
		rows: plugintable.SQLite(ctx, db, table), total: int64(n),
		done:  func(r plugintable.Result) int64 { return int64(r.Written + r.Skipped) },
		close: func() { _ = db.Close() },
	}, nil
}

func openLines(file string) (*source, error) {
	in, total := os.Stdin, int64(-1)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			total = info.Size()
		}
		in = f
	}
	read := &counted{Reader: in}
	return &source{
		rows: plugintable.JSONLines(read), total: total, bytes: true,
		done:  func(plugintable.Result) int64 { return read.n },
		close: func() { _ = in.Close() },
	}, nil
}

// counted counts the bytes that were read.
type counted struct {
	io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
