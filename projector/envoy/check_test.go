package envoy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

func problems(ps []envoy.Problem) []string {
	out := []string{}
	for _, p := range ps {
		out = append(out, p.String())
	}
	return out
}

func TestFullHasNoProblem(t *testing.T) {
	if got := problems(envoy.Check(snapshot(t, full()))); len(got) > 0 {
		t.Errorf("problems:\n%s", strings.Join(got, "\n"))
	}
}

// TestEveryReferenceIsChecked removes each resource in turn: something must
// miss it, except listeners, to which nothing refers.
func TestEveryReferenceIsChecked(t *testing.T) {
	updates, err := write(full())
	if err != nil {
		t.Fatal(err)
	}
	s := projector.EmptySnapshot().With(updates)
	for _, u := range updates {
		if u.Type == projector.Listeners {
			continue
		}
		ps := envoy.Check(s.With([]projector.Update{{Type: u.Type, Name: u.Name}}))
		want := envoy.Ref{Type: u.Type, Name: u.Name}
		if !slices.ContainsFunc(ps, func(p envoy.Problem) bool { return p.Other != nil && *p.Other == want }) {
			t.Errorf("nothing misses %s: %q", want, problems(ps))
		}
	}
}

func TestCheck(t *testing.T) {
	forward := func(u string) ir.Action { return ir.Action{Forward: []ir.Weighted{{Upstream: u}}} }
	http := &ir.HTTP{Routes: "t"}
	table := func(hosts ...ir.VirtualHost) []ir.RouteTable { return []ir.RouteTable{{Name: "t", Hosts: hosts}} }
	for _, c := range []struct {
		name string
		config
		want []string
	}{
		{"unknown upstream", config{Tables: table(ir.VirtualHost{Name: "a", Domains: []string{"a"}, Routes: []ir.Route{{Action: forward("u")}}})}, []string{
			"routes t: it refers to upstreams u, which the snapshot does not have",
		}},
		{"unknown table", config{Listeners: []ir.Listener{{Name: "l", Address: "127.0.0.1", Port: 1, Chains: []ir.Chain{{Name: "c", HTTP: http}}}}}, []string{
			"listeners l: it refers to routes t, which the snapshot does not have",
		}},
		{"one domain twice", config{Tables: table(
			ir.VirtualHost{Name: "a", Domains: []string{"x.example", "Y.example"}}, ir.VirtualHost{Name: "b", Domains: []string{"y.example"}},
		)}, []string{"routes t: domain y.example is in virtual host a and in b"}},
		{"one name twice", config{Tables: table(
			ir.VirtualHost{Name: "a", Domains: []string{"x"}}, ir.VirtualHost{Name: "a", Domains: []string{"y"}},
		)}, []string{"routes t: it has two virtual hosts named a"}},
		{"one address twice", config{Tables: table(), Listeners: []ir.Listener{
			{Name: "m", Address: "127.0.0.1", Port: 1, Chains: []ir.Chain{{HTTP: http}}},
			{Name: "l", Address: "127.0.0.1", Port: 1, Chains: []ir.Chain{{HTTP: http}}},
			{Name: "n", Address: "127.0.0.2", Port: 1, Chains: []ir.Chain{{HTTP: http}}},
		}}, []string{"listeners m: it binds TCP 127.0.0.1:1, as listeners l does"}},
		{"one match twice", config{Tables: table(), Listeners: []ir.Listener{{Name: "l", Address: "127.0.0.1", Port: 1, Chains: []ir.Chain{
			{Name: "one", ServerNames: []string{"a", "b"}, HTTP: http},
			{Name: "two", ServerNames: []string{"b", "c"}, HTTP: http},
			{Name: "any", HTTP: http},
			{Name: "any", HTTP: http, SourceCIDRs: []string{"10.0.0.0/8"}},
		}}}}, []string{
			"listeners l: chains one and two both match b, any transport, from anywhere, any port",
			"listeners l: it has two chains named any",
		}},
		{"no chain", config{Listeners: []ir.Listener{{Name: "l", Address: "127.0.0.1", Port: 1}}}, []string{
			"listeners l: it has no chain, so it can treat no connection",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, problems(envoy.Check(snapshot(t, c.config)))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestCheckerIsIncremental: whatever way led to a snapshot, the checker says
// what a check of the whole says.
func TestCheckerIsIncremental(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := envoy.NewChecker()
		at := projector.EmptySnapshot()
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			var updates []projector.Update
			for range rapid.IntRange(1, 3).Draw(t, "updates") {
				updates = append(updates, drawUpdate(t))
			}
			next := at.With(updates)
			c.Apply(projector.Diff(at, next))
			at = next
			if diff := cmp.Diff(problems(envoy.Check(at)), problems(c.Problems())); diff != "" {
				t.Fatalf("whole check (-) and checker (+):\n%s", diff)
			}
		}
	})
}

func drawUpdate(t *rapid.T) projector.Update {
	n := rapid.IntRange(0, 2).Draw(t, "which")
	kind := rapid.SampledFrom([]projector.ResourceType{projector.Upstreams, projector.Routes, projector.Listeners, projector.EndpointNeeds}).Draw(t, "type")
	u := projector.Update{Type: kind, Name: fmt.Sprintf("r%d", n)}
	if rapid.Bool().Draw(t, "remove") {
		return u
	}
	other := fmt.Sprintf("r%d", rapid.IntRange(0, 2).Draw(t, "other"))
	var r projector.Resource
	var err error
	switch kind {
	case projector.Upstreams:
		r, err = envoy.Upstream(ir.Upstream{Name: u.Name, Discovery: ir.DiscoverEndpoints, Endpoints: other})
	case projector.Routes:
		table := ir.RouteTable{Name: u.Name}
		for i := range rapid.IntRange(0, 3).Draw(t, "hosts") {
			table.Hosts = append(table.Hosts, ir.VirtualHost{
				Name: fmt.Sprint(i), Domains: []string{rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "domain")},
				Routes: []ir.Route{{Action: ir.Action{Forward: []ir.Weighted{{Upstream: other}}}}},
			})
		}
		r, err = envoy.Routes(table)
	case projector.Listeners:
		r, err = envoy.Listener(ir.Listener{
			Name: u.Name, Address: "127.0.0.1", Port: rapid.Uint32Range(1, 2).Draw(t, "port"),
			Chains: []ir.Chain{{Name: "c", HTTP: &ir.HTTP{Routes: other}}},
		})
	default:
		r, err = envoy.EndpointNeed(ir.EndpointSet{Name: u.Name})
	}
	if err != nil {
		t.Fatal(err)
	}
	u.Resource = &r
	return u
}

func TestReferences(t *testing.T) {
	host := ir.VirtualHost{Name: "a", Domains: []string{"a"}, Routes: []ir.Route{{
		Action:  ir.Action{Forward: []ir.Weighted{{Upstream: "z", Weight: 1}, {Upstream: "a", Weight: 1}}},
		Mirrors: []ir.Mirror{{Upstream: "m", Percent: 1}},
	}}}
	want := []envoy.Ref{{projector.Upstreams, "a"}, {projector.Upstreams, "m"}, {projector.Upstreams, "z"}}
	b, err := envoy.VirtualHost(host)
	if err != nil {
		t.Fatal(err)
	}
	got, err := envoy.HostReferences(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	got, err = envoy.References(envoy.RouteTable("t", [][]byte{b}, true, 0), projector.Routes)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := envoy.References(projector.NewResource("x", []byte{0xff}), projector.Upstreams); err == nil {
		t.Error("damaged bytes have references")
	}
}
