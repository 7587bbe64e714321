package caddymodule

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App is the audit log's app: it owns the store that all `audit_log` handlers
// write to. It is there with its defaults whenever a handler is; configure it only
// to change them.
type App struct {
	// Where entries are kept. The default is the SQLite database
	// `audit_log/audit.db` in Caddy's data directory.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=audit_log.stores inline_key=backend"`

	// The file with the secret key of keyed hashes (of identifiers, and of redacted
	// values under `redact hash`). Made with 32 random bytes and mode 0600 on first
	// use. Default: `audit_log/hash.key` in Caddy's data directory. Placeholders are
	// replaced. Whoever has the key can test guesses against the hashes; without it
	// later entries cannot be matched with earlier ones.
	KeyFile string `json:"key_file,omitempty"`

	// How long entries are kept, such as `90d`; at least `1h`. Older ones are deleted
	// soon after the start and then every hour (or every tenth of this time, if that
	// is less). The default, 0, keeps them for ever. A reload with another value
	// applies it within seconds.
	Retention caddy.Duration `json:"retention,omitempty"`

	// Whether whoever reads the entries of others through the API, or the whole log on the
	// operators' surfaces, has an entry `audit-log:read` of that: one for each reader and ten
	// minutes. Default: false.
	Reads *bool `json:"reads,omitempty"`

	// operators is whether there is an audit_log_api.
	operators atomic.Bool

	pooled  *pooledStore
	out     *outputs
	poolKey string
	keyFile string   // KeyFile with its default and without placeholders
	files   []string // that nobody may fetch
	// journals are the identities of the stores of this configuration, by their journals.
	journals map[string]string
	beside   []*pooledStore // stores of audit_log_api
	handlers []*Handler     // of this configuration
	// active is true once this configuration was the active one.
	active   atomic.Bool
	acquired bool
	log      *slog.Logger
	ctx      caddy.Context // to look at the http app at the start
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "audit_log", New: func() caddy.Module { return new(App) }}
}

// StoreModule is what a module in the namespace audit_log.stores implements when
// its store should survive a reload of the configuration. (A module that simply
// implements storage.Store works too, and lives as long as its configuration.)
type StoreModule interface {
	// Identity names what is opened, such as kind and absolute path: two
	// configurations with the same identity share one open store.
	Identity() string
	// OpenStore opens it. It is called once, when the configuration starts.
	OpenStore(ctx context.Context, log *slog.Logger) (storage.Store, error)
}

// FileStore is a store module that keeps files, which no site may hand out.
type FileStore interface {
	Files() []string
}

// JournalStore is a store module with a journal in front, see OpenSpilled. Two of one configuration
// that have the same journal must have the same identity: they are one open store.
type JournalStore interface {
	StoreModule
	// Journal is the path of the journal's file.
	Journal() string
}

// DataDir is where the audit log keeps its files unless told otherwise.
func DataDir() string { return filepath.Join(caddy.AppDataDir(), "audit_log") }

// Provision sets up the app. It opens and creates nothing.
func (a *App) Provision(ctx caddy.Context) error {
	a.log, a.ctx = ctx.Slogger(), ctx
	out, err := newOutputs(ctx)
	if err != nil {
		return err
	}
	a.out = out
	if a.StoreRaw == nil {
		a.StoreRaw = caddyconfig.JSONModuleObject(new(SQLiteStore), "backend", "sqlite", nil)
	}
	keyFile, err := caddy.NewReplacer().ReplaceOrErr(cmp.Or(a.KeyFile, filepath.Join(DataDir(), keyName)), true, true)
	if err != nil {
		return fmt.Errorf("key_file: %w", err)
	}
	module, err := ctx.LoadModule(a, "StoreRaw")
	if err != nil {
		return fmt.Errorf("loading the audit log's store: %w", err)
	}
	a.keyFile = keyFile
	if a.pooled, a.poolKey, err = acquire(module, keyFile, a.log); err != nil {
		return err
	}
	a.acquired = true
	a.files = []string{keyFile}
	if err := a.keeps(module); err != nil {
		return err
	}
	if err := checkRetention(time.Duration(a.Retention), module); err != nil {
		return err
	}
	return registerMetrics(ctx, a.pooled)
}

// keeps notes the files of a store module, which no site may hand out, and refuses a second store
// with the journal of another: they would be one, with the options of either. It is called while
// the configuration is provisioned.
func (a *App) keeps(module any) error {
	if s, ok := module.(FileStore); ok {
		a.files = append(a.files, s.Files()...)
	}
	s, ok := module.(JournalStore)
	if !ok {
		return nil
	}
	journal, identity := s.Journal(), s.Identity()
	if other, there := a.journals[journal]; there && other != identity {
		return fmt.Errorf("two stores with different options have the journal %s: give both the same options, or one of them a log, or a spill_path, of its own", journal)
	}
	if a.journals == nil {
		a.journals = map[string]string{}
	}
	a.journals[journal] = identity
	return nil
}

// acquire takes a store module's store from the pool, or puts it there. Whoever has it
// gives it back by its key.
func acquire(module any, keyFile string, log *slog.Logger) (pooled *pooledStore, poolKey string, err error) {
	open, identity, err := opener(module)
	if err != nil {
		return nil, "", err
	}
	poolKey = identity + "|" + keyFile
	found, _, err := stores.LoadOrNew(poolKey, func() (caddy.Destructor, error) {
		return newPooledStore(identity, open, keyFile, log), nil
	})
	if err != nil {
		return nil, "", err
	}
	return found.(*pooledStore), poolKey, nil
}

// opener returns how to open a store module, and its identity.
func opener(module any) (openFunc, string, error) {
	switch m := module.(type) {
	case StoreModule:
		return m.OpenStore, m.Identity(), nil
	case storage.Store:
		// Its identity is itself: it is never shared between configurations.
		return func(context.Context, *slog.Logger) (storage.Store, error) { return m, nil }, fmt.Sprintf("%T %p", m, m), nil
	}
	return nil, "", fmt.Errorf("%T is no audit log store: it must implement caddymodule.StoreModule or storage.Store", module)
}

// Validate looks whether the key file can be used, and changes nothing. What is
// wrong must come out before Start where it can: the http app may start before
// this one, and would answer its first requests without a store.
func (a *App) Validate() error {
	_, err := readKey(a.keyFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // Start makes it; perhaps another user validates than will run Caddy
	}
	return err
}

// Start opens the store, so that a store that cannot be opened fails the
// configuration instead of the first request. From then on the store keeps entries
// as long as this configuration says.
func (a *App) Start() (err error) {
	if err := a.checkServed(); err != nil {
		return err
	}
	logTo(a)
	defer func() {
		if err != nil {
			notTo(a)
		}
	}()
	if err := a.pooled.start(); err != nil {
		return err
	}
	a.startBeside()
	a.pooled.newsTo(a.out)
	http := a.http()
	if http != nil {
		tellSites(http)
	}
	a.warn(a.ctx)
	go a.awaitActive()
	return a.pooled.claim(a, time.Duration(a.Retention), a.scope(http))
}

func (a *App) reads() bool { return a.Reads != nil && *a.Reads }

// awaitActive notes that this configuration is the active one, unless it ends before that.
func (a *App) awaitActive() {
	for pause := time.Millisecond; a.ctx.Err() == nil; pause = min(2*pause, 50*time.Millisecond) {
		if app, err := caddy.ActiveContext().AppIfConfigured("audit_log"); err == nil && app == caddy.App(a) {
			a.active.Store(true)
			return
		}
		select {
		case <-a.ctx.Done():
		case <-time.After(pause):
		}
	}
}

// http is the app with the sites; nil if there is none.
func (a *App) http() *caddyhttp.App {
	app, err := a.ctx.AppIfConfigured("http")
	if err != nil {
		return nil // nothing is served
	}
	running, _ := app.(*caddyhttp.App)
	return running
}

// startBeside opens the stores of audit_log_api, so that their health is known. One that cannot be
// opened is tried again by whoever asks for it.
func (a *App) startBeside() {
	for _, p := range a.beside {
		if err := p.start(); err != nil {
			a.log.Error("the store of audit_log_api cannot be opened", "store", p.backend(), "error", err)
		}
	}
}

// Stop takes the retention of this configuration back, and leaves the store open:
// requests may still be running. See Cleanup.
func (a *App) Stop() error {
	a.pooled.mu.Lock()
	a.pooled.endLongest()
	a.pooled.mu.Unlock()
	a.pooled.newsToNewest(a)
	a.pooled.withdraw(a)
	a.pooled.flushNews(a.out)
	notTo(a)
	return nil
}

// newsOutputs is where this configuration tells of entries.
func (a *App) newsOutputs() *outputs { return a.out }

// Cleanup gives the store back; the last request that uses it closes it. Caddy does not stop
// apps when what it does after their start fails, such as a remote admin endpoint.
func (a *App) Cleanup() error {
	if !a.acquired {
		return nil
	}
	a.acquired = false
	a.pooled.withdraw(a)
	notTo(a)
	_, err := stores.Delete(a.poolKey)
	return err
}

// errNoStore wraps why a request has no store.
var errNoStore = errors.New("the audit log's store is not open")

var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.Validator    = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
