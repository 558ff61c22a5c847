package boltstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

// Names of what this test binary can be as a child process.
const (
	envChild = "BOLTSTORE_TEST_CHILD"
	envFrom  = "BOLTSTORE_TEST_FROM"
)

// runChild is what this test binary does as a child process, on the path that
// is its last argument. It returns the exit code.
func runChild(what, path string) int {
	var err error
	switch what {
	case "check":
		return boltstore.CheckMain(path, os.Stdout)
	case "crash":
		panic("as asked")
	case "hang":
		select {}
	case "write":
		err = writeForEver(path)
	case "flip":
		err = flipBytes(path)
	case "fill":
		err = fill(path)
	case "fill limited":
		limit := syscall.Rlimit{Cur: 3 << 20, Max: 3 << 20}
		if err = syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err == nil {
			err = fill(path)
		}
	default:
		err = errors.New("unknown child " + what)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// author makes an endless story from where a ledger is.
type author struct {
	stream *ledgertest.Stream
	east   *ledgertest.Collector
	n      int
}

// resume returns an author who goes on where the ledger is, and the messages
// that an empty one needs first.
func resume(s *boltstore.Store) (*author, []ledger.Incoming) {
	a := &author{stream: &ledgertest.Stream{Incarnation: "one", Last: s.Cursor().StreamSeq}, east: ledgertest.NewCollector("east")}
	p, known := s.Admission().Progress("east")
	if !known {
		return a, a.stream.Next(append(ledgertest.Opening(ledgertest.NewHub(), "one", "east"), a.east.Begin())...)
	}
	a.east.Epoch = p.Epoch
	a.east.Rewind(p.NextN)
	return a, nil
}

func (a *author) batch(size int, value string) []ledger.Incoming {
	ms := make([]ledger.Incoming, size)
	for i := range ms {
		a.n++
		ms[i] = a.east.Put("m"+strconv.Itoa(a.n%13), value)
	}
	return a.stream.Next(ms...)
}

// writeForEver appends, and says the size after each append on standard output.
func writeForEver(path string) error {
	s, err := boltstore.Open(path, options())
	if err != nil {
		return err
	}
	a, first := resume(s)
	for batch := first; ; batch = a.batch(1+a.n%9, strings.Repeat("v", a.n%4000)) {
		if len(batch) == 0 {
			continue
		}
		if _, err := s.Append(context.Background(), batch); err != nil {
			return err
		}
		if _, err := fmt.Println(s.Size()); err != nil {
			return err
		}
	}
}

// fill appends until there is no room, makes room, and appends again.
func fill(path string) error {
	ballast := filepath.Join(filepath.Dir(path), "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); err != nil {
		return err
	}
	s, err := boltstore.Open(path, options())
	if err != nil {
		return err
	}
	a, first := resume(s)
	if _, err := s.Append(context.Background(), first); err != nil {
		return err
	}
	var refused []ledger.Incoming
	for refused == nil {
		before := s.Size()
		batch := a.batch(10, strings.Repeat("v", 3000))
		_, err := s.Append(context.Background(), batch)
		switch {
		case err == nil:
		case !errors.Is(err, boltstore.ErrNoSpace):
			return fmt.Errorf("append on a full disk: %w, want ErrNoSpace", err)
		case s.Size() != before:
			return fmt.Errorf("size %d after a refused append, was %d", s.Size(), before)
		default:
			refused = batch
		}
		if s.Size() > 100_000 {
			return errors.New("the disk does not fill")
		}
	}
	if err := s.Verify(context.Background(), 1, nil); err != nil {
		return fmt.Errorf("after a refused append: %w", err)
	}
	size := s.Size()
	if err := os.Remove(ballast); err != nil {
		return err
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if limit.Cur < 1<<40 { // no room can be made under this limit: opening again must do
		if err := s.Close(); err != nil {
			return err
		}
		if s, err = boltstore.Open(path, options()); err != nil {
			return err
		}
		if s.Size() != size {
			return fmt.Errorf("size %d after opening again, was %d", s.Size(), size)
		}
		return s.Close()
	}
	if _, err := s.Append(context.Background(), refused); err != nil {
		return fmt.Errorf("append once there is room: %w", err)
	}
	if want := size + ledger.Seq(len(refused)); s.Size() != want {
		return fmt.Errorf("size %d, want %d", s.Size(), want)
	}
	if err := s.Verify(context.Background(), 1, nil); err != nil {
		return err
	}
	return s.Close()
}

// flipStep is the distance between the bytes that flipBytes flips. It is prime,
// so that over a file it meets every place in a page.
const flipStep = 457

// flipBytes flips one byte after another of the file, each in a copy, and says on
// standard output where it is and what came of it: "found", or "harmless" when
// all that the ledger holds is what it was. Anything else is an error.
func flipBytes(path string) error {
	from, err := strconv.Atoi(os.Getenv(envFrom))
	if err != nil {
		return err
	}
	debug.SetPanicOnFault(true)
	good, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	want, err := contents(path)
	if err != nil {
		return err
	}
	bad := path + ".bad"
	for at := from; at < len(good); at += flipStep {
		fmt.Println("at", at)
		b := append([]byte{}, good...)
		b[at] ^= byte(1 << (at % 8))
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			return err
		}
		got, err := contents(bad)
		switch {
		case errors.Is(err, boltstore.ErrCorrupt) || errors.Is(err, boltstore.ErrNewerFormat):
			fmt.Println("found")
		case err != nil:
			return fmt.Errorf("byte %d: %w, want ErrCorrupt", at, err)
		case got != want:
			return fmt.Errorf("byte %d: not found, and the ledger is another", at)
		default:
			fmt.Println("harmless")
		}
	}
	fmt.Println("done")
	return nil
}

// contents opens and verifies a ledger and returns all that it says.
func contents(path string) (string, error) {
	s, err := boltstore.Open(path, options())
	if err != nil {
		return "", err
	}
	defer s.Close()
	if err := s.Verify(context.Background(), 1, nil); err != nil {
		return "", err
	}
	var b strings.Builder
	if _, err := s.Export(context.Background(), &b, 1); err != nil {
		return "", err
	}
	cps, err := s.Checkpoints(100)
	if err != nil {
		return "", err
	}
	root, err := s.Root(s.Size())
	if err != nil {
		return "", err
	}
	admission, err := s.Admission().Save()
	if err != nil {
		return "", err
	}
	fmt.Fprint(&b, cps, root, string(admission), s.Cursor())
	return b.String(), nil
}
