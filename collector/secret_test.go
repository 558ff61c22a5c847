package collector_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/collector"
)

func certificate(t *testing.T, key crypto.Signer) (crt, private []byte) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"}, DNSNames: []string{"shop.example", "*.shop.example"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		NotBefore:   time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2034, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func secret(data map[string][]byte) map[string]any {
	d := map[string]any{}
	for k, v := range data {
		d[k] = base64.StdEncoding.EncodeToString(v)
	}
	return map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": map[string]any{"name": "tls"}, "data": d,
	}
}

func TestSecretFacts(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey := certificate(t, ed)
	for name, key := range map[string]crypto.Signer{"ECDSA": ec, "RSA": r, "Ed25519": ed} {
		crt, private := certificate(t, key)
		got, err := collector.FactsOfSecret(secret(map[string][]byte{"tls.crt": crt, "tls.key": private}), []byte("k"))
		if err != nil {
			t.Fatal(err)
		}
		want := &collector.CertificateFacts{
			SANs: []string{"shop.example", "*.shop.example", "10.0.0.1"}, Subject: "CN=shop", Issuer: "CN=shop",
			NotBefore: time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2034, 1, 1, 0, 0, 0, 0, time.UTC),
			KeyAlgorithm: name, MatchesKey: true,
		}
		if d := cmp.Diff(want, got.Certificate); d != "" || len(got.Problems) > 0 {
			t.Errorf("%s: problems %q (-want +got):\n%s", name, got.Problems, d)
		}
	}
	crt, private := certificate(t, ec)
	for name, c := range map[string]struct {
		data map[string][]byte
		want string
	}{
		"no key":             {map[string][]byte{"tls.crt": crt}, "tls.key is missing"},
		"no certificate":     {map[string][]byte{"tls.key": private}, "tls.crt is missing"},
		"neither":            {nil, "tls.crt is missing"},
		"other key":          {map[string][]byte{"tls.crt": crt, "tls.key": otherKey}, "tls.key is not the key of the certificate in tls.crt"},
		"key not PEM":        {map[string][]byte{"tls.crt": crt, "tls.key": []byte("x")}, "tls.key holds no private key in PEM"},
		"crt not PEM":        {map[string][]byte{"tls.crt": []byte("x"), "tls.key": private}, "tls.crt holds no certificate in PEM"},
		"damaged crt":        {map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), "tls.key": private}, "tls.crt holds no certificate in PEM"},
		"crt in key's place": {map[string][]byte{"tls.crt": crt, "tls.key": crt}, "tls.key holds no private key in PEM"},
	} {
		got, err := collector.FactsOfSecret(secret(c.data), []byte("k"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(got.Problems, "; "), c.want) {
			t.Errorf("%s: problems %q, want %q", name, got.Problems, c.want)
		}
	}

	broken := secret(nil)
	broken["data"] = map[string]any{"tls.crt": "not base64!", "tls.key": ""}
	if got, err := collector.FactsOfSecret(broken, nil); err != nil || !strings.Contains(strings.Join(got.Problems, "; "), "tls.crt is not base64") {
		t.Errorf("not base64: %q, %v", got.Problems, err)
	}
	broken["data"] = "text"
	if _, err := collector.FactsOfSecret(broken, nil); err == nil {
		t.Error("data that is no map is accepted")
	}
	broken["data"] = map[string]any{"a": true}
	if _, err := collector.FactsOfSecret(broken, nil); err == nil {
		t.Error("data that is no text is accepted")
	}
}

// TestSecretTellsNothing: neither a value nor a digest that can be guessed is told, and one site's digests say nothing
// about another's.
func TestSecretTellsNothing(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	east, err := collector.SecretDigestKey(key, "east")
	if err != nil {
		t.Fatal(err)
	}
	west, err := collector.SecretDigestKey(key, "west")
	if err != nil {
		t.Fatal(err)
	}
	s := secret(map[string][]byte{"password": []byte("hunter2"), "again": []byte("hunter2")})
	s["stringData"] = map[string]any{"plain": "hunter2"}
	a, err := collector.Normaliser{Cluster: "east", DigestKey: east}.Normalise(s, "", "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := collector.Normaliser{Cluster: "east", DigestKey: west}.Normalise(s, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"hunter2", base64.StdEncoding.EncodeToString([]byte("hunter2"))} {
		if strings.Contains(string(a.Data), leak) {
			t.Errorf("%s tells %s", a.Data, leak)
		}
	}
	if a.Digest == b.Digest {
		t.Error("two sites have the same digests")
	}
	s["stringData"] = map[string]any{"plain": "hunter3"}
	c, err := collector.Normaliser{Cluster: "east", DigestKey: east}.Normalise(s, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest == c.Digest {
		t.Error("a changed value changes nothing")
	}
}
