package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Route is what a load asks for.
type Route struct {
	Name   string // in reports
	Host   string
	Path   string
	TLS    bool     // with Host as SNI
	Expect []string // backends that may answer; none: whichever answers
	Fresh  bool     // over a connection of its own for each request
}

// Outcome is one request of a load.
type Outcome struct {
	Route   string
	At      time.Time // when it was sent
	Took    time.Duration
	Status  int
	Backend string // who answered
	Path    string // as the backend saw it
	Err     error  // a failed request
	Fresh   bool   // it opened a connection
}

// answer says how the request was answered.
func (o Outcome) answer() string {
	return fmt.Sprintf("status %d by %q, %v", o.Status, o.Backend, o.Err)
}

// Load sends requests at a constant rate until it is stopped. Each connection
// has one request under way at a time.
type Load struct {
	tb     testing.TB
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu       sync.Mutex
	outcomes []Outcome // guarded by mu
	drains   int       // guarded by mu; answers that asked to close the connection
}

// requestLimit bounds a request of a load: generous, for a slow machine.
const requestLimit = 15 * time.Second

// StartLoad begins to send perSecond requests to each route, over conns
// connections each, to the addresses of the system's Envoy.
func (s *System) StartLoad(perSecond, conns int, routes ...Route) *Load {
	return startLoad(s.TB, s.address, s.roots, perSecond, conns, routes...)
}

func startLoad(tb testing.TB, address func(secure bool) string, trust *Trust, perSecond, conns int, routes ...Route) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{tb: tb, cancel: cancel}
	for _, r := range routes {
		for i := range conns {
			l.done.Go(func() {
				interval := time.Duration(conns) * time.Second / time.Duration(perSecond)
				l.connection(ctx, address(r.TLS), trust, r, interval, interval*time.Duration(i)/time.Duration(conns))
			})
		}
	}
	tb.Cleanup(l.stop)
	return l
}

func (l *Load) stop() {
	l.cancel()
	l.done.Wait()
}

// connection sends one request per interval, the first after the offset. When
// answers are slow the missed ticks are not made up for.
func (l *Load) connection(ctx context.Context, address string, trust *Trust, r Route, interval, offset time.Duration) {
	c := &client{address: address, trust: trust, route: r}
	defer c.close()
	first := time.NewTimer(offset)
	defer first.Stop()
	select {
	case <-first.C:
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		o, drain := c.ask()
		l.mu.Lock()
		l.outcomes = append(l.outcomes, o)
		if drain {
			l.drains++
		}
		l.mu.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Sent returns how many requests were answered or failed so far.
func (l *Load) Sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.outcomes)
}

// More waits until n more requests have been answered or failed.
func (l *Load) More(n int) {
	l.tb.Helper()
	want := l.Sent() + n
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for l.Sent() < want {
		if time.Now().After(deadline) {
			l.tb.Fatalf("not within %s: %d more requests", Patience, n)
		}
		<-tick.C
	}
}

// Failed returns the requests that failed so far.
func (l *Load) Failed() []Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Outcome
	for _, o := range l.outcomes {
		if o.Err != nil {
			out = append(out, o)
		}
	}
	return out
}

// Drains returns how many answers asked the client to close its connection.
func (l *Load) Drains() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.drains
}

// Connections returns how many connections were opened.
func (l *Load) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, o := range l.outcomes {
		if o.Fresh {
			n++
		}
	}
	return n
}

// Since returns the outcomes of a route that were sent at or after t, in the
// order of their answers.
func (l *Load) Since(route string, t time.Time) []Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Outcome
	for _, o := range l.outcomes {
		if o.Route == route && !o.At.Before(t) {
			out = append(out, o)
		}
	}
	return out
}

// Stop ends the load, reports what was sent, and fails the test if a request
// failed or was answered by another backend than its route expects.
func (l *Load) Stop() {
	l.tb.Helper()
	l.stop()
	failed := l.Failed()
	for _, o := range failed[:min(len(failed), 20)] {
		l.tb.Errorf("%s: request at %s failed after %s: %v", o.Route, o.At.Format("15:04:05.000"), o.Took, o.Err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	byRoute := map[string]int{}
	fresh := 0
	var worst time.Duration
	for _, o := range l.outcomes {
		byRoute[o.Route]++
		if o.Fresh {
			fresh++
		}
		worst = max(worst, o.Took)
	}
	names := make([]string, 0, len(byRoute))
	for r, n := range byRoute {
		names = append(names, fmt.Sprintf("%s %d", r, n))
	}
	slices.Sort(names)
	l.tb.Logf("requests sent: %d (%s), failed: %d, connections: %d, slowest: %s",
		len(l.outcomes), strings.Join(names, ", "), len(failed), fresh, worst.Round(time.Millisecond))
	if len(l.outcomes) == 0 {
		l.tb.Error("the load sent nothing")
	}
}

// client is one connection that asks for one route.
type client struct {
	address string
	trust   *Trust
	route   Route
	conn    net.Conn
	read    *bufio.Reader
}

func (c *client) close() {
	if c.conn != nil {
		_ = c.conn.Close() // nothing is under way
		c.conn = nil
	}
}

// ask sends one request and reads its answer. It is not sent twice, whatever
// happens. drain says that the server wants the connection closed.
func (c *client) ask() (o Outcome, drain bool) {
	o = Outcome{Route: c.route.Name, At: time.Now()}
	defer func() {
		o.Took = time.Since(o.At)
		if o.Err != nil {
			c.close()
		}
	}()
	if c.conn == nil {
		o.Fresh = true
		if o.Err = c.dial(); o.Err != nil {
			return o, false
		}
	}
	if o.Err = c.conn.SetDeadline(time.Now().Add(requestLimit)); o.Err != nil {
		return o, false
	}
	if _, o.Err = fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", c.route.Path, c.route.Host); o.Err != nil {
		return o, false
	}
	res, err := http.ReadResponse(c.read, nil)
	if err != nil {
		o.Err = err
		return o, false
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	_ = res.Body.Close() // read to its end
	o.Status = res.StatusCode
	lines := strings.SplitN(string(body), "\n", 3)
	if o.Backend = lines[0]; len(lines) > 1 {
		_, o.Path, _ = strings.Cut(lines[1], " ")
	}
	switch {
	case err != nil:
		o.Err = err
	case res.StatusCode != http.StatusOK:
		o.Err = fmt.Errorf("status %d: %.200q", res.StatusCode, body)
	case len(c.route.Expect) > 0 && !slices.Contains(c.route.Expect, o.Backend):
		o.Err = fmt.Errorf("answered by %q, want one of %q", o.Backend, c.route.Expect)
	}
	if res.Close || c.route.Fresh {
		c.close()
	}
	return o, res.Close
}

func (c *client) dial() error {
	conn, err := net.DialTimeout("tcp", c.address, requestLimit)
	if err != nil {
		return err
	}
	if c.route.TLS {
		secured := tls.Client(conn, &tls.Config{ServerName: c.route.Host, RootCAs: c.trust.Pool(), MinVersion: tls.VersionTLS12})
		if err := secured.SetDeadline(time.Now().Add(requestLimit)); err != nil {
			return errors.Join(err, conn.Close())
		}
		if err := secured.Handshake(); err != nil {
			return errors.Join(fmt.Errorf("handshake for %s: %w", c.route.Host, err), conn.Close())
		}
		conn = secured
	}
	c.conn, c.read = conn, bufio.NewReader(conn)
	return nil
}

// Get asks for a route once, over a connection of its own.
func (s *System) Get(r Route) Outcome {
	c := &client{address: s.address(r.TLS), trust: s.roots, route: r}
	defer c.close()
	o, _ := c.ask()
	return o
}
