package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	typeCertificate = "CERTIFICATE"
	typePrivate     = "PRIVATE KEY"
	typePublic      = "PUBLIC KEY"

	maxFileBytes = 1 << 20
)

var (
	// ErrTooOpen says that others than the owner can get at a private key.
	ErrTooOpen = errors.New("permissions too open")
	// ErrDamaged says that a file does not hold what it is for.
	ErrDamaged = errors.New("damaged")
)

// PrivatePEM is a private key as PEM. It prints and marshals as "redacted".
type PrivatePEM []byte

// Format writes "redacted", whatever the verb.
func (PrivatePEM) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "redacted") }

// String returns "redacted".
func (PrivatePEM) String() string { return "redacted" }

// MarshalText returns "redacted".
func (PrivatePEM) MarshalText() ([]byte, error) { return []byte("redacted"), nil }

// writeFile writes the file with mode 0600, under another name first: after a
// crash it is there in whole or as it was. The folder must exist.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Whose access to a private key is refused.
const (
	anyoneElse fs.FileMode = 0o077
	// Kubernetes gives a mounted Secret to the pod's group (fsGroup), to read.
	othersAndGroupWrite fs.FileMode = 0o027
)

// readPrivate reads a file that only its owner may get at.
func readPrivate(path string, refuse fs.FileMode) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if open := st.Mode().Perm() & refuse; open != 0 {
		return nil, fmt.Errorf("%s: %w: mode %04o; run: chmod 600 %s", path, ErrTooOpen, st.Mode().Perm(), path)
	}
	return readFile(path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(b) > maxFileBytes {
		err = fmt.Errorf("%s: %w: larger than %d bytes", path, ErrDamaged, maxFileBytes)
	}
	return b, err
}

// checkDir refuses a folder that others can look into.
func checkDir(dir string) error {
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("%s is not a directory; move it away", dir)
	case st.Mode().Perm()&anyoneElse != 0:
		return fmt.Errorf("%s: %w: mode %04o; run: chmod 700 %s", dir, ErrTooOpen, st.Mode().Perm(), dir)
	}
	return nil
}

func encodePrivate(k crypto.PrivateKey) (PrivatePEM, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: typePrivate, Bytes: der}), nil
}

// decodePrivate reads a PKCS #8 key of the wanted kind. Its error holds
// nothing of the key.
func decodePrivate[K *ecdsa.PrivateKey | ed25519.PrivateKey](text []byte) (K, error) {
	var none K
	b, _ := pem.Decode(text)
	if b == nil || b.Type != typePrivate {
		return none, fmt.Errorf("%w: no PEM block %s", ErrDamaged, typePrivate)
	}
	k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return none, fmt.Errorf("%w: the key does not parse", ErrDamaged)
	}
	key, ok := k.(K)
	if !ok {
		return none, fmt.Errorf("%w: a key of another kind", ErrDamaged)
	}
	return key, nil
}

func decodeCertificate(text []byte) (*x509.Certificate, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != typeCertificate {
		return nil, fmt.Errorf("%w: no PEM block %s", ErrDamaged, typeCertificate)
	}
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return c, nil
}

// EncodePublicKey returns an ed25519 public key as PEM.
func EncodePublicKey(k ed25519.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		panic(fmt.Sprintf("pki: ed25519 key of %d bytes: %v", len(k), err))
	}
	return pem.EncodeToMemory(&pem.Block{Type: typePublic, Bytes: der})
}

// DecodePublicKey reads what EncodePublicKey wrote.
func DecodePublicKey(text []byte) (ed25519.PublicKey, error) {
	b, _ := pem.Decode(text)
	if b == nil || b.Type != typePublic {
		return nil, fmt.Errorf("%w: no PEM block %s", ErrDamaged, typePublic)
	}
	k, err := x509.ParsePKIXPublicKey(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	key, ok := k.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an ed25519 key", ErrDamaged)
	}
	return key, nil
}

// SigningKey returns the ed25519 key in the file, or makes one there, in a
// folder of mode 0700. It is how a collector signs its events.
func SigningKey(path string) (ed25519.PrivateKey, error) {
	text, err := readPrivate(path, anyoneElse)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return makeSigningKey(path)
	case err != nil:
		return nil, fmt.Errorf("signing key: %w", err)
	}
	k, err := decodePrivate[ed25519.PrivateKey](text)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w; restore it from a backup, or remove it: a new key is made, which the hub must be told of", path, err)
	}
	return k, nil
}

func makeSigningKey(path string) (ed25519.PrivateKey, error) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	text, err := encodePrivate(k)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = writeFile(path, text)
	}
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	return k, nil
}
