package measure_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/outbox"
	"github.com/chancery-dev/chancery/collector/stream"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// told is a site that says what it is given.
type told chan collector.Update

// Run emits the updates until ctx ends.
func (t told) Run(ctx context.Context, emit func(collector.Update)) error {
	for {
		select {
		case u := <-t:
			emit(u)
		case <-ctx.Done():
			return nil
		}
	}
}

// BenchmarkDurable has a site change some objects of about 1 KiB at once, and
// measures until all of them are in the ledger: through the collector with its
// outbox, the stream and the follower, each of which syncs.
func BenchmarkDurable(b *testing.B) {
	for _, n := range []int{1, 10, 1_000, 10_000} {
		b.Run(fmt.Sprintf("objects=%d", n), func(b *testing.B) {
			site, store := startCollector(b)
			round := 0
			objects := func() []*collector.Object {
				round++
				out := make([]*collector.Object, n)
				for i := range out {
					out[i] = mapping(b, i, round)
				}
				return out
			}
			site <- collector.Update{Full: true, Put: objects()}
			size := ledger.Seq(3 + n + 2) // the opening, the objects between their sync's begin and end
			await(b, store, size)
			events := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				u := collector.Update{Put: objects()}
				b.StartTimer()
				site <- u
				size += ledger.Seq(n)
				await(b, store, size)
				events += n
			}
			b.ReportMetric(float64(events)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func await(b *testing.B, store *boltstore.Store, size ledger.Seq) {
	b.Helper()
	if err := store.Wait(b.Context(), size); err != nil {
		b.Fatal(err)
	}
}

var kib = strings.Repeat("x", 300)

// mapping is a Mapping of whose events each has about 1 KiB.
func mapping(b *testing.B, i, round int) *collector.Object {
	b.Helper()
	o, err := collector.Normaliser{Cluster: "east", DigestKey: make([]byte, 32)}.Normalise(map[string]any{
		"apiVersion": "getambassador.io/v3alpha1", "kind": "Mapping",
		"metadata": map[string]any{"name": fmt.Sprintf("m%05d", i), "namespace": "default", "labels": map[string]any{"pad": kib[:60]}, "annotations": map[string]any{"note": kib}},
		"spec":     map[string]any{"hostname": "*", "prefix": fmt.Sprintf("/%d/", i), "service": "echo", "timeout_ms": int64(1000 + round)},
	}, "site.yaml", "")
	if err != nil {
		b.Fatal(err)
	}
	return o
}

// startCollector runs a collector, a stream and a ledger that follows it, on an
// opened install.
func startCollector(b *testing.B) (told, *boltstore.Store) {
	b.Helper()
	base := b.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	server, err := natsstream.StartServer(natsstream.ServerOptions{StoreDir: filepath.Join(base, "nats"), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Shutdown)
	conn, err := natsstream.Connect(natsstream.ConnectOptions{Name: "measure", Server: server, Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	incarnation, err := natsstream.EnsureStream(b.Context(), conn, natsstream.StreamOptions{})
	if err != nil {
		b.Fatal(err)
	}
	store, err := boltstore.Open(filepath.Join(base, "ledger.db"), boltstore.Options{Hub: ledgertest.Public("hub"), Logger: quiet})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	pub := natsstream.NewPublisher(conn, 0)
	for i, in := range ledgertest.Opening(ledgertest.NewHub(), incarnation, "east") {
		if _, err := pub.Publish(b.Context(), natsstream.Message{Record: in.Record, Subject: in.Subject, MsgID: fmt.Sprint(i)}); err != nil {
			b.Fatal(err)
		}
	}
	follower := natsstream.NewFollower(conn, store, natsstream.FollowerOptions{Logger: quiet, OnCommit: func(results []ledger.Result) {
		if id := results[len(results)-1].Event.ID; id.Cluster == "east" {
			_ = natsstream.SendControl(conn.Conn, "east", natsstream.Control{Trim: &natsstream.Trim{Epoch: id.Epoch, Instance: id.Instance, N: id.N}}) // said again
		}
	}})
	box, err := outbox.Open(filepath.Join(base, "outbox.db"), "east", outbox.Options{})
	if err != nil {
		b.Fatal(err)
	}
	control := make(chan collector.Control, 64)
	stop, err := stream.Subscribe(conn, "east", control)
	if err != nil {
		b.Fatal(err)
	}
	site := make(told)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { _ = follower.Run(ctx); ended <- nil }()
	go func() {
		ended <- collector.Run(ctx, collector.Config{
			Cluster: "east", Key: ledgertest.Key("east"), Instance: "a", Site: site, Outbox: box,
			Stream: stream.New(conn, pub), Control: control, Logger: quiet,
		})
	}()
	b.Cleanup(func() {
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				b.Error(err)
			}
		}
		if err := stop(); err != nil {
			b.Error(err)
		}
		if err := box.Close(); err != nil {
			b.Error(err)
		}
	})
	return site, store
}
