package offline_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/internal/offline"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
)

var now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

const tlsHost = `apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: https}
spec: {port: 8443, protocol: HTTPS, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: shop}
spec: {hostname: shop.example.com, tlsSecret: {name: shop-cert}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: shop}
spec: {hostname: shop.example.com, prefix: /, service: shop}
`

// certificate returns a certificate with its key as PEM.
func certificate(t *testing.T) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"}, DNSNames: []string{"shop.example.com"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func compile(t *testing.T, text string) (*offline.Input, *offline.Compiled) {
	t.Helper()
	in, err := offline.Read([]string{"-"}, strings.NewReader(text), "local")
	if err != nil {
		t.Fatal(err)
	}
	c, err := offline.Compile(in, projector.DefaultSettings(), now)
	if err != nil {
		t.Fatal(err)
	}
	return in, c
}

// TestSecret: a bootstrap has the key that a Host refers to; the document for
// people has not.
func TestSecret(t *testing.T) {
	cert, key := certificate(t)
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": map[string]any{"name": "shop-cert", "namespace": "default"},
		"data": map[string][]byte{"tls.crt": cert, "tls.key": key},
	})
	if err != nil {
		t.Fatal(err)
	}
	in, c := compile(t, tlsHost+"---\n"+string(secret))
	if n := c.Errors(in); n != 0 {
		t.Errorf("%d errors: %+v %v", n, c.Reports, c.Live)
	}
	b, err := c.Static(envoy.StaticOptions{})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Split(string(key), "\n")[1]
	if !json.Valid(b) || !strings.Contains(string(b), "shop.example.com") || !strings.Contains(string(b), "private_key") {
		t.Errorf("bootstrap without the certificate: %.2000s", b)
	}
	d, err := c.Document(in)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), line) || strings.Contains(string(text), "PRIVATE KEY") {
		t.Error("the document holds the private key")
	}
	if len(d.Resources["secrets"]) == 0 || len(d.Resources["routes"]) == 0 {
		t.Errorf("document %+v", d)
	}
}

// TestMissingSecret: a Host whose Secret is not there is said to be wrong, and
// what is left is still a bootstrap.
func TestMissingSecret(t *testing.T) {
	in, c := compile(t, tlsHost)
	if c.Errors(in) == 0 {
		t.Errorf("no errors in %+v", c.Reports)
	}
	if b, err := c.Static(envoy.StaticOptions{}); err != nil || !json.Valid(b) {
		t.Errorf("%v in %.200s", err, b)
	}
}

// TestRead reads files, directories and lists, each object once.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	mapping := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":%q},"spec":{"hostname":"*","prefix":"/","service":"x"}}`, name)
	}
	for name, text := range map[string]string{
		"sub/a.json": mapping("a"), "sub/b.yaml": mapping("b") + "\n---\n" + mapping("a"), "sub/notes.txt": "not read",
		"list.yaml": `{"apiVersion":"v1","kind":"List","items":[` + mapping("c") + "," + mapping("b") + `]}`, "bad.yaml": "{",
	} {
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	in, err := offline.Read([]string{filepath.Join(dir, "sub"), filepath.Join(dir, "list.yaml"), filepath.Join(dir, "bad.yaml")}, nil, "local")
	if err != nil {
		t.Fatal(err)
	}
	if in.Len() != 3 || len(in.Findings) != 3 {
		t.Errorf("%d objects, findings %+v", in.Len(), in.Findings)
	}
	k := ledger.ObjectKey{Cluster: "local", Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: "b"}
	if where := in.Where(k); where != filepath.ToSlash(filepath.Join(dir, "sub/b.yaml")) {
		t.Errorf("b is in %q", where)
	}
	for _, wrong := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "none.yaml")} {
		if _, err := offline.Read([]string{wrong}, nil, "local"); err == nil {
			t.Errorf("%s was read", wrong)
		}
	}
	if _, err := offline.Read(nil, nil, "Not A Label"); err == nil {
		t.Error("a cluster's name that is none was taken")
	}
}
