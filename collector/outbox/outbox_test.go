package outbox_test

import (
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/collector/outbox"
	"github.com/chancery-dev/chancery/ledger"
)

const cluster = collectortest.Cluster

func open(t testing.TB, path string, o outbox.Options) *outbox.Box {
	t.Helper()
	b, err := outbox.Open(path, cluster, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() }) // most tests have closed it
	return b
}

func key(name string) ledger.ObjectKey {
	return ledger.ObjectKey{Cluster: cluster, Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: name}
}

func item(epoch, n uint64) collector.Item {
	return collector.Item{
		At: collector.Position{Epoch: epoch, N: n}, Subject: "chancery.event.east.x",
		Record: ledger.Sign([]byte(`{"n":1}`), collectortest.Key()),
	}
}

// outboxes are the kinds that keep the same promises.
func outboxes(t *testing.T) map[string]func() collector.Outbox {
	return map[string]func() collector.Outbox{
		"file": func() collector.Outbox {
			return open(t, filepath.Join(t.TempDir(), "outbox.db"), outbox.Options{MaxBytes: 1 << 20})
		},
		"memory": func() collector.Outbox { return collectortest.NewOutbox(nil, 1<<20) },
	}
}

func apply(t testing.TB, o collector.Outbox, batches ...collector.Batch) {
	t.Helper()
	for _, b := range batches {
		if err := o.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
}

func load(t testing.TB, o collector.Outbox) collector.State {
	t.Helper()
	s, err := o.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func positions(t testing.TB, o collector.Outbox, from collector.Position, n, maxBytes int) []collector.Position {
	t.Helper()
	items, err := o.Read(from, n, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	var out []collector.Position
	for _, it := range items {
		out = append(out, it.At)
	}
	return out
}

func TestOutbox(t *testing.T) {
	for name, make := range outboxes(t) {
		t.Run(name, func(t *testing.T) {
			o := make()
			told := collector.Told{Digest: ledger.DigestOf([]byte("x")), At: collector.Position{Epoch: 1, N: 1}, Where: "a.yaml"}
			apply(t, o, collector.Batch{
				Epoch: 1, Append: []collector.Item{item(1, 0), item(1, 1), item(1, 2)},
				Tell:     map[ledger.ObjectKey]collector.Told{key("a"): told, key("b"): told},
				Findings: &told,
			})
			want := collector.State{
				Epoch: 1, Oldest: collector.Position{Epoch: 1}, Findings: told,
				Inventory: map[ledger.ObjectKey]collector.Told{key("a"): told, key("b"): told},
			}
			if d := cmp.Diff(want, load(t, o)); d != "" {
				t.Errorf("after the first batch (-want +got):\n%s", d)
			}
			got := positions(t, o, collector.Position{Epoch: 1, N: 1}, 1, 1<<20)
			if d := cmp.Diff([]collector.Position{{Epoch: 1, N: 1}}, got); d != "" {
				t.Errorf("reading one (-want +got):\n%s", d)
			}
			if got := positions(t, o, collector.Position{}, 10, 1); len(got) != 1 {
				t.Errorf("read %d items within one byte, want one", len(got))
			}
			used, _ := o.Size()
			if used == 0 {
				t.Error("no bytes are used")
			}

			// Untell is before Tell, so that an object can go and come in one batch.
			apply(t, o, collector.Batch{
				Untell: []ledger.ObjectKey{key("a"), key("b")}, Tell: map[ledger.ObjectKey]collector.Told{key("b"): told},
				Trim: &collector.Position{Epoch: 1, N: 1},
			})
			want.Inventory = map[ledger.ObjectKey]collector.Told{key("b"): told}
			want.Trimmed, want.Oldest = collector.Position{Epoch: 1, N: 1}, collector.Position{Epoch: 1, N: 2}
			if d := cmp.Diff(want, load(t, o)); d != "" {
				t.Errorf("after trimming (-want +got):\n%s", d)
			}
			if now, _ := o.Size(); now >= used {
				t.Errorf("%d bytes after trimming, %d before", now, used)
			}

			apply(t, o, collector.Batch{Reset: true, Epoch: 2, Append: []collector.Item{item(2, 0)}})
			want = collector.State{Epoch: 2, Partial: true, Oldest: collector.Position{Epoch: 2}, Inventory: map[ledger.ObjectKey]collector.Told{}}
			if d := cmp.Diff(want, load(t, o)); d != "" {
				t.Errorf("after a reset (-want +got):\n%s", d)
			}
			if got := positions(t, o, collector.Position{}, 10, 1<<20); len(got) != 1 {
				t.Errorf("items %v after a reset, want the claim", got)
			}
			apply(t, o, collector.Batch{Whole: true, Trim: &collector.Position{Epoch: 2}})
			if used, _ := o.Size(); used != 0 || load(t, o).Partial {
				t.Errorf("%d bytes, partial %v, want none and whole", used, load(t, o).Partial)
			}
		})
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outbox.db")
	b := open(t, path, outbox.Options{})
	apply(t, b, collector.Batch{Epoch: 3, Append: []collector.Item{item(3, 0)}, Tell: map[ledger.ObjectKey]collector.Told{key("a"): {}}})
	before := load(t, b)
	used, _ := b.Size()
	items, err := b.Read(collector.Position{}, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, path, outbox.Options{})
	if d := cmp.Diff(before, load(t, b)); d != "" {
		t.Error(d)
	}
	if again, _ := b.Size(); again != used {
		t.Errorf("%d bytes, want %d", again, used)
	}
	again, err := b.Read(collector.Position{}, 10, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(items, again); d != "" {
		t.Error(d)
	}
	if !again[0].Record.Verify(collectortest.Key().Public().(ed25519.PublicKey)) {
		t.Error("the signature is not the one that was kept")
	}
}

func TestRefusals(t *testing.T) {
	fresh := func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "outbox.db")
		b := open(t, path, outbox.Options{})
		for n := range uint64(50) {
			apply(t, b, collector.Batch{Epoch: 1, Append: []collector.Item{item(1, n)}, Tell: map[ledger.ObjectKey]collector.Told{key("a"): {}}})
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	put := func(t *testing.T, path, bucket, k string, v []byte) {
		t.Helper()
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(k), v) }); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(t *testing.T, path string, name ledger.ClusterName, want error) {
		t.Helper()
		b, err := outbox.Open(path, name, outbox.Options{Timeout: 50 * time.Millisecond})
		if !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		if b != nil {
			_ = b.Close() // it should not have been opened
		}
	}
	t.Run("locked", func(t *testing.T) {
		path := fresh(t)
		open(t, path, outbox.Options{})
		refused(t, path, cluster, outbox.ErrLocked)
	})
	t.Run("newer", func(t *testing.T) {
		path := fresh(t)
		// Format 2, with its checksum.
		put(t, path, "meta", "format", []byte{0x6d, 0x13, 0xc2, 0x7d, 0, 0, 0, 0, 0, 0, 0, 2})
		refused(t, path, cluster, outbox.ErrNewer)
	})
	t.Run("of another cluster", func(t *testing.T) {
		refused(t, fresh(t), "west", outbox.ErrOtherCluster)
	})
	t.Run("flipped value", func(t *testing.T) {
		path := fresh(t)
		put(t, path, "inventory", key("a").String(), []byte("12345678"))
		refused(t, path, cluster, outbox.ErrCorrupt)
	})
	t.Run("not a database", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "outbox.db")
		if err := os.WriteFile(path, make([]byte, 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, path, cluster, outbox.ErrCorrupt)
	})
	for _, size := range []int64{1, 5000, 17_000, 20_000} {
		t.Run("truncated", func(t *testing.T) {
			path := fresh(t)
			if err := os.Truncate(path, size); err != nil {
				t.Fatal(err)
			}
			refused(t, path, cluster, outbox.ErrCorrupt)
		})
	}
	t.Run("moved away", func(t *testing.T) {
		path := fresh(t)
		if err := os.Truncate(path, 5000); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".damaged"); err != nil {
			t.Fatal(err)
		}
		b := open(t, path, outbox.Options{})
		if s := load(t, b); s.Epoch != 0 || len(s.Inventory) != 0 {
			t.Errorf("a new outbox remembers %+v", s)
		}
	})
}
