package ledger

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Memory is a ledger that is held in memory and nowhere else, for simulation
// and for reading a ledger that came over the wire. It is not safe for
// concurrent use.
type Memory struct {
	leaves    [][]byte
	hashes    []tlog.Hash
	cursor    Cursor
	admission *Admission
}

// NewMemory returns an empty ledger whose decisions are signed with hub's key.
func NewMemory(hub ed25519.PublicKey) *Memory {
	return &Memory{admission: NewAdmission(hub)}
}

// Append admits up to MaxAppend records and keeps those that are to be
// appended. The context is not used: nothing here waits.
func (m *Memory) Append(_ context.Context, batch []Incoming) ([]Result, error) {
	in, err := Take(m.admission, m.cursor, m.Size(), m, batch)
	if err != nil {
		return nil, err
	}
	m.leaves, m.hashes = append(m.leaves, in.Leaves...), append(m.hashes, in.Hashes...)
	m.cursor, m.admission = in.Cursor, in.Admission
	return in.Results, nil
}

// ReadHashes makes a Memory a tlog.HashReader.
func (m *Memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(m.hashes)) {
			return nil, fmt.Errorf("hash %d of %d: out of range", x, len(m.hashes))
		}
		out[i] = m.hashes[x]
	}
	return out, nil
}

// Size returns the position of the last record, 0 when there is none.
func (m *Memory) Size() Seq { return Seq(len(m.leaves)) }

// Root returns the root of the tree over the first size records.
func (m *Memory) Root(size Seq) (Digest, error) {
	if size > m.Size() {
		return Digest{}, fmt.Errorf("root at %d: the ledger has %d records", size, m.Size())
	}
	return Root(size, m)
}

// Read returns up to limit records from position from on. They alias the
// ledger's own bytes and must not be changed.
func (m *Memory) Read(from Seq, limit int) ([]Entry, error) {
	from = max(from, 1)
	var out []Entry
	for seq := from; seq <= m.Size() && len(out) < limit; seq++ {
		r, err := ParseLeaf(m.leaves[seq-1])
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", seq, err)
		}
		out = append(out, Entry{Seq: seq, Record: r})
	}
	return out, nil
}

// Admission returns a copy of the admission after the last record.
func (m *Memory) Admission() *Admission { return m.admission.Clone() }

// Cursor returns how far the stream is consumed.
func (m *Memory) Cursor() Cursor { return m.cursor }
