package envoy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// proxy is a running Envoy.
type proxy struct {
	admin *http.Client
	ports map[string]int // by listener
}

// run starts an Envoy with the configuration and waits until it listens.
func run(t *testing.T, c config) *proxy {
	t.Helper()
	return start(t, len(c.Listeners), func(a envoy.Admin) []byte { return static(t, c, envoy.StaticOptions{Admin: a}) })
}

// start starts an Envoy and waits until it is live with so many listeners.
func start(t *testing.T, listeners int, bootstrap func(envoy.Admin) []byte) *proxy {
	t.Helper()
	dir, err := os.MkdirTemp("", "envoy") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, path := filepath.Join(dir, "admin"), filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(path, bootstrap(envoy.Admin{Socket: socket}), 0o600); err != nil {
		t.Fatal(err)
	}
	launch(t, path)
	p := &proxy{ports: map[string]int{}, admin: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}}
	t.Cleanup(p.admin.CloseIdleConnections)
	deadline := time.Now().Add(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; len(p.ports) < listeners; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("envoy does not listen: %v", p.ports)
		}
		p.listeners()
	}
	return p
}

// launch starts an Envoy, which ends with the test.
func launch(t *testing.T, bootstrap string) {
	t.Helper()
	id := int(int64(os.Getpid()%100_000)*100 + baseID.Add(1))
	cmd := exec.Command(testbed.Envoy(t), "-c", bootstrap, "--base-id", strconv.Itoa(id), "--log-level", "error", "--concurrency", "1", "--drain-time-s", "1")
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make(chan struct{})
	go func() {
		defer close(said)
		for lines := bufio.NewScanner(output); lines.Scan(); {
			t.Log(lines.Text())
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-said
		_ = cmd.Wait()
	})
}

// TestTasterRuns: an Envoy with what is tasted becomes live and binds nothing
// but loopback, though the ports are those of a running one.
func TestTasterRuns(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := full()
	c.Listeners[0].Port = uint32(taken.Addr().(*net.TCPAddr).Port)
	second := c.Listeners[2]
	second.Name, second.Port = "quic-2", 18444
	c.Listeners = append(c.Listeners, second)
	updates, err := write(c)
	if err != nil {
		t.Fatal(err)
	}
	if updates, err = envoy.Tasteable(updates); err != nil {
		t.Fatal(err)
	}
	_, secrets := live(c)
	p := start(t, len(c.Listeners), func(a envoy.Admin) []byte {
		b, err := envoy.BootstrapStatic(projector.EmptySnapshot().With(updates), nil, secrets, envoy.StaticOptions{Admin: a})
		if err != nil {
			t.Fatal(err)
		}
		return withSystemCA(t, b)
	})
	if p.ports["web-quic-8443"] == 18443 || p.ports["quic-2"] == 18444 {
		t.Errorf("the taster binds the ports of the served: %v", p.ports)
	}
}

func (p *proxy) get(path string) (string, error) {
	res, err := p.admin.Get("http://admin" + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func (p *proxy) listeners() {
	if ready, err := p.get("/ready"); err != nil || !strings.Contains(ready, "LIVE") {
		return
	}
	text, err := p.get("/listeners?format=json")
	if err != nil {
		return
	}
	var list struct {
		ListenerStatuses []struct {
			Name         string `json:"name"`
			LocalAddress struct {
				SocketAddress struct {
					PortValue int `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if json.Unmarshal([]byte(text), &list) != nil {
		return
	}
	for _, l := range list.ListenerStatuses {
		p.ports[l.Name] = l.LocalAddress.SocketAddress.PortValue
	}
}

// ask sends a request and returns the status and the body.
func (p *proxy) ask(t *testing.T, listener, host, path string, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", p.ports[listener], path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// backend answers with the path, the host and a header as it saw them.
func backend(t *testing.T) ir.HostPort {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/missing" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, "%s %s %s", r.URL.Path, r.Host, r.Header.Get("x-sent"))
	}))
	t.Cleanup(s.Close)
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return ir.HostPort{Host: host, Port: uint32(n)}
}

func forwarded(path string, kind ir.PathKind, change func(*ir.Route)) ir.Route {
	r := ir.Route{Match: ir.Match{Path: path, PathKind: kind}, Action: ir.Action{Forward: []ir.Weighted{{Upstream: "backend"}}}}
	if change != nil {
		change(&r)
	}
	return r
}

// TestServed runs configurations through a real Envoy: routing, rewriting, and
// the sentinel behind filters that refuse everything else.
func TestServed(t *testing.T) {
	rewrite := func(to string) func(*ir.Route) {
		return func(r *ir.Route) { r.Rewrite.Prefix = &to }
	}
	c := config{
		Listeners: []ir.Listener{
			{Name: "open", Address: "127.0.0.1", Chains: []ir.Chain{{Name: "c", HTTP: &ir.HTTP{
				Routes: "open", UseRemoteAddress: true, AltSvc: `h3=":443"`, RouteReplies: true,
				LocalReplies: []ir.LocalReply{{Status: 404, Body: "no %REQ(:PATH)%", ContentType: "text/x"}},
			}}}},
			{Name: "shut", Address: "127.0.0.1", Chains: []ir.Chain{{Name: "c", HTTP: &ir.HTTP{Routes: "shut", Filters: []ir.Filter{
				{Name: "lua", Lua: "function envoy_on_response(h)\n  h:headers():add(\"x-lua\", \"ran\")\nend\n"},
				{Name: "ip-deny", IP: []ir.CIDR{{Range: "127.0.0.0/8"}}},
				{Name: "ext-authz", Direct: &ir.Direct{Status: 500, Body: "{\"auth\": \"broken\\\" ]]\"}\n"}},
				{Name: "rate-limit", RateLimit: &ir.RateLimitService{Upstream: "backend", Domain: "d", FailClosed: true}},
			}}}}},
			{Name: "authz", Address: "127.0.0.1", Chains: []ir.Chain{{Name: "c", HTTP: &ir.HTTP{Routes: "authz", Filters: []ir.Filter{
				{Name: "ext-authz", ExtAuthz: &ir.ExtAuthz{Upstream: "nobody", Timeout: 5 * time.Second}},
			}}}}},
			{Name: "broken", Address: "127.0.0.1", Chains: []ir.Chain{{Name: "c", HTTP: &ir.HTTP{Routes: "shut", Filters: []ir.Filter{
				{Name: "ext-authz", Direct: &ir.Direct{Status: 500, Body: "{\"auth\": \"broken\\\" ]]\"}\n"}},
			}}}}},
		},
		Tables: []ir.RouteTable{
			{Name: "open", Sentinel: true, Hosts: []ir.VirtualHost{{Name: "any", Domains: []string{"*"}, Routes: []ir.Route{
				forwarded("/base", ir.PathElement, rewrite("/")),
				forwarded("/strip/", ir.PathPrefix, rewrite("")),
				forwarded("/pre", ir.PathPrefix, rewrite("/new")),
				forwarded("/whole", ir.PathExact, func(r *ir.Route) { r.Rewrite.Path = `/a\1b` }),
				forwarded("/missing", ir.PathPrefix, func(r *ir.Route) {
					r.LocalReplies = []ir.LocalReply{{Status: 404, Body: "replaced", ContentType: "text/y"}}
				}),
				forwarded("/sent", ir.PathPrefix, func(r *ir.Route) {
					r.AddRequestHeaders = []ir.HeaderValue{{Name: "x-sent", Value: "default", IfAbsent: true}}
					r.Rewrite.Host = "inside.example"
				}),
				{Match: ir.Match{Path: "/moved", PathKind: ir.PathElement}, Action: ir.Action{Redirect: &ir.Redirect{Code: 302, Prefix: "/", PrefixIsSet: true}}},
			}}}},
			{Name: "shut", Sentinel: true, Hosts: []ir.VirtualHost{{Name: "any", Domains: []string{"*"}, Routes: []ir.Route{
				forwarded("/bypass", ir.PathPrefix, func(r *ir.Route) { r.DisableAuth = true }),
				forwarded("/context", ir.PathPrefix, func(r *ir.Route) { r.AuthContext = map[string]string{"a": "b"} }),
				forwarded("/", ir.PathPrefix, nil),
			}}}},
		},
		Upstreams: []ir.Upstream{
			{Name: "backend", Hosts: []ir.HostPort{backend(t)}},
			{Name: "nobody", Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 1}}},
		},
	}
	authz := c.Tables[1]
	authz.Name = "authz"
	c.Tables = append(c.Tables, authz)
	p := run(t, c)
	s := snapshot(t, c)

	for _, table := range c.Tables {
		r, _ := s.Get(projector.Routes, table.Name)
		want, err := envoy.SentinelBody(r)
		if err != nil {
			t.Fatal(err)
		}
		code, body, header := p.ask(t, table.Name, envoy.SentinelHost(table.Name), "/")
		if code != 200 || body != want || header.Get("x-lua") != "" {
			t.Errorf("sentinel of %s: %d %q %v, want %q", table.Name, code, body, header, want)
		}
	}
	type answer struct {
		Code int
		Body string
	}
	for _, q := range []struct {
		listener, path string
		want           answer
	}{
		{"open", "/base", answer{200, "/ h.example "}},
		{"open", "/base/x", answer{200, "/x h.example "}},
		{"open", "/based", answer{404, "no /based"}},
		{"open", "/strip/x", answer{200, "/x h.example "}},
		{"open", "/prefix", answer{200, "/newfix h.example "}},
		{"open", "/whole", answer{200, `/a\1b h.example `}},
		{"open", "/missing", answer{404, "replaced"}},
		{"open", "/sent", answer{200, "/sent inside.example default"}},
		{"open", "/none", answer{404, "no /none"}},
		{"shut", "/x", answer{403, "RBAC: access denied"}},
		{"authz", "/x", answer{403, ""}},
		{"authz", "/bypass", answer{200, "/bypass h.example "}},
		{"broken", "/x", answer{500, "{\"auth\": \"broken\\\" ]]\"}\n"}},
		{"broken", "/context", answer{500, "{\"auth\": \"broken\\\" ]]\"}\n"}},
		{"broken", "/bypass", answer{200, "/bypass h.example "}},
	} {
		code, body, header := p.ask(t, q.listener, "h.example", q.path)
		if diff := cmp.Diff(q.want, answer{code, body}); diff != "" {
			t.Errorf("%s%s: %s", q.listener, q.path, diff)
		}
		if q.listener == "open" && code == 200 && header.Get("alt-svc") != `h3=":443"` {
			t.Errorf("%s%s: alt-svc is %q", q.listener, q.path, header.Get("alt-svc"))
		}
	}
	if _, body, _ := p.ask(t, "open", "h.example", "/sent", "x-sent", "mine"); body != "/sent inside.example mine" {
		t.Errorf("a header that is there was replaced: %q", body)
	}
	if code, _, header := p.ask(t, "open", "h.example", "/moved/x"); code != 302 || header.Get("location") != "http://h.example/x" {
		t.Errorf("redirect: %d %v", code, header)
	}

	stats, err := p.get("/stats?filter=.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"cluster.backend.upstream_rq_2xx", "cluster.backend.upstream_cx_active", "cluster.backend.membership_healthy",
		"http.ingress_http.no_route", "listener_manager.total_listeners_active", "cluster_manager.active_clusters", "server.live",
	} {
		if !strings.Contains(stats, "\n"+want+":") && !strings.HasPrefix(stats, want+":") {
			t.Errorf("statistic %s is missing", want)
		}
	}
	for _, unwanted := range []string{"cluster.backend.upstream_cx_rx_bytes_total", "cluster.backend.lb_"} {
		if strings.Contains(stats, unwanted) {
			t.Errorf("statistic %s costs memory for each upstream", unwanted)
		}
	}
}
