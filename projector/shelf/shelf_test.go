package shelf_test

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/shelf"
)

func open(t testing.TB, path string) *shelf.Shelf {
	t.Helper()
	s, err := shelf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// resource returns the update that sets a resource to bytes made of v.
func resource(rt projector.ResourceType, name string, v int) projector.Update {
	r := projector.NewResource(name, fmt.Appendf(nil, "%s is %d %s", name, v, strings.Repeat("x", v%97)))
	return projector.Update{Type: rt, Name: name, Resource: &r}
}

func large(n, v int) *projector.Snapshot {
	var us []projector.Update
	for i := range n {
		us = append(us, resource(projector.ResourceTypes[i%len(projector.ResourceTypes)], fmt.Sprintf("resource/%d", i), v))
	}
	return projector.EmptySnapshot().With(us)
}

func contents(s *projector.Snapshot) map[string]string {
	out := map[string]string{}
	for _, rt := range projector.ResourceTypes {
		for r := range s.All(rt) {
			out[rt.String()+" "+r.Name] = string(r.Bytes)
		}
	}
	return out
}

// TestModel puts, gets, prunes and reopens at random, beside a map.
func TestModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprintf("shelf-%d.db", run))
		s, err := shelf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		type put struct {
			snapshot   *projector.Snapshot
			provenance shelf.Provenance
		}
		model := map[projector.Fingerprint]put{}
		last := projector.EmptySnapshot()
		check := func() {
			entries, err := s.List()
			if err != nil {
				t.Fatal(err)
			}
			got := map[projector.Fingerprint]shelf.Provenance{}
			for _, e := range entries {
				got[e.Fingerprint] = e.Provenance
			}
			want := map[projector.Fingerprint]shelf.Provenance{}
			chunks := map[ledger.Digest]bool{}
			for fp, p := range model {
				want[fp] = p.provenance
				for c := range p.snapshot.Chunks() {
					chunks[c.Digest()] = true
				}
				back, err := s.Get(fp)
				if err != nil {
					t.Fatal(err)
				}
				if back.Fingerprint() != fp || len(projector.Diff(p.snapshot, back)) > 0 {
					t.Fatalf("snapshot %s came back as %v", fp.Short(), contents(back))
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("list (-want +got):\n%s", d)
			}
			st, err := s.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if st.Snapshots != len(model) || st.Chunks != len(chunks) {
				t.Fatalf("%d snapshots and %d chunks, want %d and %d", st.Snapshots, st.Chunks, len(model), len(chunks))
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"put": func(t *rapid.T) {
				var us []projector.Update
				for range rapid.IntRange(0, 4).Draw(t, "updates") {
					rt := rapid.SampledFrom(projector.ResourceTypes).Draw(t, "type")
					name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "name")
					u := resource(rt, name, rapid.IntRange(0, 3).Draw(t, "value"))
					if rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
						u.Resource = nil
					}
					us = append(us, u)
				}
				last = last.With(us)
				p := shelf.Provenance{
					Seq: ledger.Seq(rapid.Uint64Range(1, 9).Draw(t, "seq")), Fleet: "default",
					SettingsDigest: ledger.DigestOf([]byte("s")), Build: "b", At: time.Unix(1, 0).UTC(),
				}
				if err := s.Put(last, p); err != nil {
					t.Fatal(err)
				}
				model[last.Fingerprint()] = put{last, p}
			},
			"prune": func(t *rapid.T) {
				gone := map[projector.Fingerprint]bool{}
				for _, fp := range slices.SortedFunc(maps.Keys(model), func(a, b projector.Fingerprint) int {
					return strings.Compare(a.String(), b.String())
				}) {
					if rapid.Bool().Draw(t, "remove") {
						gone[fp] = true
						delete(model, fp)
					}
				}
				n, err := s.Prune(func(fp projector.Fingerprint) bool { return !gone[fp] })
				if err != nil || n != len(gone) {
					t.Fatalf("pruned %d, %v; want %d", n, err, len(gone))
				}
				for fp := range gone {
					if _, err := s.Get(fp); !errors.Is(err, shelf.ErrNotFound) {
						t.Fatalf("a pruned snapshot: %v", err)
					}
				}
			},
			"reopen": func(t *rapid.T) {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if s, err = shelf.Open(path); err != nil {
					t.Fatal(err)
				}
				if s.SetAside() != "" {
					t.Fatalf("a whole file was set aside as %s", s.SetAside())
				}
			},
		})
	})
}

func TestOneChangeWritesOneChunk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shelf.db")
	s := open(t, path)
	first := large(10_000, 1)
	if err := s.Put(first, shelf.Provenance{Seq: 1}); err != nil {
		t.Fatal(err)
	}
	before, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	second := first.With([]projector.Update{resource(projector.Routes, "resource/2", 2)})
	if second.Fingerprint() == first.Fingerprint() || second.Len(projector.Routes) != first.Len(projector.Routes) {
		t.Fatal("the change is not a change of one resource")
	}
	if err := s.Put(second, shelf.Provenance{Seq: 2}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if n := after.Chunks - before.Chunks; n < 1 || n > 2 {
		t.Errorf("one changed resource wrote %d chunks of %d, want 1 or 2", n, before.Chunks)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path) // with nothing in memory
	for _, want := range []*projector.Snapshot{first, second} {
		got, err := s.Get(want.Fingerprint())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(contents(want), contents(got)); d != "" {
			t.Errorf("snapshot (-want +got):\n%s", d)
		}
	}
}

func TestManifestAndChunks(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "shelf.db"))
	snapshot := large(300, 1)
	if _, err := s.Manifest(snapshot.Fingerprint()); !errors.Is(err, shelf.ErrNotFound) {
		t.Errorf("manifest before the put: %v", err)
	}
	if err := s.Put(snapshot, shelf.Provenance{}); err != nil {
		t.Fatal(err)
	}
	manifest, err := s.Manifest(snapshot.Fingerprint())
	if err != nil {
		t.Fatal(err)
	}
	// What another process does with what it was sent.
	back, err := projector.Assemble(manifest, snapshot.Fingerprint(), func(d ledger.Digest) (*projector.Chunk, error) {
		b, err := s.Chunk(d)
		if err != nil {
			return nil, err
		}
		return projector.DecodeChunk(b, d)
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(contents(snapshot), contents(back)); d != "" {
		t.Errorf("snapshot (-want +got):\n%s", d)
	}
	if _, err := s.Chunk(ledger.DigestOf([]byte("?"))); !errors.Is(err, shelf.ErrNotFound) {
		t.Errorf("a chunk that is not there: %v", err)
	}
}

// edit changes the closed file with bbolt.
func edit(t *testing.T, path string, f func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedChunkIsForgottenAndPutAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shelf.db")
	s := open(t, path)
	good, bad := large(20, 1), projector.EmptySnapshot().With([]projector.Update{resource(projector.Routes, "alone", 1)})
	for _, sn := range []*projector.Snapshot{good, bad} {
		if err := s.Put(sn, shelf.Provenance{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *bbolt.Tx) error {
		for c := range bad.Chunks() {
			d := c.Digest()
			v := slices.Clone(tx.Bucket([]byte("chunks")).Get(d[:]))
			v[len(v)/2] ^= 0x10
			if err := tx.Bucket([]byte("chunks")).Put(d[:], v); err != nil {
				return err
			}
		}
		return nil
	})
	s = open(t, path)
	if _, err := s.Get(good.Fingerprint()); err != nil {
		t.Errorf("a snapshot that does not use the damaged chunk: %v", err)
	}
	for range 2 { // found damaged, then found forgotten
		if _, err := s.Get(bad.Fingerprint()); !errors.Is(err, shelf.ErrDamaged) {
			t.Errorf("the damaged snapshot: %v", err)
		}
	}
	if err := s.Put(bad, shelf.Provenance{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(bad.Fingerprint()); err != nil {
		t.Errorf("put again: %v", err)
	}
}

func TestDamagedManifest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shelf.db")
	s := open(t, path)
	snapshot := large(20, 1)
	fp := snapshot.Fingerprint()
	if err := errors.Join(s.Put(snapshot, shelf.Provenance{}), s.Close()); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *bbolt.Tx) error {
		v := slices.Clone(tx.Bucket([]byte("manifests")).Get(fp[:]))
		v[len(v)-1] ^= 1
		return tx.Bucket([]byte("manifests")).Put(fp[:], v)
	})
	s = open(t, path)
	if _, err := s.Get(fp); !errors.Is(err, shelf.ErrDamaged) {
		t.Errorf("get: %v", err)
	}
	if err := s.Put(snapshot, shelf.Provenance{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(fp); err != nil {
		t.Errorf("put again: %v", err)
	}
}

// TestDamagedFile breaks the file in every way that is cheap to think of. Open
// must give a working shelf each time, and say so when it began a new one.
func TestDamagedFile(t *testing.T) {
	master := filepath.Join(t.TempDir(), "shelf.db")
	s := open(t, master)
	snapshot := large(2000, 1)
	if err := errors.Join(s.Put(snapshot, shelf.Provenance{}), s.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(master)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	try := func(t *testing.T, b []byte) (aside string) {
		path := filepath.Join(t.TempDir(), "shelf.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, path)
		defer func() { _ = s.Close() }()
		_, err := s.Get(snapshot.Fingerprint())
		if s.SetAside() != "" {
			if !errors.Is(err, shelf.ErrNotFound) {
				t.Errorf("a new shelf has the old snapshot: %v", err)
			}
			if kept, err := os.ReadFile(s.SetAside()); err != nil || !slices.Equal(kept, b) {
				t.Errorf("the file set aside is not the damaged one: %v", err)
			}
		} else if err != nil && !errors.Is(err, shelf.ErrDamaged) && !errors.Is(err, shelf.ErrNotFound) {
			t.Errorf("get: %v", err)
		}
		if err := s.Put(snapshot, shelf.Provenance{}); err != nil && !errors.Is(err, shelf.ErrDamaged) {
			t.Errorf("put: %v", err)
		}
		return s.SetAside()
	}
	mustSetAside := map[string]func([]byte) []byte{
		"not a database": func([]byte) []byte { return []byte(strings.Repeat("no database\n", 4000)) },
		"both metas":     func(b []byte) []byte { b[20] ^= 1; b[page+20] ^= 1; return b },
		"a third":        func(b []byte) []byte { return b[:len(b)/3] },
		"one page":       func(b []byte) []byte { return b[:page] },
		"zeroes after":   func(b []byte) []byte { clear(b[2*page:]); return b },
	}
	for name, damage := range mustSetAside {
		t.Run(name, func(t *testing.T) {
			if try(t, damage(slices.Clone(whole))) == "" {
				t.Error("the damage went unnoticed")
			}
		})
	}
	t.Run("bit flips", func(t *testing.T) {
		const seed = 20
		rnd := rand.New(rand.NewPCG(seed, 0))
		for i := range 150 {
			b := slices.Clone(whole)
			at := rnd.IntN(len(b))
			if i%2 == 0 { // in the head of some page, where the structure is
				at = at/page*page + rnd.IntN(64)
			}
			b[at] ^= 1 << rnd.IntN(8)
			if try(t, b); t.Failed() {
				t.Fatalf("seed %d, flip %d: byte %d", seed, i, at)
			}
		}
	})
	t.Run("set aside is bounded", func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "shelf.db")
		for i := range 5 {
			if err := os.WriteFile(path, []byte(strings.Repeat(fmt.Sprint(i), 9000)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for i := 1; i <= 4; i++ {
			b, err := os.ReadFile(fmt.Sprintf("%s.damaged-%d", path, i))
			if err == nil {
				got = append(got, string(b[:1]))
			}
		}
		if d := cmp.Diff([]string{"2", "3", "4"}, got); d != "" {
			t.Errorf("files set aside (-want +got):\n%s", d)
		}
	})
}

// TestTruncatedWhileOpen takes pages away from under the memory map, which
// faults on reading.
func TestTruncatedWhileOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shelf.db")
	s := open(t, path)
	snapshot := large(2000, 1)
	if err := s.Put(snapshot, shelf.Provenance{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(snapshot.Fingerprint()); !errors.Is(err, shelf.ErrDamaged) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.List(); !errors.Is(err, shelf.ErrDamaged) {
		t.Errorf("list: %v", err)
	}
	if err := s.Put(large(10, 2), shelf.Provenance{}); !errors.Is(err, shelf.ErrDamaged) {
		t.Errorf("put: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s = open(t, path); s.SetAside() == "" {
		t.Error("the truncated file was not set aside")
	}
}

func TestNewerVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shelf.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("version"), []byte("9")) })
	_, err := shelf.Open(path)
	if !errors.Is(err, shelf.ErrNewer) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("open: %v", err)
	}
	if _, err := os.Stat(path + ".damaged-1"); err == nil {
		t.Error("a newer file was set aside")
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shelf.db")
	open(t, path)
	if _, err := shelf.Open(path); !errors.Is(err, shelf.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("open: %v", err)
	}
}

const childEnv = "CHANCERY_SHELF_TEST_CHILD"

// TestMain is also the process that TestKilled kills: it puts snapshots and
// says so, until it is gone.
func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	s, err := shelf.Open(path)
	for i := 0; err == nil; i++ {
		if err = s.Put(large(500, i), shelf.Provenance{Seq: ledger.Seq(i)}); err == nil {
			fmt.Println(i)
		}
		if i%5 == 4 {
			_, err = s.Prune(func(fp projector.Fingerprint) bool { return fp == large(500, i).Fingerprint() })
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestKilled(t *testing.T) {
	const seed = 7
	rnd := rand.New(rand.NewPCG(seed, 0))
	for round := range 5 {
		path := filepath.Join(t.TempDir(), "shelf.db")
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		last, lines, stop := -1, bufio.NewScanner(out), 3+rnd.IntN(12)
		for lines.Scan() {
			if _, err := fmt.Sscan(lines.Text(), &last); err != nil {
				t.Fatalf("child said %q", lines.Text())
			}
			if last == stop {
				// It goes on while the signal travels; what it still said counts.
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait()
		if last < stop {
			t.Fatalf("seed %d, round %d: the child ended by itself after %d puts", seed, round, last)
		}
		s := open(t, path)
		if s.SetAside() != "" {
			t.Errorf("seed %d, round %d: the file was damaged by a kill", seed, round)
		}
		got, err := s.Get(large(500, last).Fingerprint())
		if err != nil {
			t.Fatalf("seed %d, round %d: the last acknowledged snapshot, %d: %v", seed, round, last, err)
		}
		if d := cmp.Diff(contents(large(500, last)), contents(got)); d != "" {
			t.Errorf("snapshot %d (-want +got):\n%s", last, d)
		}
	}
}

func BenchmarkPutOneChange(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "shelf.db"))
	snapshot := large(10_000, 1)
	if err := s.Put(snapshot, shelf.Provenance{}); err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i++
		snapshot = snapshot.With([]projector.Update{resource(projector.Routes, "resource/2", i)})
		if err := s.Put(snapshot, shelf.Provenance{Seq: ledger.Seq(i)}); err != nil {
			b.Fatal(err)
		}
	}
}
