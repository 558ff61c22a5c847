package chaos

import (
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
)

// store is the model of a replica's ledger file: each commit is there wholly
// or not at all after a crash.
type store struct {
	leaves    [][]byte
	hashes    []tlog.Hash
	cursor    ledger.Cursor
	admission *ledger.Admission
	marks     []mark // admissions after the newest commits
}

type mark struct {
	size      ledger.Seq
	admission *ledger.Admission
}

// maxMarks bounds how many admissions a store remembers to go back to; further
// back it admits every record again.
const maxMarks = 64

func newStore(w *world) *store { return &store{admission: ledger.NewAdmission(public(w.hubKey))} }

// Size returns the position of the last record.
func (s *store) Size() ledger.Seq { return ledger.Seq(len(s.leaves)) }

// ReadHashes makes a store a tlog.HashReader.
func (s *store) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if x < 0 || x >= int64(len(s.hashes)) {
			return nil, fmt.Errorf("hash %d of %d: out of range", x, len(s.hashes))
		}
		out[i] = s.hashes[x]
	}
	return out, nil
}

func (s *store) root(size ledger.Seq) ledger.Digest {
	d, err := ledger.Root(size, s)
	if err != nil {
		panic(err)
	}
	return d
}

// commit makes an intake durable.
func (s *store) commit(in ledger.Intake) {
	s.leaves, s.hashes = append(s.leaves, in.Leaves...), append(s.hashes, in.Hashes...)
	s.cursor, s.admission = in.Cursor, in.Admission
	if len(in.Leaves) > 0 {
		s.marks = append(s.marks, mark{s.Size(), in.Admission.Clone()})
		if len(s.marks) > maxMarks {
			s.marks = s.marks[len(s.marks)-maxMarks:]
		}
	}
}

// setAside takes the records after base out, as boltstore does: admission is
// that of the records that stay, the cursor stays where it is.
func (s *store) setAside(w *world, base ledger.Seq, root ledger.Digest) error {
	if s.root(base) != root {
		return ledger.ErrOtherRoot
	}
	from := mark{0, ledger.NewAdmission(public(w.hubKey))}
	for _, m := range s.marks {
		if m.size <= base {
			from = m
		}
	}
	a := from.admission.Clone()
	for seq := from.size + 1; seq <= base; seq++ {
		r, err := ledger.ParseLeaf(s.leaves[seq-1])
		if err != nil {
			return err
		}
		e, err := ledger.DecodeEvent(r.Event)
		if err != nil {
			return err
		}
		out, err := a.Admit(r, e.Subject, seq-1, func() (ledger.Digest, error) { return s.root(seq - 1), nil })
		if err != nil {
			return err
		}
		if out.Outcome != ledger.Append {
			return fmt.Errorf("record %d is not admitted again: %s", seq, out.Reason)
		}
	}
	for len(s.marks) > 0 && s.marks[len(s.marks)-1].size > base {
		s.marks = s.marks[:len(s.marks)-1]
	}
	s.leaves = s.leaves[:base:base]
	n := tlog.StoredHashCount(int64(base))
	s.hashes = s.hashes[:n:n]
	s.admission = a
	return nil
}

// adopt takes over all of another replica's ledger, its place in the stream
// included.
func (s *store) adopt(o *store) {
	*s = store{
		leaves: o.leaves[:len(o.leaves):len(o.leaves)], hashes: o.hashes[:len(o.hashes):len(o.hashes)],
		cursor: o.cursor, admission: o.admission.Clone(),
	}
}
