package natsstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// TestDamagedStore: whatever happens to the store of the server, it starts, and
// a hub that does what the losses ask for gets the stream going again, with
// nothing lost that the ledger has.
func TestDamagedStore(t *testing.T) {
	each := func(dir, suffix string, do func(path string) error) error {
		n := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, suffix) {
				return err
			}
			n++
			return do(path)
		})
		if err == nil && n == 0 {
			err = errors.New("there is nothing to damage")
		}
		return err
	}
	scribble := func(path string) error {
		b, err := os.ReadFile(path)
		for i := range b {
			b[i] ^= 0x5a
		}
		return errors.Join(err, os.WriteFile(path, b, 0o600))
	}
	cut := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	}
	for name, damage := range map[string]func(dir string) error{
		"deleted":          os.RemoveAll,
		"blocks cut":       func(dir string) error { return each(dir, ".blk", cut) },
		"blocks scribbled": func(dir string) error { return each(dir, ".blk", scribble) },
		"blocks removed":   func(dir string) error { return each(dir, ".blk", os.Remove) },
		"meta cut":         func(dir string) error { return each(dir, "meta.inf", cut) },
		"meta removed":     func(dir string) error { return each(dir, "meta.inf", os.Remove) },
		"sums removed":     func(dir string) error { return each(dir, "meta.sum", os.Remove) },
		"index scribbled":  func(dir string) error { return each(dir, "index.db", scribble) },
		"all scribbled":    func(dir string) error { return each(dir, "", scribble) },
		"all cut":          func(dir string) error { return each(dir, "", cut) },
		"a file in place of the store": func(dir string) error {
			store := filepath.Join(dir, "jetstream")
			return errors.Join(os.RemoveAll(store), os.WriteFile(store, []byte("x"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "nats")
			p, h, east, s := start(t, dir), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
			f := follow(t, p, s, natsstream.FollowerOptions{})
			p.begin(t, h, "east")
			p.publish(t, east.Begin(), east.Put("web", "1"), east.Put("web", "2"))
			wait(t, s, 6)
			before := rootOf(t, s)
			f.stop(t)
			p.stop()
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			p = start(t, dir)
			p.ensure(t)
			f = follow(t, p, s, natsstream.FollowerOptions{})
			next := east.Put("web", "3")
			p.publish(t, next)
			heal(t, p, h, s, f, next)
			if got, err := s.Root(6); err != nil || got != before {
				t.Errorf("root at 6 is %s, %v; it was %s", got, err, before)
			}
			if err := s.Verify(t.Context(), 1, nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// heal does what a hub and a collector do until the last event is recorded.
func heal(t *testing.T, p *plane, h *ledgertest.Hub, s interface {
	natsstream.Store
	Root(ledger.Seq) (ledger.Digest, error)
}, f *following, last ledger.Incoming,
) {
	t.Helper()
	want, err := ledger.DecodeEvent(last.Record.Event)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(patience)
	for {
		changed := s.Updated()
		if got, _ := s.Admission().Progress(want.ID.Cluster); got.NextN > want.ID.N {
			return
		}
		select {
		case <-changed:
		case l := <-f.losses:
			root, err := s.Root(s.Size())
			if err != nil {
				t.Fatal(err)
			}
			switch l.Kind {
			case natsstream.StreamMissing:
				p.ensure(t)
			case natsstream.NotBegun:
				p.openAt(t, h, s.Size(), root, false)
			case natsstream.StreamRegressed, natsstream.MessagesMissing:
				p.openAt(t, h, s.Size(), root, true)
			default:
				t.Fatalf("unexpected: %s: %s", l.Kind, l.Reason)
			}
		case g := <-f.gaps:
			if g.N == want.ID.N {
				p.publish(t, last)
			}
		case <-deadline:
			t.Fatalf("%s is not recorded; the ledger has %d", want.ID, s.Size())
		}
	}
}

// TestDamagedStoresAreBounded: the server keeps the newest few.
func TestDamagedStoresAreBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 5 {
		if err := os.WriteFile(filepath.Join(dir, "jetstream"), []byte{byte('0' + i)}, 0o600); err != nil {
			t.Fatal(err)
		}
		srv, err := natsstream.StartServer(natsstream.ServerOptions{StoreDir: dir, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		srv.Shutdown()
		if srv.Damaged == "" {
			t.Fatal("the server does not say that it set its store aside")
		}
		if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(filepath.Join(dir, "jetstream.damaged-*"))
	if err != nil || len(kept) != 3 {
		t.Fatalf("%d damaged stores are kept, %v; want 3", len(kept), err)
	}
	for i, path := range kept {
		if b, err := os.ReadFile(path); err != nil || string(b) != string(rune('2'+i)) {
			t.Errorf("%s holds %q, %v; want the newest in order", filepath.Base(path), b, err)
		}
	}
}

// authority signs certificates for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// config returns the TLS configuration of somebody, as client and server.
func (a *authority) config(t *testing.T, name string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs:      pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13,
	}
}

// TestListener: other processes get in with a certificate only, and a collector
// may speak for its own cluster only; a refusal comes at once.
func TestListener(t *testing.T) {
	ca := newAuthority(t)
	srv, err := natsstream.StartServer(natsstream.ServerOptions{
		StoreDir: t.TempDir(), Listen: "127.0.0.1:0", TLS: ca.config(t, "server"), Logger: quiet,
		Authorize: func(c *x509.Certificate) (natsstream.Identity, error) {
			switch name := c.Subject.CommonName; name {
			case "hub":
				return natsstream.Identity{Hub: true}, nil
			case "east":
				return natsstream.Identity{Cluster: "east"}, nil
			default:
				return natsstream.Identity{}, errors.New("not known: " + name)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	inside, err := natsstream.Connect(natsstream.ConnectOptions{Name: "inside", Server: srv, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(inside.Close)
	if _, err := natsstream.EnsureStream(t.Context(), inside, natsstream.StreamOptions{}); err != nil {
		t.Fatal(err)
	}
	connect := func(name string, c *tls.Config) (*natsstream.Conn, error) {
		return natsstream.Connect(natsstream.ConnectOptions{
			Name: name, URL: "tls://" + srv.Addr().String(), Cluster: ledger.ClusterName(name), Logger: quiet,
			Extra: []nats.Option{nats.Secure(c)},
		})
	}
	bare := ca.config(t, "east")
	bare.Certificates = nil
	for name, c := range map[string]*tls.Config{"stranger": ca.config(t, "stranger"), "bare": bare} {
		if conn, err := connect(name, c); err == nil {
			conn.Close()
			t.Errorf("%s is let in", name)
		}
	}
	conn, err := connect("east", ca.config(t, "east"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	pub := natsstream.NewPublisher(conn, patience)
	east, west := ledgertest.NewCollector("east"), ledgertest.NewCollector("west")
	if _, err := pub.Publish(t.Context(), message(east.Begin())); err != nil {
		t.Errorf("own event: %v", err)
	}
	began := time.Now()
	if _, err := pub.Publish(t.Context(), message(west.Begin())); !errors.Is(err, natsstream.ErrRefused) {
		t.Errorf("event of another cluster: %v, want ErrRefused", err)
	}
	batch := []natsstream.Message{message(east.Put("a", "1")), message(west.Put("b", "1")), message(east.Put("c", "1"))}
	if _, err := pub.PublishBatch(t.Context(), batch); !errors.Is(err, natsstream.ErrRefused) {
		t.Errorf("batch with an event of another cluster: %v, want ErrRefused", err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("refusals took %s", took)
	}
	told := make(chan natsstream.Control, 1)
	if _, err := natsstream.SubscribeControl(conn.Conn, "east", func(c natsstream.Control) { told <- c }, nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.FlushTimeout(patience); err != nil {
		t.Fatal(err)
	}
	if err := natsstream.SendControl(inside.Conn, "east", natsstream.Control{Claim: &natsstream.Claim{Epoch: 3}}); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-told:
		if c.Claim == nil || c.Claim.Epoch != 3 {
			t.Errorf("told %+v, want to claim epoch 3", c)
		}
	case <-time.After(patience):
		t.Error("the control message does not come")
	}
}

func TestServerOptions(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	ca := newAuthority(t)
	anyone := func(*x509.Certificate) (natsstream.Identity, error) { return natsstream.Identity{Hub: true}, nil }
	open := ca.config(t, "server")
	open.ClientAuth = tls.NoClientCert
	for name, o := range map[string]natsstream.ServerOptions{
		"no certificate":           {Listen: "127.0.0.1:0", Authorize: anyone},
		"no client certificates":   {Listen: "127.0.0.1:0", TLS: open, Authorize: anyone},
		"nobody to say who is who": {Listen: "127.0.0.1:0", TLS: ca.config(t, "server")},
		"no port":                  {Listen: "127.0.0.1", TLS: ca.config(t, "server"), Authorize: anyone},
		"port in use":              {Listen: taken.Addr().String(), TLS: ca.config(t, "server"), Authorize: anyone},
	} {
		o.StoreDir, o.Logger = t.TempDir(), quiet
		srv, err := natsstream.StartServer(o)
		if err == nil {
			srv.Shutdown()
			t.Errorf("%s: the server starts", name)
		}
		if _, err := os.Stat(filepath.Join(o.StoreDir, "jetstream.damaged-1")); err == nil {
			t.Errorf("%s: the store was set aside", name)
		}
	}
}
