package xds_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/projector/shelf"
	"github.com/chancery-dev/chancery/xds"
	"github.com/chancery-dev/chancery/xds/cache"
)

// hub signs heads and serves snapshots. Until calm it fails every second
// request, and answers every fourth with something else.
type hub struct {
	key    ed25519.PrivateKey
	mu     sync.Mutex
	things map[string][]byte
	asked  map[string]int
	n      int
	storm  bool
}

func newHub(tb testing.TB) *hub {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return &hub{key: key, things: map[string][]byte{}, asked: map[string]int{}}
}

func (h *hub) public() ed25519.PublicKey { return h.key.Public().(ed25519.PublicKey) }

func (h *hub) publish(s *projector.Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.things[s.Fingerprint().String()] = s.Manifest()
	for c := range s.Chunks() {
		h.things[c.Digest().String()] = c.Encode()
	}
}

// counts returns what was asked for, how often, since it was called last.
func (h *hub) counts() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked
	h.asked = map[string]int{}
	return asked
}

func (h *hub) get(name string) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked[name]++
	h.n++
	b, ok := h.things[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("no %s", name)
	case h.storm && h.n%4 == 0:
		return append([]byte{0}, b...), nil
	case h.storm && h.n%2 == 0:
		return nil, errors.New("no luck")
	}
	return b, nil
}

func (h *hub) Manifest(_ context.Context, fp projector.Fingerprint) ([]byte, error) {
	return h.get(fp.String())
}

func (h *hub) Chunk(_ context.Context, d ledger.Digest) ([]byte, error) { return h.get(d.String()) }

// sign returns a head as the hub records it.
func (h *hub) sign(tb testing.TB, head projector.Head, term uint64) projector.SignedHead {
	tb.Helper()
	body, err := json.Marshal(head)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := json.Marshal(ledger.Decision{Term: term, Body: body})
	if err != nil {
		tb.Fatal(err)
	}
	event, err := ledger.Event{
		ID:     ledger.Origin{Cluster: ledger.InstallScope, Epoch: term, Instance: "hub", N: head.Generation},
		Source: "hub", Type: ledger.DecisionType(projector.HeadDecision),
		Subject: ledger.DecisionSubject(string(head.Fleet)), Time: time.Unix(1, 0).UTC(), Data: data,
	}.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return projector.SignedHead{Record: ledger.Sign(event, h.key), Seq: ledger.Seq(head.Generation)}
}

func (h *hub) head(tb testing.TB, generation uint64, s *projector.Snapshot) projector.SignedHead {
	tb.Helper()
	return h.sign(tb, projector.Head{Fleet: "default", Ring: "default", Generation: generation, Fingerprint: s.Fingerprint(), Why: "rollout"}, 1)
}

// running is an edge that runs, with its store.
type running struct {
	*xds.Edge
	store    *xds.Store
	verdicts chan projector.Verdict
	stop     func()
}

func openStore(tb testing.TB, dir string, h *hub) *xds.Store {
	tb.Helper()
	s, err := xds.OpenStore(dir, h.public())
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func runEdge(tb testing.TB, dir string, h *hub, change func(*xds.EdgeOptions)) *running {
	tb.Helper()
	r := &running{store: openStore(tb, dir, h), verdicts: make(chan projector.Verdict, 1000)}
	opts := xds.EdgeOptions{
		Name: "edge", Fleet: "default", Ring: "default", Hub: h.public(), Source: h, Store: r.store,
		OnVerdict: func(v projector.Verdict) { r.verdicts <- v }, Soak: time.Millisecond,
	}
	if change != nil {
		change(&opts)
	}
	e, err := xds.NewEdge(opts)
	if err != nil {
		tb.Fatal(err)
	}
	r.Edge = e
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := errors.Join(<-done, r.store.Close()); err != nil {
			tb.Error(err)
		}
		r.stop = func() {}
	}
	tb.Cleanup(func() { r.stop() })
	return r
}

func (r *running) offer(tb testing.TB, h projector.SignedHead) {
	tb.Helper()
	if err := r.Offer(h); err != nil {
		tb.Fatal(err)
	}
}

func (r *running) reach(tb testing.TB, generation uint64) {
	tb.Helper()
	waitFor(tb, fmt.Sprint("generation ", generation), func() bool { return r.Head().Head.Generation == generation })
}

func (r *running) served(tb testing.TB, generation uint64) projector.Verdict {
	tb.Helper()
	timeout := time.After(patience)
	for {
		select {
		case v := <-r.verdicts:
			if v.Kind == projector.Nacked {
				tb.Fatalf("refused: %+v", v)
			}
			if v.Kind == projector.Served && v.Generation == generation {
				return v
			}
		case <-timeout:
			tb.Fatalf("generation %d was never served", generation)
		}
	}
}

func TestAppliesNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var current projector.SignedHead
		fleets := []ledger.FleetName{"a", "b"}
		rings := []string{"x", "y"}
		for range rapid.IntRange(1, 50).Draw(t, "offers") {
			h := projector.SignedHead{Term: rapid.Uint64Range(0, 4).Draw(t, "term"), Head: projector.Head{
				Fleet: rapid.SampledFrom(fleets).Draw(t, "fleet"), Ring: rapid.SampledFrom(rings).Draw(t, "ring"),
				Generation: rapid.Uint64Range(0, 10).Draw(t, "generation"),
			}}
			if !xds.Applies(current, h, "a", "x") {
				if h.Head.Fleet == "a" && h.Head.Ring == "x" && (h.Term > current.Term || h.Term == current.Term && h.Head.Generation > current.Head.Generation) {
					t.Fatalf("%+v does not follow %+v", h, current)
				}
				continue
			}
			if h.Head.Fleet != "a" || h.Head.Ring != "x" {
				t.Fatalf("took a head of fleet %s, ring %s", h.Head.Fleet, h.Head.Ring)
			}
			if h.Term < current.Term || h.Term == current.Term && h.Head.Generation <= current.Head.Generation {
				t.Fatalf("went from term %d, generation %d to %d, %d", current.Term, current.Head.Generation, h.Term, h.Head.Generation)
			}
			current = h
		}
	})
}

func TestEdgeFetchesWhatIsMissing(t *testing.T) {
	h := newHub(t)
	r := runEdge(t, t.TempDir(), h, nil)
	s := projector.EmptySnapshot()
	for i := range 50 {
		s = s.With([]projector.Update{raw(upstreams, fmt.Sprint("u", i), "1")})
	}
	h.publish(s)
	r.offer(t, h.head(t, 1, s))
	r.reach(t, 1)
	for name, n := range h.counts() {
		if n != 1 {
			t.Errorf("%s was asked for %d times", name, n)
		}
	}
	// One change is one chunk, whatever the size, and a storm is got through.
	h.mu.Lock()
	h.storm = true
	h.mu.Unlock()
	s2 := s.With([]projector.Update{raw(upstreams, "u7", "2")})
	h.publish(s2)
	r.offer(t, h.head(t, 2, s2))
	r.reach(t, 2)
	if asked := h.counts(); len(asked) != 2 {
		t.Errorf("asked for %d things, want a manifest and a chunk", len(asked))
	}
	// Back to the first by a new generation: nothing is missing.
	r.offer(t, h.head(t, 3, s))
	r.reach(t, 3)
	if asked := h.counts(); len(asked) != 0 {
		t.Errorf("asked for %v", asked)
	}
}

func TestEdgeTakesOnlyNewerSignedHeads(t *testing.T) {
	h := newHub(t)
	r := runEdge(t, t.TempDir(), h, nil)
	s := probed(t)
	h.publish(s)
	r.offer(t, h.head(t, 5, s))
	r.reach(t, 5)
	r.offer(t, h.head(t, 4, s))
	r.offer(t, h.sign(t, projector.Head{Fleet: "other", Ring: "default", Generation: 9, Fingerprint: s.Fingerprint()}, 1))
	r.offer(t, h.sign(t, projector.Head{Fleet: "default", Ring: "canary", Generation: 9, Fingerprint: s.Fingerprint()}, 1))
	forger := newHub(t)
	if err := r.Offer(forger.head(t, 9, s)); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("a forged head: got %v", err)
	}
	// A head whose content is nowhere holds up none that comes after.
	nowhere := probed(t, raw(upstreams, "nowhere", "1"))
	r.offer(t, h.head(t, 6, nowhere))
	r.offer(t, h.head(t, 7, s))
	r.reach(t, 7)
}

func TestStore(t *testing.T) {
	h := newHub(t)
	dir := t.TempDir()
	r := runEdge(t, dir, h, nil)
	s := probed(t, raw(upstreams, "a", "1"))
	h.publish(s)
	r.Answer(raw(secrets, "probe", "a private key"), raw(endpoints, "e", "addresses"))
	r.offer(t, h.head(t, 1, s))
	r.reach(t, 1)
	if _, err := xds.OpenStore(dir, h.public()); !errors.Is(err, shelf.ErrLocked) {
		t.Errorf("a store in use: got %v", err)
	}
	r.stop()

	// What is secret is not in any file in clear, and comes back.
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "private key") {
			t.Errorf("%s has a private key in clear", f.Name())
		}
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %s, %v", f.Name(), info.Mode(), err)
		}
	}
	st := openStore(t, dir, h)
	answers, err := st.Live()
	if err != nil || len(answers) != 2 {
		t.Fatalf("got %d answers, %v", len(answers), err)
	}
	for _, a := range answers {
		if a.Type == secrets && string(a.Resource.Bytes) != "a private key" {
			t.Errorf("got secret %q", a.Resource.Bytes)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	// Damaged files are set aside, and the content fetched anew.
	for _, name := range []string{"edge.db", "heads.json", "live.json"} {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b[:len(b)/2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r = runEdge(t, dir, h, nil)
	if n := len(r.store.SetAside()); n != 3 {
		t.Errorf("%d files were set aside: %v", n, r.store.SetAside())
	}
	if g := r.Head().Head.Generation; g != 0 {
		t.Errorf("serves generation %d from damaged files", g)
	}
	r.offer(t, h.head(t, 1, s))
	r.reach(t, 1)
	r.stop()

	// A newer format is left alone.
	if err := os.WriteFile(filepath.Join(dir, "heads.json"), []byte(`{"version":2,"current":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := xds.OpenStore(dir, h.public()); !errors.Is(err, xds.ErrStoreNewer) {
		t.Errorf("a newer store: got %v", err)
	}
}

// TestPromotionKeepsWhatIsBeingPut promotes one snapshot while the next is
// stored: the next must be there afterwards, or the edge would go back.
func TestPromotionKeepsWhatIsBeingPut(t *testing.T) {
	h := newHub(t)
	st := openStore(t, t.TempDir(), h)
	defer func() { _ = st.Close() }()
	var before projector.SignedHead
	for i := range uint64(50) {
		s := probed(t, raw(upstreams, "a", fmt.Sprint(i)))
		signed := h.head(t, i+1, s)
		opened, err := projector.OpenHead(signed.Record, signed.Seq, h.public())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		if i > 0 {
			wg.Go(func() {
				if err := st.Promote(before); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := st.Put(opened, s); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		if got, _, err := st.Load(); err != nil || got.Head.Generation != i+1 {
			t.Fatalf("loaded generation %d, %v; stored %d", got.Head.Generation, err, i+1)
		}
		if n := len(st.Good()); n != int(min(i, xds.KeptGood)) {
			t.Fatalf("%d good ones are kept after %d promotions", n, i)
		}
		before = opened
	}
}

// authority signs certificates for a host.
type authority struct {
	tb   testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	n    int64
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{tb: tb, pool: x509.NewCertPool()}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, a.template(), a.template(), a.key.Public(), a.key)
	if err != nil {
		tb.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) template() *x509.Certificate {
	a.n++
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
}

// issue returns a certificate for the host; its serial number rises.
func (a *authority) issue(name, host string) ir.Secret {
	a.tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	t := a.template()
	t.IsCA, t.DNSNames, t.KeyUsage = false, []string{host}, x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	if err != nil {
		a.tb.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return ir.Secret{
		Name: name, Chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b}),
	}
}

// client asks for host on the proxy's port, and tells the serial number of
// every certificate that it is shown.
func (a *authority) client(p *proxy, host string, serial func(int64)) (*http.Client, string) {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{RootCAs: a.pool, ServerName: host, VerifyConnection: func(s tls.ConnectionState) error {
			serial(s.PeerCertificates[0].SerialNumber.Int64())
			return nil
		}},
	}}, fmt.Sprintf("https://127.0.0.1:%d/", p.port)
}

// serveEdge puts the edge's cache behind a socket.
func serveEdge(tb testing.TB, r *running) *fixture {
	tb.Helper()
	dir, err := os.MkdirTemp("", "xds") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	f := &fixture{Cache: r.Cache(), socket: filepath.Join(dir, "ads.sock")}
	f.start(tb)
	tb.Cleanup(func() { f.stop() })
	return f
}

// TestEdgeAlone serves TLS through an edge and an Envoy, renews the certificate
// under load, and starts both again with everything else gone.
func TestEdgeAlone(t *testing.T) {
	const host = "example.test"
	h, dir := newHub(t), t.TempDir()
	prober := &xds.Prober{}
	r := runEdge(t, dir, h, func(o *xds.EdgeOptions) { o.Prober = prober })
	f := serveEdge(t, r)
	p := startEnvoy(t, f.socket)
	prober.Warming = func(ctx context.Context, _ string) (int, error) { return p.admin.Warming(ctx) }
	a := newAuthority(t)

	w := newWorld(t, p.port)
	w.upstream("u")
	w.routes["/"] = "u"
	w.tls = &ir.ServerTLS{Certificates: []string{"cert"}}
	w.secrets = []ir.SecretRef{{Name: "cert", Use: ir.UseCertificate, Hosts: []string{host}}}
	s := w.snapshot()
	h.publish(s)
	if err := r.AnswerSecret(a.issue("cert", host), ir.UseCertificate); err != nil {
		t.Fatal(err)
	}
	r.Answer(answer(t, "u", backend(t, "u")))
	r.offer(t, h.head(t, 1, s))
	if v := r.served(t, 1); v.Node != "envoy" || v.Edge != "edge" || v.Fingerprint != s.Fingerprint() || v.Message != "" {
		t.Errorf("got verdict %+v", v)
	}

	// A route changes: it is proven by its new hash.
	w.routes["/more"] = "u"
	s = w.snapshot()
	h.publish(s)
	begin := time.Now()
	r.offer(t, h.head(t, 2, s))
	r.served(t, 2)
	t.Logf("proven after %s", time.Since(begin))

	// Renewals under load: new handshakes get the new certificate, nothing
	// fails, no listener is touched.
	drains := `^listener_manager\.(listener_modified|listener_in_place_updated|listener_removed|lds\.update_success)$`
	before, err := p.admin.Stats(t.Context(), drains)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	newest := int64(0)
	client, url := a.client(p, host, func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		newest = max(newest, n)
	})
	l := startLoad(client, url, 2)
	for range 5 {
		cert := a.issue("cert", host)
		serial := a.n
		if err := r.AnswerSecret(cert, ir.UseCertificate); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the renewed certificate", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return newest == serial
		})
		l.more(t, 20)
	}
	l.none(t)
	after, err := p.admin.Stats(t.Context(), drains)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("listeners were touched: %v, before %v", after, before)
	}

	// The snapshot soaks and is a last known good one.
	waitFor(t, "the promotion", func() bool {
		good := r.store.Good()
		return len(good) > 0 && good[0].Head.Generation == 2
	})

	// Edge and Envoy end, the hub is gone, the live plane too.
	last := a.n
	r.stop()
	f.stop()
	p.stop()
	h.things = nil
	r2 := runEdge(t, dir, h, func(o *xds.EdgeOptions) { o.Prober = &xds.Prober{} })
	f2 := serveEdge(t, r2)
	port := p.port
	p2 := startEnvoy(t, f2.socket)
	p2.port = port
	r2.served(t, 2)
	seen := int64(0)
	client, url = a.client(p2, host, func(n int64) { seen = n })
	if got, err := get(client, url); got != "u" || err != nil || seen != last {
		t.Errorf("got %q with certificate %d (want %d), %v", got, seen, last, err)
	}
}

// TestUnaskable shows that a table behind client certificates is said not to
// have been asked.
func TestUnaskable(t *testing.T) {
	h := newHub(t)
	r := runEdge(t, t.TempDir(), h, func(o *xds.EdgeOptions) { o.Prober = &xds.Prober{} })
	f := serveEdge(t, r)
	p := startEnvoy(t, f.socket)
	a := newAuthority(t)
	w := newWorld(t, p.port)
	w.tls = &ir.ServerTLS{Certificates: []string{"cert"}, ClientCA: "ca", RequireCert: true}
	w.secrets = []ir.SecretRef{{Name: "cert", Use: ir.UseCertificate}, {Name: "ca", Use: ir.UseCA}}
	s := w.snapshot()
	h.publish(s)
	ca := ir.Secret{Name: "ca", CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})}
	if err := errors.Join(r.AnswerSecret(a.issue("cert", "x"), ir.UseCertificate), r.AnswerSecret(ca, ir.UseCA)); err != nil {
		t.Fatal(err)
	}
	r.offer(t, h.head(t, 1, s))
	if v := r.served(t, 1); !strings.Contains(v.Message, "1 route tables could not be asked") {
		t.Errorf("got verdict %+v", v)
	}
}

// TestProveFails shows that what is not served is not proven.
func TestProveFails(t *testing.T) {
	f := serve(t, cache.Options{})
	p := startEnvoy(t, f.socket)
	w := newWorld(t, p.port)
	s := w.snapshot()
	f.Offer(head(1, s), s)
	f.acked(t, 1)
	g, _ := f.Current()
	prober := &xds.Prober{Limit: patience}
	if unasked, err := prober.Prove(t.Context(), "envoy", g); err != nil || len(unasked) > 0 {
		t.Fatalf("got %v, %v", unasked, err)
	}
	// A generation that the Envoy never gets.
	other := cache.New(cache.Options{})
	w.upstream("u")
	w.routes["/"] = "u"
	s2 := w.snapshot()
	prober.Limit = 300 * time.Millisecond
	if _, err := prober.Prove(t.Context(), "envoy", other.Offer(head(2, s2), s2)); err == nil || !strings.Contains(err.Error(), "answers for another version") {
		t.Errorf("got %v", err)
	}
	prober.Reach = func(string) (string, bool) { return "", false }
	if _, err := prober.Prove(t.Context(), "envoy", g); !errors.Is(err, xds.ErrUnreachable) {
		t.Errorf("got %v", err)
	}
}
