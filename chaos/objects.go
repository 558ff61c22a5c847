package chaos

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// certificate is a certificate and its key in base64 of PEM, as a Secret holds
// them.
type certificate struct{ crt, key string }

// makeCertificates makes the certificates that Secrets of a run hold. They are
// the same in every run: ed25519 signs without randomness.
func makeCertificates() ([]certificate, error) {
	out := make([]certificate, 3)
	for i := range out {
		k := key(fmt.Sprintf("certificate %d", i))
		template := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: "chaos"},
			DNSNames: []string{"east.example.com", "west.example.com", "north.example.com"}, NotBefore: start, NotAfter: start.Add(1000 * time.Hour),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public().(ed25519.PublicKey), k)
		if err != nil {
			return nil, fmt.Errorf("chaos: %w", err)
		}
		p8, err := x509.MarshalPKCS8PrivateKey(k)
		if err != nil {
			return nil, fmt.Errorf("chaos: %w", err)
		}
		encode := func(kind string, b []byte) string {
			return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
		}
		out[i] = certificate{crt: encode("CERTIFICATE", der), key: encode("PRIVATE KEY", p8)}
	}
	return out, nil
}

// slots are the objects that a directory may hold, by file.
var slots = []string{
	"listener", "host", "secret", "mapping-0", "mapping-1", "mapping-2", "mapping-3", "mapping-4", "mapping-5", "mapping-6",
	"service-0", "service-1", "service-2",
}

// object makes a random version of the object in a slot, a bad one sometimes.
func (w *world) object(cluster ledger.ClusterName, slot string) map[string]any {
	r := w.rng
	meta := map[string]any{"name": slot, "namespace": "default"}
	getambassador := func(kind string, spec map[string]any) map[string]any {
		return map[string]any{"apiVersion": "getambassador.io/v3alpha1", "kind": kind, "metadata": meta, "spec": spec}
	}
	bad := r.IntN(12) == 0
	switch slot {
	case "listener":
		return getambassador("Listener", map[string]any{
			"port": 8080, "protocol": "HTTPS", "securityModel": []string{"XFP", "SECURE"}[r.IntN(2)],
			"hostBinding": map[string]any{"namespace": map[string]any{"from": "ALL"}},
		})
	case "host":
		spec := map[string]any{
			"hostname":      string(cluster) + ".example.com",
			"requestPolicy": map[string]any{"insecure": map[string]any{"action": []string{"Route", "Redirect", "Reject"}[r.IntN(3)]}},
		}
		if r.IntN(3) > 0 {
			spec["tlsSecret"] = map[string]any{"name": "secret"}
		}
		return getambassador("Host", spec)
	case "secret":
		c := w.certs[r.IntN(len(w.certs))]
		data := map[string]any{"tls.crt": c.crt, "tls.key": c.key}
		if bad {
			delete(data, "tls.key")
		}
		return map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}
	}
	var n int
	if _, err := fmt.Sscanf(slot, "service-%d", &n); err == nil {
		return map[string]any{
			"apiVersion": "v1", "kind": "Service", "metadata": meta,
			"spec": map[string]any{"clusterIP": fmt.Sprintf("10.0.%d.%d", n, 1+r.IntN(200)), "ports": []any{map[string]any{"port": 80, "protocol": "TCP"}}},
		}
	}
	spec := map[string]any{
		"hostname": []string{"*", string(cluster) + ".example.com"}[r.IntN(2)], "prefix": fmt.Sprintf("/%s/%d/", slot, r.IntN(3)),
		"service": fmt.Sprintf("service-%d", r.IntN(3)), "timeout_ms": 1000 + r.IntN(9000),
	}
	switch {
	case bad && r.IntN(2) == 0:
		delete(spec, "prefix")
	case bad:
		spec["timeout_ms"] = "soon"
	}
	return getambassador("Mapping", spec)
}
