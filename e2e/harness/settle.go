package harness

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Settle waits, after a reload, until one socket is left for each port that the
// configuration (Caddy's JSON) listens on.
//
// On Linux each configuration listens on sockets of its own (SO_REUSEPORT), and those of
// the one before are closed by goroutines that may not have run when the reload returns
// (caddyhttp's App.stop says so). Linux resets a connection that waits in such a socket's
// queue, so that a test whose first request comes in that moment fails, with and without
// an audit log. Elsewhere, and for addresses without one port, there is nothing to see,
// and Settle returns at once.
func Settle(t testing.TB, config []byte) {
	t.Helper()
	ports, err := portsOf(config)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		sockets, err := listening()
		if err != nil {
			return // not Linux
		}
		settled := true
		for _, port := range ports {
			settled = settled && sockets[port] <= 1
		}
		if settled {
			return
		}
		if time.Now().After(end) {
			t.Logf("after a reload, several sockets listen on one of the ports %v", ports)
			return
		}
	}
}

// portsOf returns the ports of a configuration's HTTP servers.
func portsOf(config []byte) ([]int, error) {
	var c struct {
		Apps struct {
			HTTP struct {
				Servers map[string]struct{ Listen []string }
			}
		}
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	var ports []int
	for _, server := range c.Apps.HTTP.Servers {
		for _, address := range server.Listen {
			if _, port, err := net.SplitHostPort(address); err == nil {
				if n, err := strconv.Atoi(port); err == nil {
					ports = append(ports, n)
				}
			}
		}
	}
	return ports, nil
}

// listening counts the TCP sockets that listen, by port (proc(5), /proc/net/tcp: the
// second field is the address in hexadecimal, the fourth the state, 0A for LISTEN).
func listening() (map[int]int, error) {
	sockets := map[int]int{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		table, err := os.ReadFile(file)
		if err != nil && file == "/proc/net/tcp" {
			return nil, err
		}
		for line := range strings.Lines(string(table)) {
			field := strings.Fields(line)
			if len(field) < 4 || field[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(field[1], ":")
			if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
				sockets[int(port)]++
			}
		}
	}
	return sockets, nil
}
