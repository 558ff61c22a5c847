package xds_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds/cache"
)

// TestRoutesNeverReferToWhatIsGone runs random heads against a client that
// takes its time, refuses some, and then applies part of what it refused. At
// every moment each route that it has must lead to an upstream that it has,
// and in the end it must have exactly what is to be served.
func TestRoutesNeverReferToWhatIsGone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		// Upstreams of the bad heads are refused. The first head is good, for
		// there must be something to fall back to, and the last.
		bad := map[string]bool{} // by what responses say of themselves
		f := serve(t, cache.Options{WarmLimit: time.Hour})
		defer f.stop()
		has := map[string]map[string]string{} // by type URL and name: content
		for _, typ := range []projector.ResourceType{upstreams, listeners, routes} {
			has[cache.TypeURL(typ)] = map[string]string{}
		}
		check := func() {
			for name, to := range has[cache.TypeURL(routes)] {
				if _, ok := has[cache.TypeURL(upstreams)][strings.Fields(to)[0]]; !ok {
					rt.Fatalf("route %s leads to upstream %s, which is gone; has %v", name, to, has)
				}
			}
		}
		apply := func(r *discovery.DeltaDiscoveryResponse, only int) {
			for i, res := range r.GetResources() {
				if only < 0 || i < only {
					has[r.GetTypeUrl()][res.GetName()] = string(res.GetResource().GetValue())
				}
			}
			for _, name := range r.GetRemovedResources() {
				if only < 0 {
					delete(has[r.GetTypeUrl()], name)
				}
			}
		}
		world := func(i int) *projector.Snapshot {
			names := rapid.SliceOfNDistinct(rapid.IntRange(0, 5), 1, 6, rapid.ID).Draw(rt, "upstreams")
			updates := []projector.Update{raw(listeners, "l", fmt.Sprint(rapid.IntRange(0, 2).Draw(rt, "listener")))}
			for _, n := range names {
				updates = append(updates, raw(upstreams, fmt.Sprint("u", n), fmt.Sprint("v", rapid.IntRange(0, 2).Draw(rt, "version"))))
			}
			for _, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 4), 0, 5, rapid.ID).Draw(rt, "routes") {
				updates = append(updates, raw(routes, fmt.Sprint("r", n), fmt.Sprint("u", rapid.SampledFrom(names).Draw(rt, "to"), " ", i)))
			}
			return probed(t, updates...)
		}
		s := world(0)
		offered := map[string]bool{s.Fingerprint().Short(): true}
		f.Offer(head(1, s), s)
		c := dial(t, f.socket)
		defer c.hangUp()
		for _, typ := range []projector.ResourceType{upstreams, listeners, routes} {
			c.ask(typ)
		}
		c.ask(secrets, "probe")
		// answer takes the oldest response.
		waiting := []*discovery.DeltaDiscoveryResponse{}
		answer := func() {
			r := waiting[0]
			waiting = waiting[1:]
			if r.GetTypeUrl() == cache.TypeURL(upstreams) && bad[r.GetSystemVersionInfo()] {
				apply(r, rapid.IntRange(0, len(r.GetResources())).Draw(rt, "applied"))
				check()
				c.nack(r, "no")
				return
			}
			apply(r, -1)
			check()
			c.ack(r)
		}
		collect := func() {
			for {
				select {
				case r := <-c.in:
					if r.GetTypeUrl() == cache.TypeURL(secrets) {
						c.ack(r)
						continue
					}
					waiting = append(waiting, r)
				default:
					return
				}
			}
		}
		settled := func() bool {
			return slices.ContainsFunc(f.Nodes(), func(n cache.Node) bool { return n.Settled })
		}
		for begin := time.Now(); !settled() || len(has[cache.TypeURL(listeners)]) == 0; time.Sleep(100 * time.Microsecond) {
			if collect(); len(waiting) > 0 {
				answer()
			}
			if time.Since(begin) > patience {
				rt.Fatalf("the first head does not settle; has %v", has)
			}
		}
		generations := rapid.IntRange(1, 8).Draw(rt, "generations")
		for i := 2; i <= generations+1; i++ {
			for range rapid.IntRange(0, 4).Draw(rt, "answers") {
				if collect(); len(waiting) > 0 {
					answer()
				}
			}
			s = world(i)
			// What was good once stays so: it may be fallen back to.
			if name := s.Fingerprint().Short(); !offered[name] && rapid.IntRange(0, 3).Draw(rt, "bad") == 0 {
				bad[name] = true
			}
			offered[s.Fingerprint().Short()] = true
			f.Offer(head(uint64(i), s), s)
		}
		// The last head is one that was never refused.
		s = world(generations + 2)
		delete(bad, s.Fingerprint().Short())
		f.Offer(head(uint64(generations+2), s), s)
		want := map[string]map[string]string{}
		for _, typ := range []projector.ResourceType{upstreams, listeners, routes} {
			want[cache.TypeURL(typ)] = map[string]string{}
			for r := range s.All(typ) {
				want[cache.TypeURL(typ)][r.Name] = string(r.Bytes)
			}
		}
		equal := func() bool {
			return maps.EqualFunc(want, has, func(a, b map[string]string) bool { return maps.Equal(a, b) })
		}
		for begin := time.Now(); ; {
			if collect(); len(waiting) > 0 {
				answer()
				continue
			}
			if equal() && settled() {
				return
			}
			if time.Since(begin) > patience {
				rt.Fatalf("has %v, want %v", has, want)
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
}
