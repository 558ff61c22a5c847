package pki_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/federation/pki"
)

func authority(t *testing.T) (*pki.Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data", "pki")
	a, err := pki.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

func issue(t *testing.T, a *pki.Authority, role pki.Role, name string) pki.Credentials {
	t.Helper()
	c, err := a.Issue(role, name, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func hold(t *testing.T, c pki.Credentials, now func() time.Time) *pki.Keeper {
	t.Helper()
	k, err := pki.Hold(c, now)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func leaf(t *testing.T, c pki.Credentials) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode(c.Cert)
	cert, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// dial makes one connection with a byte each way, and returns the errors of
// both ends and who the server saw.
func dial(t *testing.T, server, client *tls.Config) (seen pki.Identity, serverErr, clientErr error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				return err
			}
			if err := c.(*tls.Conn).Handshake(); err != nil {
				return err
			}
			state := c.(*tls.Conn).ConnectionState()
			if state.Version != tls.VersionTLS13 {
				return fmt.Errorf("TLS version %x", state.Version)
			}
			if seen, err = pki.PeerOf(state); err != nil {
				return err
			}
			_, err = c.Write([]byte("x"))
			return err
		}()
	}()
	clientErr = func() error {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Minute}, Config: client}
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 1)) // in TLS 1.3 a refusal comes after the client's handshake
		return err
	}()
	return seen, <-done, clientErr
}

func TestAuthorityIsMadeOnce(t *testing.T) {
	a, dir := authority(t)
	b, err := pki.Init(dir)
	if err != nil {
		t.Fatal(err)
	}
	if a.Install() != b.Install() || !bytes.Equal(a.CA(), b.CA()) || !a.DecisionKey().Equal(b.DecisionKey()) {
		t.Error("the second Init made another authority")
	}
	if other, _ := authority(t); other.Install() == a.Install() {
		t.Error("two installs have one id")
	}
	modes := map[string]fs.FileMode{}
	if _, err := a.Keep(pki.Hub, "hub", []string{"127.0.0.1"}, time.Hour); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		rel, _ := filepath.Rel(dir, path)
		modes[rel] = st.Mode().Perm()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{
		".": 0o700, "ca.crt": 0o600, "ca.key": 0o600, "decision.key": 0o600, "issued": 0o700, "issued/hub-hub": 0o700,
		"issued/hub-hub/tls.crt": 0o600, "issued/hub-hub/tls.key": 0o600, "issued/hub-hub/ca.crt": 0o600, "issued/hub-hub/decision.pub": 0o600,
	}
	if d := cmp.Diff(want, modes); d != "" {
		t.Errorf("files and modes (-want +got):\n%s", d)
	}
	beside, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(beside) != 1 {
		t.Errorf("beside the folder: %v, %v; want nothing", beside, err)
	}
}

func TestIssue(t *testing.T) {
	a, _ := authority(t)
	c, err := a.Issue(pki.Edge, "edge-1.east", []string{"127.0.0.1", "fd00::1", "Edge.example", "*.edge.example"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert := leaf(t, c)
	id, err := pki.IdentityOf(cert)
	if err != nil {
		t.Fatal(err)
	}
	if want := (pki.Identity{Install: a.Install(), Role: pki.Edge, Name: "edge-1.east"}); id != want {
		t.Errorf("identity %v, want %v", id, want)
	}
	if got, err := c.Identity(); err != nil || got != id {
		t.Errorf("identity of the credentials: %v, %v", got, err)
	}
	if got := cert.URIs[0].String(); got != "chancery://"+a.Install()+"/edge/edge-1.east" {
		t.Errorf("URI %s", got)
	}
	if d := cmp.Diff([]string{"edge.chancery", "edge.example", "*.edge.example"}, cert.DNSNames); d != "" {
		t.Errorf("DNS names (-want +got):\n%s", d)
	}
	if len(cert.IPAddresses) != 2 || cert.IsCA {
		t.Errorf("addresses %v, CA %v", cert.IPAddresses, cert.IsCA)
	}
	if k, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		t.Errorf("key %T, want ECDSA P-256, which every Envoy takes", cert.PublicKey)
	}
	if k, err := c.DecisionKey(); err != nil || !k.Equal(a.DecisionKey().Public()) {
		t.Errorf("decision key: %v", err)
	}
	for _, bad := range []struct {
		role pki.Role
		name string
		sans []string
		life time.Duration
		want string
	}{
		{"admin", "x", nil, time.Hour, `no role "admin"`},
		{pki.Edge, "a/b", nil, time.Hour, `name "a/b"`},
		{pki.Edge, "..", nil, time.Hour, `name ".."`},
		{pki.Edge, "", nil, time.Hour, `name ""`},
		{pki.Edge, "x", []string{"a b"}, time.Hour, `"a b" is neither`},
		{pki.Edge, "x", []string{"*"}, time.Hour, `"*" is neither`},
		{pki.Edge, "x", nil, time.Second, "lifetime"},
		{pki.Edge, "x", nil, 100 * 365 * 24 * time.Hour, "lifetime"},
	} {
		if _, err := a.Issue(bad.role, bad.name, bad.sans, bad.life); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("issue %q %q %q %s: %v, want %q", bad.role, bad.name, bad.sans, bad.life, err, bad.want)
		}
	}
	if _, err := a.Keep(pki.Edge, "../../../x", nil, time.Hour); err == nil {
		t.Error("a name that leads out of the folder is kept")
	}
}

func TestIdentityOfStrangers(t *testing.T) {
	for _, uris := range [][]string{
		{},
		{"spiffe://x/y"},
		{"chancery://0123456789abcdef/edge/a", "chancery://0123456789abcdef/hub/a"},
		{"chancery://0123456789abcdef/edge"},
		{"chancery://0123456789abcdef/root/a"},
		{"chancery://short/edge/a"},
		{"chancery://0123456789abcdef/edge/a/b"},
		{"chancery://0123456789abcdef/edge/A"},
		{"chancery://0123456789abcdef/edge/%61"},
		{"chancery://0123456789abcdef/edge/a?x"},
		{"chancery://u@0123456789abcdef/edge/a"},
		{"chancery://0123456789abcdef//edge/a"},
	} {
		cert := &x509.Certificate{}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		if id, err := pki.IdentityOf(cert); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("%q is %v, %v", uris, id, err)
		}
	}
}

func TestRolesAreSeparate(t *testing.T) {
	a, _ := authority(t)
	stranger, _ := authority(t)
	server := hold(t, issue(t, a, pki.Hub, "hub"), time.Now).ServerTLS(pki.Operator, pki.Edge)
	for _, role := range pki.Roles {
		k := hold(t, issue(t, a, role, "me"), time.Now)
		seen, serverErr, clientErr := dial(t, server, k.ClientTLS(pki.Hub))
		if role == pki.Operator || role == pki.Edge {
			if serverErr != nil || clientErr != nil || seen != k.Identity() {
				t.Errorf("%s: server saw %v: %v, %v", role, seen, serverErr, clientErr)
			}
			continue
		}
		if !errors.Is(serverErr, pki.ErrIdentity) || !strings.Contains(serverErr.Error(), "chancery pki issue") || clientErr == nil {
			t.Errorf("%s was not refused: %v, %v", role, serverErr, clientErr)
		}
	}
	operator := hold(t, issue(t, a, pki.Operator, "me"), time.Now)

	t.Run("an edge where an operator is required", func(t *testing.T) {
		only := hold(t, issue(t, a, pki.Hub, "hub"), time.Now).ServerTLS(pki.Operator)
		edge := hold(t, issue(t, a, pki.Edge, "e"), time.Now)
		if _, err, _ := dial(t, only, edge.ClientTLS(pki.Hub)); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("error %v", err)
		}
	})
	t.Run("another install's operator", func(t *testing.T) {
		theirs := hold(t, issue(t, stranger, pki.Operator, "me"), time.Now).ClientTLS(pki.Hub)
		theirs.RootCAs = operator.ClientTLS(pki.Hub).RootCAs
		if _, serverErr, clientErr := dial(t, server, theirs); serverErr == nil || clientErr == nil {
			t.Errorf("it was let in: %v, %v", serverErr, clientErr)
		}
	})
	t.Run("another install's hub", func(t *testing.T) {
		theirs := hold(t, issue(t, stranger, pki.Hub, "hub"), time.Now).ServerTLS(pki.Operator)
		if _, _, err := dial(t, theirs, operator.ClientTLS(pki.Hub)); err == nil {
			t.Error("it was taken for ours")
		}
	})
	t.Run("an edge that plays the hub", func(t *testing.T) {
		edge := hold(t, issue(t, a, pki.Edge, "e"), time.Now).ServerTLS(pki.Operator)
		if _, _, err := dial(t, edge, operator.ClientTLS(pki.Hub)); err == nil {
			t.Error("it was taken for the hub")
		}
		// Nor may a certificate of its own with the hub's DNS name help it.
		c, err := a.Issue(pki.Edge, "e", []string{"hub.chancery"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := dial(t, hold(t, c, time.Now).ServerTLS(pki.Operator), operator.ClientTLS(pki.Hub)); !errors.Is(err, pki.ErrIdentity) {
			t.Errorf("with the hub's DNS name: %v", err)
		}
	})
	t.Run("an operator that plays the hub", func(t *testing.T) {
		c, err := a.Issue(pki.Operator, "o", []string{"hub.chancery"}, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := dial(t, hold(t, c, time.Now).ServerTLS(pki.Operator), operator.ClientTLS(pki.Hub)); err == nil {
			t.Error("it was taken for the hub")
		}
	})
	t.Run("no certificate", func(t *testing.T) {
		bare := &tls.Config{RootCAs: operator.ClientTLS(pki.Hub).RootCAs, ServerName: "hub.chancery"}
		if _, serverErr, clientErr := dial(t, server, bare); serverErr == nil || clientErr == nil {
			t.Errorf("it was let in: %v, %v", serverErr, clientErr)
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		older := operator.ClientTLS(pki.Hub)
		older.MinVersion, older.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		if _, serverErr, clientErr := dial(t, server, older); serverErr == nil || clientErr == nil {
			t.Errorf("it was let in: %v, %v", serverErr, clientErr)
		}
	})
	t.Run("self-signed with our URI", func(t *testing.T) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		uri, err := url.Parse(operator.Identity().String())
		if err != nil {
			t.Fatal(err)
		}
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri}}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		forged := operator.ClientTLS(pki.Hub)
		forged.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
		}
		if _, serverErr, clientErr := dial(t, server, forged); serverErr == nil || clientErr == nil {
			t.Errorf("it was let in: %v, %v", serverErr, clientErr)
		}
	})
}

// clock is a clock that tests set.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(c.at.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d / time.Second)) }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().Unix())
	return c
}

func TestExpiry(t *testing.T) {
	a, _ := authority(t)
	c := newClock()
	a.Now = c.now
	operator := hold(t, issue(t, a, pki.Operator, "me"), c.now)
	c.advance(50 * time.Minute)
	hub := hold(t, issue(t, a, pki.Hub, "hub"), c.now)
	if _, serverErr, clientErr := dial(t, hub.ServerTLS(pki.Operator), operator.ClientTLS(pki.Hub)); serverErr != nil || clientErr != nil {
		t.Errorf("before the end: %v, %v", serverErr, clientErr)
	}
	c.advance(20 * time.Minute)
	_, serverErr, clientErr := dial(t, hub.ServerTLS(pki.Operator), operator.ClientTLS(pki.Hub))
	var invalid x509.CertificateInvalidError
	if !errors.As(serverErr, &invalid) || invalid.Reason != x509.Expired || clientErr == nil {
		t.Errorf("an expired client: %v, %v", serverErr, clientErr)
	}
	c.advance(time.Hour)
	fresh := hold(t, issue(t, a, pki.Operator, "me"), c.now)
	if _, _, err := dial(t, hub.ServerTLS(pki.Operator), fresh.ClientTLS(pki.Hub)); !errors.As(err, &invalid) {
		t.Errorf("an expired hub: %v", err)
	}
	c.advance(11 * 365 * 24 * time.Hour)
	if _, err := a.Issue(pki.Operator, "me", nil, time.Hour); err == nil || !strings.Contains(err.Error(), "the authority ended") {
		t.Errorf("issue by an expired authority: %v", err)
	}
}

func TestKeepRenews(t *testing.T) {
	a, dir := authority(t)
	c := newClock()
	a.Now = c.now
	k, err := a.Keep(pki.Hub, "hub", []string{"127.0.0.1"}, 90*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	server := k.ServerTLS(pki.Operator) // made once
	operator := func() *tls.Config { return hold(t, issue(t, a, pki.Operator, "me"), c.now).ClientTLS(pki.Hub) }
	first := k.NotAfter()
	c.advance(50 * time.Minute)
	if changed, err := k.Check(); changed || err != nil {
		t.Fatalf("with more than a third left: %v, %v", changed, err)
	}
	again, err := a.Keep(pki.Hub, "hub", []string{"127.0.0.1"}, 90*time.Minute)
	if err != nil || !again.NotAfter().Equal(first) {
		t.Errorf("after a restart: until %s, %v; want what there was, until %s", again.NotAfter(), err, first)
	}
	c.advance(15 * time.Minute)
	if changed, err := k.Check(); !changed || err != nil {
		t.Fatalf("with less than a third left: %v, %v", changed, err)
	}
	if !k.NotAfter().After(first) {
		t.Errorf("renewed until %s, before until %s", k.NotAfter(), first)
	}
	c.advance(40 * time.Minute) // past the end of the first
	if _, serverErr, clientErr := dial(t, server, operator()); serverErr != nil || clientErr != nil {
		t.Errorf("the old configuration does not use the new certificate: %v, %v", serverErr, clientErr)
	}
	more, err := a.Keep(pki.Hub, "hub", []string{"127.0.0.1", "hub.example"}, 90*time.Minute)
	if err != nil || !more.NotAfter().After(k.NotAfter()) {
		t.Errorf("another name: until %s, %v; want a new certificate", more.NotAfter(), err)
	}
	// What cannot be read is issued again; what others can read is not.
	files := filepath.Join(dir, "issued", "hub-hub")
	if err := os.WriteFile(filepath.Join(files, "tls.crt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Keep(pki.Hub, "hub", nil, 90*time.Minute); err != nil {
		t.Errorf("a damaged certificate was not issued again: %v", err)
	}
	if err := os.Chmod(filepath.Join(files, "tls.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Keep(pki.Hub, "hub", nil, 90*time.Minute); !errors.Is(err, pki.ErrTooOpen) {
		t.Errorf("a key that others can read: %v", err)
	}
}

func TestWatchReloads(t *testing.T) {
	a, _ := authority(t)
	dir := filepath.Join(t.TempDir(), "edge")
	save := func(c pki.Credentials) {
		t.Helper()
		if err := c.Save(dir); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pki.Watch(dir, time.Now); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "chancery pki issue") {
		t.Errorf("nothing there: %v", err)
	}
	first, second := issue(t, a, pki.Edge, "e"), issue(t, a, pki.Edge, "e")
	save(first)
	k, err := pki.Watch(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	client := k.ClientTLS(pki.Hub)
	var serial atomic.Pointer[big.Int]
	server := hold(t, issue(t, a, pki.Hub, "hub"), time.Now).ServerTLS(pki.Edge)
	served := func() *big.Int {
		t.Helper()
		l := server.Clone()
		admit := server.VerifyConnection
		l.GetConfigForClient = nil
		l.VerifyConnection = func(s tls.ConnectionState) error {
			serial.Store(s.PeerCertificates[0].SerialNumber)
			return admit(s)
		}
		if _, serverErr, clientErr := dial(t, l, client); serverErr != nil || clientErr != nil {
			t.Fatal(serverErr, clientErr)
		}
		return serial.Load()
	}
	if served().Cmp(leaf(t, first).SerialNumber) != 0 {
		t.Error("another certificate than the first")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		k.Run(ctx, time.Millisecond, slog.New(slog.DiscardHandler))
	}()
	save(second)
	for deadline := time.Now().Add(time.Minute); served().Cmp(leaf(t, second).SerialNumber) != 0; {
		if time.Now().After(deadline) {
			t.Fatal("the second certificate was not taken up")
		}
	}
	cancel()
	<-ended

	// Half of a change, or another's credentials, leave the ones at hand.
	third := issue(t, a, pki.Edge, "e")
	third.Cert = nil // only its key arrives
	save(third)
	if changed, err := k.Check(); changed || !errors.Is(err, pki.ErrDamaged) {
		t.Errorf("a key without its certificate: %v, %v", changed, err)
	}
	save(issue(t, a, pki.Edge, "other"))
	if changed, err := k.Check(); changed || !errors.Is(err, pki.ErrIdentity) {
		t.Errorf("another's credentials: %v, %v", changed, err)
	}
	if served().Cmp(leaf(t, second).SerialNumber) != 0 {
		t.Error("the second certificate is not in use any more")
	}
}

// TestDamagedAuthority breaks each file and asks for an error with its name
// and a remedy.
func TestDamagedAuthority(t *testing.T) {
	_, otherDir := authority(t)
	write := func(text string) func(string) error {
		return func(p string) error { return os.WriteFile(p, []byte(text), 0o600) }
	}
	foreign := func(name string) func(string) error {
		return func(p string) error {
			b, err := os.ReadFile(filepath.Join(otherDir, name))
			if err != nil {
				return err
			}
			return os.WriteFile(p, b, 0o600)
		}
	}
	mode := func(m fs.FileMode) func(string) error { return func(p string) error { return os.Chmod(p, m) } }
	for _, c := range []struct {
		name, file string
		damage     func(string) error
		want       string // and the file's path
	}{
		{"certificate gone", "ca.crt", os.Remove, "restore the folder"},
		{"key gone", "ca.key", os.Remove, "restore the folder"},
		{"decision key gone", "decision.key", os.Remove, "restore the folder"},
		{"certificate empty", "ca.crt", write(""), "restore the folder"},
		{"certificate is another's", "ca.crt", foreign("ca.crt"), "ca.key: damaged: it is not the key of ca.crt"},
		{"key is no key", "ca.key", write("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "restore the folder"},
		{"key of another kind", "ca.key", foreign("decision.key"), "another kind"},
		{"decision key of another kind", "decision.key", foreign("ca.key"), "another kind"},
		{"certificate too large", "ca.crt", write(strings.Repeat("x", 2<<20)), "larger than"},
		{"key for the group", "ca.key", mode(0o640), "chmod 600"},
		{"decision key for all", "decision.key", mode(0o604), "chmod 600"},
		{"folder for all", ".", mode(0o755), "chmod 700"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, dir := authority(t)
			path := filepath.Join(dir, c.file)
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			_, err := pki.Init(dir)
			if err == nil {
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) && !strings.Contains(c.want, c.file) {
				t.Errorf("error %q, want %q and the path in it", err, c.want)
			}
		})
	}
}

func TestSigningKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "east.key")
	k, err := pki.SigningKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := pki.SigningKey(path)
	if err != nil || !k.Equal(again) {
		t.Errorf("read back: %v", err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", p, st.Mode(), err, want)
		}
	}
	public := k.Public().(ed25519.PublicKey)
	if got, err := pki.DecodePublicKey(pki.EncodePublicKey(public)); err != nil || !got.Equal(public) {
		t.Errorf("public key: %v", err)
	}
	if _, err := pki.DecodePublicKey([]byte("x")); !errors.Is(err, pki.ErrDamaged) {
		t.Errorf("a damaged public key: %v", err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.SigningKey(path); !errors.Is(err, pki.ErrTooOpen) {
		t.Errorf("others can read it: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.SigningKey(path); !errors.Is(err, pki.ErrDamaged) || !strings.Contains(err.Error(), "restore it") {
		t.Errorf("damaged: %v", err)
	}
}

func TestClientConfig(t *testing.T) {
	a, _ := authority(t)
	c := pki.ClientConfig{Server: "https://127.0.0.1:7443", Credentials: issue(t, a, pki.Operator, "local")}
	dir := t.TempDir()
	path := filepath.Join(dir, "client.yaml")
	if _, err := pki.ReadClientConfig(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "chancery serve") {
		t.Errorf("nothing there: %v", err)
	}
	if err := pki.WriteClientConfig(path, c); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	got, err := pki.ReadClientConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	server := hold(t, issue(t, a, pki.Hub, "hub"), time.Now).ServerTLS(pki.Operator)
	seen, serverErr, clientErr := dial(t, server, hold(t, got.Credentials, time.Now).ClientTLS(pki.Hub))
	if serverErr != nil || clientErr != nil || seen.Name != "local" {
		t.Errorf("the server saw %v: %v, %v", seen, serverErr, clientErr)
	}

	if err := c.Credentials.Save(filepath.Join(dir, "creds")); err != nil {
		t.Fatal(err)
	}
	other := issue(t, a, pki.Operator, "other")
	write := func(text string) string {
		t.Helper()
		p := filepath.Join(dir, "other.yaml")
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const byPath = "server: https://hub:7443\ncaFile: creds/ca.crt\ncertFile: creds/tls.crt\nkeyFile: creds/tls.key\n"
	if got, err := pki.ReadClientConfig(write(byPath)); err != nil || !bytes.Equal(got.Credentials.Key, c.Credentials.Key) {
		t.Errorf("by path: %v", err)
	}
	inline := func(c pki.Credentials) string {
		b, err := json.Marshal(map[string]string{"server": "https://hub:7443", "ca": string(c.CA), "cert": string(c.Cert), "key": string([]byte(c.Key))})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	mixed := c.Credentials
	mixed.Key = other.Key
	for name, bad := range map[string]struct{ text, want string }{
		"no YAML":         {"server: [", "remove it and restart chancery serve"},
		"unknown field":   {byPath + "tokn: x\n", "not YAML with only"},
		"no server":       {strings.Replace(byPath, "https://hub:7443", "hub", 1), `server "hub"`},
		"plain HTTP":      {strings.Replace(byPath, "https", "http", 1), "https://host:port"},
		"a key missing":   {strings.Replace(byPath, "keyFile: creds/tls.key\n", "", 1), "one of key and keyFile"},
		"a key twice":     {byPath + "key: x\n", "one of key and keyFile"},
		"a file missing":  {strings.Replace(byPath, "creds/ca.crt", "creds/x", 1), "no such file"},
		"another's key":   {inline(mixed), "not the key of tls.crt"},
		"too long":        {strings.Repeat("#", 2<<20), "larger than"},
		"a leaf for a CA": {inline(pki.Credentials{CA: other.Cert, Cert: c.Credentials.Cert, Key: c.Credentials.Key}), "not issued by ca.crt"},
	} {
		p := write(bad.text)
		if _, err := pki.ReadClientConfig(p); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%s: %v, want %q", name, err, bad.want)
		} else if strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: the error holds a key", name)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ReadClientConfig(path); !errors.Is(err, pki.ErrTooOpen) || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Errorf("others can read it: %v", err)
	}
}

func TestMountedSecret(t *testing.T) {
	a, _ := authority(t)
	dir := t.TempDir()
	if err := issue(t, a, pki.Edge, "e").Save(dir); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "tls.key")
	for mode, ok := range map[fs.FileMode]bool{0o400: true, 0o440: true, 0o640: true, 0o660: false, 0o644: false} {
		if err := os.Chmod(key, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Load(dir); (err == nil) != ok || !ok && !errors.Is(err, pki.ErrTooOpen) {
			t.Errorf("mode %04o: %v, want loaded: %v", mode, err, ok)
		}
	}
}

func TestKeysPrintRedacted(t *testing.T) {
	a, _ := authority(t)
	c := issue(t, a, pki.Operator, "me")
	config := pki.ClientConfig{Server: "https://x:1", Credentials: c}
	var said bytes.Buffer
	type inside struct{ keeper any }
	keeper := hold(t, c, time.Now)
	for _, v := range []any{c, &c, c.Key, config, &config, keeper, inside{keeper}, a, inside{a}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X"} {
			fmt.Fprintf(&said, verb+"\n", v)
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		said.Write(b)
		slog.New(slog.NewTextHandler(&said, nil)).Info("said", slog.Any("v", v))
		slog.New(slog.NewJSONHandler(&said, nil)).Info("said", slog.Any("v", v))
	}
	text := string(c.Key)
	line := strings.Split(text, "\n")[2] // the second line of the key itself
	seed := a.DecisionKey().Seed()
	for _, form := range []string{strings.Trim(fmt.Sprintf("%d", seed), "[]"), fmt.Sprintf("%x", seed), fmt.Sprintf("%X", seed), line, fmt.Sprintf("%x", line), fmt.Sprintf("%X", line), strings.Trim(fmt.Sprintf("%d", []byte(line)), "[]")} {
		if strings.Contains(said.String(), form) {
			t.Errorf("the key was printed, as %.30q", form)
		}
	}
	if !strings.Contains(said.String(), "redacted") {
		t.Error("nothing was redacted")
	}
}
