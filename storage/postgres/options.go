package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Defaults of Options.
const (
	// DefaultTable is the name of the view that shows the log.
	DefaultTable = "auditLog"
	// DefaultSchema is the schema that it is in.
	DefaultSchema = "public"
	// DefaultMaxConns bounds the connections of one store.
	DefaultMaxConns = 8
	// MaxMaxConns bounds what can be configured: PostgreSQL itself takes 100 by
	// default, from all Caddys together.
	MaxMaxConns = 500
)

const (
	// callTimeout bounds every call of a Store: nobody waits longer than 3 s for the
	// database (threats.md E7.3), with what a busy machine needs to notice.
	callTimeout = 2500 * time.Millisecond
	// connectTimeout bounds the making of a connection. Of several hosts each must take a call
	// within a part of callTimeout, so that one which swallows packets leaves time for the next.
	connectTimeout = 3 * time.Second
	// statementTimeout and lockTimeout are the server's own bounds, for statements
	// whose client is not there to end them.
	statementTimeout = 3 * time.Second
	lockTimeout      = 2250 * time.Millisecond
)

// Options of a Store.
type Options struct {
	// DSN names the database: postgres://user:password@host:5432/database?sslmode=verify-full
	// or words like host=... user=... TLS is as sslmode and sslrootcert say. Several
	// hosts may be given; a server that only reads is passed over unless
	// target_session_attrs says otherwise. What is missing comes from PGHOST and the
	// like, as for every program.
	DSN string
	// Schema and Table are where the log is: Table is the name of the view, and the
	// prefix of the tables behind it. Empty means DefaultSchema and DefaultTable. See
	// ValidTable.
	Schema, Table string
	// Password takes the place of the DSN's, so that it can come from a file as it is.
	Password string
	// TLS is a sslmode, such as verify-full, RootCert the file of the certificates that
	// are believed, ClientCert and ClientKey the files that the client shows itself with.
	// Each takes the place of what the DSN says.
	TLS, RootCert, ClientCert, ClientKey string
	// MaxConns bounds the connections, 0 means DefaultMaxConns; MinConns are kept open.
	MaxConns, MinConns int
	// Logger for what happens in the background; nil discards.
	Logger *slog.Logger

	// hurried: do not wait for a server that is gone.
	hurried bool
}

var tableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,47}$`)

// ValidTable says why name cannot be the name of the view; nil if it can.
func ValidTable(name string) error { return validName("table", name) }

// ValidSchema says why name cannot be the name of the schema; nil if it can.
func ValidSchema(name string) error { return validName("schema", name) }

func validName(what, name string) error {
	if !tableName.MatchString(name) || strings.HasPrefix(strings.ToLower(name), "pg_") {
		return fmt.Errorf("bad %s name %q: use 1 to 48 letters, digits and underscores, not starting with a digit or pg_", what, name)
	}
	return nil
}

// Check looks, without a connection, whether Open could work: it is for
// configuration checks such as caddy validate.
func Check(o Options) error {
	_, err := o.parse()
	return err
}

// Target names the database that the options mean, without user and password:
// "host:5432/database".
func Target(o Options) (string, error) {
	c, err := o.parse()
	if err != nil {
		return "", err
	}
	return target(c.ConnConfig), nil
}

// Database is the name of the database that the options mean.
func Database(o Options) (string, error) {
	c, err := o.parse()
	if err != nil {
		return "", err
	}
	return cmp.Or(c.ConnConfig.Database, c.ConnConfig.User), nil // as the server has it
}

func target(c *pgx.ConnConfig) string {
	hosts := []string{address(c.Host, c.Port)}
	for _, f := range c.Fallbacks {
		if a := address(f.Host, f.Port); a != hosts[len(hosts)-1] { // sslmode=prefer has each host twice
			hosts = append(hosts, a)
		}
	}
	return strings.Join(hosts, ",") + "/" + c.Database
}

func address(host string, port uint16) string {
	if strings.HasPrefix(host, "/") {
		return host // a unix socket
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

func (o Options) withDefaults() Options {
	o.Schema, o.Table = cmp.Or(o.Schema, DefaultSchema), cmp.Or(o.Table, DefaultTable)
	o.MaxConns = cmp.Or(o.MaxConns, DefaultMaxConns)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return o
}

// parse checks the options and returns them as pgx takes them.
func (o Options) parse() (*pgxpool.Config, error) {
	o = o.withDefaults()
	if err := errors.Join(ValidSchema(o.Schema), ValidTable(o.Table)); err != nil {
		return nil, err
	}
	if o.MaxConns < 1 || o.MaxConns > MaxMaxConns {
		return nil, fmt.Errorf("max_conns %d: give 1 to %d", o.MaxConns, MaxMaxConns)
	}
	if o.MinConns < 0 || o.MinConns > o.MaxConns {
		return nil, fmt.Errorf("min_conns %d: give 0 to max_conns, which is %d", o.MinConns, o.MaxConns)
	}
	if o.TLS != "" && !slices.Contains(tlsModes, o.TLS) {
		return nil, fmt.Errorf("tls %q: give %s", o.TLS, strings.Join(tlsModes, ", "))
	}
	dsn, err := o.complete()
	if err != nil {
		return nil, err
	}
	c, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, dsnError(err)
	}
	if c.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol {
		return nil, errors.New("the DSN asks for default_query_exec_mode=simple_protocol, which puts values into SQL texts: use exec, which works with every pooler too")
	}
	tune(c)
	c.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error { return refresh(conn, dsn) }
	return c, nil
}

// tlsModes are libpq's values of sslmode (postgresql.org/docs, "SSL Mode Descriptions").
var tlsModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// refresh reads again what a DSN names in files before a connection is made: certificates, keys
// and passwords are exchanged while Caddy runs.
func refresh(conn *pgx.ConnConfig, dsn string) error {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return dsnError(err)
	}
	conn.TLSConfig, conn.Password = c.TLSConfig, c.Password
	for i, f := range c.Fallbacks {
		if i < len(conn.Fallbacks) {
			conn.Fallbacks[i].TLSConfig = f.TLSConfig
		}
	}
	return nil
}

// complete is the DSN with what stands beside it.
func (o Options) complete() (string, error) {
	dsn := strings.TrimSpace(o.DSN)
	if dsn == "" {
		return "", errors.New("the DSN is empty: give postgres://user:password@host:5432/database?sslmode=verify-full")
	}
	beside := [][2]string{{"password", o.Password}, {"sslmode", o.TLS}, {"sslrootcert", o.RootCert}, {"sslcert", o.ClientCert}, {"sslkey", o.ClientKey}}
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		words, quoted := []string{dsn}, strings.NewReplacer(`\`, `\\`, `'`, `\'`)
		for _, b := range beside {
			if b[1] != "" {
				words = append(words, b[0]+"='"+quoted.Replace(b[1])+"'")
			}
		}
		return strings.Join(words, " "), nil
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", dsnError(err)
	}
	parameters := strings.FieldsFunc(u.RawQuery, func(r rune) bool { return r == '&' })
	for _, b := range beside {
		if b[1] == "" {
			continue
		}
		parameters = slices.DeleteFunc(parameters, func(p string) bool { return strings.HasPrefix(p, b[0]+"=") })
		// As PostgreSQL reads it, a plus is no space.
		parameters = append(parameters, b[0]+"="+strings.ReplaceAll(url.QueryEscape(b[1]), "+", "%20"))
	}
	u.RawQuery = strings.Join(parameters, "&")
	if o.Password != "" && u.User != nil {
		u.User = url.UserPassword(u.User.Username(), o.Password)
	}
	return u.String(), nil
}

// unprotected says whether a connection over a network would believe any server, or
// be readable on the way.
func unprotected(c *pgx.ConnConfig) bool {
	if strings.HasPrefix(c.Host, "/") || c.Host == "localhost" {
		return false
	}
	if ip, err := netip.ParseAddr(c.Host); err == nil && ip.IsLoopback() {
		return false
	}
	return c.TLSConfig == nil || c.TLSConfig.InsecureSkipVerify && c.TLSConfig.VerifyPeerCertificate == nil && c.TLSConfig.VerifyConnection == nil
}

// dsnError says what is wrong with a DSN in words of our own: those of pgx repeat
// the DSN, and find its password only if it is well formed.
func dsnError(err error) error {
	var file *fs.PathError
	if errors.As(err, &file) {
		return fmt.Errorf("tls, tls_client_auth or the DSN name a file that cannot be read: %w", file)
	}
	for _, word := range []string{"sslmode", "sslrootcert", "sslcert", "target_session_attrs", "port", "connect_timeout", "service"} {
		if strings.Contains(err.Error(), ": invalid "+word) || strings.Contains(err.Error(), ": unknown "+word) || strings.Contains(err.Error(), word+" is invalid") {
			return fmt.Errorf("the DSN has a bad %s", word)
		}
	}
	return errors.New("the DSN cannot be read: give postgres://user:password@host:5432/database?sslmode=verify-full " +
		"(special characters in the password as %XX), or words like host=db user=caddy password='...' dbname=audit")
}

// tune sets what a DSN does not say.
func tune(c *pgxpool.Config) {
	conn := c.ConnConfig
	if conn.ConnectTimeout == 0 || conn.ConnectTimeout > connectTimeout {
		conn.ConnectTimeout = connectTimeout
	}
	if conn.ValidateConnect == nil {
		// A standby would refuse every entry for as long as the pool keeps the
		// connection (threats.md E7.4).
		conn.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	// A peer that is gone without a word is found out in about 10 s while idle; calls
	// have their own deadline.
	dialer := &net.Dialer{Timeout: dialTimeout(conn), KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	conn.DialFunc = dialer.DialContext
	if _, named := conn.RuntimeParams["application_name"]; !named {
		conn.RuntimeParams["application_name"] = "caddy-audit-log"
	}
	c.MinConns, c.MinIdleConns = 0, 0
	c.MaxConnIdleTime = 5 * time.Minute
	c.MaxConnLifetime, c.MaxConnLifetimeJitter = time.Hour, 5*time.Minute
	c.PingTimeout = time.Second
	c.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > 5*time.Second }
}

// dialTimeout is how long a host may take to take a call; 0 for no bound of its own.
func dialTimeout(c *pgx.ConnConfig) time.Duration {
	hosts := strings.Count(target(c), ",") + 1
	if hosts == 1 {
		return 0
	}
	return callTimeout / time.Duration(hosts+1)
}

// pools makes the connections' bounds: those that write have their own, so that
// readers never take the last one.
func pools(ctx context.Context, c *pgxpool.Config, maxConns, minConns int) (write, read *pgxpool.Pool, err error) {
	forWriter := 2 // one in use, and one that is still being closed
	if maxConns < 4 {
		forWriter = 1
	}
	// Behind a pooler a connection may hear of what another one listens for: pgx would keep that
	// for somebody who asks.
	c.ConnConfig.OnNotification = func(*pgconn.PgConn, *pgconn.Notification) {}
	w := c.Copy()
	w.MaxConns, w.MinConns = int32(forWriter), int32(min(minConns, 1))
	if write, err = pgxpool.NewWithConfig(ctx, w); err != nil {
		return nil, nil, err
	}
	if maxConns == 1 {
		return write, write, nil
	}
	r := c.Copy()
	r.MaxConns, r.MinConns = int32(maxConns-forWriter), int32(min(max(minConns-1, 0), maxConns-forWriter))
	if read, err = pgxpool.NewWithConfig(ctx, r); err != nil {
		write.Close()
		return nil, nil, err
	}
	return write, read, nil
}
