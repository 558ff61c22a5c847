package boltstore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
)

const (
	transferMagic  = "chancery ledger records 1\n"
	maxHeaderBytes = 64 << 10
	maxLeafBytes   = ledger.MaxEventBytes + 128
	maxAside       = 100
)

// Transfer says what an export holds.
type Transfer struct {
	Install string     `json:"install"`
	From    ledger.Seq `json:"from"` // first position
	Size    ledger.Seq `json:"size"` // last position; the ledger's size
	// Cursor is how far the stream was consumed at that size.
	Cursor ledger.Cursor `json:"cursor"`
}

// Export writes the records from position from on, up to the ledger's size as
// it is now, for Import on another replica.
func (s *Store) Export(ctx context.Context, w io.Writer, from ledger.Seq) (Transfer, error) {
	st := s.current()
	t := Transfer{Install: s.about.Install, From: max(from, 1), Size: st.size, Cursor: st.cursor}
	if t.From > t.Size+1 {
		return t, fmt.Errorf("export from %d: %w: it has %d records", from, ErrRange, t.Size)
	}
	header, err := json.Marshal(t)
	if err != nil {
		return t, err
	}
	b := bufio.NewWriterSize(w, 256<<10)
	_, _ = b.WriteString(transferMagic) // errors stay in b until Flush
	writeSized(b, header)
	for next := t.From; next <= t.Size; {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		entries, err := s.Read(next, int(min(t.Size-next+1, 1000)))
		if err != nil {
			return t, err
		}
		if len(entries) == 0 {
			return t, fmt.Errorf("export: %w: record %d is gone", ErrRange, next)
		}
		for _, e := range entries {
			writeSized(b, e.Record.Leaf())
		}
		next = entries[len(entries)-1].Seq + 1
	}
	return t, b.Flush()
}

func writeSized(w *bufio.Writer, b []byte) {
	var n [binary.MaxVarintLen64]byte
	_, _ = w.Write(n[:binary.PutUvarint(n[:], uint64(len(b)))])
	_, _ = w.Write(b)
}

func readSized(r *bufio.Reader, limit int) ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n > uint64(limit) {
		return nil, fmt.Errorf("%d bytes, at most %d", n, limit)
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}

// Import appends what Export wrote on another replica, beginning at this one's
// next position, and takes over the other's place in the stream. Every record
// is admitted as if it came off the stream, and the root at the end must be that
// of the checkpoint, which the caller has verified to be signed. Readers see the
// records when all are there; after an error nothing of them is kept, and after
// a crash Open removes them.
func (s *Store) Import(ctx context.Context, r io.Reader, cp ledger.Checkpoint) (err error) {
	s.write.Lock()
	defer s.write.Unlock()
	before := s.current()
	in := bufio.NewReaderSize(r, 256<<10)
	t, err := readTransfer(in)
	switch {
	case err != nil:
		return err
	case t.Install != s.about.Install || cp.Origin != ledger.CheckpointOrigin(s.about.Install):
		return fmt.Errorf("%w: records of install %s, checkpoint of %s, this is %s", ErrImport, t.Install, cp.Origin, s.about.Install)
	case t.From != before.size+1:
		return fmt.Errorf("%w: records from %d on, this ledger has %d", ErrImport, t.From, before.size)
	case t.Size != cp.Size || t.Size < before.size:
		return fmt.Errorf("%w: records to %d, the checkpoint is at %d", ErrImport, t.Size, cp.Size)
	}
	if err := s.update(func(tx *bolt.Tx) error {
		return putFramed(tx.Bucket(bucketMeta), keyImporting, before.size)
	}); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	after, err := s.importRecords(ctx, in, before, t, cp)
	if err != nil {
		if back := s.truncate(before.size); back != nil {
			s.failed = fmt.Errorf("%w: %w", ErrFailed, back)
			return errors.Join(err, s.failed)
		}
		return err
	}
	s.publish(after)
	return nil
}

func readTransfer(r *bufio.Reader) (Transfer, error) {
	var t Transfer
	magic := make([]byte, len(transferMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != transferMagic {
		return t, fmt.Errorf("%w: not an export of ledger records of format 1", ErrImport)
	}
	header, err := readSized(r, maxHeaderBytes)
	if err != nil {
		return t, fmt.Errorf("%w: header: %w", ErrImport, err)
	}
	if err := json.Unmarshal(header, &t); err != nil {
		return t, fmt.Errorf("%w: header: %w", ErrImport, err)
	}
	return t, nil
}

// importRecords appends the records in transactions of their own, and ends the
// import in the last.
func (s *Store) importRecords(ctx context.Context, r *bufio.Reader, st state, t Transfer, cp ledger.Checkpoint) (state, error) {
	for st.size < t.Size {
		if err := ctx.Err(); err != nil {
			return st, err
		}
		batch, err := readBatch(r, int(min(t.Size-st.size, ledger.MaxAppend)))
		if err != nil {
			return st, fmt.Errorf("%w: after %d: %w", ErrImport, st.size, err)
		}
		batch = prepare(st.admission, batch)
		var in ledger.Intake
		err = s.update(func(tx *bolt.Tx) error {
			if in, err = ledger.Take(st.admission, st.cursor, st.size, hashReader(tx), batch); err != nil {
				return err
			}
			for i, res := range in.Results {
				if res.Outcome != ledger.Append {
					return fmt.Errorf("%w: record %d: %s: %s", ErrImport, st.size+ledger.Seq(i)+1, res.Outcome, res.Reason)
				}
			}
			return put(tx, st.size, in)
		})
		if err != nil {
			return st, err
		}
		st = state{size: in.Size, cursor: in.Cursor, admission: in.Admission}
	}
	st.cursor = t.Cursor
	err := s.update(func(tx *bolt.Tx) error {
		root, err := ledger.Root(st.size, hashReader(tx))
		if err != nil {
			return err
		}
		if root != cp.Root {
			return fmt.Errorf("%w: root %s at %d, the checkpoint has %s", ErrImport, root.Short(), st.size, cp.Root.Short())
		}
		saved, err := st.admission.Save()
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketMeta).Delete(keyImporting); err != nil {
			return err
		}
		return putFramed(tx.Bucket(bucketCursor), keyState, savedState{Size: st.size, Cursor: st.cursor, Admission: saved})
	})
	return st, err
}

// readBatch reads up to n leaves, fewer when they are large.
func readBatch(r *bufio.Reader, n int) ([]ledger.Incoming, error) {
	var batch []ledger.Incoming
	for total := 0; len(batch) < n && total < maxReadBytes; {
		leaf, err := readSized(r, maxLeafBytes)
		if err != nil {
			return nil, err
		}
		rec, err := ledger.ParseLeaf(leaf)
		if err != nil {
			return nil, err
		}
		e, err := ledger.DecodeEvent(rec.Event)
		if err != nil {
			return nil, err
		}
		total += len(leaf)
		batch = append(batch, ledger.Incoming{Record: rec, Subject: e.Subject})
	}
	return batch, nil
}

// SetAside copies the records after base to a file beside the ledger and takes
// them out of it, for a stream that begins anew at base. root is the root that
// the ledger must have there; it refuses with ledger.ErrOtherRoot when it has
// another, for then nothing says which of the two is right. It returns the file's path.
func (s *Store) SetAside(ctx context.Context, base ledger.Seq, root ledger.Digest) (string, error) {
	s.write.Lock()
	defer s.write.Unlock()
	size := s.Size()
	have, err := s.Root(base)
	switch {
	case err != nil:
		return "", err
	case have != root:
		return "", fmt.Errorf("set records after %d aside: %w there: %s, want %s", base, ledger.ErrOtherRoot, have.Short(), root.Short())
	case base == size:
		return "", nil
	}
	path, err := s.exportAside(ctx, base, size)
	if err != nil {
		return "", fmt.Errorf("set records %d to %d aside: %w", base+1, size, err)
	}
	if err := s.truncate(base); err != nil {
		return "", fmt.Errorf("set records %d to %d aside in %s: %w", base+1, size, path, err)
	}
	return path, nil
}

// exportAside writes the tail to a new file and syncs it.
func (s *Store) exportAside(ctx context.Context, base, size ledger.Seq) (string, error) {
	for n := 1; n <= maxAside; n++ {
		path := fmt.Sprintf("%s.aside-%d-%d-%d", s.path, base+1, size, n)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = s.Export(ctx, f, base+1)
		if err = errors.Join(err, f.Sync(), f.Close(), syncDir(filepath.Dir(path))); err != nil {
			return "", errors.Join(err, os.Remove(path))
		}
		return path, nil
	}
	return "", fmt.Errorf("%d files of the same records are there already; remove %s.aside-*", maxAside, s.path)
}

// truncate takes the records after base out of the ledger, in one transaction.
// The stream cursor stays where it is. The caller holds s.write.
func (s *Store) truncate(base ledger.Seq) error {
	var st state
	err := s.update(func(tx *bolt.Tx) error {
		old, err := readState(tx, s.path, s.about.Hub)
		if err != nil {
			return err
		}
		v := verifier{path: s.path, from: 1, next: 1, admission: ledger.NewAdmission(s.about.Hub)}
		if err := v.records(tx, base); err != nil {
			return err
		}
		if err := removeAfter(tx, base); err != nil {
			return err
		}
		saved, err := v.admission.Save()
		if err != nil {
			return err
		}
		st = state{size: base, cursor: old.cursor, admission: v.admission}
		if err := tx.Bucket(bucketMeta).Delete(keyImporting); err != nil {
			return err
		}
		return putFramed(tx.Bucket(bucketCursor), keyState, savedState{Size: base, Cursor: old.cursor, Admission: saved})
	})
	if err != nil {
		return err
	}
	s.publish(st)
	return nil
}

// removeAfter deletes what put wrote for the records after base, and the
// checkpoints that cover them.
func removeAfter(tx *bolt.Tx, base ledger.Seq) error {
	after := func(k []byte) bool { return binary.BigEndian.Uint64(k[len(k)-8:]) > uint64(base) }
	hashes := uint64(tlog.StoredHashCount(int64(base)))
	for _, of := range []struct {
		bucket []byte
		start  []byte
		gone   func(k []byte) bool
	}{
		{bucketEvents, seqKey(base + 1), after},
		{bucketCheckpoints, seqKey(base + 1), after},
		{bucketByTime, nil, after},
		{bucketByObject, nil, after},
		{bucketHashes, key64(hashes), func(k []byte) bool { return binary.BigEndian.Uint64(k) >= hashes }},
	} {
		b := tx.Bucket(of.bucket)
		var gone [][]byte
		c := b.Cursor()
		for k, _ := c.Seek(of.start); k != nil; k, _ = c.Next() {
			if of.gone(k) {
				gone = append(gone, bytes.Clone(k))
			}
		}
		if err := deleteAll(b, gone); err != nil {
			return err
		}
	}
	return nil
}

func deleteAll(b *bolt.Bucket, keys [][]byte) error {
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
