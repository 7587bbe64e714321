package pgtest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
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
	if err = errors.Join(err, free); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("[databases]\npostgres = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = %s\npool_mode = transaction\ndefault_pool_size = 5\n",
		of.Port, port, filepath.Join(dir, "users"))
	for _, setting := range settings {
		config += setting + "\n"
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "users"), []byte(fmt.Sprintf("%q %q\n", "postgres", of.Password)), 0o600),
		os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600))
	if of.as != nil {
		for _, file := range []string{dir, filepath.Join(dir, "users"), filepath.Join(dir, "config")} {
			err = errors.Join(err, os.Chown(file, int(of.as.Uid), int(of.as.Gid)))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, filepath.Join(dir, "config"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Join(dir, "lib"))
	cmd.SysProcAttr = of.attributes()
	ended := make(chan struct{})
	started := make(chan error, 1)
	go func() { // in a thread that lives as long as it does, see launch
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		<-ended
		_ = log.Close()
		if t.Failed() {
			said, _ := os.ReadFile(log.Name())
			t.Logf("PgBouncer's log:\n%s", said)
		}
	})
	address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return address
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
