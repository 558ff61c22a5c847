package boltstore_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

func options() boltstore.Options {
	return boltstore.Options{Hub: ledgertest.Public("hub"), Install: "test", LockTimeout: 5 * time.Second}
}

func open(t testing.TB, path string) *boltstore.Store {
	t.Helper()
	s, err := boltstore.Open(path, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func fresh(t testing.TB) *boltstore.Store {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "ledger.db"))
}

// told returns a store with a story of about n changes.
func told(t testing.TB, path string, n int) *boltstore.Store {
	t.Helper()
	s := open(t, path)
	ledgertest.MustAppend(t, s, (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(n)...)...)
	return s
}

func checkpoint(t testing.TB, s *boltstore.Store) ledger.Checkpoint {
	t.Helper()
	root, err := s.Root(s.Size())
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Checkpoint{Origin: ledger.CheckpointOrigin(s.Install()), Size: s.Size(), Root: root}
}

func saveCheckpoint(t testing.TB, s *boltstore.Store) {
	t.Helper()
	signed, err := ledger.SignCheckpoint(checkpoint(t, s), ledgertest.Key("hub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveCheckpoint(signed); err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	ledgertest.TestStore(t, func(t *testing.T) ledgertest.Store { return fresh(t) })
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data", "ledger.db")
	s := told(t, path, 100)
	saveCheckpoint(t, s)
	ledgertest.MustAppend(t, s)
	before, cursor := checkpoint(t, s), s.Cursor()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if d := cmp.Diff(before, checkpoint(t, s)); d != "" {
		t.Errorf("after opening again (-want +got):\n%s", d)
	}
	if s.Cursor() != cursor {
		t.Errorf("cursor %+v, want %+v", s.Cursor(), cursor)
	}
	var seen ledger.Seq
	if err := s.Verify(t.Context(), 1, func(at ledger.Seq) { seen = at }); err != nil {
		t.Error(err)
	}
	if seen != s.Size() {
		t.Errorf("verified up to %d of %d", seen, s.Size())
	}
	if cps, err := s.Checkpoints(10); err != nil || len(cps) != 1 {
		t.Errorf("%d checkpoints, %v; want 1", len(cps), err)
	}
}

func TestObject(t *testing.T) {
	s := fresh(t)
	h, east := ledgertest.NewHub(), ledgertest.NewCollector("east")
	ms := append(ledgertest.Opening(h, "one", "east"), east.Begin(), east.Put("web", "1"), east.Put("api", "1"), east.Put("web", "2"), east.Delete("web"))
	ledgertest.MustAppend(t, s, (&ledgertest.Stream{Incarnation: "one"}).Next(ms...)...)
	for _, c := range []struct {
		name  string
		limit int
		want  []ledger.Seq
	}{
		{"web", 10, []ledger.Seq{5, 7, 8}},
		{"web", 2, []ledger.Seq{7, 8}},
		{"api", 10, []ledger.Seq{6}},
		{"none", 10, nil},
	} {
		es, err := s.Object(east.Object(c.name), c.limit)
		if err != nil {
			t.Fatal(err)
		}
		var got []ledger.Seq
		for _, e := range es {
			got = append(got, e.Seq)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("history of %s, at most %d (-want +got):\n%s", c.name, c.limit, d)
		}
	}
}

func TestAt(t *testing.T) {
	s := fresh(t)
	h, east := ledgertest.NewHub(), ledgertest.NewCollector("east")
	ms := append(ledgertest.Opening(h, "one", "east"), east.Begin(), east.Put("web", "1"))
	ledgertest.MustAppend(t, s, (&ledgertest.Stream{Incarnation: "one"}).Next(ms...)...)
	at := func(seq ledger.Seq) time.Time {
		es, err := s.Read(seq, 1)
		if err != nil {
			t.Fatal(err)
		}
		e, err := ledger.DecodeEvent(es[0].Record.Event)
		if err != nil {
			t.Fatal(err)
		}
		return e.Time
	}
	for name, c := range map[string]struct {
		at   time.Time
		want ledger.Seq
	}{
		"before all":           {at(1).Add(-time.Second), 0},
		"long before":          {time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC), 0},
		"of two the later":     {at(4), 4},
		"between":              {at(5).Add(time.Millisecond), 5},
		"after all":            {at(3).Add(time.Hour), 3},
		"in a thousand years":  {time.Date(3026, 1, 1, 0, 0, 0, 0, time.UTC), 3},
		"just before a second": {at(2).Add(-time.Nanosecond), 4},
	} {
		got, err := s.At(c.at)
		if err != nil || got != c.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.want)
		}
	}
}

func TestProofs(t *testing.T) {
	s := told(t, filepath.Join(t.TempDir(), "ledger.db"), 60)
	cp := checkpoint(t, s)
	for seq := ledger.Seq(1); seq <= cp.Size; seq++ {
		p, err := s.InclusionProof(cp.Size, seq)
		if err != nil {
			t.Fatal(err)
		}
		es, err := s.Read(seq, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(p, int64(cp.Size), tlog.Hash(cp.Root), int64(seq-1), tlog.RecordHash(es[0].Record.Leaf())); err != nil {
			t.Errorf("inclusion of %d: %v", seq, err)
		}
		older, err := s.Root(seq)
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.ConsistencyProof(cp.Size, seq)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckTree(c, int64(cp.Size), tlog.Hash(cp.Root), int64(seq), tlog.Hash(older)); err != nil {
			t.Errorf("consistency of %d: %v", seq, err)
		}
	}
	if _, err := s.InclusionProof(cp.Size+1, 1); err == nil {
		t.Error("a proof in a tree larger than the ledger is no error")
	}
}

func TestWait(t *testing.T) {
	s := fresh(t)
	done := make(chan error)
	go func() { done <- s.Wait(t.Context(), 3) }()
	stream := &ledgertest.Stream{Incarnation: "one"}
	for _, m := range stream.Next(ledgertest.Opening(ledgertest.NewHub(), "one", "east")...) {
		ledgertest.MustAppend(t, s, m)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx, 99); err == nil {
		t.Error("a wait that is cancelled is no error")
	}
}

// TestReaders: who reads while a batch is appended sees all of it or nothing.
func TestReaders(t *testing.T) {
	const batch, batches = 10, 60
	s := fresh(t)
	a, first := resume(s)
	ledgertest.MustAppend(t, s, first...)
	before := s.Size()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range batches {
			if _, err := s.Append(t.Context(), a.batch(batch, "v")); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		es, err := s.Read(before+1, 2*batch*batches)
		if err != nil {
			t.Fatal(err)
		}
		if len(es)%batch != 0 {
			t.Fatalf("a reader sees %d records, not whole batches of %d", len(es), batch)
		}
	}
	if got, want := s.Size(), before+batch*batches; got != want {
		t.Errorf("size %d, want %d", got, want)
	}
}

func TestCheckpointOfAnotherTree(t *testing.T) {
	s := told(t, filepath.Join(t.TempDir(), "ledger.db"), 5)
	cp := checkpoint(t, s)
	cp.Root = ledger.DigestOf([]byte("another"))
	signed, err := ledger.SignCheckpoint(cp, ledgertest.Key("hub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveCheckpoint(signed); err == nil {
		t.Error("a checkpoint with another root is kept")
	}
	cp = checkpoint(t, s)
	if signed, err = ledger.SignCheckpoint(cp, ledgertest.Key("stranger")); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveCheckpoint(signed); err == nil {
		t.Error("a checkpoint signed by a stranger is kept")
	}
}

func TestMain(m *testing.M) {
	if child := os.Getenv(envChild); child != "" {
		os.Exit(runChild(child, os.Args[len(os.Args)-1]))
	}
	os.Exit(m.Run())
}
