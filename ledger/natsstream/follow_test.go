package natsstream_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// TestReplicas: two ledgers that follow one stream are equal, whatever their
// batches, though one is stopped and opened again on the way.
func TestReplicas(t *testing.T) {
	p, h, east := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east")
	a := store(t, "a.db")
	pathB := filepath.Join(t.TempDir(), "b.db")
	b := storeAt(t, pathB)
	follow(t, p, a, natsstream.FollowerOptions{})
	fb := follow(t, p, b, natsstream.FollowerOptions{MaxBatch: 3})
	p.begin(t, h, "east")
	p.publish(t, east.Begin())
	for i := range 40 {
		p.publish(t, east.Put(fmt.Sprint("m", i%5), fmt.Sprint(i)))
	}
	wait(t, b, 20)
	fb.stop(t)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	var batch []natsstream.Message
	for i := range 500 {
		batch = append(batch, message(east.Put(fmt.Sprint("n", i%50), fmt.Sprint(i))))
	}
	if _, err := p.pub.PublishBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	b = storeAt(t, pathB)
	follow(t, p, b, natsstream.FollowerOptions{MaxBatch: 7})
	const all = 3 + 1 + 40 + 500
	wait(t, a, all)
	wait(t, b, all)
	if x, y := rootOf(t, a), rootOf(t, b); x != y || a.Size() != b.Size() {
		t.Errorf("roots %s at %d and %s at %d", x, a.Size(), y, b.Size())
	}
	if a.Cursor() != b.Cursor() {
		t.Errorf("cursors %+v and %+v", a.Cursor(), b.Cursor())
	}
	if err := b.Verify(t.Context(), 1, nil); err != nil {
		t.Error(err)
	}
}

// TestLostAck: a collector that was not told publishes again; the stream drops
// the same message id, the ledger the same event.
func TestLostAck(t *testing.T) {
	p, h, east, s := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	p.publish(t, east.Begin())
	put := east.Put("web", "1")
	m := message(put)
	for i, wantDuplicates := range []int{0, 1} {
		ack, err := p.pub.Publish(t.Context(), m)
		if err != nil || ack.Duplicates != wantDuplicates {
			t.Fatalf("publish %d: %+v, %v; want %d duplicates", i+1, ack, err, wantDuplicates)
		}
	}
	p.publish(t, put, east.Put("web", "2")) // a fresh message id, so the stream keeps it
	wait(t, s, 6)
	if got := s.Size(); got != 6 {
		t.Errorf("size %d, want 6", got)
	}
	if got := s.Cursor().StreamSeq; got != 7 {
		t.Errorf("consumed to %d, want 7", got)
	}
}

// TestGaps: what comes after a gap is not appended until the gap is filled, and
// a claim in vain is told which epoch to claim.
func TestGaps(t *testing.T) {
	p, h, east, s := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	f := follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	begin, first, second := east.Begin(), east.Put("web", "1"), east.Put("web", "2")
	p.publish(t, first)
	f.gap(t, gap{"east", 1, 0})
	p.publish(t, begin, second)
	f.gap(t, gap{"east", 1, 1})
	p.publish(t, first, second)
	wait(t, s, 6)
	other := ledgertest.NewCollector("east")
	other.Instance = "east-b"
	p.publish(t, other.Begin()) // epoch 1 again
	f.gap(t, gap{"east", 2, 0})
	p.publish(t, other.Begin())
	wait(t, s, 7)
	other.Epoch = 6
	p.publish(t, other.Begin()) // epoch 7
	f.gap(t, gap{"east", 3, 0})
	if got, _ := s.Admission().Progress("east"); got.Epoch != 2 || got.Instance != "east-b" {
		t.Errorf("progress %+v, want epoch 2 of east-b", got)
	}
}

// TestStreamRecreated: the stream is deleted and made again. The follower says
// so, waits for the new incarnation to begin, and asks for what is missing.
func TestStreamRecreated(t *testing.T) {
	p, h, east, s := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	f := follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	p.publish(t, east.Begin(), east.Put("web", "1"))
	wait(t, s, 5)
	deleteStream(t, p)
	f.loss(t, natsstream.StreamMissing)
	p.ensure(t)
	lost := east.Put("web", "2")
	p.publish(t, lost) // before the incarnation begins: passed over
	f.loss(t, natsstream.NotBegun)
	p.open(t, h, s, false)
	f.gap(t, gap{"east", 1, 2})
	p.publish(t, lost, east.Put("web", "3"))
	wait(t, s, 8)
	if err := s.Verify(t.Context(), 1, nil); err != nil {
		t.Error(err)
	}
}

func deleteStream(t *testing.T, p *plane) {
	t.Helper()
	js, err := jetstream.New(p.conn.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), natsstream.StreamName); err != nil {
		t.Fatal(err)
	}
}

// TestPurged: messages are gone that nobody has consumed.
func TestPurged(t *testing.T) {
	p, h, east, s := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	f := follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	p.publish(t, east.Begin())
	wait(t, s, 4)
	f.stop(t)
	one, two := east.Put("web", "1"), east.Put("web", "2")
	p.publish(t, one, two)
	js, err := jetstream.New(p.conn.Conn)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), natsstream.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(6)); err != nil {
		t.Fatal(err)
	}
	f = follow(t, p, s, natsstream.FollowerOptions{})
	if l := f.loss(t, natsstream.MessagesMissing); l.Incarnation == "" {
		t.Errorf("%+v does not name the incarnation", l)
	}
	if got := s.Size(); got != 4 {
		t.Errorf("size %d after messages went missing, want 4: nothing may be appended over a gap", got)
	}
	p.open(t, h, s, true)
	f.gap(t, gap{"east", 1, 1})
	p.publish(t, one, two)
	wait(t, s, 7)
}

// TestStreamRegressed: the stream is set back to a copy and written anew.
func TestStreamRegressed(t *testing.T) {
	for name, anew := range map[string]int{"shorter": 0, "as long again": 2} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p, h, east, s := start(t, dir), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
			f := follow(t, p, s, natsstream.FollowerOptions{})
			p.begin(t, h, "east")
			p.publish(t, east.Begin(), east.Put("web", "1"))
			wait(t, s, 5)
			f.stop(t)
			p.stop()
			backup := filepath.Join(t.TempDir(), "backup")
			if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			p = start(t, dir)
			f = follow(t, p, s, natsstream.FollowerOptions{})
			p.publish(t, east.Put("web", "2"), east.Put("web", "3"))
			wait(t, s, 7)
			f.stop(t)
			p.stop()
			p = start(t, backup)
			for i := range anew {
				p.publish(t, east.Put("api", fmt.Sprint(i)))
			}
			f = follow(t, p, s, natsstream.FollowerOptions{})
			f.loss(t, natsstream.StreamRegressed)
			if got := s.Size(); got != 7 {
				t.Errorf("size %d on a stream that was set back, want 7", got)
			}
			p.open(t, h, s, true)
			f.gap(t, gap{"east", 1, 4})
			east.Rewind(4)
			p.publish(t, east.Put("web", "4"))
			wait(t, s, 9)
		})
	}
}

// TestPeerRebuild: a replica that has lost its ledger gets it from a peer and
// goes on in the stream where the peer is.
func TestPeerRebuild(t *testing.T) {
	p, h, east, a := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	fa := follow(t, p, a, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	early := east.Begin()
	skipped, dropped := east.Put("web", "1"), east.Put("web", "2")
	p.publish(t, early, dropped, skipped) // 2 is a gap when it comes, and would not be when read again
	wait(t, a, 5)
	deleteStream(t, p)
	fa.loss(t, natsstream.StreamMissing)
	p.ensure(t)
	p.open(t, h, a, false)
	wait(t, a, 6)
	b := store(t, "b.db")
	fb := follow(t, p, b, natsstream.FollowerOptions{})
	if l := fb.loss(t, natsstream.Behind); l.Base != 5 {
		t.Errorf("behind base %d, want 5", l.Base)
	}
	var export bytes.Buffer
	tr, err := a.Export(t.Context(), &export, b.Size()+1)
	if err != nil {
		t.Fatal(err)
	}
	cp := ledger.Checkpoint{Origin: ledger.CheckpointOrigin("test"), Size: tr.Size, Root: rootOf(t, a)}
	if err := b.Import(t.Context(), &export, cp); err != nil {
		t.Fatal(err)
	}
	p.publish(t, dropped, east.Put("web", "3"))
	wait(t, a, 8)
	wait(t, b, 8)
	if rootOf(t, a) != rootOf(t, b) {
		t.Error("roots differ after a rebuild from a peer")
	}
}

// TestTail: an incarnation begins before the end of this replica's ledger.
func TestTail(t *testing.T) {
	p, h, east, s := start(t, t.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east"), store(t, "a.db")
	f := follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	p.publish(t, east.Begin())
	wait(t, s, 4)
	base := rootOf(t, s)
	one, two := east.Put("web", "1"), east.Put("web", "2")
	p.publish(t, one, two)
	wait(t, s, 6)
	deleteStream(t, p)
	p.ensure(t)
	p.openAt(t, h, 4, base, false)
	l := f.loss(t, natsstream.TailSetAside)
	if info, err := os.Stat(l.Aside); err != nil || info.Size() == 0 {
		t.Errorf("what was set aside is not in %q: %v", l.Aside, err)
	}
	f.gap(t, gap{"east", 1, 1})
	p.publish(t, one)
	wait(t, s, 6)
	if got := s.Size(); got != 6 {
		t.Errorf("size %d, want 6: four, the begin, one event", got)
	}
	if err := s.Verify(t.Context(), 1, nil); err != nil {
		t.Error(err)
	}
}

// TestDiverged: an incarnation begins on a root that this replica does not have.
func TestDiverged(t *testing.T) {
	p, h, s := start(t, t.TempDir()), ledgertest.NewHub(), store(t, "a.db")
	f := follow(t, p, s, natsstream.FollowerOptions{})
	p.begin(t, h, "east")
	wait(t, s, 3)
	for _, size := range []ledger.Seq{3, 2} {
		deleteStream(t, p)
		p.ensure(t)
		p.openAt(t, h, size, ledger.DigestOf([]byte("another")), false)
		f.loss(t, natsstream.Diverged)
		if got := s.Size(); got != 3 {
			t.Errorf("size %d, want 3", got)
		}
	}
}
