package envoy_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

func benchHost(i int) ir.VirtualHost {
	name := fmt.Sprintf("host-%05d.example", i)
	return ir.VirtualHost{Name: name, Domains: []string{name}, Routes: []ir.Route{{
		Name: "shop/web", Match: ir.Match{Path: "/api/"}, Timeout: ptr(3 * time.Second), Rewrite: ir.Rewrite{Prefix: ptr("/")},
		Action:   ir.Action{Forward: []ir.Weighted{{Upstream: fmt.Sprintf("east.shop.web-%05d.80", i)}}},
		Metadata: ir.Source{Cluster: "east", Kind: "Mapping", Namespace: "shop", Name: name},
	}}}
}

func benchHosts(b *testing.B, n int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		h, err := envoy.VirtualHost(benchHost(i))
		if err != nil {
			b.Fatal(err)
		}
		out[i] = h
	}
	return out
}

func BenchmarkUpstream(b *testing.B) {
	u := ir.Upstream{Name: "east.shop.web.80", AltStat: "web_shop", Discovery: ir.DiscoverEndpoints, Endpoints: "east/shop/web/80", Connect: 3 * time.Second}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envoy.Upstream(u); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListener(b *testing.B) {
	l := full().Listeners[0]
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envoy.Listener(l); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVirtualHost(b *testing.B) {
	v := benchHost(1)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envoy.VirtualHost(v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRouteTable(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			hosts := benchHosts(b, n)
			b.ReportAllocs()
			for b.Loop() {
				if r := envoy.RouteTable("t", hosts, true, 0); len(r.Bytes) == 0 {
					b.Fatal("empty")
				}
			}
		})
	}
}

// BenchmarkChecker applies the change of one host in one table of 10,000, there
// and back.
func BenchmarkChecker(b *testing.B) {
	hosts := benchHosts(b, 10000)
	before := envoy.RouteTable("t", hosts, true, 0)
	changed, err := envoy.VirtualHost(ir.VirtualHost{Name: "host-05000.example", Domains: []string{"host-05000.example"}})
	if err != nil {
		b.Fatal(err)
	}
	hosts[5000] = changed
	after := envoy.RouteTable("t", hosts, true, 0)
	c := envoy.NewChecker()
	updates := []projector.Update{{Type: projector.Routes, Name: "t", Resource: &before}}
	for i := range hosts {
		u, err := envoy.Upstream(ir.Upstream{Name: fmt.Sprintf("east.shop.web-%05d.80", i)})
		if err != nil {
			b.Fatal(err)
		}
		updates = append(updates, projector.Update{Type: projector.Upstreams, Name: u.Name, Resource: &u})
	}
	c.Apply(updates)
	if p := c.Problems(); len(p) > 0 {
		b.Fatal(p[0])
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Apply([]projector.Update{{Type: projector.Routes, Name: "t", Resource: &after}})
		c.Apply([]projector.Update{{Type: projector.Routes, Name: "t", Resource: &before}})
	}
}
