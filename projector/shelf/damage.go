package shelf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
)

// maxSetAside bounds the damaged files that are kept beside the shelf.
const maxSetAside = 3

// guard runs f and returns a panic or a memory fault inside of it, which is
// what bbolt answers a damaged or truncated file with, as ErrDamaged.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}

// setAsideIfDamaged reads the structure of the file without bbolt, which can
// hang on a page that points back at its parent, and renames the file when it
// is not whole. It returns the new name, "" when there was nothing to do.
func setAsideIfDamaged(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("shelf %s: %w", path, err)
	}
	defer f.Close()
	// The lock that bbolt takes, on a handle of our own.
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return "", lockedError(path)
	case err != nil:
		return "", fmt.Errorf("lock shelf %s: %w", path, err)
	}
	err = checkPages(f)
	if !errors.Is(err, ErrDamaged) {
		return "", err
	}
	return setAside(path)
}

// setAside renames the file to the first free name of path.damaged-1 … -3, or,
// where all are taken, moves them down and the oldest out.
func setAside(path string) (string, error) {
	name := func(i int) string { return fmt.Sprintf("%s.damaged-%d", path, i) }
	free := 1
	for ; free <= maxSetAside; free++ {
		if _, err := os.Lstat(name(free)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if free > maxSetAside {
		for i := 2; i <= maxSetAside; i++ {
			if err := os.Rename(name(i), name(i-1)); err != nil {
				return "", fmt.Errorf("set aside shelf %s: %w", path, err)
			}
		}
		free = maxSetAside
	}
	if err := os.Rename(path, name(free)); err != nil {
		return "", fmt.Errorf("set aside shelf %s: %w", path, err)
	}
	return name(free), syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// What follows reads bbolt's file format, version 2 (go.etcd.io/bbolt,
// internal/common/page.go, meta.go and bucket.go): a page has a header of 16
// bytes (id, flags, count, overflow) and then its elements; a meta page has
// magic, version, page size, flags, root, sequence, freelist, high-water mark,
// transaction and a checksum. All of it in the machine's byte order.

const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader    = 16
	branchElement = 16
	leafElement   = 16
	bucketHeader  = 16

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10

	leafIsBucket = 0x01
	noFreelist   = ^uint64(0)

	maxPageSize = 64 << 10
)

type meta struct {
	pageSize             uint32
	root, freelist, high uint64
	tx                   uint64
}

var order = binary.NativeEndian

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// checkPages walks every page that the newest meta page reaches, and returns
// ErrDamaged when one is not of its kind, is reached twice, or lies outside of
// the file. It does not look at values, which carry their own digests. An
// empty file is a new one.
func checkPages(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("shelf %s: %w", f.Name(), err)
	}
	if st.Size() == 0 {
		return nil
	}
	m, err := newestMeta(f)
	if err != nil {
		return err
	}
	if m.high > uint64(st.Size())/uint64(m.pageSize) {
		return damaged("%d pages of %d bytes in a file of %d bytes", m.high, m.pageSize, st.Size())
	}
	w := &walker{f: f, meta: m, seen: map[uint64]bool{}}
	if m.freelist != noFreelist {
		if _, err := w.page(m.freelist, flagFreelist); err != nil {
			return err
		}
	}
	return w.tree(m.root)
}

// newestMeta returns the valid one of the two meta pages with the newest
// transaction. The second lies one page size further, which the first may be
// too damaged to say.
func newestMeta(r io.ReaderAt) (meta, error) {
	var best meta
	found := false
	for _, at := range []int64{0, 4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		b := make([]byte, pageHeader+64)
		if _, err := r.ReadAt(b, at); err != nil {
			continue
		}
		b = b[pageHeader:]
		sum := fnv.New64a()
		sum.Write(b[:56])
		if order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion || order.Uint64(b[56:]) != sum.Sum64() {
			continue
		}
		m := meta{
			pageSize: order.Uint32(b[8:]),
			root:     order.Uint64(b[16:]),
			freelist: order.Uint64(b[32:]),
			high:     order.Uint64(b[40:]),
			tx:       order.Uint64(b[48:]),
		}
		if m.pageSize < 512 || m.pageSize > maxPageSize || at != 0 && at != int64(m.pageSize) {
			continue
		}
		if !found || m.tx > best.tx {
			best, found = m, true
		}
	}
	if !found {
		return meta{}, damaged("no valid meta page")
	}
	return best, nil
}

type walker struct {
	f    io.ReaderAt
	meta meta
	seen map[uint64]bool
}

// page reads a page and checks its header. Overflow pages hold values only
// and are not read, beyond the elements.
func (w *walker) page(id uint64, flags uint16) ([]byte, error) {
	if id < 2 || id >= w.meta.high {
		return nil, damaged("page %d of %d", id, w.meta.high)
	}
	at := int64(id) * int64(w.meta.pageSize)
	head := make([]byte, pageHeader)
	if _, err := w.f.ReadAt(head, at); err != nil {
		return nil, damaged("page %d: %v", id, err)
	}
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || order.Uint16(head[8:])&flags == 0 || id+overflow >= w.meta.high {
		return nil, damaged("header of page %d", id)
	}
	for i := id; i <= id+overflow; i++ {
		if w.seen[i] {
			return nil, damaged("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	b := make([]byte, (overflow+1)*uint64(w.meta.pageSize))
	if _, err := w.f.ReadAt(b, at); err != nil {
		return nil, damaged("page %d: %v", id, err)
	}
	return b, nil
}

// tree walks the pages below one. Its depth is bounded by the number of pages,
// for none is visited twice.
func (w *walker) tree(root uint64) error {
	todo := []uint64{root}
	for len(todo) > 0 {
		id := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		b, err := w.page(id, flagBranch|flagLeaf)
		if err != nil {
			return err
		}
		var next []uint64
		if order.Uint16(b[8:])&flagBranch != 0 {
			next, err = branch(id, b)
		} else {
			next, err = leaf(id, b)
		}
		if err != nil {
			return err
		}
		todo = append(todo, next...)
	}
	return nil
}

// branch returns the pages that a branch page points at.
func branch(id uint64, b []byte) ([]uint64, error) {
	count := int(order.Uint16(b[10:]))
	if count == 0 || pageHeader+count*branchElement > len(b) {
		return nil, damaged("%d elements on branch page %d", count, id)
	}
	var out []uint64
	for i := range count {
		at := pageHeader + i*branchElement
		if uint64(at)+uint64(order.Uint32(b[at:]))+uint64(order.Uint32(b[at+4:])) > uint64(len(b)) {
			return nil, damaged("element %d of branch page %d", i, id)
		}
		out = append(out, order.Uint64(b[at+8:]))
	}
	return out, nil
}

// leaf returns the roots of the buckets on a leaf page, and looks into those
// that are small enough to be on the page itself.
func leaf(id uint64, b []byte) ([]uint64, error) {
	count := int(order.Uint16(b[10:]))
	if pageHeader+count*leafElement > len(b) {
		return nil, damaged("%d elements on leaf page %d", count, id)
	}
	var out []uint64
	for i := range count {
		at := pageHeader + i*leafElement
		value := uint64(at) + uint64(order.Uint32(b[at+4:])) + uint64(order.Uint32(b[at+8:]))
		end := value + uint64(order.Uint32(b[at+12:]))
		if end > uint64(len(b)) {
			return nil, damaged("element %d of leaf page %d", i, id)
		}
		if order.Uint32(b[at:])&leafIsBucket == 0 {
			continue
		}
		if end-value < bucketHeader {
			return nil, damaged("bucket %d of leaf page %d", i, id)
		}
		root := order.Uint64(b[value:])
		if root != 0 {
			out = append(out, root)
			continue
		}
		inline := b[value+bucketHeader : end]
		if len(inline) < pageHeader || order.Uint16(inline[8:])&flagLeaf == 0 {
			return nil, damaged("bucket %d of leaf page %d", i, id)
		}
		if _, err := leaf(id, inline); err != nil {
			return nil, err
		}
	}
	return out, nil
}
