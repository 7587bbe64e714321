package tap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-audit-log/caddy-audit-log/replay"
)

// Proxy forwards requests to an auth server and writes the exchanges to a File. The
// server sees its own address as Host, Origin and Referer, and its redirects to itself
// lead back to the Proxy: it needs no other configuration.
type Proxy struct {
	to      *url.URL
	file    *File
	maxBody int64
	log     *slog.Logger
	proxy   *httputil.ReverseProxy
	// unanswered are the requests that the server gave no answer to: they are not recorded.
	unanswered atomic.Int64
}

// NewProxy returns a Proxy to a server, given as ParseTarget does. Of a body maxBody
// bytes are kept.
func NewProxy(to *url.URL, file *File, maxBody int64, log *slog.Logger) *Proxy {
	p := &Proxy{to: to, file: file, maxBody: maxBody, log: log}
	transport := &http.Transport{DisableCompression: true, DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, IdleConnTimeout: time.Minute}
	p.proxy = &httputil.ReverseProxy{
		Rewrite: p.rewrite, ModifyResponse: p.answered, ErrorHandler: p.failed, Transport: transport, FlushInterval: -1,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return p
}

// ParseTarget reads the address of the server to record: host:port, or a URL without a
// path.
func ParseTarget(text string) (*url.URL, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("bad address %q: use host:port, such as localhost:3000, or a URL", text)
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "", strings.Trim(u.Path, "/") != "", u.RawQuery != "", u.User != nil:
		return nil, fmt.Errorf("bad address %q: use host:port, such as localhost:3000, or an http or https URL without a path", text)
	case u.Hostname() == "":
		u.Host = "localhost" + u.Host
	}
	u.Path = ""
	return u, nil
}

// ListenAddress checks where to listen: beyond this machine only if the address says
// so, never by leaving the host out.
func ListenAddress(text string) (address string, open bool, err error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", false, fmt.Errorf("bad address %q: use host:port, such as 127.0.0.1:8088", text)
	}
	if host == "" {
		return "", false, fmt.Errorf("%q would let everybody in who reaches this machine: use 127.0.0.1:%s, or say 0.0.0.0:%s if you mean that", text, port, port)
	}
	if host == "localhost" {
		return text, false, nil
	}
	ip := net.ParseIP(host)
	if ip == nil {
		return "", false, fmt.Errorf("bad address %q: use an IP address of this machine, or localhost", text)
	}
	return text, !ip.IsLoopback(), nil
}

// Serve answers on l until ctx ends, and then lets what is under way end for a moment. At last
// it says what is missing from the recording.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		wait, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := server.Shutdown(wait); err != nil {
			_ = server.Close() // streams that do not end
		}
	})
	err := server.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	wg.Wait()
	if n := p.unanswered.Load(); n > 0 {
		p.log.Warn("requests without an answer are not in the recording", "requests", n)
	}
	return nil
}

// recording is one exchange that is under way.
type recording struct {
	exchange replay.Exchange
	request  body
	response body
	self     string // the Proxy's own address, as the client called it
	once     sync.Once
}

type recordingKey struct{}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := &recording{self: "http://" + r.Host}
	rec.request.limit, rec.response.limit = p.maxBody, p.maxBody
	rec.exchange.Request.Method, rec.exchange.Request.Path = r.Method, r.RequestURI
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &tee{ReadCloser: r.Body, to: &rec.request}
	} else {
		rec.request.end()
	}
	p.proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), recordingKey{}, rec)))
}

// rewrite makes the request the server's own.
func (p *Proxy) rewrite(r *httputil.ProxyRequest) {
	rec := r.In.Context().Value(recordingKey{}).(*recording)
	r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = p.to.Scheme, p.to.Host, p.to.Host
	r.Out.URL.RawQuery = r.In.URL.RawQuery // also what Go cannot read of it
	for _, name := range []string{"Origin", "Referer"} {
		if v := r.Out.Header.Get(name); v == rec.self || strings.HasPrefix(v, rec.self+"/") {
			r.Out.Header.Set(name, p.to.String()+strings.TrimPrefix(v, rec.self))
		}
	}
	h := copyOf(r.Out.Header)
	h.Set("Host", p.to.Host)
	if r.In.ContentLength > 0 {
		h.Set("Content-Length", strconv.FormatInt(r.In.ContentLength, 10))
	}
	rec.exchange.Request.Headers = h
}

// answered begins to record the answer.
func (p *Proxy) answered(resp *http.Response) error {
	rec := resp.Request.Context().Value(recordingKey{}).(*recording)
	rec.exchange.Response.Status = resp.StatusCode
	h := copyOf(resp.Header)
	if len(resp.TransferEncoding) > 0 {
		h["Transfer-Encoding"] = resp.TransferEncoding
	}
	rec.exchange.Response.Headers = h
	if v := resp.Header.Get("Location"); v == p.to.String() || strings.HasPrefix(v, p.to.String()+"/") || strings.HasPrefix(v, p.to.String()+"?") {
		resp.Header.Set("Location", rec.self+strings.TrimPrefix(v, p.to.String()))
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		rec.response.end() // what follows is no body
		p.done(rec)
		return nil
	}
	resp.Body = &tee{ReadCloser: resp.Body, to: &rec.response, closed: func() { p.done(rec) }}
	return nil
}

// done writes the exchange down, once.
func (p *Proxy) done(rec *recording) {
	rec.once.Do(func() {
		x := &rec.exchange
		x.Request.Body = rec.request.text(x.Request.Headers)
		x.Response.Body = rec.response.text(x.Response.Headers)
		p.file.Add(x)
	})
}

// failed answers when the server does not.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	p.unanswered.Add(1)
	if r.Context().Err() != nil {
		return // the client has left
	}
	p.log.Error("the server does not answer: is it running?", "address", p.to.String(), "error", err)
	w.WriteHeader(http.StatusBadGateway)
}

// tee copies what is read, and tells when that was all.
type tee struct {
	io.ReadCloser
	to     *body
	closed func() // may be nil
}

// Read implements io.Reader.
func (t *tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	_, _ = t.to.Write(p[:n]) // it never fails
	if err == io.EOF {       //nolint:errorlint // one that is cut off wraps io.EOF
		t.to.end()
	}
	return n, err
}

// Close implements io.Closer.
func (t *tee) Close() error {
	err := t.ReadCloser.Close()
	if t.closed != nil {
		t.closed()
	}
	return err
}
