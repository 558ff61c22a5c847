package projector_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

type slot struct {
	typ  projector.ResourceType
	name string
}

// contents is a snapshot as a plain map.
func contents(s *projector.Snapshot) map[slot]string {
	out := map[slot]string{}
	for _, typ := range projector.ResourceTypes {
		for r := range s.All(typ) {
			out[slot{typ, r.Name}] = string(r.Bytes)
		}
	}
	return out
}

func drawUpdates(t *rapid.T) []projector.Update {
	var out []projector.Update
	for range rapid.IntRange(0, 20).Draw(t, "updates") {
		u := projector.Update{
			Type: rapid.SampledFrom(projector.ResourceTypes).Draw(t, "type"),
			Name: fmt.Sprintf("r%d", rapid.IntRange(0, 30).Draw(t, "name")),
		}
		if rapid.IntRange(0, 3).Draw(t, "remove") < 3 {
			r := projector.NewResource(u.Name, []byte(rapid.StringN(0, 5, -1).Draw(t, "bytes")))
			u.Resource = &r
		}
		out = append(out, u)
	}
	return out
}

// TestSnapshotIsItsContent compares snapshots that were built by updates with
// a map: content, counts, fingerprint, difference, and the way over manifest
// and chunks.
func TestSnapshotIsItsContent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := map[slot]string{}
		s := projector.EmptySnapshot()
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			before, beforeContent := s, maps.Clone(want)
			updates := drawUpdates(t)
			s = s.With(updates)
			for _, u := range updates {
				if u.Resource == nil {
					delete(want, slot{u.Type, u.Name})
				} else {
					want[slot{u.Type, u.Name}] = string(u.Resource.Bytes)
				}
			}
			if diff := cmp.Diff(want, contents(s), cmp.AllowUnexported(slot{})); diff != "" {
				t.Fatal(diff)
			}
			if diff := cmp.Diff(beforeContent, contents(before), cmp.AllowUnexported(slot{})); diff != "" {
				t.Fatalf("the snapshot that was changed is not the one that it was:\n%s", diff)
			}
			for _, typ := range projector.ResourceTypes {
				n := 0
				for k, v := range want {
					if k.typ != typ {
						continue
					}
					n++
					if r, ok := s.Get(typ, k.name); !ok || string(r.Bytes) != v || r.Version != ledger.DigestOf([]byte(v)) {
						t.Fatalf("Get(%s, %s) = %v, %v", typ, k.name, r, ok)
					}
				}
				if s.Len(typ) != n {
					t.Fatalf("%d %s, Len says %d", n, typ, s.Len(typ))
				}
			}
			if same := maps.Equal(beforeContent, want); same != (before.Fingerprint() == s.Fingerprint()) {
				t.Fatalf("equal content %v, fingerprints %s and %s", same, before.Fingerprint().Short(), s.Fingerprint().Short())
			}
			diff := projector.Diff(before, s)
			if got := before.With(diff); got.Fingerprint() != s.Fingerprint() {
				t.Fatal("Diff does not lead from one to the other")
			}
			if len(diff) > len(updates) {
				t.Fatalf("Diff has %d updates for %d", len(diff), len(updates))
			}
			fresh := projector.EmptySnapshot().With(projector.Diff(projector.EmptySnapshot(), s))
			if fresh.Fingerprint() != s.Fingerprint() {
				t.Fatal("the fingerprint depends on how the snapshot came about")
			}
			assembled(t, s)
		}
	})
}

// assembled takes a snapshot apart and puts it together again.
func assembled(t *rapid.T, s *projector.Snapshot) {
	chunks := map[ledger.Digest][]byte{}
	for c := range s.Chunks() {
		chunks[c.Digest()] = c.Encode()
	}
	digests, err := projector.ManifestChunks(s.Manifest())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range digests {
		if chunks[d] == nil {
			t.Fatalf("chunk %s of the manifest is none of the snapshot's", d.Short())
		}
	}
	get := func(d ledger.Digest) (*projector.Chunk, error) { return projector.DecodeChunk(chunks[d], d) }
	again, err := projector.Assemble(s.Manifest(), s.Fingerprint(), get)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(contents(s), contents(again), cmp.AllowUnexported(slot{})); diff != "" || again.Fingerprint() != s.Fingerprint() {
		t.Fatalf("put together again:\n%s", diff)
	}
	// Any damage is noticed.
	manifest := s.Manifest()
	i := rapid.IntRange(0, len(manifest)-1).Draw(t, "damaged byte")
	manifest[i] ^= 1
	if _, err := projector.Assemble(manifest, s.Fingerprint(), get); !errors.Is(err, projector.ErrChunk) {
		t.Fatalf("a damaged manifest: %v", err)
	}
	for d, b := range chunks {
		bad := slices.Clone(b)
		bad[rapid.IntRange(0, len(bad)-1).Draw(t, "damaged chunk byte")] ^= 1
		if _, err := projector.DecodeChunk(bad, d); !errors.Is(err, projector.ErrChunk) {
			t.Fatalf("a damaged chunk: %v", err)
		}
		if _, err := projector.DecodeChunk(b[:len(b)-1], d); !errors.Is(err, projector.ErrChunk) {
			t.Fatalf("a short chunk: %v", err)
		}
	}
}

// TestSnapshotShares keeps all chunks but one when one resource changes.
func TestSnapshotShares(t *testing.T) {
	var updates []projector.Update
	for i := range 2000 {
		r := projector.NewResource(fmt.Sprintf("r%d", i), []byte("a"))
		updates = append(updates, projector.Update{Type: projector.Routes, Name: r.Name, Resource: &r})
	}
	before := projector.EmptySnapshot().With(updates)
	r := projector.NewResource("r7", []byte("b"))
	after := before.With([]projector.Update{{Type: projector.Routes, Name: "r7", Resource: &r}})
	old := map[*projector.Chunk]bool{}
	for c := range before.Chunks() {
		old[c] = true
	}
	made := 0
	for c := range after.Chunks() {
		if !old[c] {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d chunks are new, want 1 of %d", made, len(old))
	}
	if diff := projector.Diff(before, after); len(diff) != 1 || diff[0].Name != "r7" {
		t.Errorf("Diff is %v", diff)
	}
}

func TestHeadsMoveForward(t *testing.T) {
	head := func(term, generation uint64) projector.SignedHead {
		return projector.SignedHead{Term: term, Head: projector.Head{Generation: generation}}
	}
	for _, tt := range []struct {
		now, then projector.SignedHead
		want      bool
	}{
		{head(1, 2), head(1, 1), true},
		{head(1, 1), head(1, 1), false},
		{head(1, 1), head(1, 2), false},
		{head(2, 3), head(1, 2), true},
		{head(2, 1), head(1, 9), true},  // a hub that lost a part of its ledger
		{head(1, 9), head(2, 3), false}, // an old leader
	} {
		if got := tt.now.Newer(tt.then); got != tt.want {
			t.Errorf("term %d generation %d newer than term %d generation %d: %v", tt.now.Term, tt.now.Head.Generation, tt.then.Term, tt.then.Head.Generation, got)
		}
	}
}

// TestCodes checks the one table of findings.
func TestCodes(t *testing.T) {
	var last projector.Code
	for _, c := range projector.Codes {
		if c.Code <= last || len(c.Code) != 7 || c.Title == "" || c.Remedy == "" {
			t.Errorf("%+v after %s: want codes in order, each with a title and a remedy", c, last)
		}
		last = c.Code
	}
}
