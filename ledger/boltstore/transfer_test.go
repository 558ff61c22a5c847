package boltstore_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

func export(t *testing.T, s *boltstore.Store, from ledger.Seq) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.Export(t.Context(), &b, from); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestImport: an empty and a shorter replica become what the exporter is, its
// place in the stream included.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	a := told(t, filepath.Join(dir, "a.db"), 2500)
	cp := checkpoint(t, a)
	for name, before := range map[string]int{"empty": 0, "shorter": 100} {
		path := filepath.Join(dir, name+".db")
		b := open(t, path)
		if before > 0 {
			ledgertest.MustAppend(t, b, (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(2500)[:before]...)...)
		}
		if err := b.Import(t.Context(), bytes.NewReader(export(t, a, b.Size()+1)), cp); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := checkpoint(t, b); got != cp {
			t.Errorf("%s: %+v, want %+v", name, got, cp)
		}
		if b.Cursor() != a.Cursor() {
			t.Errorf("%s: cursor %+v, want %+v", name, b.Cursor(), a.Cursor())
		}
		if err := b.Verify(t.Context(), 1, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestImportRefuses: of an export that is not what it should be nothing is kept,
// and the ledger goes on.
func TestImportRefuses(t *testing.T) {
	dir := t.TempDir()
	a := told(t, filepath.Join(dir, "a.db"), 400)
	good, cp := export(t, a, 4), checkpoint(t, a)
	other := cp
	other.Root = ledger.DigestOf([]byte("another"))
	smaller := cp
	smaller.Size--
	elsewhere := cp
	elsewhere.Origin = ledger.CheckpointOrigin("elsewhere")
	late := bytes.Clone(good)
	late[len(late)-100] ^= 1 // in a signature or its event
	for name, c := range map[string]struct {
		export []byte
		cp     ledger.Checkpoint
	}{
		"nothing":                {nil, cp},
		"something else":         {[]byte("<html>"), cp},
		"cut short":              {good[:len(good)-1], cp},
		"cut in the header":      {good[:30], cp},
		"a record changed":       {late, cp},
		"another root":           {good, other},
		"another size":           {good, smaller},
		"another install":        {good, elsewhere},
		"from another place":     {export(t, a, 7), cp},
		"a header without bound": {append([]byte("chancery ledger records 1\n"), 0xff, 0xff, 0xff, 0xff, 0x0f), cp},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t, filepath.Join(dir, name+".db"))
			story := (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(400)...)
			ledgertest.MustAppend(t, b, story[:3]...)
			before := checkpoint(t, b)
			if err := b.Import(t.Context(), bytes.NewReader(c.export), c.cp); !errors.Is(err, boltstore.ErrImport) {
				t.Fatalf("%v, want ErrImport", err)
			}
			if got := checkpoint(t, b); got != before {
				t.Errorf("%+v, want %+v", got, before)
			}
			if err := b.Verify(t.Context(), 1, nil); err != nil {
				t.Error(err)
			}
			ledgertest.MustAppend(t, b, story[3:]...)
			if got := checkpoint(t, b); got != cp {
				t.Errorf("after the stream: %+v, want %+v", got, cp)
			}
		})
	}
}

// TestImportInterrupted: a process that ends during an import leaves a part,
// which Open takes out.
func TestImportInterrupted(t *testing.T) {
	dir := t.TempDir()
	a := told(t, filepath.Join(dir, "a.db"), 2500)
	path := filepath.Join(dir, "b.db")
	b := open(t, path)
	seen := make(chan struct{})
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- b.Import(t.Context(), r, checkpoint(t, a)) }()
	whole := export(t, a, 1)
	go func() {
		defer close(seen)
		// All but the end: the importer has committed most and waits.
		_, _ = w.Write(whole[:len(whole)-10])
	}()
	<-seen
	if got, err := b.Read(1, 10); err != nil || len(got) != 0 || b.Size() != 0 {
		t.Errorf("a reader sees %d records of an import that has not ended, %v", len(got), err)
	}
	if err := os.WriteFile(path+".copy", mustRead(t, path), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.CloseWithError(io.ErrUnexpectedEOF); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, boltstore.ErrImport) {
		t.Errorf("%v, want ErrImport", err)
	}
	if n := events(t, path+".copy"); n == 0 {
		t.Fatal("the copy holds no part of the import")
	}
	c := open(t, path+".copy")
	if c.Size() != 0 {
		t.Errorf("size %d after an import that did not end, want 0", c.Size())
	}
	if err := c.Verify(t.Context(), 1, nil); err != nil {
		t.Error(err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// events counts the records in a file.
func events(t *testing.T, path string) (n int) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *bolt.Tx) error { n = tx.Bucket([]byte("events")).Stats().KeyN; return nil })
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSetAside: the tail is in a file that imports again, and gone from the
// ledger.
func TestSetAside(t *testing.T) {
	s := told(t, filepath.Join(t.TempDir(), "ledger.db"), 300)
	saveCheckpoint(t, s)
	whole := checkpoint(t, s)
	base := whole.Size - 50
	root, err := s.Root(base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetAside(t.Context(), base, ledger.DigestOf([]byte("x"))); !errors.Is(err, ledger.ErrOtherRoot) {
		t.Errorf("another root: %v, want ErrOtherRoot", err)
	}
	if _, err := s.SetAside(t.Context(), whole.Size+1, root); !errors.Is(err, boltstore.ErrRange) {
		t.Errorf("beyond the end: %v, want ErrRange", err)
	}
	path, err := s.SetAside(t.Context(), base, root)
	if err != nil {
		t.Fatal(err)
	}
	if got := checkpoint(t, s); got.Size != base || got.Root != root {
		t.Errorf("%d %s, want %d %s", got.Size, got.Root.Short(), base, root.Short())
	}
	if cps, err := s.Checkpoints(10); err != nil || len(cps) != 0 {
		t.Errorf("%d checkpoints of what is gone, %v", len(cps), err)
	}
	if err := s.Verify(t.Context(), 1, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Import(t.Context(), bytes.NewReader(mustRead(t, path)), whole); err != nil {
		t.Fatal(err)
	}
	if got := checkpoint(t, s); got != whole {
		t.Errorf("after importing it again %+v, want %+v", got, whole)
	}
}
