package main

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	vegeta "github.com/tsenart/vegeta/v12/lib"
	"github.com/valyala/fasthttp"
)

// request is what the clients send, again and again.
type request struct {
	method, path, body string
}

// signIn is a sign-in as Better Auth takes it.
var signIn = request{"POST", "/api/auth/sign-in/email", `{"email":"ada@example.com","password":"correct horse battery staple"}`}

// sized is the request with a body of so many bytes, for an answer of so many; 0 leaves
// each as it is.
func (r request) sized(body, answer int) request {
	if body > 0 {
		r.body = fmt.Sprintf(`{"more":%q,%s`, strings.Repeat("m", max(0, body-len(r.body)-len(`"more":"",`))), r.body[1:])
	}
	if answer > 0 {
		r.path += fmt.Sprintf("?bytes=%d", answer)
	}
	return r
}

// result is what one load has measured.
type result struct {
	requests int
	took     time.Duration
	latency  *hdrhistogram.Histogram // microseconds
	cpu      float64                 // seconds of the server
}

func (r *result) throughput() float64    { return float64(r.requests) / r.took.Seconds() }
func (r *result) cpuPerRequest() float64 { return r.cpu / float64(r.requests) * 1e6 }            // microseconds
func (r *result) at(q float64) float64   { return float64(r.latency.ValueAtQuantile(q)) / 1000 } // milliseconds

func histogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60e6, 3) }

// settle is how long a server has after a load for what it does in the background: async writes four
// times a second.
const settle = time.Second

// closed lets clients send one request after the other, each on its own connection,
// for a while.
func closed(s *server, rq request, clients int, d time.Duration) (*result, error) {
	c := &fasthttp.HostClient{Addr: s.address(), MaxConns: clients, MaxIdleConnDuration: time.Minute, NoDefaultUserAgentHeader: true}
	defer c.CloseIdleConnections()
	var (
		mu  sync.Mutex
		wg  sync.WaitGroup
		all = &result{latency: histogram()}
		bad error
	)
	before, err := s.cpu()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	for range clients {
		wg.Go(func() {
			h, err := client(c, rq, began.Add(d))
			mu.Lock()
			defer mu.Unlock()
			all.latency.Merge(h)
			bad = first(bad, err)
		})
	}
	wg.Wait()
	all.took, all.requests = time.Since(began), int(all.latency.TotalCount())
	time.Sleep(settle) // what is left in queues costs CPU too
	after, err := s.cpu()
	all.cpu = after - before
	return all, first(bad, err)
}

func client(c *fasthttp.HostClient, rq request, until time.Time) (*hdrhistogram.Histogram, error) {
	h := histogram()
	q, a := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(q)
	defer fasthttp.ReleaseResponse(a)
	q.Header.SetMethod(rq.method)
	q.SetRequestURI("http://" + c.Addr + rq.path)
	q.Header.SetUserAgent("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
	if rq.body != "" {
		q.Header.SetContentType("application/json")
		q.SetBodyString(rq.body)
	}
	for {
		began := time.Now()
		if began.After(until) {
			return h, nil
		}
		if err := c.Do(q, a); err != nil {
			return h, err
		}
		if a.StatusCode() != fasthttp.StatusOK {
			return h, fmt.Errorf("%s %s answered %d: %s", rq.method, rq.path, a.StatusCode(), a.Body())
		}
		_ = h.RecordValue(max(1, time.Since(began).Microseconds()))
	}
}

// open sends so many requests a second, whatever the answers take.
func open(s *server, rq request, perSecond int, d time.Duration) (*result, error) {
	before, err := s.cpu()
	if err != nil {
		return nil, err
	}
	target := vegeta.Target{Method: rq.method, URL: "http://" + s.address() + rq.path, Body: []byte(rq.body)}
	target.Header = map[string][]string{"Content-Type": {"application/json"}, "User-Agent": {"Mozilla/5.0 (X11; Linux x86_64; rv:128.0)"}}
	all := &result{latency: histogram(), took: d}
	attacker := vegeta.NewAttacker(vegeta.Connections(64), vegeta.Timeout(10*time.Second))
	var bad error
	for r := range attacker.Attack(vegeta.NewStaticTargeter(target), vegeta.Rate{Freq: perSecond, Per: time.Second}, d, "bench") {
		if r.Code != fasthttp.StatusOK {
			bad = first(bad, fmt.Errorf("%s answered %d: %s", rq.path, r.Code, r.Error))
		}
		all.requests++
		_ = all.latency.RecordValue(max(1, r.Latency.Microseconds()))
	}
	time.Sleep(settle)
	after, err := s.cpu()
	all.cpu = after - before
	return all, first(bad, err)
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func quantile[T time.Duration | float64](of []T, q float64) T {
	of = slices.Sorted(slices.Values(of))
	return of[min(len(of)-1, int(q*float64(len(of))))]
}
