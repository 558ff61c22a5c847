package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	fileCA       = "ca.crt"
	fileCAKey    = "ca.key"
	fileDecision = "decision.key"
	dirIssued    = "issued"

	lifetimeCA  = 10 * 365 * 24 * time.Hour
	minLifetime = 10 * time.Second
	maxLifetime = 5 * 365 * 24 * time.Hour
	maxBackdate = 5 * time.Minute // for clocks that are slow
	maxSANs     = 100
)

// Authority is an install's certificate authority with the hub's key for
// decisions, in a folder. It is safe for concurrent use.
type Authority struct {
	// Now is the clock, time.Now unless set before use.
	Now func() time.Time

	dir      string
	install  string
	ca       *x509.Certificate
	caPEM    []byte
	key      *ecdsa.PrivateKey
	decision func() ed25519.PrivateKey // a function, which fmt does not print
}

// Format writes the install's id, whatever the verb.
func (a *Authority) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "authority of install %s (redacted)", a.install)
}

// MarshalText returns what Format writes.
func (a *Authority) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%v", a), nil }

// Init opens the authority in the folder, or makes one: the install's id, an
// ECDSA P-256 authority (which every Envoy takes) and an ed25519 key for
// decisions. The folder appears complete or not at all.
func Init(dir string) (*Authority, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case err == nil && len(entries) > 0:
		return Open(dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if err := found(dir); err != nil {
		return nil, fmt.Errorf("make certificate authority %s: %w", dir, err)
	}
	return Open(dir)
}

// found makes the files of a new authority beside the folder and moves them
// there.
func found(dir string) error {
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	install := hex.EncodeToString(id)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	_, decision, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	serial, err := newSerial()
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "chancery " + install, Organization: []string{install}},
		NotBefore:    now.Add(-maxBackdate), NotAfter: now.Add(lifetimeCA),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyPEM, err := encodePrivate(key)
	if err != nil {
		return err
	}
	decisionPEM, err := encodePrivate(decision)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-*") // with mode 0700
	if err != nil {
		return err
	}
	// Nothing is left of it once it is renamed; what a failure leaves was never used.
	defer func() { _ = os.RemoveAll(fresh) }()
	for name, b := range map[string][]byte{
		fileCA:       pem.EncodeToMemory(&pem.Block{Type: typeCertificate, Bytes: der}),
		fileCAKey:    keyPEM,
		fileDecision: decisionPEM,
	} {
		if err := writeFile(filepath.Join(fresh, name), b); err != nil {
			return err
		}
	}
	// Where another process was first, its folder is not empty and stays.
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// Open opens the authority in the folder. The error says what to do about a
// missing, damaged or too open file.
func Open(dir string) (*Authority, error) {
	if err := checkDir(dir); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	a := &Authority{Now: time.Now, dir: dir}
	fail := func(name string, err error) error {
		if errors.Is(err, ErrTooOpen) {
			return fmt.Errorf("certificate authority: %w", err)
		}
		return fmt.Errorf("certificate authority %s: %w; restore the folder %s from a backup, or remove it for a new authority: every collector, edge and command line then needs new credentials",
			filepath.Join(dir, name), err, dir)
	}
	var err error
	if a.caPEM, err = readFile(filepath.Join(dir, fileCA)); err == nil {
		a.ca, err = decodeCertificate(a.caPEM)
	}
	if err != nil {
		return nil, fail(fileCA, err)
	}
	if a.install, err = installOf(a.ca); err != nil {
		return nil, fail(fileCA, err)
	}
	text, err := readPrivate(filepath.Join(dir, fileCAKey), anyoneElse)
	if err == nil {
		a.key, err = decodePrivate[*ecdsa.PrivateKey](text)
	}
	if err == nil && !a.key.PublicKey.Equal(a.ca.PublicKey) {
		err = fmt.Errorf("%w: it is not the key of %s", ErrDamaged, fileCA)
	}
	if err != nil {
		return nil, fail(fileCAKey, err)
	}
	text, err = readPrivate(filepath.Join(dir, fileDecision), anyoneElse)
	var decision ed25519.PrivateKey
	if err == nil {
		decision, err = decodePrivate[ed25519.PrivateKey](text)
	}
	if err != nil {
		return nil, fail(fileDecision, err)
	}
	a.decision = func() ed25519.PrivateKey { return decision }
	return a, nil
}

// installOf returns the install's id, which stands in the authority's subject.
func installOf(ca *x509.Certificate) (string, error) {
	if len(ca.Subject.Organization) != 1 || !installPattern.MatchString(ca.Subject.Organization[0]) || !ca.IsCA {
		return "", fmt.Errorf("%w: not the certificate of a chancery authority", ErrDamaged)
	}
	return ca.Subject.Organization[0], nil
}

// Install returns the install's id.
func (a *Authority) Install() string { return a.install }

// CA returns the authority's certificate as PEM.
func (a *Authority) CA() []byte { return append([]byte(nil), a.caPEM...) }

// DecisionKey returns the hub's key for decisions.
func (a *Authority) DecisionKey() ed25519.PrivateKey { return a.decision() }

// Issue makes a key and a certificate for a part. sans are the DNS names and
// IP addresses that it is reached by; a hub and an edge have the name
// "<role>.chancery" besides. The lifetime is 10 seconds to 5 years, and ends
// with the authority's.
func (a *Authority) Issue(role Role, name string, sans []string, lifetime time.Duration) (Credentials, error) {
	id := Identity{Install: a.install, Role: role, Name: name}
	if err := id.validate(); err != nil {
		return Credentials{}, fmt.Errorf("issue certificate: %w", err)
	}
	if lifetime < minLifetime || lifetime > maxLifetime {
		return Credentials{}, fmt.Errorf("issue certificate of %s: lifetime %s is not between %s and %s", id, lifetime, minLifetime, maxLifetime)
	}
	c, err := a.issue(id, sans, lifetime)
	if err != nil {
		return Credentials{}, fmt.Errorf("issue certificate of %s: %w", id, err)
	}
	return c, nil
}

func (a *Authority) issue(id Identity, sans []string, lifetime time.Duration) (Credentials, error) {
	now := a.Now()
	end := now.Add(lifetime)
	if !now.Before(a.ca.NotAfter) {
		return Credentials{}, fmt.Errorf("the authority ended %s; remove %s for a new one", a.ca.NotAfter.UTC().Format(time.RFC3339), a.dir)
	}
	if end.After(a.ca.NotAfter) {
		end = a.ca.NotAfter
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return Credentials{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return Credentials{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{a.install}, OrganizationalUnit: []string{string(id.Role)}},
		NotBefore:    now.Add(-min(maxBackdate, lifetime/10)), NotAfter: end,
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{uri},
	}
	if len(id.Name) <= 64 { // the limit of a common name
		tmpl.Subject.CommonName = id.Name
	}
	if id.Role.serves() {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		tmpl.DNSNames = append(tmpl.DNSNames, id.Role.serverName())
	}
	if err := addSANs(tmpl, sans); err != nil {
		return Credentials{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Credentials{}, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.ca, &key.PublicKey, a.key)
	if err != nil {
		return Credentials{}, err
	}
	keyPEM, err := encodePrivate(key)
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{
		Cert:     pem.EncodeToMemory(&pem.Block{Type: typeCertificate, Bytes: der}),
		Key:      keyPEM,
		CA:       a.CA(),
		Decision: EncodePublicKey(a.decision().Public().(ed25519.PublicKey)),
	}, nil
}

func addSANs(tmpl *x509.Certificate, sans []string) error {
	if len(sans) > maxSANs {
		return fmt.Errorf("%d names, more than %d", len(sans), maxSANs)
	}
	for _, s := range sans {
		if ip := net.ParseIP(s); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
			continue
		}
		if !namePattern.MatchString(strings.TrimPrefix(strings.ToLower(s), "*.")) {
			return fmt.Errorf("%q is neither a DNS name nor an IP address", s)
		}
		tmpl.DNSNames = append(tmpl.DNSNames, strings.ToLower(s))
	}
	return nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
