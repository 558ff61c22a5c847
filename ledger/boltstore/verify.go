package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
)

// verifyChunk is how many records are verified in one transaction: a longer one
// would keep the writer from using freed pages again.
const verifyChunk = 1000

// Verify reads the ledger and reports the first position at which it is not what
// it must be, as a DamageError: it recomputes every Merkle hash from the bytes of
// the records, looks for each record in the indexes, and admits every record
// again from an empty ledger, which checks all signatures. From a position above
// 1 on it takes what is before for granted and checks hashes and indexes only.
// progress, which may be nil, is told the position reached. Verify does not stop
// the writer; what is appended meanwhile is not looked at.
func (s *Store) Verify(ctx context.Context, from ledger.Seq, progress func(ledger.Seq)) error {
	goal := s.current()
	v := verifier{path: s.path, from: max(from, 1)}
	if v.from == 1 {
		v.admission = ledger.NewAdmission(s.about.Hub)
	}
	v.next = v.from
	for v.next <= goal.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := min(v.next+verifyChunk-1, goal.size)
		if err := s.view(func(tx *bolt.Tx) error { return v.records(tx, to) }); err != nil {
			return err
		}
		if progress != nil {
			progress(to)
		}
	}
	return s.view(func(tx *bolt.Tx) error {
		if err := v.checkpoints(tx, s.about); err != nil {
			return err
		}
		// What was appended meanwhile is in the indexes too.
		if saved, err := readState(tx, s.path, s.about.Hub); err != nil {
			return err
		} else if saved.size != goal.size {
			return nil
		}
		if err := v.totals(tx, goal.size); err != nil {
			return err
		}
		return v.admitted(goal.admission)
	})
}

// verifier goes over records in order.
type verifier struct {
	path      string
	from      ledger.Seq        // first record that is looked at
	next      ledger.Seq        // next record to look at
	admission *ledger.Admission // after next-1 records; nil when not from the start
	objects   int               // records about an object so far
}

// records verifies records from v.next up to and including to.
func (v *verifier) records(tx *bolt.Tx, to ledger.Seq) error {
	events, hashes := tx.Bucket(bucketEvents).Cursor(), hashReader(tx)
	objects, times := tx.Bucket(bucketByObject), tx.Bucket(bucketByTime)
	for k, leaf := events.Seek(seqKey(v.next)); v.next <= to; k, leaf = events.Next() {
		seq := v.next
		if len(k) != 8 || binary.BigEndian.Uint64(k) != uint64(seq) {
			return damaged(v.path, seq, "the record is missing")
		}
		rec, err := ledger.ParseLeaf(leaf)
		if err != nil {
			return damaged(v.path, seq, "%v", err)
		}
		if err := v.hashes(tx, hashes, seq, leaf); err != nil {
			return err
		}
		e, err := ledger.DecodeEvent(rec.Event)
		if err != nil {
			return damaged(v.path, seq, "%v", err)
		}
		if !has(times, timeKey(e.Time, seq)) {
			return damaged(v.path, seq, "by-time does not have the record")
		}
		if e.Object != (ledger.ObjectKey{}) {
			v.objects++
			if !has(objects, objectKey(e.Object, seq)) {
				return damaged(v.path, seq, "by-object does not have the record")
			}
		}
		if v.admission != nil {
			root := func() (ledger.Digest, error) { return ledger.Root(seq-1, hashes) }
			out, err := v.admission.Admit(rec, e.Subject, seq-1, root)
			if err != nil {
				return damaged(v.path, seq, "%v", err)
			}
			if out.Outcome != ledger.Append {
				return damaged(v.path, seq, "the record would not be appended (%s): %s", out.Outcome, out.Reason)
			}
		}
		v.next++
	}
	return nil
}

// has reports whether a bucket holds the key, whose value is empty.
func has(b *bolt.Bucket, key []byte) bool {
	k, _ := b.Cursor().Seek(key)
	return bytes.Equal(k, key)
}

func (v *verifier) hashes(tx *bolt.Tx, stored tlog.HashReader, seq ledger.Seq, leaf []byte) error {
	want, err := ledger.LeafHashes(int64(seq-1), leaf, stored)
	if err != nil {
		return damaged(v.path, seq, "%v", err)
	}
	first := tlog.StoredHashCount(int64(seq - 1))
	b := tx.Bucket(bucketHashes)
	for i, h := range want {
		if !bytes.Equal(b.Get(key64(uint64(first)+uint64(i))), h[:]) {
			return damaged(v.path, seq, "Merkle hash %d is not that of the records", first+int64(i))
		}
	}
	return nil
}

// totals checks that there is nothing beside what records has seen.
func (v *verifier) totals(tx *bolt.Tx, size ledger.Seq) error {
	if k, _ := tx.Bucket(bucketEvents).Cursor().Last(); size == 0 && k != nil || size > 0 && !bytes.Equal(k, seqKey(size)) {
		return damaged(v.path, 0, "the last record is not %d", size)
	}
	count := tlog.StoredHashCount(int64(size))
	if k, _ := tx.Bucket(bucketHashes).Cursor().Last(); count == 0 && k != nil || count > 0 && !bytes.Equal(k, key64(uint64(count-1))) {
		return damaged(v.path, 0, "the last Merkle hash is not %d", count-1)
	}
	if v.from > 1 {
		return nil
	}
	if n := keys(tx.Bucket(bucketEvents)); n != int(size) {
		return damaged(v.path, 0, "%d records, want %d", n, size)
	}
	if n := keys(tx.Bucket(bucketHashes)); n != int(count) {
		return damaged(v.path, 0, "%d Merkle hashes, want %d", n, count)
	}
	if n := keys(tx.Bucket(bucketByTime)); n != int(size) {
		return damaged(v.path, 0, "by-time has %d records, want %d", n, size)
	}
	if n := keys(tx.Bucket(bucketByObject)); n != v.objects {
		return damaged(v.path, 0, "by-object has %d records, want %d", n, v.objects)
	}
	return nil
}

func keys(b *bolt.Bucket) int {
	c, n := b.Cursor(), 0
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		n++
	}
	return n
}

// checkpoints checks each stored checkpoint against the tree.
func (v *verifier) checkpoints(tx *bolt.Tx, a about) error {
	hashes := hashReader(tx)
	return tx.Bucket(bucketCheckpoints).ForEach(func(k, signed []byte) error {
		cp, err := ledger.OpenCheckpoint(signed, ledger.CheckpointOrigin(a.Install), a.Hub)
		if err != nil {
			return damaged(v.path, 0, "checkpoint: %v", err)
		}
		if !bytes.Equal(k, seqKey(cp.Size)) {
			return damaged(v.path, cp.Size, "checkpoint under another size")
		}
		root, err := ledger.Root(cp.Size, hashes)
		if err != nil {
			return damaged(v.path, cp.Size, "root: %v", err)
		}
		if root != cp.Root {
			return damaged(v.path, cp.Size, "root %s is not the checkpoint's %s", root.Short(), cp.Root.Short())
		}
		return nil
	})
}

// admitted compares the admission that the file stores with that of its
// records.
func (v *verifier) admitted(stored *ledger.Admission) error {
	if v.admission == nil {
		return nil
	}
	want, err := v.admission.Save()
	if err != nil {
		return err
	}
	have, err := stored.Save()
	if err != nil {
		return err
	}
	if !bytes.Equal(want, have) {
		return damaged(v.path, 0, "the stored admission state is not that of the records")
	}
	return nil
}
