package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Credentials are what a part needs to be who it is, all as PEM.
type Credentials struct {
	Cert     []byte
	Key      PrivatePEM
	CA       []byte // of the install
	Decision []byte // the hub's public key for decisions; may be absent
}

// The files of credentials in a folder. The first three are named as in a
// Kubernetes Secret of type kubernetes.io/tls.
const (
	fileCert           = "tls.crt"
	fileKey            = "tls.key"
	fileRoot           = "ca.crt"
	fileDecisionPublic = "decision.pub"
)

// Save writes the credentials to the folder, which is made with mode 0700. The
// certificate is written last: a reader that finds another's key beside it
// keeps what it has.
func (c Credentials) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save credentials: %w", err)
	}
	files := []struct {
		name string
		b    []byte
	}{{fileRoot, c.CA}, {fileDecisionPublic, c.Decision}, {fileKey, c.Key}, {fileCert, c.Cert}}
	for _, f := range files {
		if len(f.b) == 0 {
			continue
		}
		if err := writeFile(filepath.Join(dir, f.name), f.b); err != nil {
			return fmt.Errorf("save credentials: %w", err)
		}
	}
	return nil
}

// Load reads what Save wrote, or a mounted Secret, and checks it.
func Load(dir string) (Credentials, error) {
	var c Credentials
	var err error
	fail := func(err error) error {
		if errors.Is(err, ErrTooOpen) {
			return fmt.Errorf("credentials: %w", err)
		}
		return fmt.Errorf("credentials in %s: %w; issue them again: chancery pki issue", dir, err)
	}
	if c.Cert, err = readFile(filepath.Join(dir, fileCert)); err != nil {
		return Credentials{}, fail(err)
	}
	if c.CA, err = readFile(filepath.Join(dir, fileRoot)); err != nil {
		return Credentials{}, fail(err)
	}
	if c.Key, err = readPrivate(filepath.Join(dir, fileKey), othersAndGroupWrite); err != nil {
		return Credentials{}, fail(err)
	}
	if c.Decision, err = readFile(filepath.Join(dir, fileDecisionPublic)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Credentials{}, fail(err)
	}
	if _, err := c.parse(); err != nil {
		return Credentials{}, fail(err)
	}
	return c, nil
}

// Identity returns who the credentials are for.
func (c Credentials) Identity() (Identity, error) {
	p, err := c.parse()
	if err != nil {
		return Identity{}, err
	}
	return p.id, nil
}

// DecisionKey returns the hub's public key for decisions.
func (c Credentials) DecisionKey() (ed25519.PublicKey, error) {
	if len(c.Decision) == 0 {
		return nil, fmt.Errorf("credentials hold no %s; issue them again: chancery pki issue", fileDecisionPublic)
	}
	return DecodePublicKey(c.Decision)
}

// parsed are credentials that were checked.
type parsed struct {
	id    Identity
	cert  tls.Certificate // with its Leaf
	roots *x509.CertPool
}

// parse checks that the parts belong to each other. It does not look at the
// time, nor does its error hold anything of the key.
func (c Credentials) parse() (*parsed, error) {
	ca, err := decodeCertificate(c.CA)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileRoot, err)
	}
	leaf, err := decodeCertificate(c.Cert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", fileCert, err)
	}
	cert, err := tls.X509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: it is not the key of %s", fileKey, ErrDamaged, fileCert)
	}
	if cert.Leaf == nil {
		cert.Leaf = leaf
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return nil, fmt.Errorf("%s: %w: not issued by %s", fileCert, ErrDamaged, fileRoot)
	}
	id, err := IdentityOf(leaf)
	if err != nil {
		return nil, err
	}
	p := &parsed{id: id, cert: cert, roots: x509.NewCertPool()}
	p.roots.AddCert(ca)
	return p, nil
}

func (c Credentials) equal(o Credentials) bool {
	return bytes.Equal(c.Cert, o.Cert) && bytes.Equal(c.Key, o.Key) && bytes.Equal(c.CA, o.CA)
}
