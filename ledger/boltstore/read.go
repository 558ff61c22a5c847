package boltstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
)

// maxReadBytes bounds what one Read or Object copies out of the file, the last
// record excepted.
const maxReadBytes = 16 << 20

// maxCheckpoints is how many checkpoints are kept, the newest.
const maxCheckpoints = 1024

// Root returns the root of the tree over the first size records.
func (s *Store) Root(size ledger.Seq) (root ledger.Digest, err error) {
	if have := s.Size(); size > have {
		return ledger.Digest{}, fmt.Errorf("root at %d: %w: it has %d records", size, ErrRange, have)
	}
	err = s.view(func(tx *bolt.Tx) error {
		root, err = ledger.Root(size, hashReader(tx))
		return err
	})
	return root, err
}

// Read returns up to limit records from position from on, and fewer when they
// are large. An empty answer means that there are none. The bytes are the
// caller's.
func (s *Store) Read(from ledger.Seq, limit int) ([]ledger.Entry, error) {
	var out []ledger.Entry
	size := s.Size()
	err := s.view(func(tx *bolt.Tx) error {
		c, total := tx.Bucket(bucketEvents).Cursor(), 0
		for k, v := c.Seek(seqKey(max(from, 1))); k != nil && len(out) < limit && total < maxReadBytes; k, v = c.Next() {
			e, err := s.entry(k, v)
			if err != nil {
				return err
			}
			if e.Seq > size {
				return nil // of an import that has not ended
			}
			total += len(v)
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read ledger from %d: %w", from, err)
	}
	return out, nil
}

// entry copies a record out of the file.
func (s *Store) entry(k, v []byte) (ledger.Entry, error) {
	if len(k) != 8 {
		return ledger.Entry{}, damaged(s.path, 0, "event key of %d bytes", len(k))
	}
	seq := ledger.Seq(binary.BigEndian.Uint64(k))
	r, err := ledger.ParseLeaf(bytes.Clone(v))
	if err != nil {
		return ledger.Entry{}, damaged(s.path, seq, "%v", err)
	}
	return ledger.Entry{Seq: seq, Record: r}, nil
}

// Object returns the newest records about an object, at most limit, oldest
// first.
func (s *Store) Object(k ledger.ObjectKey, limit int) ([]ledger.Entry, error) {
	var out []ledger.Entry
	size := s.Size()
	err := s.view(func(tx *bolt.Tx) error {
		events, prefix, total := tx.Bucket(bucketEvents), objectPrefix(k), 0
		c := tx.Bucket(bucketByObject).Cursor()
		for key := last(c, objectKey(k, size)); bytes.HasPrefix(key, prefix) && len(out) < limit && total < maxReadBytes; key, _ = c.Prev() {
			seq := key[len(prefix):]
			v := events.Get(seq)
			if v == nil {
				return damaged(s.path, 0, "by-object names a record that is not there")
			}
			e, err := s.entry(seq, v)
			if err != nil {
				return err
			}
			// Another object can have the same prefix of its digest.
			if ev, err := ledger.DecodeEvent(e.Record.Event); err != nil || ev.Object != k {
				continue
			}
			total += len(v)
			out = append(out, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("history of %s: %w", k, err)
	}
	slices.Reverse(out)
	return out, nil
}

// last moves a cursor to the last key that is not above limit.
func last(c *bolt.Cursor, limit []byte) []byte {
	k, _ := c.Seek(limit)
	switch {
	case k == nil:
		k, _ = c.Last()
	case !bytes.Equal(k, limit):
		k, _ = c.Prev()
	}
	return k
}

// At returns the position of the last event at or before t, by the clocks of
// those who made the events, 0 when there is none. Of events of one time it is
// the one recorded last.
func (s *Store) At(t time.Time) (seq ledger.Seq, err error) {
	size := s.Size()
	err = s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketByTime).Cursor()
		for k := last(c, timeKey(t, math.MaxUint64)); k != nil; k, _ = c.Prev() {
			if len(k) != 16 {
				return damaged(s.path, 0, "by-time key of %d bytes", len(k))
			}
			if found := ledger.Seq(binary.BigEndian.Uint64(k[8:])); found <= size {
				seq = found
				return nil
			}
		}
		return nil
	})
	return seq, err
}

// InclusionProof proves that the record at seq is in the tree over the first
// size records; tlog.CheckRecord checks it.
func (s *Store) InclusionProof(size, seq ledger.Seq) (proof tlog.RecordProof, err error) {
	if have := s.Size(); size > have || seq < 1 || seq > size {
		return nil, fmt.Errorf("proof of %d in %d: %w: it has %d records", seq, size, ErrRange, have)
	}
	err = s.view(func(tx *bolt.Tx) error {
		proof, err = tlog.ProveRecord(int64(size), int64(seq-1), hashReader(tx))
		return err
	})
	return proof, err
}

// ConsistencyProof proves that the tree over the first older records is a
// prefix of that over the first newer; tlog.CheckTree checks it.
func (s *Store) ConsistencyProof(newer, older ledger.Seq) (proof tlog.TreeProof, err error) {
	if have := s.Size(); newer > have || older < 1 || older > newer {
		return nil, fmt.Errorf("proof of %d in %d: %w: it has %d records", older, newer, ErrRange, have)
	}
	err = s.view(func(tx *bolt.Tx) error {
		proof, err = tlog.ProveTree(int64(newer), int64(older), hashReader(tx))
		return err
	})
	return proof, err
}

// SaveCheckpoint keeps a signed checkpoint of this ledger. One that does not
// verify, or whose root is not the ledger's, is refused. The newest 1,024 are
// kept.
func (s *Store) SaveCheckpoint(signed []byte) error {
	cp, err := ledger.OpenCheckpoint(signed, ledger.CheckpointOrigin(s.about.Install), s.about.Hub)
	if err != nil {
		return err
	}
	s.write.Lock()
	defer s.write.Unlock()
	root, err := s.Root(cp.Size)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return fmt.Errorf("checkpoint at %d: its root %s is not the ledger's %s", cp.Size, cp.Root.Short(), root.Short())
	}
	return s.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketCheckpoints)
		if err := b.Put(seqKey(cp.Size), signed); err != nil {
			return err
		}
		var old [][]byte
		c, n := b.Cursor(), 0
		for k, _ := c.Last(); k != nil; k, _ = c.Prev() {
			if n++; n > maxCheckpoints {
				old = append(old, bytes.Clone(k))
			}
		}
		return deleteAll(b, old)
	})
}

// Checkpoints returns the newest checkpoints, at most limit, newest first.
func (s *Store) Checkpoints(limit int) ([][]byte, error) {
	var out [][]byte
	err := s.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketCheckpoints).Cursor()
		for k, v := c.Last(); k != nil && len(out) < limit; k, v = c.Prev() {
			out = append(out, bytes.Clone(v))
		}
		return nil
	})
	return out, err
}
