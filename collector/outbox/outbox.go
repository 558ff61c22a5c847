// Package outbox keeps a collector's events from the moment they are made until the hub has committed them, and what
// the ledger was told of each object.
//
// It is one bbolt file, drawn in docs/format/outbox.md. Each Batch is one transaction: after a crash all of it is
// there or none. A lost or damaged outbox costs no object: the collector that starts without one tells everything
// again in a new epoch. Only events that were never published are lost with it.
//
// When to write, publish and trim is up to package collector.
package outbox

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// Format is the version of the file that this package writes and the newest that it reads.
const Format = 1

// DefaultMaxBytes is how much of events an outbox takes by default: a day of a busy cluster, without a hub.
const DefaultMaxBytes = 256 << 20

// Errors of Open.
var (
	// ErrLocked: another process has the file.
	ErrLocked = errors.New("outbox in use by another process")
	// ErrNewer: a newer version of this program wrote the file.
	ErrNewer = errors.New("outbox written by a newer version")
	// ErrCorrupt: the file is damaged.
	ErrCorrupt = errors.New("outbox damaged")
	// ErrOtherCluster: the file is another cluster's.
	ErrOtherCluster = errors.New("outbox of another cluster")
)

var (
	bucketMeta      = []byte("meta")
	bucketItems     = []byte("items")
	bucketInventory = []byte("inventory")

	keyFormat   = []byte("format")
	keyCluster  = []byte("cluster")
	keyEpoch    = []byte("epoch")
	keyTrimmed  = []byte("trimmed")
	keyFindings = []byte("findings")
	keyPartial  = []byte("partial")
)

// Options of Open.
type Options struct {
	// MaxBytes bounds the events that wait. Above it Full is true; 0 means DefaultMaxBytes.
	MaxBytes int64
	// Timeout is how long to wait for another process to let go of the file; 0 means a second.
	Timeout time.Duration
}

// Box is an open outbox. It is safe for concurrent use.
type Box struct {
	db    *bbolt.DB
	path  string
	max   int64
	bytes atomic.Int64 // of the values in items
}

// Open opens or creates the outbox of a cluster. Errors are ErrLocked, ErrNewer, ErrCorrupt, ErrOtherCluster or the
// file system's.
func Open(path string, cluster ledger.ClusterName, o Options) (b *Box, err error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.Timeout <= 0 {
		o.Timeout = time.Second
	}
	if err := probe(path); err != nil {
		return nil, err
	}
	// bbolt panics on some damage, and reads a truncated file's missing pages through its memory map.
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	var db *bbolt.DB
	defer func() {
		if r := recover(); r != nil {
			err = corrupt(path, fmt.Sprint(r))
		}
		if err != nil && db != nil {
			closeQuietly(db)
			b = nil
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: o.Timeout, FreelistType: bbolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open %s: %w; end that process, or give this one another data directory", path, ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, corrupt(path, err.Error())
	case err != nil:
		return nil, fmt.Errorf("open outbox %s: %w", path, err)
	}
	b = &Box{db: db, path: path, max: o.MaxBytes}
	if err := b.initialise(cluster); err != nil {
		return nil, err
	}
	if _, err := b.Load(); err != nil {
		return nil, err
	}
	return b, nil
}

// probe refuses a file that is shorter than bbolt's two meta pages say, before it is mapped.
func probe(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open outbox %s: %w", path, err)
	}
	if info.Size() < int64(4*os.Getpagesize()) {
		return corrupt(path, fmt.Sprintf("%d bytes are too few", info.Size()))
	}
	return nil
}

func closeQuietly(db *bbolt.DB) {
	defer func() { _ = recover() }() // the file is damaged; the error that says so is returned already
	_ = db.Close()
}

func corrupt(path, detail string) error {
	return fmt.Errorf("open %s: %w (%s); move it away: the next start tells the hub everything again, and only events that were never published are lost", path, ErrCorrupt, detail)
}

func (b *Box) initialise(cluster ledger.ClusterName) error {
	var fresh bool
	err := b.db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			fresh = true
			return nil
		}
		format, err := open(meta.Get(keyFormat))
		if err != nil || len(format) != 8 {
			return corrupt(b.path, "format")
		}
		if v := binary.BigEndian.Uint64(format); v > Format {
			return fmt.Errorf("open %s: %w (format %d, this one reads up to %d); start the newer version", b.path, ErrNewer, v, Format)
		}
		name, err := open(meta.Get(keyCluster))
		if err != nil {
			return corrupt(b.path, "cluster")
		}
		if string(name) != string(cluster) {
			return fmt.Errorf("open %s: %w: it is of %s, not %s; give each site its own file", b.path, ErrOtherCluster, name, cluster)
		}
		return nil
	})
	if err != nil || !fresh {
		return err
	}
	err = b.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketItems, bucketInventory} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		return errors.Join(
			meta.Put(keyFormat, seal(binary.BigEndian.AppendUint64(nil, Format))),
			meta.Put(keyCluster, seal([]byte(cluster))),
		)
	})
	if err != nil {
		return fmt.Errorf("create outbox %s: %w", b.path, err)
	}
	return nil
}

// Close closes the file.
func (b *Box) Close() error { return b.db.Close() }

// Load returns what is on disk. It is how an unknown outcome of Apply is read back.
func (b *Box) Load() (collector.State, error) {
	s := collector.State{Inventory: map[ledger.ObjectKey]collector.Told{}}
	err := b.db.View(func(tx *bbolt.Tx) error {
		meta, items, inventory := tx.Bucket(bucketMeta), tx.Bucket(bucketItems), tx.Bucket(bucketInventory)
		if meta == nil || items == nil || inventory == nil {
			return corrupt(b.path, "a bucket is missing")
		}
		for key, into := range map[string]any{
			string(keyEpoch): &s.Epoch, string(keyTrimmed): &s.Trimmed, string(keyFindings): &s.Findings, string(keyPartial): &s.Partial,
		} {
			v := meta.Get([]byte(key))
			if v == nil {
				continue
			}
			if err := openJSON(v, into); err != nil {
				return corrupt(b.path, key+": "+err.Error())
			}
		}
		var bytes int64
		c := items.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if len(k) != 16 {
				return corrupt(b.path, "an item's key")
			}
			if bytes == 0 {
				s.Oldest = position(k)
			}
			bytes += int64(len(v))
		}
		b.bytes.Store(bytes)
		return inventory.ForEach(func(k, v []byte) error {
			key, err := ledger.ParseObjectKey(string(k))
			if err != nil {
				return corrupt(b.path, err.Error())
			}
			var t collector.Told
			if err := openJSON(v, &t); err != nil {
				return corrupt(b.path, key.String()+": "+err.Error())
			}
			s.Inventory[key] = t
			return nil
		})
	})
	return s, err
}

// Apply makes a batch durable. On an error the outcome is what Load says.
func (b *Box) Apply(batch collector.Batch) error {
	bytes := b.bytes.Load()
	err := b.db.Update(func(tx *bbolt.Tx) error {
		if batch.Reset {
			for _, name := range [][]byte{bucketItems, bucketInventory} {
				if err := tx.DeleteBucket(name); err != nil {
					return err
				}
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			bytes = 0
		}
		if err := applyMeta(tx.Bucket(bucketMeta), batch); err != nil {
			return err
		}
		n, err := applyItems(tx.Bucket(bucketItems), batch)
		if err != nil {
			return err
		}
		bytes += n
		return applyInventory(tx.Bucket(bucketInventory), batch)
	})
	if err != nil {
		return fmt.Errorf("write outbox %s: %w", b.path, err)
	}
	b.bytes.Store(bytes)
	return nil
}

func applyMeta(meta *bbolt.Bucket, batch collector.Batch) error {
	put := func(key []byte, v any) error {
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return meta.Put(key, seal(raw))
	}
	var errs []error
	if batch.Reset {
		errs = append(errs, meta.Delete(keyTrimmed), meta.Delete(keyFindings), put(keyPartial, true))
	}
	if batch.Epoch != 0 {
		errs = append(errs, put(keyEpoch, batch.Epoch))
	}
	if batch.Whole {
		errs = append(errs, meta.Delete(keyPartial))
	}
	if batch.Findings != nil {
		errs = append(errs, put(keyFindings, batch.Findings))
	}
	if batch.Trim != nil {
		errs = append(errs, put(keyTrimmed, batch.Trim))
	}
	return errors.Join(errs...)
}

// applyItems returns by how many bytes the items grew.
func applyItems(items *bbolt.Bucket, batch collector.Batch) (int64, error) {
	var bytes int64
	items.FillPercent = 1 // keys only rise
	for _, it := range batch.Append {
		v := seal(encodeItem(it))
		if err := items.Put(itemKey(it.At), v); err != nil {
			return 0, err
		}
		bytes += int64(len(v))
	}
	if batch.Trim == nil {
		return bytes, nil
	}
	c := items.Cursor()
	for k, v := c.First(); k != nil && position(k).Compare(*batch.Trim) <= 0; k, v = c.First() {
		bytes -= int64(len(v))
		if err := c.Delete(); err != nil {
			return 0, err
		}
	}
	return bytes, nil
}

func applyInventory(inventory *bbolt.Bucket, batch collector.Batch) error {
	for _, k := range batch.Untell {
		if err := inventory.Delete([]byte(k.String())); err != nil {
			return err
		}
	}
	for k, t := range batch.Tell {
		raw, err := json.Marshal(t)
		if err != nil {
			return err
		}
		if err := inventory.Put([]byte(k.String()), seal(raw)); err != nil {
			return err
		}
	}
	return nil
}

// Read returns the items from a position on, in order: at most n, and no more than maxBytes unless the first is
// larger.
func (b *Box) Read(from collector.Position, n, maxBytes int) ([]collector.Item, error) {
	var out []collector.Item
	err := b.db.View(func(tx *bbolt.Tx) error {
		bytes := 0
		c := tx.Bucket(bucketItems).Cursor()
		for k, v := c.Seek(itemKey(from)); k != nil && len(out) < n; k, v = c.Next() {
			if bytes += len(v); bytes > maxBytes && len(out) > 0 {
				return nil
			}
			raw, err := open(v)
			if err != nil {
				return corrupt(b.path, fmt.Sprintf("item %v", position(k)))
			}
			it, err := decodeItem(append([]byte(nil), raw...))
			if err != nil {
				return corrupt(b.path, fmt.Sprintf("item %v: %v", position(k), err))
			}
			it.At = position(k)
			out = append(out, it)
		}
		return nil
	})
	return out, err
}

// Size returns the bytes of events that wait and how many it takes.
func (b *Box) Size() (used, limit int64) { return b.bytes.Load(), b.max }

func itemKey(p collector.Position) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, p.Epoch), p.N)
}

func position(k []byte) collector.Position {
	return collector.Position{Epoch: binary.BigEndian.Uint64(k), N: binary.BigEndian.Uint64(k[8:])}
}

func encodeItem(it collector.Item) []byte {
	v := binary.AppendUvarint(nil, uint64(len(it.Subject)))
	v = append(v, it.Subject...)
	return append(v, it.Record.Leaf()...)
}

func decodeItem(v []byte) (collector.Item, error) {
	n, k := binary.Uvarint(v)
	if k <= 0 || n > uint64(len(v)-k) {
		return collector.Item{}, errors.New("malformed item")
	}
	subject, leaf := v[k:k+int(n)], v[k+int(n):]
	r, err := ledger.ParseLeaf(leaf)
	return collector.Item{Subject: string(subject), Record: r}, err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts a checksum before a value: bbolt checks its meta pages only.
func seal(v []byte) []byte {
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(v)), crc32.Checksum(v, castagnoli))
	return append(out, v...)
}

func open(v []byte) ([]byte, error) {
	if len(v) < 4 || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v) {
		return nil, errors.New("checksum does not match")
	}
	return v[4:], nil
}

func openJSON(v []byte, into any) error {
	raw, err := open(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}
