package boltstore

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
)

const pageSize = 16 << 10

// Options say how a ledger file is opened.
type Options struct {
	// Hub is the public key that decisions and checkpoints are signed with.
	Hub ed25519.PublicKey
	// Install is the id of the install whose ledger this is. Empty: a new file
	// gets a random one, an old file keeps its own.
	Install string
	// Check looks at an existing file before this process maps it. A damaged file
	// can crash or hang whoever reads it, so the check belongs in a child process:
	// see CheckInChild. Nil: CheckFile in this process.
	Check func(ctx context.Context, path string) error
	// CheckTimeout bounds Check; 0 means two minutes.
	CheckTimeout time.Duration
	// LockTimeout is how long to wait for another process to let go of the file;
	// 0 means two seconds.
	LockTimeout time.Duration
	// MapBytes of address space are reserved for the file, so that growing it does
	// not wait for readers; 0 means 4 GiB. A larger file is mapped anew.
	MapBytes int
	// Logger gets what an operator should know. Nil means slog.Default.
	Logger *slog.Logger
}

// Store is a ledger in a bbolt file. It is safe for concurrent use.
type Store struct {
	path  string
	about about
	db    *bolt.DB
	log   *slog.Logger

	write  sync.Mutex // held over each change of the file
	failed error      // guarded by write: why nothing can be written any more

	mu      sync.RWMutex
	state   state         // guarded by mu
	updated chan struct{} // guarded by mu; closed on the next change of state
}

// state is what the last committed transaction left.
type state struct {
	size      ledger.Seq
	cursor    ledger.Cursor
	admission *ledger.Admission // never changed once it is here
}

// Open opens the ledger in the file at path and makes it when there is none.
// The error is ErrInUse, ErrCorrupt, ErrNewerFormat or ErrOtherInstall where one
// of these is the reason.
func Open(path string, o Options) (*Store, error) {
	if len(o.Hub) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("open ledger %s: hub key of %d bytes, want %d", path, len(o.Hub), ed25519.PublicKeySize)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.CheckTimeout <= 0 {
		o.CheckTimeout = 2 * time.Minute
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = 2 * time.Second
	}
	if o.MapBytes <= 0 {
		o.MapBytes = 4 << 30
	}
	switch _, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path, o); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("open ledger: %w", err)
	default:
		if err := o.check(path); err != nil {
			return nil, err
		}
	}
	db, err := openBolt(path, o)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, db: db, log: o.Logger, updated: make(chan struct{})}
	if err := s.load(o); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

func (o Options) check(path string) error {
	if err := probeLock(path, o.LockTimeout); err != nil {
		return err
	}
	check := o.Check
	if check == nil {
		check = func(_ context.Context, path string) error { return CheckFile(path) }
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.CheckTimeout)
	defer cancel()
	return check(ctx, path)
}

func (o Options) bolt() *bolt.Options {
	return &bolt.Options{
		Timeout:         o.LockTimeout,
		PageSize:        pageSize,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: o.MapBytes,
	}
}

func openBolt(path string, o Options) (db *bolt.DB, err error) {
	defer guard(path, &err)
	db, err = bolt.Open(path, 0o600, o.bolt())
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, inUse(path)
	case noSpaceErr(err):
		return nil, fmt.Errorf("open ledger %s: %w: %w", path, ErrNoSpace, err)
	case isDamage(err):
		return nil, damaged(path, 0, "%v", err)
	case err != nil:
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	return db, nil
}

func noSpaceErr(err error) bool { return err != nil && noSpace(err) }

func isDamage(err error) bool {
	return errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch)
}

func inUse(path string) error {
	return fmt.Errorf("%w: %s: is another chancery serve running on this data directory?", ErrInUse, path)
}

// guard turns a panic or a fault on mapped pages into an ErrCorrupt. It is
// deferred by whatever reads the file.
func guard(path string, err *error) {
	if p := recover(); p != nil {
		*err = damaged(path, 0, "reading it panics: %v", p)
	}
}

// create makes the file beside its place and links it in, so that a crash
// leaves either a complete file or none.
func create(path string, o Options) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("create ledger: %w", err)
	}
	a := about{Install: o.Install, Hub: o.Hub}
	if a.Install == "" {
		var id [8]byte
		rand.Read(id[:])
		a.Install = hex.EncodeToString(id[:])
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create ledger: %w", err)
	}
	opts := o.bolt()
	opts.InitialMmapSize = 0
	db, err := bolt.Open(fresh, 0o600, opts)
	if errors.Is(err, berrors.ErrTimeout) {
		return inUse(path)
	}
	if err == nil {
		err = errors.Join(db.Update(func(tx *bolt.Tx) error { return initialize(tx, a) }), db.Close())
	}
	if err == nil {
		err = os.Link(fresh, path)
	}
	if err == nil {
		err = errors.Join(os.Remove(fresh), syncDir(filepath.Dir(path)))
	}
	switch {
	case noSpaceErr(err):
		return fmt.Errorf("create ledger %s: %w: %w", path, ErrNoSpace, err)
	case err != nil:
		return fmt.Errorf("create ledger %s: %w", path, err)
	}
	return nil
}

func initialize(tx *bolt.Tx, a about) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	saved, err := ledger.NewAdmission(a.Hub).Save()
	if err != nil {
		return err
	}
	meta := tx.Bucket(bucketMeta)
	return errors.Join(
		putFramed(meta, keyFormat, Format),
		putFramed(meta, keyAbout, a),
		putFramed(tx.Bucket(bucketCursor), keyState, savedState{Admission: saved}),
	)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads what the file says of itself and where it stands.
func (s *Store) load(o Options) (err error) {
	importing := false
	var before ledger.Seq
	err = s.view(func(tx *bolt.Tx) error {
		a, err := readAbout(tx, s.path)
		if err != nil {
			return err
		}
		s.about = a
		if v := tx.Bucket(bucketMeta).Get(keyImporting); v != nil {
			importing = true
			if err := unframe(v, &before); err != nil {
				return damaged(s.path, 0, "mark of an import: %v", err)
			}
		}
		st, err := readState(tx, s.path, a.Hub)
		s.state = st
		return err
	})
	switch {
	case err != nil:
		return err
	case !bytes.Equal(s.about.Hub, o.Hub):
		return fmt.Errorf("%w: %s was made with another hub key; start with the data directory that the key belongs to", ErrOtherInstall, s.path)
	case o.Install != "" && o.Install != s.about.Install:
		return fmt.Errorf("%w: %s is of install %s, want %s", ErrOtherInstall, s.path, s.about.Install, o.Install)
	case importing:
		s.log.Warn("import of ledger records did not end; going back", slog.Uint64("size", uint64(s.state.size)), slog.Uint64("back_to", uint64(before)))
		s.write.Lock()
		defer s.write.Unlock()
		return s.truncate(before)
	}
	return nil
}

// readAbout reads the format version and who the file belongs to.
func readAbout(tx *bolt.Tx, path string) (about, error) {
	for _, name := range buckets {
		if tx.Bucket(name) == nil {
			return about{}, damaged(path, 0, "bucket %s is missing", name)
		}
	}
	meta := tx.Bucket(bucketMeta)
	var format int
	if err := unframe(meta.Get(keyFormat), &format); err != nil {
		return about{}, damaged(path, 0, "format version: %v", err)
	}
	if format != Format {
		return about{}, fmt.Errorf("%w: %s has format %d, this chancery reads %d; use a newer chancery, or move the data directory away to begin anew", ErrNewerFormat, path, format, Format)
	}
	var a about
	if err := unframe(meta.Get(keyAbout), &a); err != nil {
		return about{}, damaged(path, 0, "install: %v", err)
	}
	return a, nil
}

func readState(tx *bolt.Tx, path string, hub ed25519.PublicKey) (state, error) {
	var saved savedState
	if err := unframe(tx.Bucket(bucketCursor).Get(keyState), &saved); err != nil {
		return state{}, damaged(path, 0, "cursor: %v", err)
	}
	a := ledger.NewAdmission(hub)
	if err := a.Load(saved.Admission); err != nil {
		return state{}, damaged(path, 0, "cursor: %v", err)
	}
	return state{size: saved.Size, cursor: saved.Cursor, admission: a}, nil
}

// Close waits for the running transaction and lets go of the file.
func (s *Store) Close() error {
	s.write.Lock()
	defer s.write.Unlock()
	return s.db.Close()
}

// Path returns the file's path.
func (s *Store) Path() string { return s.path }

// Install returns the id of the install whose ledger this is.
func (s *Store) Install() string { return s.about.Install }

// view reads the file in one transaction.
func (s *Store) view(read func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(s.path, &err)
	return s.db.View(read)
}

// Append admits up to ledger.MaxAppend records in the order of the stream and
// appends those that are to be appended, with their hashes, indexes and the
// stream cursor, in one transaction that is on disk when Append returns. The
// results can be fewer than the batch; see ledger.Intake. After an error nothing
// of the batch is in effect, unless the error is ErrFailed: then what is on disk
// is known only after the store was opened again.
func (s *Store) Append(ctx context.Context, batch []ledger.Incoming) ([]ledger.Result, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	s.write.Lock()
	defer s.write.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var in ledger.Intake
	before := s.current()
	batch = prepare(before.admission, batch)
	err := s.update(func(tx *bolt.Tx) error {
		var err error
		if in, err = ledger.Take(before.admission, before.cursor, before.size, hashReader(tx), batch); err != nil {
			return err
		}
		return put(tx, before.size, in)
	})
	if err != nil {
		return nil, fmt.Errorf("append to ledger %s after %d: %w", s.path, before.size, err)
	}
	s.publish(state{size: in.Size, cursor: in.Cursor, admission: in.Admission})
	return in.Results, nil
}

// prepare returns a copy of the batch with the signatures checked, on all
// processors when there are many.
func prepare(a *ledger.Admission, batch []ledger.Incoming) []ledger.Incoming {
	const least = 32 // records that make a goroutine worth its start
	batch = slices.Clone(batch)
	workers := max(1, min(runtime.GOMAXPROCS(0), len(batch)/least))
	var wg sync.WaitGroup
	for part := range slices.Chunk(batch, (len(batch)+workers-1)/workers) {
		wg.Go(func() {
			for i := range part {
				part[i].Prepare(a)
			}
		})
	}
	wg.Wait()
	return batch
}

// update runs one write transaction. The caller holds s.write. Without an error
// it is on disk; with one the file is as before, or no more writes are taken.
func (s *Store) update(change func(*bolt.Tx) error) (err error) {
	if s.failed != nil {
		return s.failed
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			s.failed = fmt.Errorf("%w: %w", ErrFailed, damaged(s.path, 0, "writing it panics: %v", p))
			err = s.failed
		}
	}()
	tx, err := s.db.Begin(true)
	if err != nil {
		return err
	}
	if err := change(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	txid := tx.ID()
	if err = tx.Commit(); err == nil {
		return nil
	}
	// What a failed commit left is read back: the new meta page may have been
	// written and only its sync have failed.
	committed := true
	if readErr := s.view(func(tx *bolt.Tx) error { committed = tx.ID() >= txid; return nil }); readErr != nil {
		err = errors.Join(err, readErr)
	}
	if noSpace(err) && !committed {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	s.failed = fmt.Errorf("%w: %w; start chancery again to read back what is on disk", ErrFailed, err)
	return s.failed
}

// put writes an intake after size records.
func put(tx *bolt.Tx, size ledger.Seq, in ledger.Intake) error {
	saved, err := in.Admission.Save()
	if err != nil {
		return err
	}
	events, hashes := tx.Bucket(bucketEvents), tx.Bucket(bucketHashes)
	objects, times := tx.Bucket(bucketByObject), tx.Bucket(bucketByTime)
	// Keys that only grow fill their pages; a page that is split in halves stays half empty.
	events.FillPercent, hashes.FillPercent = 1, 1
	seq := size
	for _, r := range in.Results {
		if r.Outcome != ledger.Append {
			continue
		}
		seq++
		if err := events.Put(seqKey(seq), in.Leaves[seq-size-1]); err != nil {
			return err
		}
		if err := times.Put(timeKey(r.Event.Time, seq), nil); err != nil {
			return err
		}
		if r.Event.Object != (ledger.ObjectKey{}) {
			if err := objects.Put(objectKey(r.Event.Object, seq), nil); err != nil {
				return err
			}
		}
	}
	index := tlog.StoredHashCount(int64(size))
	for i := range in.Hashes {
		if err := hashes.Put(key64(uint64(index+int64(i))), in.Hashes[i][:]); err != nil {
			return err
		}
	}
	return putFramed(tx.Bucket(bucketCursor), keyState, savedState{Size: in.Size, Cursor: in.Cursor, Admission: saved})
}

// current returns the committed state.
func (s *Store) current() state {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state
}

// publish makes a committed state the one that readers see, and wakes who
// waits.
func (s *Store) publish(st state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = st
	close(s.updated)
	s.updated = make(chan struct{})
}

// Size returns the position of the last record, 0 when there is none.
func (s *Store) Size() ledger.Seq { return s.current().size }

// Cursor returns how far the stream is consumed.
func (s *Store) Cursor() ledger.Cursor { return s.current().cursor }

// Admission returns a copy of the admission after the last record.
func (s *Store) Admission() *ledger.Admission { return s.current().admission.Clone() }

// Updated returns a channel that is closed when the store changes. Take it
// before looking at the store, so that no change is missed.
func (s *Store) Updated() <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.updated
}

// Wait blocks until the ledger has at least seq records.
func (s *Store) Wait(ctx context.Context, seq ledger.Seq) error {
	for {
		changed := s.Updated()
		if s.Size() >= seq {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d, the ledger has %d: %w", seq, s.Size(), ctx.Err())
		case <-changed:
		}
	}
}
