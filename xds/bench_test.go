package xds_test

import (
	"fmt"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds/cache"
)

// BenchmarkFanOut changes one of many upstreams and waits until every stream
// has received it, over real gRPC on a socket.
func BenchmarkFanOut(b *testing.B) {
	for _, size := range []struct{ streams, resources int }{{1, 10_000}, {100, 1_000}, {100, 10_000}} {
		b.Run(fmt.Sprintf("streams=%d/resources=%d", size.streams, size.resources), func(b *testing.B) {
			f := serve(b, cache.Options{})
			go func() { // nobody waits for verdicts
				for range f.verdicts {
				}
			}()
			b.Cleanup(func() { f.stop(); close(f.verdicts) })
			upstream := func(i, change int) projector.Update {
				return put(b, fmt.Sprintf("east/default/service-%05d/80", i), &clusterv3.Cluster{
					Name:                 fmt.Sprintf("east/default/service-%05d/80", i),
					AltStatName:          fmt.Sprintf("some_longer_name_for_statistics_%05d_%d", i, change),
					ConnectTimeout:       durationpb.New(3_000_000_000),
					ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
				})
			}
			updates := make([]projector.Update, 0, size.resources)
			for i := range size.resources {
				updates = append(updates, upstream(i, 0))
			}
			s := projector.EmptySnapshot().With(updates)
			f.Offer(head(1, s), s)
			clients := make([]*client, size.streams)
			for i := range clients {
				c := dial(b, f.socket)
				clients[i] = c
				c.ask(upstreams)
				r, _ := c.next()
				if len(r.GetResources()) != size.resources {
					b.Fatalf("got %d resources", len(r.GetResources()))
				}
				c.has = map[string]map[string]string{}
				c.ack(r)
			}
			waitFor(b, "the streams to settle", func() bool {
				for _, n := range f.Nodes() {
					if !n.Settled {
						return false
					}
				}
				return true
			})
			b.ReportAllocs()
			n := 1
			for b.Loop() {
				n++
				s = s.With([]projector.Update{upstream(n%size.resources, n)})
				f.Offer(head(uint64(n), s), s)
				for _, c := range clients {
					r, _ := c.next()
					if len(r.GetResources()) != 1 {
						b.Fatalf("got %d resources for one change", len(r.GetResources()))
					}
					c.ack(r)
				}
			}
		})
	}
}

// BenchmarkConnect has one more Envoy connect that has nothing yet.
func BenchmarkConnect(b *testing.B) {
	f := serve(b, cache.Options{})
	updates := make([]projector.Update, 0, 10_000)
	for i := range 10_000 {
		updates = append(updates, raw(upstreams, fmt.Sprintf("east/default/service-%05d/80", i), fmt.Sprintf("%0150d", i)))
	}
	s := projector.EmptySnapshot().With(updates)
	f.Offer(head(1, s), s)
	b.ReportAllocs()
	for b.Loop() {
		c := dial(b, f.socket)
		c.send(&discovery.DeltaDiscoveryRequest{TypeUrl: cache.TypeURL(upstreams)})
		<-c.in
		c.hangUp()
	}
}
