package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/storage"
)

// Bounds of one request. Batches need none of their own: the recorder hands over
// at most 257 entries at once, each of at most 66 KiB.
const (
	// DefaultTimeout is below the 3 seconds that the recorder gives a write.
	DefaultTimeout = 2 * time.Second
	maxConns       = 4
	maxAnswer      = 64 << 10
)

// client sends entries to the endpoint. It is a storage.Store that can only write;
// it is safe for concurrent use.
type client struct {
	endpoint string
	header   http.Header
	http     http.Client
}

var (
	_ storage.Store  = (*client)(nil)
	_ storage.Closer = (*client)(nil)
)

func newClient(endpoint string, header map[string]string, timeout time.Duration) *client {
	c := &client{endpoint: endpoint, header: http.Header{}}
	for name, value := range header {
		c.header.Set(name, value)
	}
	c.header.Set("Content-Type", "application/x-ndjson")
	c.http = http.Client{
		Timeout: timeout, // from the connection to the end of the answer
		Transport: &http.Transport{
			MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: maxAnswer,
		},
		// A redirect would take entries and credentials to a place that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Write implements storage.Store: one request with one JSON line for each entry.
// It does not try again. The recorder does, in the background and for as long as
// it takes; a second try in here would only keep a request waiting that the policy
// lets go. So the endpoint must take a batch twice, see README.md.
func (c *client) Write(ctx context.Context, entries ...storage.Entry) error {
	if err := ctx.Err(); err != nil || len(entries) == 0 {
		return err
	}
	body, err := lines(entries)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint, bytes.NewReader(body))
	if err != nil {
		return errors.New("the endpoint's address cannot be used")
	}
	r.Header = c.header.Clone()
	res, err := c.http.Do(r)
	if err != nil {
		return fmt.Errorf("the endpoint cannot be reached: %w", cause(err))
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAnswer)) // so that the connection can be used again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("the endpoint answered %d instead of 2xx", res.StatusCode) // its text may repeat entries
	}
	return nil
}

// Close implements storage.Closer.
func (c *client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// lines writes entries as JSON lines, with the plugin's names.
func lines(entries []storage.Entry) ([]byte, error) {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	for i := range entries {
		if err := out.Encode(entries[i]); err != nil {
			return nil, fmt.Errorf("entry %s: %w", entries[i].ID, err)
		}
	}
	return b.Bytes(), nil
}

// cause takes the address out of an error of http.Client: its query may hold a
// password.
func cause(err error) error {
	var withAddress *url.Error
	if errors.As(err, &withAddress) {
		return withAddress.Err
	}
	return err
}

// checkEndpoint says why entries cannot be sent to an address.
func checkEndpoint(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case raw == "":
		return errors.New("endpoint is missing: give a URL such as https://clickhouse.example.com/?query=INSERT+INTO+audit+FORMAT+JSONEachRow")
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return errors.New("bad endpoint: give an http or https URL")
	case u.User != nil:
		return errors.New("bad endpoint: credentials do not belong in the URL, give them as a header")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return errors.New("bad endpoint: entries would cross the network in clear; use https, or an address of this machine")
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
