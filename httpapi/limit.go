package httpapi

import (
	"net/netip"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// The allowance of one client, and of one user: 60 requests a minute.
const (
	perMinute = 60
	// maxKeys bounds the memory; a key that is pushed out starts anew.
	maxKeys = 50000
)

// Limiter holds the allowances. It counts per process. It is safe for concurrent
// use.
type Limiter struct {
	// mu makes looking a key up and adding it one step.
	mu   sync.Mutex
	keys *lru.Cache[string, *rate.Limiter]
}

// NewLimiter returns a Limiter of 60 requests a minute for each key.
func NewLimiter() (*Limiter, error) {
	keys, err := lru.New[string, *rate.Limiter](maxKeys)
	if err != nil {
		return nil, err
	}
	return &Limiter{keys: keys}, nil
}

// Allow takes one request from a key's allowance.
func (l *Limiter) Allow(key string) bool {
	l.mu.Lock()
	limiter, ok := l.keys.Get(key)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(time.Minute/perMinute), perMinute)
		l.keys.Add(key, limiter)
	}
	l.mu.Unlock()
	return limiter.Allow()
}

// clientKey is one key for all addresses of one client: IPv4 in any spelling, and
// a whole /64 of IPv6, which one host may own (threats.md C14).
func clientKey(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ip
	}
	addr = addr.Unmap().WithZone("")
	if addr.Is4() {
		return addr.String()
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return addr.String()
	}
	return prefix.String()
}
