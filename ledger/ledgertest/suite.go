package ledgertest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/ledger"
)

// Store is what the suite asks of a store.
type Store interface {
	Append(ctx context.Context, batch []ledger.Incoming) ([]ledger.Result, error)
	Size() ledger.Seq
	Root(size ledger.Seq) (ledger.Digest, error)
	Read(from ledger.Seq, limit int) ([]ledger.Entry, error)
	Admission() *ledger.Admission
	Cursor() ledger.Cursor
}

// TestStore runs the suite. open returns an empty store whose hub is
// Public("hub"); it sees to closing it.
func TestStore(t *testing.T, open func(t *testing.T) Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s Store)
	}{
		{"empty", testEmpty},
		{"outcomes", testOutcomes},
		{"bytes", testBytes},
		{"batching", func(t *testing.T, s Store) { testBatching(t, s, open(t)) }},
		{"redelivery", testRedelivery},
		{"incarnations", testIncarnations},
		{"unfollowable", testUnfollowable},
		{"too many", testTooMany},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

func testEmpty(t *testing.T, s Store) {
	if got := s.Size(); got != 0 {
		t.Errorf("size %d, want 0", got)
	}
	if got := root(t, s, 0); got != ledger.DigestOf(nil) {
		t.Errorf("root of nothing is %s, want the digest of nothing (RFC 6962)", got)
	}
	if _, err := s.Root(1); err == nil {
		t.Error("root at 1 of an empty ledger is no error")
	}
	if es, err := s.Read(1, 10); err != nil || len(es) != 0 {
		t.Errorf("read %v, %v; want nothing", es, err)
	}
}

func testOutcomes(t *testing.T, s Store) {
	h, east, stream := NewHub(), NewCollector("east"), &Stream{Incarnation: "one"}
	stranger := NewCollector("west")
	MustAppend(t, s, stream.Next(Opening(h, "one", "east")...)...)
	east.Epoch = 1
	east.Rewind(7)
	early := east.Put("early", "1") // epoch 1 is not claimed yet
	east.Epoch = 0
	begin := east.Begin()
	first := east.Put("web", "1")
	east.Rewind(3)
	gap := east.Put("web", "3")
	forged := east.Put("web", "4")
	forged.Record.Signature = bytes.Repeat([]byte{7}, len(forged.Record.Signature))
	elsewhere := east.Put("other", "5")
	elsewhere.Subject = ledger.SyncSubject("east")
	garbage := ledger.Incoming{Record: ledger.Record{Event: []byte("{"), Signature: make([]byte, 64)}, Subject: "chancery.sync.east"}
	got := MustAppend(t, s, stream.Next(early, begin, first, first, gap, forged, elsewhere, stranger.Begin(), garbage)...)
	want := []ledger.Outcome{ledger.Gap, ledger.Append, ledger.Append, ledger.Skip, ledger.Gap, ledger.Refuse, ledger.Refuse, ledger.Refuse, ledger.Refuse}
	if d := cmp.Diff(want, outcomes(got)); d != "" {
		t.Fatalf("outcomes (-want +got):\n%s", d)
	}
	if e, n := got[0].WantEpoch, got[0].WantN; e != 1 || n != 0 {
		t.Errorf("an event of no epoch asks for %d/%d, want 1/0", e, n)
	}
	if e, n := got[4].WantEpoch, got[4].WantN; e != 1 || n != 2 {
		t.Errorf("a gap asks for %d/%d, want 1/2", e, n)
	}
	if got[1].Seq != 4 || got[2].Seq != 5 || got[3].Seq != 0 {
		t.Errorf("positions %d, %d, %d; want 4, 5, 0", got[1].Seq, got[2].Seq, got[3].Seq)
	}
	if got := s.Size(); got != 5 {
		t.Errorf("size %d, want 5", got)
	}
	if c := s.Cursor(); c.StreamSeq != 12 || c.Incarnation != "one" {
		t.Errorf("cursor %+v, want message 12 of one: what is not appended is consumed too", c)
	}
	p, ok := s.Admission().Progress("east")
	if want := (ledger.Progress{Epoch: 1, Instance: "east-a", NextN: 2}); !ok || p != want {
		t.Errorf("progress %+v, want %+v", p, want)
	}
}

func testBytes(t *testing.T, s Store) {
	h, east, stream := NewHub(), NewCollector("east"), &Stream{Incarnation: "one"}
	ms := append(Opening(h, "one", "east"), east.Begin(), east.Put("web", "1"), east.Delete("web"))
	MustAppend(t, s, stream.Next(ms...)...)
	entries, err := s.Read(0, 100)
	if err != nil || len(entries) != len(ms) {
		t.Fatalf("read %d records, %v; want %d", len(entries), err, len(ms))
	}
	for i, e := range entries {
		if e.Seq != ledger.Seq(i+1) || !bytes.Equal(e.Record.Event, ms[i].Record.Event) || !bytes.Equal(e.Record.Signature, ms[i].Record.Signature) {
			t.Errorf("record %d is not what was appended", i+1)
		}
	}
	part, err := s.Read(3, 2)
	if err != nil || len(part) != 2 || part[0].Seq != 3 || part[1].Seq != 4 {
		t.Errorf("read from 3, at most 2: %v, %v", part, err)
	}
}

func testBatching(t *testing.T, a, b Store) {
	stream, other := &Stream{Incarnation: "one"}, &Stream{Incarnation: "one"}
	ms := Story(200)
	MustAppend(t, a, stream.Next(ms...)...)
	for i, size := 0, 1; i < len(ms); i, size = i+size, size%7+1 {
		MustAppend(t, b, other.Next(ms[i:min(i+size, len(ms))]...)...)
	}
	if a.Size() != b.Size() || root(t, a, a.Size()) != root(t, b, b.Size()) {
		t.Errorf("the same stream gives %d %s and %d %s", a.Size(), root(t, a, a.Size()), b.Size(), root(t, b, b.Size()))
	}
	if a.Cursor() != b.Cursor() {
		t.Errorf("cursors %+v and %+v", a.Cursor(), b.Cursor())
	}
	x, _ := a.Admission().Save()
	y, _ := b.Admission().Save()
	if d := cmp.Diff(string(x), string(y)); d != "" {
		t.Errorf("admission differs:\n%s", d)
	}
}

func testRedelivery(t *testing.T, s Store) {
	stream := &Stream{Incarnation: "one"}
	ms := stream.Next(Story(20)...)
	MustAppend(t, s, ms...)
	before := root(t, s, s.Size())
	for _, r := range MustAppend(t, s, ms[5:]...) {
		if r.Outcome != ledger.Skip {
			t.Fatalf("message %d again: %s, want skip", r.StreamSeq, r.Outcome)
		}
	}
	if got := root(t, s, s.Size()); got != before {
		t.Error("redelivery changes the root")
	}
}

func testIncarnations(t *testing.T, s Store) {
	h, east, one, two := NewHub(), NewCollector("east"), &Stream{Incarnation: "one"}, &Stream{Incarnation: "two"}
	MustAppend(t, s, one.Next(append(Opening(h, "one", "east"), east.Begin(), east.Put("web", "1"))...)...)
	size := s.Size()
	early := east.Put("web", "2")
	got := MustAppend(t, s, two.Next(early, h.StreamBegun("three", size, root(t, s, size)), h.StreamBegun("two", size, root(t, s, size)), early)...)
	want := []ledger.Outcome{ledger.Skip, ledger.Skip, ledger.Append, ledger.Append}
	if d := cmp.Diff(want, outcomes(got)); d != "" {
		t.Fatalf("an event before its incarnation began is passed over, one after is not (-want +got):\n%s", d)
	}
	if got := s.Admission().Incarnation(); got != "two" {
		t.Errorf("incarnation %q, want two", got)
	}
	if c := s.Cursor(); c.Incarnation != "two" || c.StreamSeq != 4 {
		t.Errorf("cursor %+v, want message 4 of two", c)
	}
	again := MustAppend(t, s, two.Next(h.StreamBegun("two", size, root(t, s, size)), h.StreamBegun("four", s.Size(), root(t, s, s.Size())), early)...)
	if d := cmp.Diff([]ledger.Outcome{ledger.Skip, ledger.Refuse}, outcomes(again)); d != "" {
		t.Errorf("a stream begins once, and as no other; the batch ends there (-want +got):\n%s", d)
	}
}

func testUnfollowable(t *testing.T, s Store) {
	h, one := NewHub(), &Stream{Incarnation: "one"}
	MustAppend(t, s, one.Next(Opening(h, "one", "east")...)...)
	before := s.Cursor()
	for name, m := range map[string]ledger.Incoming{
		"a longer base":  h.StreamBegun("two", s.Size()+1, ledger.DigestOf(nil)),
		"a shorter base": h.StreamBegun("two", s.Size()-1, root(t, s, s.Size()-1)),
		"another root":   h.StreamBegun("two", s.Size(), ledger.DigestOf([]byte("x"))),
	} {
		two := &Stream{Incarnation: "two"}
		got := MustAppend(t, s, two.Next(m, h.TermBegun())...)
		if len(got) != 1 || !got[0].Halt {
			t.Errorf("%s: %+v, want one result that halts", name, got)
		}
		if s.Cursor() != before {
			t.Errorf("%s: the cursor went from %+v to %+v", name, before, s.Cursor())
		}
	}
}

func testTooMany(t *testing.T, s Store) {
	if _, err := s.Append(t.Context(), make([]ledger.Incoming, ledger.MaxAppend+1)); err == nil {
		t.Errorf("%d records in one append are no error", ledger.MaxAppend+1)
	}
}

// Story returns the messages of an install with two clusters and about n
// changes, some of them duplicates and some refused.
func Story(n int) []ledger.Incoming {
	h := NewHub()
	ms := Opening(h, "one", "east", "west")
	cs := []*Collector{NewCollector("east"), NewCollector("west")}
	for _, c := range cs {
		ms = append(ms, c.Begin())
	}
	for i := range n {
		c := cs[i%2]
		name := fmt.Sprintf("m%d", i%17)
		switch {
		case i%23 == 22:
			ms = append(ms, c.Begin())
		case i%11 == 10:
			ms = append(ms, ms[len(ms)-3])
		case i%7 == 6:
			ms = append(ms, c.Delete(name))
		default:
			ms = append(ms, c.Put(name, fmt.Sprint(i)))
		}
	}
	return ms
}

// MustAppend appends a batch.
func MustAppend(t testing.TB, s Store, batch ...ledger.Incoming) []ledger.Result {
	t.Helper()
	var out []ledger.Result
	for part := range slices.Chunk(batch, ledger.MaxAppend) {
		rs, err := s.Append(t.Context(), part)
		if err != nil {
			t.Fatalf("append: %v", err)
		}
		out = append(out, rs...)
		if len(rs) < len(part) {
			break
		}
	}
	return out
}

func root(t testing.TB, s Store, size ledger.Seq) ledger.Digest {
	t.Helper()
	d, err := s.Root(size)
	if err != nil {
		t.Fatalf("root at %d: %v", size, err)
	}
	return d
}

func outcomes(rs []ledger.Result) []ledger.Outcome {
	out := make([]ledger.Outcome, len(rs))
	for i, r := range rs {
		out[i] = r.Outcome
	}
	return out
}
