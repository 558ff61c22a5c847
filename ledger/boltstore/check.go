package boltstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/chancery-dev/chancery/ledger"
)

// walkBytes is up to which size CheckFile walks every page of a file; of a
// larger one it looks at the meta pages, the list of free pages and the tail.
const walkBytes = 64 << 20

// CheckFile says whether the ledger file at path can be used. It looks at the
// meta pages, the list of free pages and the records since the last checkpoint;
// all the rest is Verify's. A damaged file can crash or hang it, which is why
// Open has it run in a child process. The error is ErrInUse, ErrNewerFormat or a
// DamageError where one of these is the reason.
func CheckFile(path string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer guard(path, &err)
	pages, err := checkMeta(path)
	if err != nil {
		return err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true, Timeout: 2 * time.Second})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return inUse(path)
	case isDamage(err):
		return damaged(path, 0, "%v", err)
	case err != nil:
		return fmt.Errorf("check ledger %s: %w", path, err)
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		if pages <= walkBytes {
			var first error
			for err := range tx.Check() {
				if first == nil {
					first = damaged(path, 0, "%v", err)
				}
			}
			if first != nil {
				return first
			}
		}
		return checkTail(tx, path)
	})
}

// checkTail verifies the records since the last checkpoint.
func checkTail(tx *bolt.Tx, path string) error {
	a, err := readAbout(tx, path)
	if err != nil {
		return err
	}
	if tx.Bucket(bucketMeta).Get(keyImporting) != nil {
		return nil // Open goes back to where the import began
	}
	st, err := readState(tx, path, a.Hub)
	if err != nil {
		return err
	}
	v := verifier{path: path, next: 1}
	if k, _ := tx.Bucket(bucketCheckpoints).Cursor().Last(); len(k) == 8 {
		v.next = ledger.Seq(binary.BigEndian.Uint64(k)) + 1
	}
	if v.next > st.size+1 {
		return damaged(path, 0, "a checkpoint at %d, but %d records", v.next-1, st.size)
	}
	v.from = max(v.next, 2) // totals of the whole are Verify's
	if err := v.checkpoints(tx, a); err != nil {
		return err
	}
	if err := v.records(tx, st.size); err != nil {
		return err
	}
	return v.totals(tx, st.size)
}

// probeLock reports whether another process holds the file.
func probeLock(path string, wait time.Duration) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open ledger: %w", err)
	}
	defer f.Close()
	for deadline := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil // closing lets go of it
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock ledger %s: %w", path, err)
		case time.Now().After(deadline):
			return inUse(path)
		}
	}
}

// Layout of bbolt's meta pages, which begin a file and are written in turn.
const (
	boltMagic      = 0xED0CDAED
	metaAt         = 16 // after the page header
	metaSize       = 64
	metaPageSize   = 8  // uint32
	metaHighWater  = 40 // uint64: pages in use end below it
	metaTxID       = 48 // uint64
	metaChecksumAt = 56 // uint64: FNV-1a of what is before
)

// checkMeta looks at both meta pages, without mapping the file, and returns how
// many bytes of the file are in use. bbolt opens a file with one bad meta page on
// the other, which silently undoes the last transaction.
func checkMeta(path string) (used int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("check ledger: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("check ledger: %w", err)
	}
	var txid [2]uint64
	for i := range txid {
		b := make([]byte, metaAt+metaSize)
		if _, err := f.ReadAt(b, int64(i)*pageSize); err != nil {
			return 0, damaged(path, 0, "meta page %d: %v", i, err)
		}
		m := b[metaAt:]
		sum := fnv.New64a()
		sum.Write(m[:metaChecksumAt])
		switch {
		case binary.NativeEndian.Uint32(m) != boltMagic:
			return 0, damaged(path, 0, "meta page %d: not a bbolt file", i)
		case binary.NativeEndian.Uint64(m[metaChecksumAt:]) != sum.Sum64():
			return 0, damaged(path, 0, "meta page %d: checksum does not match", i)
		case binary.NativeEndian.Uint32(m[metaPageSize:]) != pageSize:
			return 0, damaged(path, 0, "meta page %d: pages of %d bytes, want %d", i, binary.NativeEndian.Uint32(m[metaPageSize:]), pageSize)
		}
		txid[i] = binary.NativeEndian.Uint64(m[metaTxID:])
		used = max(used, int64(binary.NativeEndian.Uint64(m[metaHighWater:]))*pageSize)
	}
	if txid[0]+1 != txid[1] && txid[1]+1 != txid[0] {
		return 0, damaged(path, 0, "meta pages of transactions %d and %d", txid[0], txid[1])
	}
	if used > info.Size() {
		return 0, damaged(path, 0, "the file has %d bytes, %d are in use: it was cut short", info.Size(), used)
	}
	return used, nil
}

// Exit codes of CheckMain.
const (
	exitDamaged = 65 // EX_DATAERR
	exitInUse   = 75 // EX_TEMPFAIL
	exitNewer   = 78 // EX_CONFIG
)

// report is what CheckMain says of a damaged file.
type report struct {
	Seq  ledger.Seq `json:"seq"`
	What string     `json:"what"`
}

// CheckMain is the child process of CheckInChild: it runs CheckFile, writes what
// it found to w and returns the exit code.
func CheckMain(path string, w io.Writer) int {
	err := CheckFile(path)
	var d *DamageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &d):
		// The parent has the exit code if the report cannot be written.
		_ = json.NewEncoder(w).Encode(report{Seq: d.Seq, What: d.What})
		return exitDamaged
	case errors.Is(err, ErrInUse):
		return exitInUse
	case errors.Is(err, ErrNewerFormat):
		fmt.Fprint(w, err)
		return exitNewer
	}
	fmt.Fprint(w, err)
	return 1
}

// CheckInChild returns a check for Options that runs a command with the path as
// its last argument; the command is expected to exit with what CheckMain
// returns. A child that crashes, or does not end before the context, means that
// the file is damaged.
func CheckInChild(command string, args ...string) func(ctx context.Context, path string) error {
	return func(ctx context.Context, path string) error {
		cmd := exec.CommandContext(ctx, command, append(append([]string{}, args...), path)...)
		out, crash := &limited{}, &limited{}
		cmd.Stdout, cmd.Stderr = out, crash
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return damaged(path, 0, "reading it does not end")
		case !errors.As(err, &exit):
			return fmt.Errorf("check ledger %s: %w", path, err)
		}
		switch exit.ExitCode() {
		case exitInUse:
			return inUse(path)
		case exitNewer:
			return fmt.Errorf("%w%s", ErrNewerFormat, strings.TrimPrefix(out.String(), ErrNewerFormat.Error()))
		case exitDamaged:
			var r report
			if err := json.Unmarshal(out.Bytes(), &r); err != nil {
				r.What = "the check does not say how"
			}
			return &DamageError{Path: path, Seq: r.Seq, What: r.What}
		case 1:
			return errors.New(out.String())
		}
		line, _, _ := strings.Cut(crash.String(), "\n")
		return damaged(path, 0, "reading it crashes (%v): %s", exit, line)
	}
}

// limited keeps the first 64 KiB that are written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if room := 64<<10 - l.Len(); room > 0 {
		l.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
