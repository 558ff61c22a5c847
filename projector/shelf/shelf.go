package shelf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// The errors that callers decide on.
var (
	// ErrNotFound says that the shelf does not hold what was asked for.
	ErrNotFound = errors.New("not on the shelf")
	// ErrDamaged says that what the shelf holds is not what was put there. Put
	// the snapshot again; nothing else on the shelf is concerned.
	ErrDamaged = errors.New("damaged on the shelf")
	// ErrNewer says that a newer chancery wrote the file.
	ErrNewer = errors.New("written by a newer chancery")
	// ErrLocked says that another process has the file open.
	ErrLocked = errors.New("in use by another process")
)

const (
	// formatVersion is what this package writes, and the newest that it reads.
	formatVersion = 1

	lockTimeout   = 2 * time.Second
	maxChunkBytes = 512 << 20 // decompressed
	maxCacheBytes = 64 << 20  // decoded chunks in memory
)

var (
	bucketMeta       = []byte("meta")
	bucketManifests  = []byte("manifests")  // fingerprint → manifest
	bucketProvenance = []byte("provenance") // fingerprint → JSON of a Provenance
	bucketChunks     = []byte("chunks")     // digest → zstd of the chunk's encoding
	keyVersion       = []byte("version")
)

// Provenance says what a snapshot was compiled from.
type Provenance struct {
	Seq            ledger.Seq       `json:"seq"` // the ledger prefix
	Fleet          ledger.FleetName `json:"fleet"`
	SettingsDigest ledger.Digest    `json:"settings"`
	Build          string           `json:"build"` // of the compiler
	At             time.Time        `json:"at"`
}

// Entry is one snapshot on the shelf.
type Entry struct {
	Fingerprint projector.Fingerprint
	Provenance  Provenance
}

// Stats says how much is on the shelf.
type Stats struct {
	Snapshots int
	Chunks    int
	FileBytes int64
}

// Shelf is an open shelf. It is safe for concurrent use.
type Shelf struct {
	db       *bbolt.DB
	path     string
	setAside string
	enc      *zstd.Encoder
	dec      *zstd.Decoder
	cache    *cache // locks itself

	// writing is held by whoever decides from what it read what to write.
	writing sync.Mutex
}

// Open opens the shelf in the file, or makes one. A damaged file is renamed to
// "<path>.damaged-N" and a new shelf begun; SetAside tells. The errors are
// ErrNewer, ErrLocked, or the system's.
func Open(path string) (*Shelf, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("shelf %s: %w", path, err)
	}
	aside, err := setAsideIfDamaged(path)
	if err != nil {
		return nil, err
	}
	db, err := openFile(path)
	if errors.Is(err, ErrDamaged) && aside == "" {
		// The pages are whole and yet bbolt or the version key is not.
		if aside, err = setAside(path); err != nil {
			return nil, err
		}
		db, err = openFile(path)
	}
	if err != nil {
		return nil, err
	}
	s := &Shelf{db: db, path: path, setAside: aside, cache: newCache(maxCacheBytes)}
	if s.enc, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err == nil {
		s.dec, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxChunkBytes))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shelf %s: %w", path, err), db.Close())
	}
	return s, nil
}

// openFile opens the database and writes or checks its version.
func openFile(path string) (*bbolt.DB, error) {
	var file *os.File
	var db *bbolt.DB
	err := guard(func() (err error) {
		db, err = bbolt.Open(path, 0o600, &bbolt.Options{
			Timeout:      lockTimeout,
			FreelistType: bbolt.FreelistMapType,
			OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
				f, err := os.OpenFile(name, flag, mode)
				file = f
				return f, err
			},
		})
		return err
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, lockedError(path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, ErrDamaged):
		if file != nil {
			// A panic inside bbolt leaves the file open and locked.
			_ = file.Close()
		}
		return nil, fmt.Errorf("shelf %s: %w: %w", path, ErrDamaged, err)
	case err != nil:
		return nil, fmt.Errorf("shelf %s: %w", path, err)
	}
	if err := guard(func() error { return db.Update(begin) }); err != nil {
		return nil, errors.Join(fmt.Errorf("shelf %s: %w", path, err), db.Close())
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("shelf %s: %w", path, err), db.Close())
	}
	return db, nil
}

func lockedError(path string) error {
	return fmt.Errorf("shelf %s: %w; stop that process, or use another --data", path, ErrLocked)
}

// begin makes the buckets of a new file, or checks the version of an old one.
func begin(tx *bbolt.Tx) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return fmt.Errorf("%w: no version", ErrDamaged)
		}
		for _, name := range [][]byte{bucketMeta, bucketManifests, bucketProvenance, bucketChunks} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyVersion, []byte(strconv.Itoa(formatVersion)))
	}
	v, err := strconv.Atoi(string(meta.Get(keyVersion)))
	switch {
	case err != nil || v < 1:
		return fmt.Errorf("%w: version %q", ErrDamaged, meta.Get(keyVersion))
	case v > formatVersion:
		return fmt.Errorf("%w: format %d, this one reads up to %d; run the newer chancery, or remove the file: it is filled again from the ledger",
			ErrNewer, v, formatVersion)
	}
	for _, name := range [][]byte{bucketManifests, bucketProvenance, bucketChunks} {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: no bucket %s", ErrDamaged, name)
		}
	}
	return nil
}

// Close closes the file. Snapshots that Get returned stay usable.
func (s *Shelf) Close() error {
	s.dec.Close()
	return errors.Join(s.enc.Close(), s.db.Close())
}

// SetAside returns where Open put the damaged file that it found, "" if it
// found none.
func (s *Shelf) SetAside() string { return s.setAside }

// Put stores the snapshot: its manifest, its provenance (which replaces an
// earlier one) and those of its chunks that are missing, in one synced
// transaction. A crash leaves all of it or nothing.
func (s *Shelf) Put(snapshot *projector.Snapshot, p Provenance) error {
	fp := snapshot.Fingerprint()
	provenance, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("put snapshot %s: %w", fp.Short(), err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	missing, same, err := s.missing(snapshot, provenance)
	if err != nil {
		return fmt.Errorf("put snapshot %s: %w", fp.Short(), err)
	}
	if same && len(missing) == 0 {
		return nil
	}
	compressed := make([][]byte, len(missing))
	for i, c := range missing {
		compressed[i] = s.enc.EncodeAll(c.Encode(), nil)
	}
	err = s.update(func(tx *bbolt.Tx) error {
		chunks := tx.Bucket(bucketChunks)
		for i, c := range missing {
			d := c.Digest()
			if err := chunks.Put(d[:], compressed[i]); err != nil {
				return err
			}
		}
		if err := tx.Bucket(bucketManifests).Put(fp[:], snapshot.Manifest()); err != nil {
			return err
		}
		return tx.Bucket(bucketProvenance).Put(fp[:], provenance)
	})
	if err != nil {
		return fmt.Errorf("put snapshot %s on shelf %s: %w", fp.Short(), s.path, err)
	}
	return nil
}

// missing returns the chunks that are not on the shelf, and whether manifest
// and provenance are there as they are to be.
func (s *Shelf) missing(snapshot *projector.Snapshot, provenance []byte) (missing []*projector.Chunk, same bool, err error) {
	fp := snapshot.Fingerprint()
	err = s.view(func(tx *bbolt.Tx) error {
		missing = nil
		chunks := tx.Bucket(bucketChunks)
		for c := range snapshot.Chunks() {
			if d := c.Digest(); chunks.Get(d[:]) == nil {
				missing = append(missing, c)
			}
		}
		same = bytes.Equal(tx.Bucket(bucketProvenance).Get(fp[:]), provenance) &&
			bytes.Equal(tx.Bucket(bucketManifests).Get(fp[:]), snapshot.Manifest())
		return nil
	})
	return missing, same, err
}

// Manifest returns a snapshot's manifest, checked against the fingerprint, or
// ErrNotFound or ErrDamaged. The caller owns it.
func (s *Shelf) Manifest(fp projector.Fingerprint) ([]byte, error) {
	var manifest []byte
	err := s.view(func(tx *bbolt.Tx) error {
		manifest = bytes.Clone(tx.Bucket(bucketManifests).Get(fp[:]))
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("snapshot %s: %w", fp.Short(), err)
	case manifest == nil:
		return nil, fmt.Errorf("snapshot %s: %w", fp.Short(), ErrNotFound)
	case ledger.DigestOf(manifest) != ledger.Digest(fp):
		return nil, fmt.Errorf("manifest of snapshot %s: %w", fp.Short(), ErrDamaged)
	}
	return manifest, nil
}

// Chunk returns a chunk's encoding, checked against the digest, or ErrNotFound
// or ErrDamaged. The caller owns it.
func (s *Shelf) Chunk(d ledger.Digest) ([]byte, error) {
	c, err := s.chunk(d)
	if err != nil {
		return nil, err
	}
	return c.Encode(), nil
}

// Get returns a snapshot, or ErrNotFound or ErrDamaged. Snapshots share the
// chunks that they have in common.
func (s *Shelf) Get(fp projector.Fingerprint) (*projector.Snapshot, error) {
	manifest, err := s.Manifest(fp)
	if err != nil {
		return nil, err
	}
	snapshot, err := projector.Assemble(manifest, fp, s.chunk)
	switch {
	case errors.Is(err, ErrNotFound):
		// Its chunk was found damaged earlier and forgotten.
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case errors.Is(err, projector.ErrChunk):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return snapshot, err
}

// chunk returns a decoded chunk. A damaged one is removed, so that the next
// Put writes it again.
func (s *Shelf) chunk(d ledger.Digest) (*projector.Chunk, error) {
	if c := s.cache.get(d); c != nil {
		return c, nil
	}
	var compressed []byte
	err := s.view(func(tx *bbolt.Tx) error {
		compressed = bytes.Clone(tx.Bucket(bucketChunks).Get(d[:]))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), err)
	}
	if compressed == nil {
		return nil, fmt.Errorf("chunk %s: %w", d.Short(), ErrNotFound)
	}
	encoded, err := s.dec.DecodeAll(compressed, nil)
	if err == nil {
		var c *projector.Chunk
		if c, err = projector.DecodeChunk(encoded, d); err == nil {
			s.cache.add(c, len(encoded))
			return c, nil
		}
	}
	err = fmt.Errorf("chunk %s: %w: %w", d.Short(), ErrDamaged, err)
	s.writing.Lock()
	defer s.writing.Unlock()
	return nil, errors.Join(err, s.update(func(tx *bbolt.Tx) error {
		chunks := tx.Bucket(bucketChunks)
		if !bytes.Equal(chunks.Get(d[:]), compressed) {
			return nil // put again meanwhile
		}
		return chunks.Delete(d[:])
	}))
}

// List returns what is on the shelf, in order of sequence and fingerprint.
func (s *Shelf) List() ([]Entry, error) {
	var out []Entry
	err := s.view(func(tx *bbolt.Tx) error {
		out = nil
		return tx.Bucket(bucketProvenance).ForEach(func(k, v []byte) error {
			var e Entry
			if copy(e.Fingerprint[:], k) != len(k) {
				return fmt.Errorf("fingerprint of %d bytes: %w", len(k), ErrDamaged)
			}
			if err := json.Unmarshal(v, &e.Provenance); err != nil {
				return fmt.Errorf("provenance of snapshot %s: %w: %w", e.Fingerprint.Short(), ErrDamaged, err)
			}
			out = append(out, e)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list shelf %s: %w", s.path, err)
	}
	slices.SortStableFunc(out, func(a, b Entry) int {
		if a.Provenance.Seq != b.Provenance.Seq {
			if a.Provenance.Seq < b.Provenance.Seq {
				return -1
			}
			return 1
		}
		return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:])
	})
	return out, nil
}

// Prune removes the snapshots that keep refuses, and the chunks that none of
// the others refers to, in one transaction. It returns how many snapshots went.
// keep is asked once for each and must not use the shelf.
func (s *Shelf) Prune(keep func(projector.Fingerprint) bool) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	var doomed []projector.Fingerprint
	err := s.view(func(tx *bbolt.Tx) error {
		doomed = nil
		return tx.Bucket(bucketManifests).ForEach(func(k, _ []byte) error {
			doomed = append(doomed, projector.Fingerprint(k))
			return nil
		})
	})
	doomed = slices.DeleteFunc(doomed, keep)
	if err == nil && len(doomed) > 0 {
		err = s.update(func(tx *bbolt.Tx) error { return remove(tx, doomed) })
	}
	if err != nil {
		return 0, fmt.Errorf("prune shelf %s: %w", s.path, err)
	}
	return len(doomed), nil
}

// remove deletes snapshots and counts the references that are left to their
// chunks. The counts are made anew each time, from the manifests, and so
// cannot drift from them.
func remove(tx *bbolt.Tx, doomed []projector.Fingerprint) error {
	manifests := tx.Bucket(bucketManifests)
	orphans := map[ledger.Digest]bool{}
	for _, fp := range doomed {
		// A damaged manifest names no chunk reliably; what it alone referred
		// to is found below, when it is no longer counted.
		digests, err := projector.ManifestChunks(manifests.Get(fp[:]))
		if err == nil {
			for _, d := range digests {
				orphans[d] = true
			}
		}
		if err := manifests.Delete(fp[:]); err != nil {
			return err
		}
		if err := tx.Bucket(bucketProvenance).Delete(fp[:]); err != nil {
			return err
		}
	}
	err := manifests.ForEach(func(k, v []byte) error {
		digests, err := projector.ManifestChunks(v)
		if err != nil {
			return fmt.Errorf("manifest of snapshot %s: %w: %w", projector.Fingerprint(k).Short(), ErrDamaged, err)
		}
		for _, d := range digests {
			delete(orphans, d)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for d := range orphans {
		if err := tx.Bucket(bucketChunks).Delete(d[:]); err != nil {
			return err
		}
	}
	return nil
}

// Stats counts what is on the shelf.
func (s *Shelf) Stats() (Stats, error) {
	var st Stats
	err := s.view(func(tx *bbolt.Tx) error {
		st = Stats{
			Snapshots: tx.Bucket(bucketManifests).Stats().KeyN,
			Chunks:    tx.Bucket(bucketChunks).Stats().KeyN,
			FileBytes: tx.Size(),
		}
		return nil
	})
	if err != nil {
		return Stats{}, fmt.Errorf("shelf %s: %w", s.path, err)
	}
	return st, nil
}

func (s *Shelf) view(f func(*bbolt.Tx) error) error {
	return guard(func() error { return s.db.View(f) })
}

func (s *Shelf) update(f func(*bbolt.Tx) error) error {
	return guard(func() error { return s.db.Update(f) })
}
