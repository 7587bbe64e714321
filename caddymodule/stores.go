package caddymodule

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/memory"
	"github.com/caddy-audit-log/caddy-audit-log/storage/sqlite"
)

func init() {
	caddy.RegisterModule(SQLiteStore{})
	caddy.RegisterModule(MemoryStore{})
}

// SQLiteStore keeps entries in one SQLite database file. It is the default.
type SQLiteStore struct {
	// The database file. Made with mode 0600, its folder with 0700. Placeholders
	// are replaced; a relative path starts at Caddy's working directory. Default:
	// `audit_log/audit.db` in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// The name of the view that shows the log to the sqlite3 shell, and the prefix
	// of the tables behind it: 1 to 48 letters, digits and underscores. Default:
	// `auditLog`.
	Table string `json:"table,omitempty"`

	// How large the journal beside the database may become, in bytes. Entries are kept
	// in it, as durably, while the database takes none (the disk is full or fails, the
	// file was deleted or is locked), and written to the database when it works again.
	// It is named like the database with `.spill` behind it. Default: 67108864 (64 MiB);
	// -1 switches it off.
	SpillBytes int64 `json:"spill_bytes,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (SQLiteStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.stores.sqlite", New: func() caddy.Module { return new(SQLiteStore) }}
}

// Provision resolves the path.
func (s *SQLiteStore) Provision(caddy.Context) error {
	path, err := caddy.NewReplacer().ReplaceOrErr(cmp.Or(s.Path, filepath.Join(DataDir(), "audit.db")), true, true)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	if s.Path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	s.Table = cmp.Or(s.Table, sqlite.DefaultTable)
	return nil
}

// Validate looks whether the database could be opened, and changes nothing.
func (s *SQLiteStore) Validate() error {
	if err := sqlite.ValidTable(s.Table); err != nil {
		return err
	}
	if err := CheckSpill(s.SpillBytes); err != nil {
		return err
	}
	return sqlite.Check(s.Path)
}

// Files implements FileStore.
func (s *SQLiteStore) Files() []string { return []string{s.Path} }

// Journal implements JournalStore.
func (s *SQLiteStore) Journal() string {
	return JournalOf(s.Path, cmp.Or(s.Table, sqlite.DefaultTable))
}

// Identity implements StoreModule.
func (s *SQLiteStore) Identity() string {
	identity := "sqlite|" + s.Path + "|" + s.Table
	if s.SpillBytes != 0 {
		identity += "|spill " + strconv.FormatInt(s.SpillBytes, 10)
	}
	return identity
}

// OpenStore implements StoreModule.
func (s *SQLiteStore) OpenStore(ctx context.Context, log *slog.Logger) (storage.Store, error) {
	store, err := openDatabase(ctx, sqlite.Options{Path: s.Path, Table: s.Table, Logger: log}, s.SpillBytes)
	if network := networkOf(filepath.Dir(s.Path)); network != "" { // its folder is there now
		log.Warn("the audit log's database is on a network's file system", "path", s.Path, "file_system", network, "remedy", onNetwork)
	}
	return store, err
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store sqlite {
//		path  <file>
//		table <name>
//		spill off|<size>
//	}
func (s *SQLiteStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': give the file in a block, as path %s", d.Val(), d.Val())
	}
	for d.NextBlock(0) {
		var field *string
		switch d.Val() {
		case "path":
			field = &s.Path
		case "table":
			field = &s.Table
		case "spill":
			if err := UnmarshalSpill(d, &s.SpillBytes); err != nil {
				return err
			}
			continue
		default:
			return d.Errf("unrecognized sqlite subdirective '%s': use path, table or spill", d.Val())
		}
		if err := oneValue(d, field); err != nil {
			return err
		}
	}
	return nil
}

const (
	// spillOff is SpillBytes for no journal.
	spillOff = -1
	// minSpill is the least size of one: less than what one request may capture is a
	// mistake.
	minSpill = 1 << 20
)

// CheckSpill says what is wrong with a journal's limit in bytes: 0 stands for the default,
// -1 for no journal.
func CheckSpill(limit int64) error {
	if limit != spillOff && limit != 0 && limit < minSpill {
		return fmt.Errorf("spill_bytes %d: give at least %d, or %d for no journal", limit, minSpill, spillOff)
	}
	return nil
}

// UnmarshalSpill reads the option spill of a store: off, or how large its journal may
// become.
func UnmarshalSpill(d *caddyfile.Dispenser, limit *int64) error {
	if *limit != 0 {
		return d.Err("spill is there twice")
	}
	var text string
	if err := oneValue(d, &text); err != nil {
		return err
	}
	if text == "off" {
		*limit = spillOff
		return nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n < minSpill || n > 1<<40 {
		return d.Errf("bad spill '%s': give a size of at least 1MiB such as 64MiB, or off", text)
	}
	*limit = int64(n)
	return nil
}

// MemoryStore keeps entries in memory: for trying the module out. Everything is
// gone when Caddy ends.
type MemoryStore struct {
	// How many entries are kept before the oldest are dropped. Default: 10000.
	Capacity int `json:"capacity,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (MemoryStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.stores.memory", New: func() caddy.Module { return new(MemoryStore) }}
}

// Validate checks the configuration.
func (m *MemoryStore) Validate() error {
	if m.Capacity < 0 {
		return fmt.Errorf("capacity %d: it must be positive, or 0 for the default", m.Capacity)
	}
	return nil
}

// Identity implements StoreModule: one memory for the whole process, so that a
// reload keeps it.
func (m *MemoryStore) Identity() string { return fmt.Sprintf("memory|%d", m.Capacity) }

// OpenStore implements StoreModule.
func (m *MemoryStore) OpenStore(context.Context, *slog.Logger) (storage.Store, error) {
	return memory.New(m.Capacity), nil
}

// UnmarshalCaddyfile sets up the store from Caddyfile tokens. Syntax:
//
//	store memory {
//		capacity <entries>
//	}
func (m *MemoryStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume the store's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		if d.Val() != "capacity" {
			return d.Errf("unrecognized memory subdirective '%s': use capacity", d.Val())
		}
		var text string
		if err := oneValue(d, &text); err != nil {
			return err
		}
		var err error
		if m.Capacity, err = strconv.Atoi(text); err != nil || m.Capacity <= 0 {
			return d.Errf("bad capacity '%s': give a positive number of entries", text)
		}
	}
	return nil
}

var (
	_ StoreModule           = (*SQLiteStore)(nil)
	_ FileStore             = (*SQLiteStore)(nil)
	_ caddy.Provisioner     = (*SQLiteStore)(nil)
	_ caddy.Validator       = (*SQLiteStore)(nil)
	_ caddyfile.Unmarshaler = (*SQLiteStore)(nil)
	_ StoreModule           = (*MemoryStore)(nil)
	_ caddy.Validator       = (*MemoryStore)(nil)
	_ caddyfile.Unmarshaler = (*MemoryStore)(nil)
)
