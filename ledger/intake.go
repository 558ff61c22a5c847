package ledger

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// MaxAppend is the most records that one call appends.
const MaxAppend = 1000

// ErrOtherRoot says that a ledger has another root at a size than it should, so
// that two histories of one install exist.
var ErrOtherRoot = errors.New("ledger has another root")

// Incoming is one record as it came off the stream.
type Incoming struct {
	Record  Record
	Subject string // that it was published on
	// Incarnation of the stream that it came from; "" for a record that comes
	// from another ledger, in which incarnations follow one another.
	Incarnation string
	StreamSeq   uint64 // its place in that incarnation, from 1

	prepared *prepared
}

// prepared is what admission needs of a record and what does not depend on the
// records before it.
type prepared struct {
	event  Event
	err    error             // why the event could not be decoded
	key    ed25519.PublicKey // that the signature was checked with
	signed bool              // whether it is the key's
}

// Prepare decodes the record and checks its signature with the key that the
// origin has in a, which is most of the work of admitting it and, unlike that,
// can be done for many records at once. It changes no outcome: where the key is
// another by the time of the admission, the signature is checked again. The
// record must not be changed afterwards.
func (in *Incoming) Prepare(a *Admission) {
	p := &prepared{}
	if p.event, p.err = DecodeEvent(in.Record.Event); p.err == nil {
		p.key = a.keyOf(p.event)
		p.signed = in.Record.Verify(p.key)
	}
	in.prepared = p
}

// signedBy reports whether the record's signature is the key's.
func (in *Incoming) signedBy(key ed25519.PublicKey) bool {
	if p := in.prepared; p != nil && bytes.Equal(p.key, key) {
		return p.signed
	}
	return in.Record.Verify(key)
}

// Cursor is how far a store has consumed the stream.
type Cursor struct {
	Incarnation string `json:"incarnation,omitempty"`
	StreamSeq   uint64 `json:"streamseq"` // of the last message consumed
	// Last is the digest of that message's event bytes, by which a stream that
	// was set back and written anew is told from the one that was read.
	Last Digest `json:"last,omitzero"`
}

// Entry is one record of the ledger.
type Entry struct {
	Seq    Seq
	Record Record
}

// Result is what became of one Incoming.
type Result struct {
	Admitted
	Seq       Seq // position in the ledger when appended, else 0
	StreamSeq uint64
}

// Intake is what a batch of records does to a ledger. A store commits all of it
// in one transaction, or nothing.
type Intake struct {
	// Results answer the batch in its order. They are fewer than the batch when
	// it was cut at a StreamBegun that was not appended: what comes after must not
	// be consumed before somebody has looked.
	Results []Result
	Leaves  [][]byte    // to be stored from position size+1 on
	Hashes  []tlog.Hash // to be stored from index tlog.StoredHashCount(size) on
	// Size, Cursor and Admission are those after the batch.
	Size      Seq
	Cursor    Cursor
	Admission *Admission
}

// Take decides what a batch does to a ledger of the given size, whose Merkle
// hashes it reads from stored. It changes none of its arguments; the leaves are
// fresh copies.
//
// Records of an incarnation that the ledger has not seen begin are passed over
// until its StreamBegun: replicas may differ in where they are before it.
func Take(a *Admission, cursor Cursor, size Seq, stored tlog.HashReader, batch []Incoming) (Intake, error) {
	if len(batch) > MaxAppend {
		return Intake{}, fmt.Errorf("append %d records: at most %d", len(batch), MaxAppend)
	}
	in := Intake{Size: size, Cursor: cursor, Admission: a.Clone(), Results: make([]Result, 0, len(batch))}
	first := tlog.StoredHashCount(int64(size))
	hashes := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return in.readHashes(first, stored, indexes)
	})
	root := func() (Digest, error) { return Root(in.Size, hashes) }
	for _, rec := range batch {
		live := rec.Incarnation != "" && rec.Incarnation == in.Admission.Incarnation()
		if live && rec.Incarnation == in.Cursor.Incarnation && rec.StreamSeq <= in.Cursor.StreamSeq {
			in.Results = append(in.Results, Result{Admitted: Admitted{Outcome: Skip, Reason: "consumed already"}, StreamSeq: rec.StreamSeq})
			continue
		}
		out, err := in.Admission.admitFrom(&rec, in.Size, root)
		if err != nil {
			return Intake{}, fmt.Errorf("admit message %d: %w", rec.StreamSeq, err)
		}
		res := Result{Admitted: out, StreamSeq: rec.StreamSeq}
		if out.Outcome == Append {
			leaf := rec.Record.Leaf()
			added, err := LeafHashes(int64(in.Size), leaf, hashes)
			if err != nil {
				return Intake{}, fmt.Errorf("hash record %d: %w", in.Size+1, err)
			}
			in.Leaves, in.Hashes = append(in.Leaves, leaf), append(in.Hashes, added...)
			in.Size++
			res.Seq = in.Size
		}
		in.Results = append(in.Results, res)
		if out.Halt {
			return in, nil
		}
		if rec.Incarnation != "" {
			in.Cursor = Cursor{Incarnation: rec.Incarnation, StreamSeq: rec.StreamSeq, Last: DigestOf(rec.Record.Event)}
		}
		if out.Event.Type == StreamBegun && out.Outcome == Refuse {
			return in, nil
		}
	}
	return in, nil
}

// readHashes reads hashes of which those from index first on are new.
func (in *Intake) readHashes(first int64, stored tlog.HashReader, indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	var old []int64
	for i, x := range indexes {
		if x < first {
			old = append(old, x)
		} else if n := x - first; n < int64(len(in.Hashes)) {
			out[i] = in.Hashes[n]
		} else {
			return nil, fmt.Errorf("hash %d is not there yet", x)
		}
	}
	if len(old) == 0 {
		return out, nil
	}
	read, err := stored.ReadHashes(old)
	if err != nil {
		return nil, err
	}
	for i, x := range indexes {
		if x < first {
			out[i], read = read[0], read[1:]
		}
	}
	return out, nil
}

// admitFrom admits a record with regard to the incarnation of the stream that
// it came from.
func (a *Admission) admitFrom(in *Incoming, size Seq, root func() (Digest, error)) (Admitted, error) {
	if in.prepared == nil {
		in.Prepare(a)
	}
	e, live := in.prepared.event, in.Incarnation == "" || in.Incarnation == a.state.Incarnation
	begins := in.prepared.err == nil && e.Type == StreamBegun && e.ID.Cluster == InstallScope && in.signedBy(a.hub)
	if !begins && !live {
		return Admitted{Outcome: Skip, Event: e, Reason: "before the stream's incarnation " + in.Incarnation + " began"}, nil
	}
	if begins && in.Incarnation != "" {
		if d, err := DecodeStreamBegun(e); err == nil && d.Incarnation != in.Incarnation {
			reason := "begins incarnation " + d.Incarnation + ", the stream is " + in.Incarnation
			if !live {
				return Admitted{Outcome: Skip, Event: e, Reason: reason}, nil
			}
			return Admitted{Outcome: Refuse, Event: e, Reason: reason}, nil
		}
	}
	return a.admit(in, size, root)
}
