package pgtest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/e2e/ports"
)

// MissingPooler is what a test says that is skipped because there is no PgBouncer.
const MissingPooler = "PgBouncer is not on this machine"

// StartPooler starts PgBouncer in front of a server and returns its address; it ends with the test.
// Each transaction may get another connection, of few. Users are those of the server, with its
// password. Settings are of the form name=value.
func StartPooler(t testing.TB, of *Server, settings ...string) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pgbouncer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	program, err := pooler(dir)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip(MissingPooler + ": run make tools-pgbouncer")
	}
	port, free := ports.Free()
	if err = errors.Join(err, free, configurePooler(dir, port, of, settings)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, filepath.Join(dir, "config"))
	cmd.Dir, cmd.SysProcAttr = dir, of.attributes()
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(dir, "lib"))
	ended, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		if t.Failed() {
			said, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("PgBouncer's log:\n%s", said)
		}
	})
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	awaitPooler(t, address, ended)
	return address
}

// configurePooler writes what PgBouncer reads, for the user of the server.
func configurePooler(dir string, port int, of *Server, settings []string) error {
	users, config := filepath.Join(dir, "users"), filepath.Join(dir, "config")
	lines := append([]string{
		"[databases]", fmt.Sprintf("postgres = host=127.0.0.1 port=%d", of.Port),
		"[pgbouncer]", "listen_addr = 127.0.0.1", fmt.Sprintf("listen_port = %d", port), "unix_socket_dir =",
		"auth_type = scram-sha-256", "auth_file = " + users, "pool_mode = transaction", "default_pool_size = 5",
	}, settings...)
	err := errors.Join(
		os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", "postgres", of.Password), 0o600),
		os.WriteFile(config, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	if of.as != nil {
		for _, file := range []string{dir, users, config} {
			err = errors.Join(err, os.Chown(file, int(of.as.Uid), int(of.as.Gid)))
		}
	}
	return err
}

// awaitPooler waits until somebody takes connections at an address.
func awaitPooler(t testing.TB, address string, ended <-chan struct{}) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-ended:
			t.Fatal("PgBouncer has ended")
		default:
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// pooler is PgBouncer's program: the machine's, or what make tools-pgbouncer has unpacked, a copy of
// which is made in dir, where its user may read it. The error is fs.ErrNotExist if there is none.
func pooler(dir string) (string, error) {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	root, err := os.Getwd()
	for ; err == nil && !exists(filepath.Join(root, "go.mod")) && root != filepath.Dir(root); root = filepath.Dir(root) {
	}
	unpacked := filepath.Join(root, ".cache", "pgbouncer", "usr")
	if !exists(filepath.Join(unpacked, "sbin", "pgbouncer")) {
		return "", fs.ErrNotExist
	}
	libraries, err := filepath.Glob(filepath.Join(unpacked, "lib", "*-linux-gnu"))
	if err != nil || len(libraries) != 1 {
		return "", fmt.Errorf("%s has no libraries: remove .cache/pgbouncer, and run make tools-pgbouncer", unpacked)
	}
	program := filepath.Join(dir, "pgbouncer")
	return program, errors.Join(copyTree(filepath.Join(unpacked, "sbin", "pgbouncer"), program), copyTree(libraries[0], filepath.Join(dir, "lib")))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
