package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/storage"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
)

func init() {
	caddy.RegisterModule(Store{})
	caddymodule.RegisterCommand(schemaCommand)
	caddymodule.RegisterCommand(migrateCommand)
}

// Store keeps entries in a PostgreSQL database, version 14 or newer, which any number of
// Caddys may share. The tables are made on first use, by one of them. Caddy starts when
// the database cannot be reached: entries are kept in a journal on this machine, as
// durably, and written to the database when it can.
//
// Placeholders are replaced in every text. Give secrets as `{env.*}` or `{file.*}`: what
// stands in the configuration itself can be read from Caddy's admin endpoint.
type Store struct {
	// The database, as postgres://user:password@host:5432/database?sslmode=verify-full
	// or in words: host=db user=caddy dbname=audit. Several hosts may be given: the one
	// that takes writes is used.
	DSN string `json:"dsn,omitempty"`

	// The password, instead of the DSN's.
	Password string `json:"password,omitempty"`

	// The schema that the tables are in. Default: `public`.
	Schema string `json:"schema,omitempty"`

	// The name of the view that shows the log to psql, and the prefix of the tables
	// behind it: 1 to 48 letters, digits and underscores. Default: `auditLog`.
	Table string `json:"table,omitempty"`

	// How many connections this Caddy may have to the database: 1 to 500. Default: 8.
	MaxConns int `json:"max_conns,omitempty"`

	// How many connections are kept open when nothing happens. Default: 0.
	MinConns int `json:"min_conns,omitempty"`

	// How the connection is protected, instead of the DSN's sslmode: `disable`, `allow`,
	// `prefer`, `require`, `verify-ca` or `verify-full`. Use the last one over a network.
	TLS string `json:"tls,omitempty"`

	// The file of the certificates that are believed, instead of the DSN's sslrootcert.
	TLSRootCert string `json:"tls_root_cert,omitempty"`

	// The files of the certificate and the key that this Caddy shows itself with.
	TLSClientCert string `json:"tls_client_cert,omitempty"`
	TLSClientKey  string `json:"tls_client_key,omitempty"`

	// How large the journal may become, in bytes. Default: 67108864 (64 MiB); -1
	// switches it off.
	SpillBytes int64 `json:"spill_bytes,omitempty"`

	// The journal's file. Each Caddy has its own. Default: `audit_log/postgres.`, the
	// names of database, schema and view, and `.spill` in Caddy's data directory.
	SpillPath string `json:"spill_path,omitempty"`

	// options and journal are what the above comes to, without placeholders.
	options postgres.Options
	journal string
}

// CaddyModule returns the Caddy module information.
func (Store) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log.stores.postgres", New: func() caddy.Module { return new(Store) }}
}

// Provision replaces placeholders. It connects to nothing.
func (s *Store) Provision(caddy.Context) error {
	s.options = postgres.Options{MaxConns: s.MaxConns, MinConns: s.MinConns}
	repl := caddy.NewReplacer()
	for _, text := range []struct {
		name, from string
		to         *string
	}{
		{"dsn", s.DSN, &s.options.DSN}, {"password", s.Password, &s.options.Password}, {"schema", s.Schema, &s.options.Schema}, {"table", s.Table, &s.options.Table},
		{"tls", s.TLS, &s.options.TLS}, {"tls_root_cert", s.TLSRootCert, &s.options.RootCert},
		{"tls_client_cert", s.TLSClientCert, &s.options.ClientCert}, {"tls_client_key", s.TLSClientKey, &s.options.ClientKey}, {"spill_path", s.SpillPath, &s.journal},
	} {
		value, err := repl.ReplaceOrErr(text.from, true, true)
		if err != nil {
			return fmt.Errorf("store postgres: %s: %w", text.name, err)
		}
		*text.to = strings.TrimRight(value, "\r\n") // files end with a line
	}
	s.options.Schema, s.options.Table = cmp.Or(s.options.Schema, postgres.DefaultSchema), cmp.Or(s.options.Table, postgres.DefaultTable)
	return s.provisionJournal()
}

// provisionJournal says where the journal is. It has the names of what its entries
// belong to, and not the host's, which may change.
func (s *Store) provisionJournal() error {
	if s.journal == "" {
		database, err := postgres.Database(s.options)
		if err != nil {
			return fmt.Errorf("store postgres: %w", err)
		}
		name := strings.Join([]string{"postgres", url.PathEscape(database), s.options.Schema, s.options.Table, "spill"}, ".")
		s.journal = filepath.Join(caddymodule.DataDir(), name)
	}
	var err error
	if s.journal, err = filepath.Abs(s.journal); err != nil {
		return fmt.Errorf("store postgres: spill_path: %w", err)
	}
	return nil
}

// Validate checks the configuration. It connects to nothing.
func (s *Store) Validate() error {
	err := errors.Join(postgres.Check(s.options), caddymodule.CheckSpill(s.SpillBytes))
	if (s.options.ClientCert == "") != (s.options.ClientKey == "") {
		err = errors.Join(err, errors.New("tls_client_auth takes two files: a certificate and its key"))
	}
	if err != nil {
		return fmt.Errorf("store postgres: %w", err)
	}
	return nil
}

// Files implements caddymodule.FileStore.
func (s *Store) Files() []string { return []string{s.journal} }

// Journal implements caddymodule.JournalStore.
func (s *Store) Journal() string { return s.journal }

// Identity implements caddymodule.StoreModule. It is a hash, because options are secret.
func (s *Store) Identity() string {
	o := s.options
	o.Logger = nil
	b, err := json.Marshal(struct {
		Options postgres.Options
		Journal string
		Limit   int64
	}{o, s.journal, s.SpillBytes})
	if err != nil {
		return fmt.Sprintf("postgres|%p", s) // cannot happen: texts and numbers
	}
	return fmt.Sprintf("postgres|%x", sha256.Sum256(b))
}

// OpenStore implements caddymodule.StoreModule.
func (s *Store) OpenStore(ctx context.Context, log *slog.Logger) (storage.Store, error) {
	o := s.options
	o.Logger = log
	return caddymodule.OpenSpilled(caddymodule.Spilled{
		Journal: s.journal, Limit: s.SpillBytes, Logger: log,
		Open: func() (storage.Store, error) { return postgres.Keep(ctx, o) },
		Join: func(ctx context.Context, open storage.Store) error {
			k, ok := storage.As[*postgres.Keeper](open)
			if !ok {
				return fmt.Errorf("store postgres: the journal %s is another store's: give this one a spill_path of its own", s.journal)
			}
			return k.Use(ctx, o)
		},
	})
}

var (
	_ caddymodule.StoreModule  = (*Store)(nil)
	_ caddymodule.FileStore    = (*Store)(nil)
	_ caddymodule.JournalStore = (*Store)(nil)
	_ caddy.Provisioner        = (*Store)(nil)
	_ caddy.Validator          = (*Store)(nil)
	_ caddyfile.Unmarshaler    = (*Store)(nil)
)
