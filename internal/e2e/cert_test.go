package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Trust is a certificate authority of one test.
type Trust struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newTrust(tb testing.TB) *Trust {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "e2e"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(tb, err)
	cert, err := x509.ParseCertificate(der)
	must(tb, err)
	return &Trust{cert: cert, key: key, next: 1}
}

// Pool returns the roots that a client trusts.
func (t *Trust) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(t.cert)
	return p
}

// Issue returns a new certificate and key for the host as PEM, valid for the
// given time from now, and the certificate's serial number.
func (t *Trust) Issue(tb testing.TB, host string, valid time.Duration) (cert, key []byte, serial int64) {
	tb.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	t.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(t.next), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, t.cert, private.Public(), t.key)
	must(tb, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(tb, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), t.next
}

// Shown returns the serial number of the certificate that Envoy shows for a
// host. The error says why the test would not trust it.
func (s *System) Shown(host string) (int64, error) {
	conn, err := tls.Dial("tcp", s.address(true), &tls.Config{ServerName: host, RootCAs: s.roots.Pool(), MinVersion: tls.VersionTLS12})
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }() // nothing is under way
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}
