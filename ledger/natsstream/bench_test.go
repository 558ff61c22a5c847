package natsstream_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// BenchmarkDurable carries signed events of 1 KiB from a publisher through the
// synced stream into a synced ledger. One operation is a run of publishes; it
// ends when the ledger has them all.
func BenchmarkDurable(b *testing.B) {
	for _, c := range []struct{ batch, publishes int }{{1, 100}, {natsstream.MaxBatch, 10}} {
		b.Run(fmt.Sprintf("batch=%d", c.batch), func(b *testing.B) {
			p, h, east := start(b, b.TempDir()), ledgertest.NewHub(), ledgertest.NewCollector("east")
			s := storeAt(b, filepath.Join(b.TempDir(), "a.db"))
			follow(b, p, s, natsstream.FollowerOptions{})
			p.begin(b, h, "east")
			p.publish(b, east.Begin())
			waitDurable(b, s, 4)
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ms := make([]natsstream.Message, c.batch*c.publishes)
				for i := range ms {
					n++
					ms[i] = message(put1KiB(east, n))
				}
				b.StartTimer()
				for part := range slices.Chunk(ms, c.batch) {
					if _, err := p.pub.PublishBatch(b.Context(), part); err != nil {
						b.Fatal(err)
					}
				}
				waitDurable(b, s, ledger.Seq(4+n))
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkAppend is the ledger's part of BenchmarkDurable.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 10, 100, ledger.MaxAppend} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s := storeAt(b, filepath.Join(b.TempDir(), "a.db"))
			h, east, stream := ledgertest.NewHub(), ledgertest.NewCollector("east"), &ledgertest.Stream{Incarnation: "one"}
			ledgertest.MustAppend(b, s, stream.Next(append(ledgertest.Opening(h, "one", "east"), east.Begin())...)...)
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				ms := make([]ledger.Incoming, size)
				for i := range ms {
					n++
					ms[i] = put1KiB(east, n)
				}
				ms = stream.Next(ms...)
				b.StartTimer()
				ledgertest.MustAppend(b, s, ms...)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

var padding = strings.Repeat("x", 260)

// put1KiB returns an event of about 1 KiB.
func put1KiB(c *ledgertest.Collector, n int) ledger.Incoming {
	return c.Put(fmt.Sprintf("m%05d", n%10_000), padding)
}

func waitDurable(b *testing.B, s *boltstore.Store, size ledger.Seq) {
	b.Helper()
	if err := s.Wait(b.Context(), size); err != nil {
		b.Fatal(err)
	}
}
