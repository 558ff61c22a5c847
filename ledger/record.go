package ledger

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Record is what the ledger keeps of one event: the bytes that were published
// and the producer's signature over them.
type Record struct {
	Event     []byte
	Signature []byte // ed25519, 64 bytes
}

// Sign returns the record of an encoded event.
func Sign(event []byte, key ed25519.PrivateKey) Record {
	return Record{Event: event, Signature: ed25519.Sign(key, event)}
}

// Verify reports whether the signature is key's.
func (r Record) Verify(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, r.Event, r.Signature)
}

// Leaf returns the bytes that the Merkle tree hashes and the store keeps: the
// length of the event as a uvarint, the event, the signature.
func (r Record) Leaf() []byte {
	b := make([]byte, 0, binary.MaxVarintLen64+len(r.Event)+len(r.Signature))
	b = binary.AppendUvarint(b, uint64(len(r.Event)))
	b = append(b, r.Event...)
	return append(b, r.Signature...)
}

// ErrLeaf says that bytes are not a leaf.
var ErrLeaf = errors.New("malformed ledger record")

// ParseLeaf reads what Leaf wrote. The record aliases b.
func ParseLeaf(b []byte) (Record, error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return Record{}, ErrLeaf
	}
	if k != len(binary.AppendUvarint(nil, n)) {
		return Record{}, fmt.Errorf("%w: length in more bytes than it needs", ErrLeaf)
	}
	r := Record{Event: b[k : k+int(n)], Signature: b[k+int(n):]}
	if len(r.Signature) != ed25519.SignatureSize {
		return Record{}, fmt.Errorf("%w: signature of %d bytes", ErrLeaf, len(r.Signature))
	}
	return r, nil
}

// LeafHashes returns the Merkle hashes that appending the leaf as number n
// (counted from 0) adds to a tree, in the order of tlog.StoredHashIndex (RFC
// 6962 hashing).
func LeafHashes(n int64, leaf []byte, r tlog.HashReader) ([]tlog.Hash, error) {
	return tlog.StoredHashes(n, leaf, r)
}

// Root returns the root of the tree over the first size leaves.
func Root(size Seq, r tlog.HashReader) (Digest, error) {
	if size == 0 {
		return DigestOf(nil), nil
	}
	h, err := tlog.TreeHash(int64(size), r)
	return Digest(h), err
}
