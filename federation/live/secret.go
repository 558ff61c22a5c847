package live

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Secret is the answer to an ir.SecretRef. It holds a private key and prints,
// marshals and logs without it.
type Secret struct {
	Name    string        // of the SecretRef
	Version ledger.Digest // of the public part, which the key follows from

	// NotBefore and NotAfter bound the validity of the certificate, or for
	// trust anchors that of the one that ends last.
	NotBefore, NotAfter time.Time
	Issuer              string   // of the certificate; "" for trust anchors
	SANs                []string // of the certificate, its common name if it has none

	content func() ir.Secret // a function, for fmt can print pointers' content
}

// Reveal returns the content with the private key. The caller owns the
// struct, not the bytes.
func (s Secret) Reveal() ir.Secret {
	if s.content == nil {
		return ir.Secret{Name: s.Name}
	}
	return s.content()
}

func holding(s ir.Secret) func() ir.Secret { return func() ir.Secret { return s } }

// Format writes the name and the public facts, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "secret %s %s until %s (redacted)", s.Name, s.Version.Short(), s.NotAfter.UTC().Format(time.RFC3339))
}

// String returns the name and the public facts.
func (s Secret) String() string { return fmt.Sprint(s) }

// MarshalJSON writes the public facts.
func (s Secret) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name      string        `json:"name"`
		Version   ledger.Digest `json:"version"`
		NotBefore time.Time     `json:"notBefore"`
		NotAfter  time.Time     `json:"notAfter"`
		Issuer    string        `json:"issuer,omitempty"`
		SANs      []string      `json:"sans,omitempty"`
	}{s.Name, s.Version, s.NotBefore, s.NotAfter, s.Issuer, s.SANs})
}

// The keys of a Secret's data, the first that is there. Those beside tls.crt
// and tls.key are what Istio and Emissary-ingress write.
var (
	chainKeys   = []string{"tls.crt", "cert-chain.pem"}
	privateKeys = []string{"tls.key", "user.key", "key.pem"}
	caKeys      = []string{"ca.crt", "root-cert.pem"}
)

const crlKey = "crl.pem"

func pick(data map[string][]byte, keys []string) ([]byte, string) {
	for _, k := range keys {
		if len(data[k]) > 0 {
			return data[k], k
		}
	}
	return nil, strings.Join(keys, " or ")
}

// readCertificate checks a certificate and its key as an Envoy would. Its
// errors say what is wrong and hold nothing of the key.
func readCertificate(name string, data map[string][]byte) (Secret, error) {
	chainPEM, at := pick(data, chainKeys)
	if chainPEM == nil {
		return Secret{}, fmt.Errorf("it has no %s", at)
	}
	chain, certs, err := parseCertificates(chainPEM, at)
	if err != nil {
		return Secret{}, err
	}
	keyPEM, at := pick(data, privateKeys)
	if keyPEM == nil {
		return Secret{}, fmt.Errorf("it has no %s", at)
	}
	key, signer, err := parseKey(keyPEM, at)
	if err != nil {
		return Secret{}, err
	}
	leaf := certs[0]
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(leaf.PublicKey) {
		for _, c := range certs[1:] {
			if ok && public.Equal(c.PublicKey) {
				return Secret{}, errors.New("the chain does not begin with the certificate that the key belongs to")
			}
		}
		return Secret{}, errors.New("the key does not belong to the certificate")
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return Secret{}, fmt.Errorf("its RSA key has %d bits, and Envoy takes 2048 or more", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return Secret{}, errors.New("its key is on curve P-224, and Envoy takes P-256, P-384 or P-521")
		}
	}
	return Secret{
		Name: name, Version: ledger.DigestOf(chain), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
		Issuer: leaf.Issuer.String(), SANs: names(leaf),
		content: holding(ir.Secret{Name: name, Chain: chain, Key: key}),
	}, nil
}

// readCA checks trust anchors. A Secret that was made to hold a CA has it in
// tls.crt, as Emissary-ingress reads it; one that was issued by a CA has that
// one's certificate in ca.crt.
func readCA(name string, data map[string][]byte) (Secret, error) {
	caPEM, at := pick(data, caKeys)
	if own, ownAt := pick(data, chainKeys); own != nil {
		if _, certs, err := parseCertificates(own, ownAt); caPEM == nil || err == nil && certs[0].IsCA {
			caPEM, at = own, ownAt
		}
	}
	if caPEM == nil {
		return Secret{}, fmt.Errorf("it has no %s or tls.crt", at)
	}
	anchors, certs, err := parseCertificates(caPEM, at)
	if err != nil {
		return Secret{}, err
	}
	s := Secret{
		Name: name, Version: ledger.DigestOf(anchors), NotBefore: certs[0].NotBefore, NotAfter: certs[0].NotAfter,
		content: holding(ir.Secret{Name: name, CA: anchors}),
	}
	for _, c := range certs {
		if c.NotAfter.After(s.NotAfter) {
			s.NotBefore, s.NotAfter = c.NotBefore, c.NotAfter
		}
	}
	return s, nil
}

// addCRL adds a revocation list to trust anchors.
func (s *Secret) addCRL(data map[string][]byte) error {
	var out []byte
	for rest := data[crlKey]; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "X509 CRL" {
			continue
		}
		if _, err := x509.ParseRevocationList(b.Bytes); err != nil {
			return fmt.Errorf("%s holds no certificate revocation list that parses", crlKey)
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes})...)
	}
	if out == nil {
		return fmt.Errorf("it has no %s with a PEM block X509 CRL", crlKey)
	}
	content := s.content()
	content.CRL = out
	s.content, s.Version = holding(content), ledger.DigestOf(append(bytes.Clone(content.CA), out...))
	return nil
}

// parseCertificates returns the certificates of a PEM text, and the text with
// nothing else in it: a private key that stands beside them stays out.
func parseCertificates(text []byte, at string) ([]byte, []*x509.Certificate, error) {
	var out []byte
	var certs []*x509.Certificate
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d in %s does not parse: %w", len(certs)+1, at, err)
		}
		certs = append(certs, c)
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes})...)
	}
	if certs == nil {
		return nil, nil, fmt.Errorf("%s holds no PEM block CERTIFICATE", at)
	}
	return out, certs, nil
}

// parseKey returns the private key of a PEM text, and the text with nothing
// else in it. What the parsers say is left out of the errors.
func parseKey(text []byte, at string) ([]byte, crypto.Signer, error) {
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return nil, nil, fmt.Errorf("%s holds no PEM block PRIVATE KEY", at)
		}
		if !strings.HasSuffix(b.Type, "PRIVATE KEY") {
			continue
		}
		if b.Type == "ENCRYPTED PRIVATE KEY" || b.Headers["DEK-Info"] != "" {
			return nil, nil, fmt.Errorf("the key in %s is encrypted, and there is no one to ask for the password", at)
		}
		signer := parseKeyBytes(b.Bytes)
		if signer == nil {
			return nil, nil, fmt.Errorf("the key in %s does not parse", at)
		}
		return pem.EncodeToMemory(&pem.Block{Type: b.Type, Bytes: b.Bytes}), signer, nil
	}
}

func parseKeyBytes(der []byte) crypto.Signer {
	if k, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		signer, _ := k.(crypto.Signer)
		return signer
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k
	}
	return nil
}

// names returns the names that a certificate is for: its SANs, or its common
// name if it has none.
func names(c *x509.Certificate) []string {
	out := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	if len(out) == 0 && len(c.URIs) == 0 && c.Subject.CommonName != "" {
		out = append(out, c.Subject.CommonName)
	}
	return out
}

// uncovered returns the first of the hosts that none of the certificate's
// names covers, "" for none. A wildcard covers one label; a host that is a
// wildcard itself wants the same one, and "*" wants nothing.
func uncovered(certNames, hosts []string) string {
	for _, h := range hosts {
		if !covered(certNames, h) {
			return h
		}
	}
	return ""
}

func covered(certNames []string, host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "*" || host == "" || strings.HasSuffix(host, "*") {
		return true
	}
	ip, ipErr := netip.ParseAddr(strings.Trim(host, "[]"))
	_, parent, hasParent := strings.Cut(host, ".")
	for _, n := range certNames {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		switch {
		case n == host:
			return true
		case ipErr == nil:
			if other, err := netip.ParseAddr(n); err == nil && other == ip {
				return true
			}
		case hasParent && n == "*."+parent:
			return true
		}
	}
	return false
}
