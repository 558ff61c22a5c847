package measure_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// estate is a site of n Mappings, and two more that keep the upstreams between
// which one of them changes. With tls there is a Host, which ends TLS with
// the one wildcard certificate, for each ten of them; in cleartext each has a
// Host of its own.
type estate struct {
	n        int
	tls      bool
	backends [2]string // host:port of the upstreams that the changed Mapping goes to in turns
	cert     certificate
}

// perUpstream is how many Mappings that never change share a Service.
const perUpstream = 10

func (e *estate) hostOf(mapping int) string {
	if e.tls {
		mapping /= 10
	}
	return fmt.Sprintf("h%05d.example.com", mapping)
}

// changing is the Mapping that the benchmark changes.
func (e *estate) changing() int { return e.n / 2 }

func (e *estate) path() string { return fmt.Sprintf("/m%05d/", e.changing()) }

// answer is what a request gets after the change.
func (e *estate) answer(change int) string { return fmt.Sprintf("backend %d", change%2) }

// manifest is the changing Mapping after a change. Each has a time-out of its
// own, so that no two changes compile to the same snapshot.
func (e *estate) manifest(change int) []byte {
	_, port, _ := net.SplitHostPort(e.backends[change%2])
	return fmt.Appendf(nil, `apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: m%05d, namespace: default, labels: {team: checkout, tier: web}}
spec:
  hostname: %s
  prefix: %s
  service: backend-%d:%s
  timeout_ms: %d
  add_request_headers: {x-change: {value: "%d"}}
`, e.changing(), e.hostOf(e.changing()), e.path(), change%2, port, 5000+change, change)
}

// write writes the estate before any change, with its listener on the port.
// What never changes is in files of a hundred Mappings.
func (e *estate) write(tb testing.TB, dir string, port int) {
	tb.Helper()
	var b bytes.Buffer
	protocol := "HTTP"
	if e.tls {
		protocol = "HTTPS"
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Secret\nmetadata: {name: wildcard, namespace: default}\ntype: kubernetes.io/tls\ndata: {tls.crt: %s, tls.key: %s}\n---\n",
			base64.StdEncoding.EncodeToString(e.cert.chain), base64.StdEncoding.EncodeToString(e.cert.key))
	}
	fmt.Fprintf(&b, "apiVersion: getambassador.io/v3alpha1\nkind: Listener\nmetadata: {name: all, namespace: default}\nspec: {port: %d, protocol: %s, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}\n", port, protocol)
	for i, address := range e.backends {
		host, port, _ := net.SplitHostPort(address)
		fmt.Fprintf(&b, "---\n"+serviceYAML, fmt.Sprintf("backend-%d", i), host, port)
		// A Mapping that never changes keeps the upstream.
		fmt.Fprintf(&b, "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {name: keep-%d, namespace: default}\nspec: {hostname: %s, prefix: /keep-%d/, service: \"backend-%d:%s\"}\n", i, e.hostOf(0), i, i, port)
	}
	put(tb, filepath.Join(dir, "gateway.yaml"), b.Bytes())
	put(tb, filepath.Join(dir, changingFile), e.manifest(0))
	b.Reset()
	for i := range e.n {
		if !e.tls || i%10 == 0 {
			policy := "requestPolicy: {insecure: {action: Route}}"
			if e.tls {
				policy = "tlsSecret: {name: wildcard}"
			}
			fmt.Fprintf(&b, "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {name: h%05d, namespace: default}\nspec: {hostname: %s, %s}\n", i, e.hostOf(i), policy)
		}
		service := fmt.Sprintf("s%05d", i/perUpstream)
		if i%perUpstream == 0 {
			fmt.Fprintf(&b, "---\n"+serviceYAML, service, fmt.Sprintf("127.1.%d.%d", i/perUpstream/250, 1+i/perUpstream%250), "8080")
		}
		if i != e.changing() {
			fmt.Fprintf(&b, "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {name: m%05d, namespace: default}\nspec: {hostname: %s, prefix: /m%05d/, service: %q}\n", i, e.hostOf(i), i, service+":8080")
		}
		if i%100 == 99 || i == e.n-1 {
			put(tb, filepath.Join(dir, fmt.Sprintf("team-%03d.yaml", i/100)), b.Bytes())
			b.Reset()
		}
	}
}

const (
	changingFile = "changing.yaml"
	serviceYAML  = "apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: default}\nspec: {clusterIP: %s, ports: [{port: %s}]}\n"
)

func put(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// newEstate makes an estate with backends that run until the benchmark ends.
func newEstate(tb testing.TB, n int, tls bool) *estate {
	tb.Helper()
	e := &estate{n: n, tls: tls}
	for i := range e.backends {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, "backend %d", i) }))
		tb.Cleanup(s.Close)
		e.backends[i] = s.Listener.Addr().String()
	}
	if tls {
		e.cert = newCertificate(tb)
	}
	return e
}

// certificate is a wildcard certificate for the estate's hosts, in PEM.
type certificate struct{ chain, key []byte }

func newCertificate(tb testing.TB) certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "*.example.com"}, DNSNames: []string{"*.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	return certificate{
		chain: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:   pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
	}
}

// freePort returns a TCP port of the loopback that nobody has now.
func freePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// shortDir returns a directory whose path leaves room for the names of Unix
// sockets. TMPDIR says on which disk it is.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "chy") //nolint:usetesting // tb.TempDir is too long for the path of a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}
