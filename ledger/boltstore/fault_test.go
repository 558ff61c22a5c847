package boltstore_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

// child returns this test binary as a child process.
func child(t testing.TB, what, path string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, path)
	cmd.Env = append(os.Environ(), envChild+"="+what)
	return cmd
}

// checkAs returns a check that runs this test binary.
func checkAs(t testing.TB, what string) func(context.Context, string) error {
	t.Helper()
	t.Setenv(envChild, what)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return boltstore.CheckInChild(exe)
}

// TestKill: a writer is killed in the middle of its commits, again and again.
// What it said it had appended is there, and the ledger is whole.
func TestKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	var acknowledged ledger.Seq
	for cycle := range 20 {
		cmd := child(t, "write", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			size, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatalf("the writer says %q", lines.Text())
			}
			acknowledged = ledger.Seq(size)
			if n == 3+7*cycle%40 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || said.Len() > 0 {
			t.Fatalf("cycle %d: the writer ends by itself: %v %s", cycle, err, said.String())
		}
		s := open(t, path)
		if s.Size() < acknowledged {
			t.Fatalf("cycle %d: %d were acknowledged, %d are there", cycle, acknowledged, s.Size())
		}
		if err := s.Verify(t.Context(), 1, nil); err != nil {
			t.Fatalf("cycle %d: %v", cycle, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged < 100 {
		t.Errorf("only %d events were appended", acknowledged)
	}
}

// TestFlippedBytes: each flipped byte is found by Open or Verify, or lies where
// nothing is kept. The child reads the damaged files, for they can crash it.
func TestFlippedBytes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	s := told(t, path, 60)
	saveCheckpoint(t, s)
	a, _ := resume(s)
	ledgertest.MustAppend(t, s, a.batch(3, "v")...)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	size := trim(t, path)
	found, harmless, crashed := 0, 0, 0
	for at := 0; at >= 0; {
		cmd := child(t, "flip", path)
		cmd.Env = append(cmd.Env, envFrom+"="+strconv.Itoa(at))
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		err := cmd.Run()
		done := false
		for line := range strings.Lines(out.String()) {
			switch line = strings.TrimSpace(line); line {
			case "found":
				found++
			case "harmless":
				harmless++
			case "done":
				done = true
			default:
				if _, err := fmt.Sscanf(line, "at %d", &at); err != nil {
					t.Fatalf("the child says %q", line)
				}
			}
		}
		var exit *exec.ExitError
		switch {
		case done && err == nil:
			at = -1
		case errors.As(err, &exit) && exit.ExitCode() == 2:
			// A crash of the reader: the parent of a check takes it as damage.
			crashed++
			at += flipStep
		default:
			t.Fatalf("%v: %s", err, said.String())
		}
	}
	t.Logf("%d bytes: %d flips found, %d crashed the reader, %d harmless", size, found, crashed, harmless)
	if found+crashed < 60 {
		t.Errorf("only %d flips were found: the test does not reach what is kept", found+crashed)
	}
}

// trim cuts off what bbolt has allocated and not used, and returns the size.
func trim(t testing.TB, path string) int64 {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	var used int64
	err = db.View(func(tx *bolt.Tx) error { used = tx.Size(); return nil })
	if err := errors.Join(err, db.Close(), os.Truncate(path, used)); err != nil {
		t.Fatal(err)
	}
	return used
}

// TestTruncated: a file that was cut short is refused with the remedy.
func TestTruncated(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ledger.db")
	if err := told(t, path, 100).Close(); err != nil {
		t.Fatal(err)
	}
	size := trim(t, path)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Check = checkAs(t, "check")
	for _, keep := range []int64{1, 100, 16 << 10, 32 << 10, size / 2, size - 1} {
		cut := filepath.Join(dir, fmt.Sprintf("cut-%d.db", keep))
		if err := os.WriteFile(cut, whole[:keep], 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := boltstore.Open(cut, o)
		if !errors.Is(err, boltstore.ErrCorrupt) {
			t.Errorf("cut to %d of %d bytes: %v, want ErrCorrupt", keep, size, err)
			continue
		}
		for _, part := range []string{cut, "mv ", "rebuilt from the stream or from another replica"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not say %q", err, part)
			}
		}
	}
}

// TestCheckInChild: what a child process says, or does instead, is what Open
// answers.
func TestCheckInChild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := told(t, path, 10).Close(); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]error{"check": nil, "crash": boltstore.ErrCorrupt, "hang": boltstore.ErrCorrupt} {
		t.Run(what, func(t *testing.T) {
			o := options()
			o.Check = checkAs(t, what)
			if what == "hang" {
				o.CheckTimeout = 500 * time.Millisecond
			}
			s, err := boltstore.Open(path, o)
			if !errors.Is(err, want) {
				t.Fatalf("%v, want %v", err, want)
			}
			if err == nil {
				s.Close()
			}
		})
	}
	o := options()
	o.Check = boltstore.CheckInChild(filepath.Join(t.TempDir(), "no-such-program"))
	if _, err := boltstore.Open(path, o); err == nil || errors.Is(err, boltstore.ErrCorrupt) {
		t.Errorf("a check that cannot start: %v, want an error that does not blame the file", err)
	}
}

func TestSecondOpener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	open(t, path)
	o := options()
	o.LockTimeout = 100 * time.Millisecond
	_, err := boltstore.Open(path, o)
	if !errors.Is(err, boltstore.ErrInUse) {
		t.Fatalf("%v, want ErrInUse", err)
	}
	for _, part := range []string{path, "is another chancery serve running on this data directory?"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	if err := boltstore.CheckFile(path); !errors.Is(err, boltstore.ErrInUse) {
		t.Errorf("check: %v, want ErrInUse", err)
	}
}

func TestNewerFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := told(t, path, 3).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	newer := []byte("2")
	sum := crc32.Checksum(newer, crc32.MakeTable(crc32.Castagnoli))
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), append(binary.BigEndian.AppendUint32(nil, sum), newer...))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	for name, check := range map[string]func(context.Context, string) error{"here": nil, "in a child": checkAs(t, "check")} {
		o := options()
		o.Check = check
		_, err := boltstore.Open(path, o)
		if !errors.Is(err, boltstore.ErrNewerFormat) || errors.Is(err, boltstore.ErrCorrupt) {
			t.Fatalf("%s: %v, want ErrNewerFormat", name, err)
		}
		for _, part := range []string{"format 2", "reads 1", "use a newer chancery", "move the data directory"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
	}
}

func TestOtherInstall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := told(t, path, 3).Close(); err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Hub = ledgertest.Public("another")
	if _, err := boltstore.Open(path, o); !errors.Is(err, boltstore.ErrOtherInstall) {
		t.Errorf("another key: %v, want ErrOtherInstall", err)
	}
	o = options()
	o.Install = "another"
	if _, err := boltstore.Open(path, o); !errors.Is(err, boltstore.ErrOtherInstall) {
		t.Errorf("another install: %v, want ErrOtherInstall", err)
	}
}

// TestFullDisk: an append that does not fit is refused as such, changes nothing,
// and succeeds once there is room.
func TestFullDisk(t *testing.T) {
	dir, what := t.TempDir(), "fill"
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Logf("no small disk can be mounted (%v): the limit on the size of files stands for it", err)
		what = "fill limited"
	} else {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	if out, err := child(t, what, filepath.Join(dir, "ledger.db")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
