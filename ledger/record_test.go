package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
)

func TestLeaf(t *testing.T) {
	r := ledger.Sign([]byte("event"), ledgertest.Key("east"))
	leaf := r.Leaf()
	got, err := ledger.ParseLeaf(leaf)
	if err != nil || !bytes.Equal(got.Event, r.Event) || !bytes.Equal(got.Signature, r.Signature) {
		t.Errorf("%v, %v; want %v", got, err, r)
	}
	if !got.Verify(ledgertest.Public("east")) || got.Verify(ledgertest.Public("west")) || got.Verify(nil) {
		t.Error("the signature is east's and nobody else's")
	}
	for name, bad := range map[string][]byte{
		"nothing":         nil,
		"no signature":    leaf[:6],
		"short signature": leaf[:len(leaf)-1],
		"long signature":  append(bytes.Clone(leaf), 0),
		"length too far":  append([]byte{200}, leaf[1:]...),
		"padded length":   append([]byte{leaf[0] | 0x80, 0}, leaf[1:]...),
		"endless length":  bytes.Repeat([]byte{0xff}, 80),
	} {
		if _, err := ledger.ParseLeaf(bad); !errors.Is(err, ledger.ErrLeaf) {
			t.Errorf("%s: %v, want ErrLeaf", name, err)
		}
	}
}

func FuzzParseLeaf(f *testing.F) {
	f.Add(ledger.Sign([]byte("event"), ledgertest.Key("east")).Leaf())
	f.Add(append([]byte{0x80, 0x00}, make([]byte, 64)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ledger.ParseLeaf(b)
		if err != nil {
			return
		}
		again, err := ledger.ParseLeaf(r.Leaf())
		if err != nil || !bytes.Equal(again.Event, r.Event) || !bytes.Equal(again.Signature, r.Signature) {
			t.Fatalf("%x is read as %v and then as %v, %v", b, r, again, err)
		}
		if !bytes.Equal(r.Leaf(), b) {
			t.Fatalf("two leaves of one record: %x and %x", b, r.Leaf())
		}
	})
}

// TestBatching: the same messages give the same ledger, whatever the batches and
// however often a part of them is delivered again.
func TestBatching(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(rapid.IntRange(0, 120).Draw(t, "changes"))...)
		a, b := ledger.NewMemory(ledgertest.Public("hub")), ledger.NewMemory(ledgertest.Public("hub"))
		feed := func(m *ledger.Memory, batch []ledger.Incoming) {
			if _, err := m.Append(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		}
		feed(a, ms)
		for i := 0; i < len(ms); {
			n := rapid.IntRange(1, len(ms)-i).Draw(t, "batch")
			back := rapid.IntRange(0, i).Draw(t, "delivered again")
			feed(b, ms[i-back:i+n])
			i += n
		}
		if a.Size() != b.Size() || a.Cursor() != b.Cursor() {
			t.Fatalf("sizes %d and %d, cursors %+v and %+v", a.Size(), b.Size(), a.Cursor(), b.Cursor())
		}
		for size := ledger.Seq(0); size <= a.Size(); size++ {
			x, err := a.Root(size)
			if err != nil {
				t.Fatal(err)
			}
			y, err := b.Root(size)
			if err != nil || x != y {
				t.Fatalf("at %d: roots %s and %s, %v", size, x, y, err)
			}
		}
	})
}

// TestPrepareChangesNothing: a record that was prepared under another admission
// has the same outcome.
func TestPrepareChangesNothing(t *testing.T) {
	ms := (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(60)...)
	ms[40].Record.Signature = make([]byte, 64)
	plain, prepared := ledger.NewMemory(ledgertest.Public("hub")), ledger.NewMemory(ledgertest.Public("hub"))
	want := ledgertest.MustAppend(t, plain, ms...)
	other := make([]ledger.Incoming, len(ms))
	for i, m := range ms {
		m.Prepare(ledger.NewAdmission(ledgertest.Public("stranger")))
		other[i] = m
	}
	for i, got := range ledgertest.MustAppend(t, prepared, other...) {
		if got.Outcome != want[i].Outcome || got.Seq != want[i].Seq || got.Reason != want[i].Reason {
			t.Errorf("message %d: %s at %d (%s), want %s at %d (%s)", i+1, got.Outcome, got.Seq, got.Reason, want[i].Outcome, want[i].Seq, want[i].Reason)
		}
	}
}

// TestRoot: the root is that of RFC 6962 over the leaves.
func TestRoot(t *testing.T) {
	m := ledger.NewMemory(ledgertest.Public("hub"))
	ledgertest.MustAppend(t, m, (&ledgertest.Stream{Incarnation: "one"}).Next(ledgertest.Story(40)...)...)
	entries, err := m.Read(1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	var hash func(es []ledger.Entry) tlog.Hash
	hash = func(es []ledger.Entry) tlog.Hash {
		if len(es) == 1 {
			return tlog.RecordHash(es[0].Record.Leaf())
		}
		k := 1
		for 2*k < len(es) {
			k *= 2
		}
		return tlog.NodeHash(hash(es[:k]), hash(es[k:]))
	}
	for n := 1; n <= len(entries); n++ {
		got, err := m.Root(ledger.Seq(n))
		if err != nil || got != ledger.Digest(hash(entries[:n])) {
			t.Errorf("root at %d is %s, %v; computed from the definition it is another", n, got, err)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	c := ledger.Checkpoint{Origin: ledger.CheckpointOrigin("test"), Size: 7, Root: ledger.DigestOf([]byte("root"))}
	signed, err := ledger.SignCheckpoint(c, ledgertest.Key("hub"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := ledger.OpenCheckpoint(signed, c.Origin, ledgertest.Public("hub"))
	if err != nil || got != c {
		t.Errorf("%+v, %v; want %+v", got, err, c)
	}
	const origin = "chancery.dev/ledger/test"
	if want := origin + "\n7\n"; !bytes.HasPrefix(signed, []byte(want)) {
		t.Errorf("%q does not begin with %q", signed, want)
	}
	for name, bad := range map[string]func() ([]byte, string, string){
		"another key":     func() ([]byte, string, string) { return signed, origin, "stranger" },
		"another install": func() ([]byte, string, string) { return signed, origin + "2", "hub" },
		"another size": func() ([]byte, string, string) {
			return bytes.Replace(signed, []byte("\n7\n"), []byte("\n8\n"), 1), origin, "hub"
		},
		"nothing":   func() ([]byte, string, string) { return nil, origin, "hub" },
		"cut short": func() ([]byte, string, string) { return signed[:len(signed)-9], origin, "hub" },
	} {
		b, o, key := bad()
		if _, err := ledger.OpenCheckpoint(b, o, ledgertest.Public(key)); !errors.Is(err, ledger.ErrCheckpoint) {
			t.Errorf("%s: %v, want ErrCheckpoint", name, err)
		}
	}
}

func ExampleObjectKey_Subject() {
	fmt.Println(ledger.ObjectKey{Cluster: "east", Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: "web.v2"}.Subject())
	fmt.Println(ledger.ObjectKey{Cluster: "east", Kind: "Namespace", Name: "default"}.Subject())
	// Output:
	// chancery.event.east.getambassador%2Eio.Mapping.default.web%2Ev2
	// chancery.event.east._.Namespace._.default
}
