package boltstore

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
)

// Format is the version of the file's layout, docs/format/ledger.md.
const Format = 1

// The buckets of the file.
var (
	bucketMeta        = []byte("meta")        // name → framed JSON
	bucketEvents      = []byte("events")      // seq → leaf
	bucketHashes      = []byte("hashes")      // index of tlog.StoredHashIndex → 32 bytes
	bucketByObject    = []byte("by-object")   // digest of the object key, seq → nothing
	bucketByTime      = []byte("by-time")     // time, seq → nothing
	bucketCursor      = []byte("cursor")      // keyState → framed JSON
	bucketCheckpoints = []byte("checkpoints") // size → signed note

	buckets = [...][]byte{bucketMeta, bucketEvents, bucketHashes, bucketByObject, bucketByTime, bucketCursor, bucketCheckpoints}
)

// Keys of meta and cursor.
var (
	keyFormat    = []byte("format")
	keyAbout     = []byte("about")
	keyImporting = []byte("importing") // size to go back to when an import did not end
	keyState     = []byte("state")
)

// about is what a file says of itself.
type about struct {
	Install string            `json:"install"`
	Hub     ed25519.PublicKey `json:"hub"`
}

// savedState is written in every transaction that appends.
type savedState struct {
	Size      ledger.Seq      `json:"size"`
	Cursor    ledger.Cursor   `json:"cursor"`
	Admission json.RawMessage `json:"admission"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frame returns a value's JSON behind its CRC-32C, for values that no Merkle
// hash covers.
func frame(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli)), b...), nil
}

func unframe(b []byte, v any) error {
	if len(b) < 4 {
		return fmt.Errorf("%d bytes, want a checksum and JSON", len(b))
	}
	if crc32.Checksum(b[4:], castagnoli) != binary.BigEndian.Uint32(b) {
		return fmt.Errorf("checksum does not match")
	}
	return json.Unmarshal(b[4:], v)
}

func putFramed(b *bolt.Bucket, key []byte, v any) error {
	f, err := frame(v)
	if err != nil {
		return err
	}
	return b.Put(key, f)
}

func key64(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func seqKey(s ledger.Seq) []byte { return key64(uint64(s)) }

// objectPrefix returns the common start of an object's keys in by-object. It is
// a digest because a name from a directory has no bound.
func objectPrefix(k ledger.ObjectKey) []byte {
	d := ledger.DigestOf([]byte(k.String()))
	return d[:16]
}

func objectKey(k ledger.ObjectKey, s ledger.Seq) []byte {
	return binary.BigEndian.AppendUint64(objectPrefix(k), uint64(s))
}

// timeKey orders as time does: nanoseconds since 1970 with the sign bit
// flipped. Times that do not fit are put at the end of the range.
func timeKey(t time.Time, s ledger.Seq) []byte {
	return binary.BigEndian.AppendUint64(key64(uint64(nanos(t))^(1<<63)), uint64(s))
}

func nanos(t time.Time) int64 {
	switch lo, hi := time.Unix(0, math.MinInt64), time.Unix(0, math.MaxInt64); {
	case t.Before(lo):
		return math.MinInt64
	case t.After(hi):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// hashReader reads stored hashes in one transaction.
func hashReader(tx *bolt.Tx) tlog.HashReader {
	b := tx.Bucket(bucketHashes)
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			v := b.Get(key64(uint64(x)))
			if len(v) != len(out[i]) {
				return nil, fmt.Errorf("stored hash %d has %d bytes, want %d", x, len(v), len(out[i]))
			}
			copy(out[i][:], v)
		}
		return out, nil
	})
}
