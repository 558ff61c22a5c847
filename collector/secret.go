package collector

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// SecretFacts is what events say about a Secret, in the field "facts" that stands in its canonical form in place of
// data. It holds no byte of a key or of a certificate's body.
type SecretFacts struct {
	// Keys maps each name in data to a digest of its value, "hmac-sha256:" and hexadecimal digits, under a key that
	// only this site's collector has: equal values have equal digests, and no value can be guessed from its digest.
	Keys        map[string]string
	Certificate *CertificateFacts // of the first certificate in tls.crt; nil without one
	// Problems says what keeps the Secret from serving TLS: "tls.key is missing".
	Problems []string
}

// CertificateFacts are the public facts about a certificate.
type CertificateFacts struct {
	SANs         []string // DNS names, IP addresses and URIs
	Subject      string
	Issuer       string
	NotBefore    time.Time
	NotAfter     time.Time
	KeyAlgorithm string // "RSA", "ECDSA", "Ed25519"
	MatchesKey   bool   // tls.key is the certificate's private key
}

// SecretDigestKey derives from a collector's key the key under which it digests the values of Secrets.
func SecretDigestKey(key ed25519.PrivateKey, cluster ledger.ClusterName) ([]byte, error) {
	return hkdf.Key(sha256.New, key.Seed(), nil, "chancery secret digest v1 "+string(cluster), sha256.Size)
}

// FactsOfSecret returns the facts of a Secret object as decoded from JSON or YAML.
func FactsOfSecret(obj map[string]any, digestKey []byte) (SecretFacts, error) {
	data, err := stringMap(obj["data"])
	if err != nil {
		return SecretFacts{}, fmt.Errorf("data: %w", err)
	}
	plain, err := stringMap(obj["stringData"])
	if err != nil {
		return SecretFacts{}, fmt.Errorf("stringData: %w", err)
	}
	facts := SecretFacts{Keys: map[string]string{}}
	problem := func(format string, args ...any) {
		facts.Problems = append(facts.Problems, fmt.Sprintf(format, args...))
	}
	values := map[string][]byte{}
	for _, name := range slices.Sorted(maps.Keys(data)) {
		v, err := base64.StdEncoding.DecodeString(data[name].(string))
		if err != nil {
			problem("%s is not base64", bounded(name))
			continue
		}
		values[name] = v
	}
	for name, v := range plain {
		values[name] = []byte(v.(string))
	}
	for name, v := range values {
		mac := hmac.New(sha256.New, digestKey)
		mac.Write([]byte(name))
		mac.Write([]byte{0})
		mac.Write(v)
		facts.Keys[name] = "hmac-sha256:" + hex.EncodeToString(mac.Sum(nil))
	}
	kind, _ := obj["type"].(string)
	crt, hasCrt := values["tls.crt"]
	key, hasKey := values["tls.key"]
	isTLS := kind == "kubernetes.io/tls" || hasCrt || hasKey
	if isTLS && !hasCrt {
		problem("tls.crt is missing")
	}
	if isTLS && !hasKey {
		problem("tls.key is missing")
	}
	var private crypto.PrivateKey
	if hasKey {
		if private = parsePrivateKey(key); private == nil {
			problem("tls.key holds no private key in PEM")
		}
	}
	if hasCrt {
		cert := parseCertificate(crt)
		if cert == nil {
			problem("tls.crt holds no certificate in PEM")
			return facts, nil
		}
		facts.Certificate = certificateFacts(cert, private)
		if private != nil && !facts.Certificate.MatchesKey {
			problem("tls.key is not the key of the certificate in tls.crt")
		}
	}
	return facts, nil
}

// value returns the facts as they stand in the canonical form.
func (f SecretFacts) value() map[string]any {
	keys := map[string]any{}
	for k, v := range f.Keys {
		keys[k] = v
	}
	out := map[string]any{"keys": keys}
	if c := f.Certificate; c != nil {
		out["certificate"] = map[string]any{
			"sans":         anySlice(c.SANs),
			"subject":      c.Subject,
			"issuer":       c.Issuer,
			"notBefore":    c.NotBefore.UTC().Format(time.RFC3339),
			"notAfter":     c.NotAfter.UTC().Format(time.RFC3339),
			"keyAlgorithm": c.KeyAlgorithm,
			"matchesKey":   c.MatchesKey,
		}
	}
	if len(f.Problems) > 0 {
		out["problems"] = anySlice(f.Problems)
	}
	return out
}

func anySlice(in []string) []any {
	out := make([]any, len(in))
	for i, s := range in {
		out[i] = s
	}
	return out
}

func parseCertificate(b []byte) *x509.Certificate {
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			return nil
		}
		if block.Type == "CERTIFICATE" {
			if c, err := x509.ParseCertificate(block.Bytes); err == nil {
				return c
			}
			return nil
		}
		b = rest
	}
}

func parsePrivateKey(b []byte) crypto.PrivateKey {
	for {
		block, rest := pem.Decode(b)
		if block == nil {
			return nil
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				return k
			}
			if k, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
				return k
			}
			if k, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return k
			}
			return nil
		}
		b = rest
	}
}

func certificateFacts(c *x509.Certificate, private crypto.PrivateKey) *CertificateFacts {
	f := &CertificateFacts{
		Subject: bounded(c.Subject.String()), Issuer: bounded(c.Issuer.String()),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, KeyAlgorithm: c.PublicKeyAlgorithm.String(),
		MatchesKey: matches(c.PublicKey, private),
	}
	for _, n := range c.DNSNames {
		f.SANs = append(f.SANs, bounded(n))
	}
	for _, ip := range c.IPAddresses {
		f.SANs = append(f.SANs, ip.String())
	}
	for _, u := range c.URIs {
		f.SANs = append(f.SANs, bounded(u.String()))
	}
	return f
}

func matches(public any, private crypto.PrivateKey) bool {
	switch p := public.(type) {
	case *rsa.PublicKey:
		k, ok := private.(*rsa.PrivateKey)
		return ok && p.Equal(&k.PublicKey)
	case *ecdsa.PublicKey:
		k, ok := private.(*ecdsa.PrivateKey)
		return ok && p.Equal(&k.PublicKey)
	case ed25519.PublicKey:
		k, ok := private.(ed25519.PrivateKey)
		return ok && p.Equal(k.Public())
	}
	return false
}
