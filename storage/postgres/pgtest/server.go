package pgtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/ports"
)

// patience bounds how long a server may take to start or to stop. Machines that
// run tests are busy.
const patience = 60 * time.Second

// Server is a private PostgreSQL. Its methods are for one goroutine at a time.
type Server struct {
	// Port on 127.0.0.1; it stays the same when the server is started again.
	Port int
	// Password of the superuser postgres.
	Password string

	bin, dir string
	settings []string
	as       *syscall.Credential
	cmd      *exec.Cmd
	ended    chan struct{} // closed when the postmaster has ended
}

// New makes a database cluster in a new temporary folder and starts it. Settings
// are of the form name=value. Close ends it.
//
// AUDIT_TEST_POSTGRES_BIN names the folder of the programs, see NewOf; otherwise they are those of
// Binaries.
func New(settings ...string) (*Server, error) {
	if bin := os.Getenv("AUDIT_TEST_POSTGRES_BIN"); bin != "" {
		return NewOf(bin, settings...)
	}
	return made(&Server{Password: rand.Text(), settings: settings}, (*Server).initialize)
}

// NewOf is New with the programs in a folder, as those of another version. They are copied to where
// the server's user may read them.
func NewOf(bin string, settings ...string) (*Server, error) {
	return made(&Server{Password: rand.Text(), settings: settings, bin: bin}, func(s *Server) error {
		to := filepath.Join(s.dir, "programs")
		if err := copyTree(filepath.Dir(bin), to); err != nil {
			return err
		}
		s.bin = filepath.Join(to, filepath.Base(bin))
		return s.initialize()
	})
}

// Standby makes a copy of the server, which follows it until Promote, and starts it. The server is
// stopped for that: pg_basebackup is not everywhere.
func (s *Server) Standby(settings ...string) (*Server, error) {
	return made(&Server{Password: s.Password, settings: settings, bin: s.bin}, func(copied *Server) error {
		err := s.Stop()
		if err == nil {
			err = copyTree(s.data(), copied.data())
		}
		if err = errors.Join(err, s.Start()); err != nil {
			return err
		}
		follows := fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=postgres password=%s'\n", s.Port, s.Password)
		conf, err := os.OpenFile(filepath.Join(copied.data(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = conf.WriteString(follows)
		return errors.Join(err, conf.Close(), os.WriteFile(filepath.Join(copied.data(), "standby.signal"), nil, 0o644))
	})
}

// copyTree copies a folder to a new one, with the owners of its files.
func copyTree(from, to string) error {
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w\n%s", err, out)
	}
	return nil
}

// Promote makes a standby take writes.
func (s *Server) Promote() error { return s.Exec("SELECT pg_promote()") }

// made fills the server's new folder, and starts it.
func made(s *Server, fill func(*Server) error) (_ *Server, err error) {
	if s.bin == "" {
		if s.bin, err = Binaries(); err != nil {
			return nil, err
		}
	}
	if s.as, err = unprivileged(); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil { // short: the path of a socket has at most 107 bytes
		return nil, err
	}
	if s.as != nil {
		err = os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid))
	}
	if err == nil {
		err = errors.Join(fill(s), s.choosePort())
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	if err := s.Start(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Server) initialize() error {
	secret := filepath.Join(s.dir, "password")
	if err := os.WriteFile(secret, []byte(s.Password), 0o644); err != nil { // the folder is closed to others
		return err
	}
	return s.program("initdb", "-D", s.data(), "-U", "postgres", "-E", "UTF8", "--locale=C", "--auth=scram-sha-256", "--pwfile="+secret, "--no-sync")
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// program runs one of PostgreSQL's programs to its end.
func (s *Server) program(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attributes()
	cmd.Env = append(os.Environ(), "PGPASSWORD="+s.Password)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// attributes make a process run as the right user, and end with this one.
func (s *Server) attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: s.as, Pdeathsig: syscall.SIGQUIT, Setpgid: true}
}

// choosePort takes a port that nobody else is given while the server is down.
func (s *Server) choosePort() (err error) {
	s.Port, err = ports.Free()
	return err
}

// Start starts the server and waits until it takes connections. After a kill it
// waits for what is left of the old one to go.
func (s *Server) Start() error {
	deadline := time.Now().Add(patience)
	for {
		err := s.launch()
		if err == nil {
			err = s.await(deadline)
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond) // children of a killed server still hold its memory
	}
}

// launch starts the postmaster.
func (s *Server) launch() (err error) {
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.Port), "-k", s.dir, "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=60",
		"-c", "shared_buffers=32MB", "-c", "log_min_messages=warning", "-c", "timezone=UTC"}
	for _, setting := range s.settings {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.Dir, cmd.SysProcAttr = s.dir, s.attributes()
	ended, err := launch(cmd)
	if err == nil {
		s.cmd, s.ended = cmd, ended
	}
	return err
}

// launch starts a program that writes to the file log in its folder, in a thread that lives as long as
// it does: the kernel sends Pdeathsig when that thread ends. ended is closed when the program has ended.
func launch(cmd *exec.Cmd) (ended chan struct{}, err error) {
	log, err := os.OpenFile(filepath.Join(cmd.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed more often than not
		}
		close(ended)
	}()
	return ended, <-started
}

// await waits until the server takes connections.
func (s *Server) await(deadline time.Time) error {
	for {
		err := s.Exec("SELECT 1")
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("PostgreSQL ended at once:\n%s", s.Log())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL does not take connections after %s: %w\n%s", patience, err, s.Log())
		}
	}
}

// Exec runs statements as the superuser in the database postgres.
func (s *Server) Exec(sql string) error { return execute(s.DSN(), sql) }

// execute runs statements over a connection of their own.
func execute(dsn, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = c.Exec(ctx, sql)
	return errors.Join(err, c.Close(ctx))
}

// Log is what the server has logged.
func (s *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Address is host and port.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// DSN names the database postgres as the superuser, with parameters of the form
// name=value.
func (s *Server) DSN(parameters ...string) string { return s.DSNAt(s.Address(), parameters...) }

// DSNAt is DSN through another address, such as that of a proxy.
func (s *Server) DSNAt(address string, parameters ...string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", s.Password), Host: address, Path: "/postgres", RawQuery: "sslmode=disable"}
	for _, p := range parameters {
		u.RawQuery += "&" + p
	}
	return u.String()
}

// Kill ends the postmaster with SIGKILL, as a crash would.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

// Stop ends the server in an orderly way, with its clients' transactions rolled
// back.
func (s *Server) Stop() error { return s.end(syscall.SIGINT) }

func (s *Server) end(how syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(how); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.ended:
		return nil
	case <-time.After(patience):
		return fmt.Errorf("PostgreSQL does not end after %s", patience)
	}
}

// Freeze stops every process of the server with SIGSTOP: connections stay, and
// nothing answers. Thaw goes on.
func (s *Server) Freeze() error { return s.signal(syscall.SIGSTOP) }

// Thaw ends what Freeze began.
func (s *Server) Thaw() error { return s.signal(syscall.SIGCONT) }

// signal sends a signal to the postmaster and to all its children: each of them is
// a process group of its own.
func (s *Server) signal(sig syscall.Signal) error {
	pid := s.cmd.Process.Pid
	if err := syscall.Kill(pid, sig); err != nil { // first, so that it makes no more of them
		return err
	}
	for _, child := range children(pid) {
		if err := syscall.Kill(child, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return nil
}

// children lists the processes whose parent is pid.
func children(pid int) []int {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var found []int
	for _, file := range stats {
		b, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := bytes.Cut(b, []byte(") "))
		if f := strings.Fields(string(rest)); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			if child, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
				found = append(found, child)
			}
		}
	}
	return found
}

// Close ends the server and deletes its files.
func (s *Server) Close() error {
	var err error
	if s.cmd != nil {
		_ = s.signal(syscall.SIGCONT) // a frozen one would not end
		err = s.end(syscall.SIGQUIT)
	}
	for range 100 { // its last children may still be writing
		if removed := os.RemoveAll(s.dir); removed == nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
