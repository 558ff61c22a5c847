package xds_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds"
	"github.com/chancery-dev/chancery/xds/cache"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a cache behind a server on a socket, and what it had to say.
type fixture struct {
	*cache.Cache
	socket   string
	verdicts chan projector.Verdict
	metrics  *prometheus.Registry
	stop     func()
}

// counted returns how many responses the fixture's cache has sent.
func counted(tb testing.TB, f *fixture) (n float64) {
	tb.Helper()
	families, err := f.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "chancery_xds_responses_total" {
			for _, m := range family.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

func serve(tb testing.TB, opts cache.Options) *fixture {
	tb.Helper()
	f := &fixture{verdicts: make(chan projector.Verdict, 1000), metrics: prometheus.NewRegistry()}
	m, err := cache.NewMetrics(f.metrics)
	if err != nil {
		tb.Fatal(err)
	}
	opts.Metrics = m
	opts.OnVerdict = func(v projector.Verdict) { f.verdicts <- v }
	f.Cache = cache.New(opts)
	dir, err := os.MkdirTemp("", "xds") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	f.socket = filepath.Join(dir, "ads.sock")
	f.start(tb)
	tb.Cleanup(func() { f.stop() })
	return f
}

// start serves the fixture's cache on its socket until stop.
func (f *fixture) start(tb testing.TB) {
	tb.Helper()
	lis, err := xds.ListenUnix(f.socket)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- xds.Serve(ctx, xds.Endpoint{Listener: lis, Registry: xds.Only(f.Cache, "")}) }()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
		f.stop = func() {}
	}
}

func (f *fixture) verdict(tb testing.TB) projector.Verdict {
	tb.Helper()
	select {
	case v := <-f.verdicts:
		return v
	case <-time.After(patience):
		tb.Fatal("no verdict")
		panic("unreachable")
	}
}

// head returns a head of a generation. No cache looks at signatures.
func head(generation uint64, s *projector.Snapshot) projector.SignedHead {
	return projector.SignedHead{Term: 1, Head: projector.Head{
		Fleet: "default", Ring: "default", Generation: generation, Fingerprint: s.Fingerprint(),
	}}
}

// put and drop are updates of a snapshot, put of an upstream.
func put(tb testing.TB, name string, m *clusterv3.Cluster) projector.Update {
	tb.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	r := projector.NewResource(name, b)
	return projector.Update{Type: upstreams, Name: name, Resource: &r}
}

func drop(t projector.ResourceType, name string) projector.Update {
	return projector.Update{Type: t, Name: name}
}

func raw(t projector.ResourceType, name, body string) projector.Update {
	r := projector.NewResource(name, []byte(body))
	return projector.Update{Type: t, Name: name, Resource: &r}
}

// eds is an upstream that asks for the endpoint set.
func eds(name, set, alt string) *clusterv3.Cluster {
	return &clusterv3.Cluster{
		Name: name, AltStatName: alt,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{
			ServiceName: set,
			EdsConfig:   &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}},
		},
	}
}

// client is a delta ADS client that does as it is told.
type client struct {
	tb  testing.TB
	str discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	// has are the versions of what it was sent.
	has map[string]map[string]string
	in  chan *discovery.DeltaDiscoveryResponse
	// hangUp ends the connection.
	hangUp func()
}

func dial(tb testing.TB, socket string) *client {
	tb.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	str, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	c := &client{tb: tb, str: str, has: map[string]map[string]string{}, in: make(chan *discovery.DeltaDiscoveryResponse, 1000)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := str.Recv()
			if err != nil {
				return
			}
			c.in <- r
		}
	}()
	c.hangUp = func() {
		cancel()
		<-done
		_ = conn.Close()
	}
	tb.Cleanup(func() { c.hangUp() })
	return c
}

func (c *client) send(r *discovery.DeltaDiscoveryRequest) {
	c.tb.Helper()
	r.Node = &corev3.Node{Id: "client"}
	if err := c.str.Send(r); err != nil {
		c.tb.Fatal(err)
	}
}

// ask subscribes, to everything if no name is given.
func (c *client) ask(t projector.ResourceType, names ...string) {
	c.tb.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{
		TypeUrl: cache.TypeURL(t), ResourceNamesSubscribe: names, InitialResourceVersions: c.has[cache.TypeURL(t)],
	})
}

// next returns the next response without answering it, and its content as
// "+name" and "-name" by type.
func (c *client) next() (*discovery.DeltaDiscoveryResponse, string) {
	c.tb.Helper()
	var r *discovery.DeltaDiscoveryResponse
	select {
	case r = <-c.in:
	case <-time.After(patience):
		c.tb.Fatal("no response")
	}
	var said []string
	for _, t := range projector.ResourceTypes {
		if cache.TypeURL(t) == r.GetTypeUrl() {
			said = append(said, t.String())
		}
	}
	if c.has[r.GetTypeUrl()] == nil {
		c.has[r.GetTypeUrl()] = map[string]string{}
	}
	for _, res := range r.GetResources() {
		if res.GetResource().GetTypeUrl() != r.GetTypeUrl() {
			c.tb.Errorf("%s is a %s in a response of %s", res.GetName(), res.GetResource().GetTypeUrl(), r.GetTypeUrl())
		}
		c.has[r.GetTypeUrl()][res.GetName()] = res.GetVersion()
		said = append(said, "+"+res.GetName())
	}
	for _, name := range r.GetRemovedResources() {
		delete(c.has[r.GetTypeUrl()], name)
		said = append(said, "-"+name)
	}
	slices.Sort(said[1:])
	return r, strings.Join(said, " ")
}

// expect takes the next response, which must be as said, and acknowledges it.
func (c *client) expect(want string) {
	c.tb.Helper()
	r, got := c.next()
	if got != want {
		c.tb.Fatalf("got response %q, want %q", got, want)
	}
	c.ack(r)
}

func (c *client) ack(r *discovery.DeltaDiscoveryResponse) {
	c.tb.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
}

func (c *client) nack(r *discovery.DeltaDiscoveryResponse, message string) {
	c.tb.Helper()
	c.send(&discovery.DeltaDiscoveryRequest{
		TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce(), ErrorDetail: &statuspb.Status{Message: message},
	})
}

// quiet fails if anything was sent. What is sent and answered in between shows
// that the server had its turn.
func (c *client) quiet(f *fixture) {
	c.tb.Helper()
	for range 2 { // the second is sent after all answers before it were taken
		f.Answer(raw(projector.SecretNeeds, "probe", fmt.Sprint(time.Now().UnixNano())))
		c.expect("secrets +probe")
	}
}

// probed is a snapshot that client.quiet works with.
func probed(tb testing.TB, updates ...projector.Update) *projector.Snapshot {
	tb.Helper()
	return projector.EmptySnapshot().With(append(updates, raw(projector.SecretNeeds, "probe", "{}")))
}

const (
	upstreams = projector.Upstreams
	listeners = projector.Listeners
	routes    = projector.Routes
	endpoints = projector.EndpointNeeds
	secrets   = projector.SecretNeeds
)

func TestOnlyWhatChangedIsSent(t *testing.T) {
	f := serve(t, cache.Options{})
	s1 := probed(t, raw(upstreams, "a", "a1"), raw(upstreams, "b", "b1"), raw(listeners, "l", "l1"))
	f.Offer(head(1, s1), s1)
	c := dial(t, f.socket)
	c.ask(upstreams)
	c.expect("upstreams +a +b")
	c.ask(listeners)
	c.expect("listeners +l")
	c.ask(secrets, "probe")
	if got, want := f.verdict(t), (projector.Verdict{
		Fleet: "default", Node: "client", Kind: projector.Acked, Generation: 1, Fingerprint: s1.Fingerprint(),
	}); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	c.quiet(f)

	s2 := s1.With([]projector.Update{raw(upstreams, "b", "b2"), raw(upstreams, "c", "c1"), drop(upstreams, "a"), drop(listeners, "l")})
	f.Offer(head(2, s2), s2)
	c.expect("upstreams +b +c")
	c.expect("listeners -l")
	c.expect("upstreams -a")
	if v := f.verdict(t); v.Kind != projector.Acked || v.Generation != 2 {
		t.Errorf("got verdict %+v", v)
	}
	c.quiet(f)
}

func TestReconnectIsSentNothing(t *testing.T) {
	f := serve(t, cache.Options{})
	s := probed(t, put(t, "a", eds("a", "set", "")), raw(upstreams, "b", "b1"), raw(listeners, "l", "l1"),
		raw(routes, "r", "r1"), raw(endpoints, "set", "{}"))
	live := []projector.Update{raw(endpoints, "set", "e1")}
	f.Offer(head(1, s), s, live...)
	c := dial(t, f.socket)
	c.ask(upstreams)
	c.expect("upstreams +a +b")
	c.ask(endpoints, "set")
	c.expect("endpoints +set")
	c.ask(listeners)
	c.expect("listeners +l")
	c.ask(routes, "r")
	c.expect("routes +r")
	c.ask(secrets, "probe")
	c.quiet(f)
	f.verdict(t)

	// A new process with the same content, in which the head comes late and
	// one upstream is new, one gone.
	f2 := serve(t, cache.Options{})
	c2 := dial(t, f2.socket)
	c2.has = maps.Clone(c.has)
	delete(c2.has, cache.TypeURL(secrets))
	c2.has[cache.TypeURL(upstreams)]["gone"] = "0"
	delete(c2.has[cache.TypeURL(upstreams)], "b")
	for _, typ := range []projector.ResourceType{upstreams, listeners} {
		c2.ask(typ)
	}
	c2.ask(endpoints, "set")
	c2.ask(routes, "r")
	c2.ask(secrets, "probe")
	f2.Offer(head(7, s), s, live...)
	c2.expect("upstreams +b")
	c2.expect("upstreams -gone")
	if v := f2.verdict(t); v.Kind != projector.Acked || v.Generation != 7 {
		t.Errorf("got verdict %+v", v)
	}
	c2.quiet(f2)

	// Once more, with the live plane late: what it has not answered yet is not
	// gone, and when it answers as before, nothing is sent.
	f3 := serve(t, cache.Options{})
	f3.Offer(head(7, s), s)
	c3 := dial(t, f3.socket)
	c3.has = maps.Clone(c2.has)
	for _, typ := range []projector.ResourceType{upstreams, listeners} {
		c3.ask(typ)
	}
	c3.ask(endpoints, "set")
	c3.ask(routes, "r")
	c3.ask(secrets, "probe")
	f3.Answer(live...)
	c3.quiet(f3)
	f3.Answer(raw(endpoints, "set", "e2"))
	c3.expect("endpoints +set")
	c3.quiet(f3)
}

// TestNothingIsAnAnswer shows that a client that waits for everything is told
// when there is nothing: an Envoy starts no listener before.
func TestNothingIsAnAnswer(t *testing.T) {
	f := serve(t, cache.Options{})
	c := dial(t, f.socket)
	c.ask(upstreams)
	c.ask(secrets, "probe")
	s := probed(t)
	f.Offer(head(1, s), s)
	c.expect("upstreams")
	c.ask(listeners)
	c.expect("listeners")
	f.acked(t, 1)
	c.quiet(f)
}

func TestAskedForBeforeItExists(t *testing.T) {
	f := serve(t, cache.Options{})
	c := dial(t, f.socket)
	c.ask(routes, "r", "never")
	c.ask(endpoints, "set")
	c.ask(secrets, "probe")
	s := probed(t, raw(endpoints, "set", "{}"))
	f.Offer(head(1, s), s)
	c.quiet(f)
	f.Answer(raw(endpoints, "set", "e1"))
	c.expect("endpoints +set")
	s2 := s.With([]projector.Update{raw(routes, "r", "r1"), raw(routes, "other", "r1")})
	f.Offer(head(2, s2), s2)
	c.expect("routes +r")
	c.ask(routes, "other")
	c.expect("routes +other")
	c.quiet(f)
}

func TestChangedUpstreamGetsItsEndpointsAgain(t *testing.T) {
	f := serve(t, cache.Options{})
	s := probed(t, put(t, "a", eds("a", "set", "")), put(t, "b", eds("b", "other", "")),
		raw(endpoints, "set", "{}"), raw(endpoints, "other", "{}"))
	f.Offer(head(1, s), s, raw(endpoints, "set", "e1"), raw(endpoints, "other", "e1"))
	c := dial(t, f.socket)
	c.ask(upstreams)
	c.expect("upstreams +a +b")
	c.ask(endpoints, "set", "other")
	c.expect("endpoints +other +set")
	c.ask(secrets, "probe")
	c.quiet(f)
	before := c.has[cache.TypeURL(endpoints)]["set"]
	s2 := s.With([]projector.Update{put(t, "a", eds("a", "set", "changed"))})
	f.Offer(head(2, s2), s2)
	// Before the upstream is acknowledged: it waits for its endpoints.
	r, got := c.next()
	if got != "upstreams +a" {
		t.Fatalf("got %q", got)
	}
	c.expect("endpoints +set")
	c.ack(r)
	if after := c.has[cache.TypeURL(endpoints)]["set"]; after == before {
		t.Errorf("the endpoints of a changed upstream kept the version %s", after)
	}
	c.quiet(f)
	// The same upstream again is the same version again: a restart in between
	// would have sent nothing.
	f.Offer(head(3, s), s)
	c.expect("upstreams +a")
	c.expect("endpoints +set")
	if after := c.has[cache.TypeURL(endpoints)]["set"]; after != before {
		t.Errorf("the endpoints have version %s and not %s as before", after, before)
	}
}

func TestRefusal(t *testing.T) {
	f := serve(t, cache.Options{Edge: "edge-1"})
	good := probed(t, raw(upstreams, "a", "a1"), raw(upstreams, "b", "b1"), raw(listeners, "l", "l1"))
	f.Offer(head(1, good), good)
	c := dial(t, f.socket)
	c.ask(secrets, "probe")
	c.ask(upstreams)
	c.expect("upstreams +a +b")
	c.ask(listeners)
	c.expect("listeners +l")
	f.verdict(t)
	bad := good.With([]projector.Update{raw(upstreams, "a", "a2"), raw(upstreams, "new", "n1"), drop(upstreams, "b")})
	f.Offer(head(2, bad), bad)
	r, got := c.next()
	if got != "upstreams +a +new" {
		t.Fatalf("got %q", got)
	}
	c.nack(r, "cluster new: no such thing")
	// What was applied of it in part is undone.
	c.expect("upstreams +a +b")
	c.expect("upstreams -new")
	want := projector.Verdict{
		Fleet: "default", Edge: "edge-1", Node: "client", Kind: projector.Nacked, Generation: 2, Fingerprint: bad.Fingerprint(),
		Type: upstreams, Resources: []string{"new"}, Message: "cluster new: no such thing",
	}
	if got := f.verdict(t); !cmp.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	// Live answers reach a node that is held at the last good generation, and
	// the refused one is not offered to it again, after a reconnect neither.
	c.quiet(f)
	c2 := dial(t, f.socket)
	for typ, versions := range c.has {
		c2.has[typ] = maps.Clone(versions)
	}
	c2.ask(secrets, "probe")
	c2.ask(upstreams)
	c2.ask(listeners)
	c2.quiet(f)
	// A slow turn leaves out the first of the two answers.
	for probe := cache.TypeURL(secrets); c.has[probe]["probe"] != c2.has[probe]["probe"]; {
		c.expect("secrets +probe")
	}
	if v := f.verdict(t); v.Kind != projector.Acked || v.Generation != 1 {
		t.Errorf("got verdict %+v", v)
	}
	// A better one is.
	better := good.With([]projector.Update{raw(upstreams, "a", "a3")})
	f.Offer(head(3, better), better)
	c.expect("upstreams +a")
	if v := f.verdict(t); v.Kind != projector.Acked || v.Generation != 3 {
		t.Errorf("got verdict %+v", v)
	}
}

// TestRefusedTwice shows that a client that refuses everything gets a bounded
// number of responses.
func TestRefusedTwice(t *testing.T) {
	f := serve(t, cache.Options{})
	good := probed(t, raw(upstreams, "a", "a1"), raw(listeners, "l", "l1"))
	f.Offer(head(1, good), good)
	c := dial(t, f.socket)
	c.ask(secrets, "probe")
	c.ask(upstreams)
	c.expect("upstreams +a")
	c.ask(listeners)
	c.expect("listeners +l")
	f.verdict(t)
	bad := good.With([]projector.Update{raw(upstreams, "a", "a2")})
	f.Offer(head(2, bad), bad)
	for range 2 { // the bad one, then the good one
		r, _ := c.next()
		c.nack(r, "no")
	}
	c.quiet(f)

	first := probed(t, raw(upstreams, "a", "a3"))
	f2 := serve(t, cache.Options{})
	f2.Offer(head(1, first), first)
	c2 := dial(t, f2.socket)
	c2.ask(secrets, "probe")
	c2.ask(upstreams)
	r, _ := c2.next() // there is no good one
	c2.nack(r, "no")
	if v := f2.verdict(t); v.Kind != projector.Nacked {
		t.Errorf("got verdict %+v", v)
	}
	c2.quiet(f2)
	// The same under another head is asked for again: silence is no consent.
	f2.Offer(head(2, first), first)
	r, got := c2.next()
	if got != "upstreams +a" {
		t.Fatalf("got %q", got)
	}
	c2.nack(r, "no")
	if v := f2.verdict(t); v.Kind != projector.Nacked || v.Generation != 2 {
		t.Errorf("got verdict %+v", v)
	}
	c2.quiet(f2)
}

// TestLatestWins shows that what arrives while a stream is busy is one next
// generation.
func TestLatestWins(t *testing.T) {
	f := serve(t, cache.Options{})
	s := probed(t, raw(upstreams, "a", "0"), raw(listeners, "l", "l1"))
	f.Offer(head(1, s), s)
	c := dial(t, f.socket)
	c.ask(secrets, "probe")
	c.ask(upstreams)
	c.ask(listeners)
	r, _ := c.next()
	for i := range 50 {
		s = s.With([]projector.Update{raw(upstreams, "a", fmt.Sprint(i+1)), raw(upstreams, fmt.Sprint("u", i%3), fmt.Sprint(i))})
		f.Offer(head(uint64(i+2), s), s)
	}
	c.ack(r)
	c.expect("listeners +l") // the first generation is finished before the last begins
	c.expect("upstreams +a +u0 +u1 +u2")
	for {
		if v := f.verdict(t); v.Generation == 51 {
			break
		}
	}
	c.quiet(f)
}

func TestColdUpstreamHoldsRoutesForAWhileOnly(t *testing.T) {
	f := serve(t, cache.Options{WarmLimit: 50 * time.Millisecond})
	s := probed(t, raw(upstreams, "a", "1"), raw(listeners, "l", "l1"))
	f.Offer(head(1, s), s)
	c := dial(t, f.socket)
	c.ask(secrets, "probe")
	c.ask(upstreams)
	c.ask(listeners)
	r, got := c.next()
	if got != "upstreams +a" {
		t.Fatalf("got %q", got)
	}
	c.expect("listeners +l")
	c.ack(r)
	f.verdict(t)
	c.quiet(f)
}

func TestStateOfTheWorldIsRefused(t *testing.T) {
	f := serve(t, cache.Options{})
	conn, err := grpc.NewClient("unix:"+f.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	str, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = str.Recv()
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "DELTA_GRPC") {
		t.Errorf("got %v", err)
	}
}

func TestListenUnix(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := xds.ListenUnix(filepath.Join(dir, "s")); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a directory open to others: got %v", err)
	}
	f := serve(t, cache.Options{})
	if _, err := xds.ListenUnix(f.socket); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket in use: got %v", err)
	}
}
