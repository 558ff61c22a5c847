package xds_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/xds/cache"
	"github.com/chancery-dev/chancery/xds/process"
)

// proxy is a real Envoy that a fixture feeds.
type proxy struct {
	*process.Process
	admin *process.Admin
	port  uint32 // for the tests' listener
	tb    testing.TB
	stop  func()
}

// startEnvoy runs an Envoy on the fixture's socket until the test ends.
func startEnvoy(tb testing.TB, socket string) *proxy {
	tb.Helper()
	dir := filepath.Join(filepath.Dir(socket), "envoy")
	adminSocket := filepath.Join(filepath.Dir(socket), "admin.sock")
	bootstrap, err := envoy.BootstrapADS(envoy.ADSOptions{
		NodeID: "envoy", NodeCluster: "default", Socket: socket,
		Admin: envoy.Admin{Socket: adminSocket}, InitialFetch: 15 * time.Second,
	})
	if err != nil {
		tb.Fatal(err)
	}
	p, err := process.New(process.Options{Binary: testbed.Envoy(tb), Dir: dir, Bootstrap: bootstrap, Concurrency: 1})
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	e := &proxy{Process: p, admin: process.NewAdmin(adminSocket), port: freePort(tb), tb: tb}
	e.stop = func() {
		e.stop = func() {}
		e.admin.Close()
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(func() {
		e.stop()
		if tb.Failed() {
			if b, err := os.ReadFile(p.LogPath()); err == nil {
				tb.Logf("envoy's log:\n%s", b)
			}
		}
	})
	return e
}

func freePort(tb testing.TB) uint32 {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// backend answers with its name.
func backend(tb testing.TB, name string) ir.Endpoint {
	tb.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, name) }))
	tb.Cleanup(s.Close)
	host, port, err := net.SplitHostPort(strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		tb.Fatal(err)
	}
	return ir.Endpoint{IP: host, Port: uint32(n)}
}

// world builds snapshots of one cleartext listener.
type world struct {
	tb        testing.TB
	port      uint32
	routes    map[string]string // path prefix → upstream
	upstreams map[string]ir.Upstream
	tls       *ir.ServerTLS
	secrets   []ir.SecretRef
}

func newWorld(tb testing.TB, port uint32) *world {
	return &world{tb: tb, port: port, routes: map[string]string{}, upstreams: map[string]ir.Upstream{}}
}

// upstream adds an upstream with endpoints from the live plane, in a set of its name.
func (w *world) upstream(name string) {
	w.upstreams[name] = ir.Upstream{Name: name, Discovery: ir.DiscoverEndpoints, Endpoints: "set/" + name, Connect: 2 * time.Second}
}

func (w *world) snapshot() *projector.Snapshot {
	w.tb.Helper()
	var updates []projector.Update
	add := func(t projector.ResourceType, r projector.Resource, err error) {
		w.tb.Helper()
		if err != nil {
			w.tb.Fatal(err)
		}
		updates = append(updates, projector.Update{Type: t, Name: r.Name, Resource: &r})
	}
	for _, u := range w.upstreams {
		r, err := envoy.Upstream(u)
		add(upstreams, r, err)
		if u.Endpoints != "" {
			r, err = envoy.EndpointNeed(ir.EndpointSet{Name: u.Endpoints})
			add(endpoints, r, err)
		}
	}
	table := ir.RouteTable{Name: "table", Sentinel: true, Hosts: []ir.VirtualHost{{Name: "all", Domains: []string{"*"}}}}
	for path, u := range w.routes {
		table.Hosts[0].Routes = append(table.Hosts[0].Routes, ir.Route{
			Name: path, Match: ir.Match{Path: path}, Action: ir.Action{Forward: []ir.Weighted{{Upstream: u, Weight: 1}}},
		})
	}
	r, err := envoy.Routes(table)
	add(routes, r, err)
	chain := ir.Chain{Name: "http", HTTP: &ir.HTTP{Routes: "table", StatsPrefix: "test"}}
	if w.tls != nil {
		chain.TLS, chain.TLSOnly = w.tls, true
	}
	r, err = envoy.Listener(ir.Listener{
		Name: "listener", Address: "127.0.0.1", Port: w.port, InspectTLS: w.tls != nil, Chains: []ir.Chain{chain},
	})
	add(listeners, r, err)
	for _, s := range w.secrets {
		r, err := envoy.SecretNeed(s)
		add(secrets, r, err)
	}
	return projector.EmptySnapshot().With(updates)
}

// answer is an answer of the live plane for an upstream made by upstream.
func answer(tb testing.TB, upstream string, addresses ...ir.Endpoint) projector.Update {
	tb.Helper()
	r, err := envoy.Endpoints(ir.Endpoints{Name: "set/" + upstream, Addresses: addresses})
	if err != nil {
		tb.Fatal(err)
	}
	return projector.Update{Type: endpoints, Name: r.Name, Resource: &r}
}

// get asks the proxy once.
func (p *proxy) get(path string) (string, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return get(&c, fmt.Sprintf("http://127.0.0.1:%d%s", p.port, path))
}

func get(c *http.Client, url string) (string, error) {
	resp, err := c.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b := make([]byte, 1000)
	n, _ := resp.Body.Read(b)
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: status %d: %s", url, resp.StatusCode, b[:n])
	}
	return string(b[:n]), nil
}

// until asks until the answer is as wanted, and returns how long that took.
func (p *proxy) until(want string) time.Duration {
	p.tb.Helper()
	begin := time.Now()
	for {
		got, err := p.get("/")
		if got == want {
			return time.Since(begin)
		}
		if time.Since(begin) > patience {
			p.tb.Fatalf("the proxy answers %q, %v, want %q", got, err, want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// acked waits for the verdict on a generation, which must be that it was acknowledged.
func (f *fixture) acked(tb testing.TB, generation uint64) {
	tb.Helper()
	for {
		v := f.verdict(tb)
		if v.Kind == projector.Nacked {
			tb.Fatalf("refused: %+v", v)
		}
		if v.Generation == generation {
			return
		}
	}
}

// load asks without a pause until stopped, and counts.
type load struct {
	sent, failed atomic.Int64
	last         atomic.Value // of string: the last failure
	stop         func()
}

func startLoad(c *http.Client, url string, workers int) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				l.sent.Add(1)
				if _, err := get(c, url); err != nil {
					l.failed.Add(1)
					l.last.Store(err.Error())
				}
			}
		})
	}
	l.stop = func() {
		cancel()
		wg.Wait()
		c.CloseIdleConnections()
	}
	return l
}

// more waits for n more requests.
func (l *load) more(tb testing.TB, n int64) {
	tb.Helper()
	enough := l.sent.Load() + n
	waitFor(tb, "requests", func() bool { return l.sent.Load() > enough })
}

func (l *load) none(tb testing.TB) {
	tb.Helper()
	l.stop()
	if n := l.failed.Load(); n > 0 {
		tb.Errorf("%d of %d requests failed, the last with %v", n, l.sent.Load(), l.last.Load())
	}
	if l.sent.Load() < 10 {
		tb.Errorf("only %d requests were sent", l.sent.Load())
	}
	tb.Logf("%d requests sent", l.sent.Load())
}

func TestEnvoyServes(t *testing.T) {
	f := serve(t, cache.Options{})
	p := startEnvoy(t, f.socket)
	one, two := backend(t, "one"), backend(t, "two")
	w := newWorld(t, p.port)
	w.upstream("one")
	w.upstream("two")
	w.routes["/"] = "one"
	s := w.snapshot()
	f.Offer(head(1, s), s, answer(t, "one", one), answer(t, "two", two))
	f.acked(t, 1)
	p.until("one")

	// A route moves.
	w.routes["/"] = "two"
	s = w.snapshot()
	f.Offer(head(2, s), s)
	f.acked(t, 2)
	t.Logf("route seen after %s", p.until("two"))

	// An upstream changes: it must not wait for endpoints that Envoy does not
	// ask for again, which would take the initial fetch timeout of 15 s.
	changed := w.upstreams["two"]
	changed.Connect = 3 * time.Second
	w.upstreams["two"] = changed
	s = w.snapshot()
	begin := time.Now()
	f.Offer(head(3, s), s)
	f.acked(t, 3) // which an Envoy says when nothing is warming
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("a changed upstream got warm after %s", took)
	} else {
		t.Logf("changed upstream warm after %s", took)
	}
	p.until("two")
	if n, err := p.admin.Warming(t.Context()); n != 0 || err != nil {
		t.Errorf("%d are warming, %v", n, err)
	}

	// The live plane moves the endpoints, without a head.
	f.Answer(answer(t, "two", one))
	p.until("one")

	// A restarted server sends nothing.
	f.stop()
	was := counted(t, f)
	f.start(t)
	waitFor(t, "the Envoy to be back", func() bool {
		for _, n := range f.Nodes() {
			if n.Settled {
				return true
			}
		}
		return false
	})
	if now := counted(t, f); now != was {
		t.Errorf("%v responses were sent after a restart", now-was)
	}
	p.until("one")
}

func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for begin := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begin) > patience {
			tb.Fatalf("waited %s for %s", patience, what)
		}
	}
}

func TestEnvoyRefuses(t *testing.T) {
	f := serve(t, cache.Options{})
	p := startEnvoy(t, f.socket)
	one, two := backend(t, "one"), backend(t, "two")
	w := newWorld(t, p.port)
	w.upstream("one")
	w.routes["/"] = "one"
	s := w.snapshot()
	f.Offer(head(1, s), s, answer(t, "one", one), answer(t, "two", two))
	f.acked(t, 1)
	p.until("one")
	l := startLoad(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/", p.port), 1)
	// Two upstreams change, one of them to what no Envoy takes; the route moves.
	w.upstream("two")
	w.routes["/"] = "two"
	good := w.snapshot()
	bad := good.With([]projector.Update{put(t, "worse", &clusterv3.Cluster{
		Name: "worse", LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED, // which a static one does not provide
	})})
	f.Offer(head(2, bad), bad)
	v := f.verdict(t)
	if v.Kind != projector.Nacked || v.Generation != 2 || v.Type != upstreams || len(v.Resources) == 0 || v.Resources[0] != "worse" {
		t.Fatalf("got verdict %+v", v)
	}
	t.Logf("refused: %s", v.Message)
	waitFor(t, "what was applied in part to be gone", func() bool {
		b, err := p.admin.Get(t.Context(), "/clusters?format=json")
		return err == nil && !strings.Contains(string(b), `"two"`)
	})
	p.until("one")
	f.Offer(head(3, good), good)
	f.acked(t, 3)
	p.until("two")
	l.more(t, 50)
	l.none(t)
}

// TestEnvoyMoves shows that nothing fails while upstreams come and go under a
// route.
func TestEnvoyMoves(t *testing.T) {
	f := serve(t, cache.Options{})
	p := startEnvoy(t, f.socket)
	w := newWorld(t, p.port)
	w.upstream("u0")
	w.routes["/"] = "u0"
	b := backend(t, "b")
	s := w.snapshot()
	f.Offer(head(1, s), s, answer(t, "u0", b))
	f.acked(t, 1)
	p.until("b")
	l := startLoad(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/", p.port), 2)
	const moves = 40
	for i := 1; i <= moves; i++ {
		old, name := fmt.Sprintf("u%d", i-1), fmt.Sprintf("u%d", i)
		delete(w.upstreams, old)
		if i%4 == 3 { // found by DNS, which takes its time
			w.upstreams[name] = ir.Upstream{
				Name: name, Discovery: ir.DiscoverDNS, Hosts: []ir.HostPort{{Host: "localhost", Port: b.Port}},
				DNS: &ir.DNS{V4: true}, Connect: 2 * time.Second,
			}
		} else {
			w.upstream(name)
		}
		w.routes["/"] = name
		s = w.snapshot()
		f.Offer(head(uint64(i+1), s), s, answer(t, name, b))
		if i%3 == 0 {
			f.acked(t, uint64(i+1)) // the others are overtaken on the way
			l.more(t, 20)
		}
	}
	f.acked(t, moves+1)
	l.none(t)
}
