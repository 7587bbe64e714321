package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// server is a process that listens on a port of loopback, and its children (nginx has
// one that works).
type server struct {
	cmd   *exec.Cmd
	port  int
	admin int // port of Caddy's admin endpoint; 0 if it is off
}

// start runs a program until stop; its output is in dir/name.log.
func start(dir, name string, port int, program string, args ...string) (*server, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd, port: port}
	if err := s.await(); err != nil {
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w; it says: %s", errors.Join(err, s.stop()), said)
	}
	return s, nil
}

// await waits until somebody listens.
func (s *server) await() error {
	var err error
	for range 200 {
		var c net.Conn
		if c, err = net.Dial("tcp", s.address()); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

func (s *server) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	kill := time.AfterFunc(20*time.Second, func() { _ = s.cmd.Process.Kill() })
	defer kill.Stop()
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// cpu is the user and system time of the server so far, to the nanosecond: /proc counts in
// steps of 10 ms, which are most of what a sign-in costs. memory is what is resident, in bytes.
func (s *server) cpu() (seconds float64, err error) {
	err = s.each(func(p procfs.ProcStat) error {
		var t unix.Timespec
		err := unix.ClockGettime(cpuClock(p.PID), &t)
		seconds += float64(t.Nano()) / 1e9
		return err
	})
	return seconds, err
}

// cpuClock is the clock of a process's CPU time, as clock_getcpuclockid(3) makes it.
func cpuClock(pid int) int32 {
	const ofAllThreads = 2 // CPUCLOCK_SCHED of the kernel
	return int32(^pid<<3 | ofAllThreads)
}

func (s *server) memory() (bytes int, err error) {
	err = s.each(func(p procfs.ProcStat) error {
		bytes += p.ResidentMemory()
		return nil
	})
	return bytes, err
}

func (s *server) each(f func(procfs.ProcStat) error) error {
	all, err := procfs.AllProcs()
	if err != nil {
		return err
	}
	for _, p := range all {
		stat, err := p.Stat()
		if err == nil && (p.PID == s.cmd.Process.Pid || stat.PPID == s.cmd.Process.Pid) {
			if err := f(stat); err != nil {
				return err
			}
		}
	}
	return nil
}

// freePort is a port of loopback that nobody listens on.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// build makes the Caddy of the benchmarks.
func build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "caddy-of-the-bench") // Caddy makes a folder caddy for what it keeps
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "./caddy")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return path, cmd.Run()
}

// write puts text into a file of the folder.
func write(dir, name, text string) (path string, err error) {
	path = filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// fsyncTime is the median time of one fdatasync after an append of so many bytes, in the
// folder. Between two of them is a pause: a disk that has slept may take twice as long.
func fsyncTime(dir string, size int, pause time.Duration) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = errors.Join(f.Close(), os.Remove(f.Name())) }()
	var took []time.Duration
	for range 300 {
		time.Sleep(pause)
		if _, err := f.Write(make([]byte, size)); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	return quantile(took, 0.5), nil
}
