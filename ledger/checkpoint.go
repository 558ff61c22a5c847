package ledger

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Checkpoint says that the ledger of an install has a root at a size. Signed,
// it is a C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint): a signed note whose
// text is the origin, the size and the root.
type Checkpoint struct {
	Origin string // "chancery.dev/ledger/<install id>"
	Size   Seq
	Root   Digest
}

// ErrCheckpoint says that text is not a checkpoint of this install.
var ErrCheckpoint = errors.New("malformed checkpoint")

// CheckpointOrigin returns the origin line of an install's checkpoints, which
// is also the name of the key that signs them.
func CheckpointOrigin(install string) string { return "chancery.dev/ledger/" + install }

func (c Checkpoint) text() string {
	return c.Origin + "\n" + strconv.FormatUint(uint64(c.Size), 10) + "\n" +
		base64.StdEncoding.EncodeToString(c.Root[:]) + "\n"
}

// SignCheckpoint returns the signed note.
func SignCheckpoint(c Checkpoint, key ed25519.PrivateKey) ([]byte, error) {
	s, err := noteSigner{}.with(c.Origin, key)
	if err != nil {
		return nil, err
	}
	return note.Sign(&note.Note{Text: c.text()}, s)
}

// OpenCheckpoint verifies a signed note with the key of the given origin and
// returns what it says.
func OpenCheckpoint(signed []byte, origin string, key ed25519.PublicKey) (Checkpoint, error) {
	v, err := verifier(origin, key)
	if err != nil {
		return Checkpoint{}, err
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != origin {
		return Checkpoint{}, ErrCheckpoint
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: size: %w", ErrCheckpoint, err)
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != len(Digest{}) {
		return Checkpoint{}, fmt.Errorf("%w: root", ErrCheckpoint)
	}
	return Checkpoint{Origin: origin, Size: Seq(size), Root: Digest(root)}, nil
}

// noteSigner signs notes with a plain ed25519 key.
type noteSigner struct {
	note.Verifier
	key ed25519.PrivateKey
}

func (noteSigner) with(name string, key ed25519.PrivateKey) (note.Signer, error) {
	v, err := verifier(name, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	return noteSigner{Verifier: v, key: key}, nil
}

// Sign signs the note's text.
func (s noteSigner) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.key, msg), nil }

func verifier(name string, key ed25519.PublicKey) (note.Verifier, error) {
	vkey, err := note.NewEd25519VerifierKey(name, key)
	if err != nil {
		return nil, fmt.Errorf("checkpoint key %s: %w", name, err)
	}
	return note.NewVerifier(vkey)
}
