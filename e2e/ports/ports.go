// Package ports gives test servers their ports.
//
// Packages are tested beside each other, and Caddy shares ports: one that two tests think
// free leads to two Caddys. So ports are given from blocks, and a process owns a block by
// listening on its first port until it ends.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
)

const (
	first = 10000 // below those that the kernel gives to outgoing connections
	last  = 30000
	block = 100
)

var (
	// mu protects the variables below.
	mu     sync.Mutex
	left   []int
	blocks []net.Listener
)

// Free returns a loopback port that nobody listens on right now, and that neither this
// process nor another one's Free gives again while this process lives. None of the
// kernel's outgoing connections takes it while a server that was killed starts again. It
// fails when it finds none. It is safe for concurrent use.
func Free() (int, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		if len(left) == 0 {
			start := first + rand.IntN((last-first)/block)*block
			l, err := listen(start)
			if err != nil {
				continue // another process's, or this one's
			}
			blocks = append(blocks, l)
			for port := start + 1; port < start+block; port++ {
				left = append(left, port)
			}
		}
		port := left[0]
		left = left[1:]
		if free(port) {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no free port between %d and %d: end what listens there", first, last)
}

// free says whether nobody listens on a port. No process is started meanwhile: it would hold
// the port open, with nobody who accepts, until it has become another program.
func free(port int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	l, err := listen(port)
	return err == nil && l.Close() == nil
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
}
