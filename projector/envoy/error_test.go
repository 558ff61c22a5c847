package envoy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// TestErrors: what cannot be written is refused with the names of the resource
// and of what is wrong.
func TestErrors(t *testing.T) {
	upstream := func(u ir.Upstream) error {
		u.Name = "up"
		_, err := envoy.Upstream(u)
		return err
	}
	listener := func(l ir.Listener) error {
		l.Name, l.Address, l.Port = "lis", "127.0.0.1", 1
		_, err := envoy.Listener(l)
		return err
	}
	chain := func(c ir.Chain) error { return listener(ir.Listener{Chains: []ir.Chain{c}}) }
	http := func(h ir.HTTP) error {
		h.Routes = "t"
		return chain(ir.Chain{Name: "c", HTTP: &h})
	}
	filter := func(f ir.Filter) error { return http(ir.HTTP{Filters: []ir.Filter{f}}) }
	route := func(r ir.Route) error {
		if len(r.Action.Forward) == 0 && r.Action.Redirect == nil && r.Action.Direct == nil {
			r.Action.Forward = []ir.Weighted{{Upstream: "u"}}
		}
		_, err := envoy.VirtualHost(ir.VirtualHost{Name: "host", Domains: []string{"h"}, Routes: []ir.Route{r}})
		return err
	}
	forward := func(ws ...ir.Weighted) ir.Action { return ir.Action{Forward: ws} }
	second := time.Second
	for _, c := range []struct {
		err  error
		want []string
	}{
		{upstream(ir.Upstream{LB: ir.LoadBalancer{Policy: "best"}}), []string{"upstream up", `"best"`}},
		{upstream(ir.Upstream{Discovery: ir.DiscoverEndpoints}), []string{"endpoint set"}},
		{upstream(ir.Upstream{Endpoints: "e"}), []string{"endpoints e"}},
		{upstream(ir.Upstream{DNS: &ir.DNS{}}), []string{"DNS"}},
		{upstream(ir.Upstream{Discovery: ir.DiscoverLogicalDNS}), []string{"one host"}},
		{upstream(ir.Upstream{Discovery: 9}), []string{"discovery 9"}},
		{upstream(ir.Upstream{HTTP2: true, Downstream: true}), []string{"HTTP/2"}},
		{upstream(ir.Upstream{ProxyProto: 3}), []string{"PROXY protocol version 3"}},
		{upstream(ir.Upstream{Breakers: []ir.Breaker{{}, {}}}), []string{"two circuit breakers"}},
		{upstream(ir.Upstream{Health: []ir.HealthCheck{{HTTP: &ir.HTTPCheck{}, GRPC: &ir.GRPCCheck{}}}}), []string{"health check 0"}},
		{upstream(ir.Upstream{Health: []ir.HealthCheck{{}}}), []string{"Timeout"}},
		{upstream(ir.Upstream{TLS: &ir.ClientTLS{MinVersion: "v1.2"}}), []string{"TLS", `"v1.2"`}},
		{upstream(ir.Upstream{TLS: &ir.ClientTLS{MinVersion: "1.3", MaxVersion: "1.2"}}), []string{"1.3 to 1.2"}},
		{upstream(ir.Upstream{TLS: &ir.ClientTLS{CA: "ca", SystemCA: true}}), []string{"choose one"}},
		{upstream(ir.Upstream{TLS: &ir.ClientTLS{SANs: []ir.StringMatch{{Exact: "x"}}}}), []string{"name a CA"}},
		{upstream(ir.Upstream{TLS: &ir.ClientTLS{CA: "ca", SANs: []ir.StringMatch{{Present: true}}}}), []string{"name a value"}},
		{upstream(ir.Upstream{Hosts: []ir.HostPort{{Host: "10.0.0.1", Port: 99999}}}), []string{"upstream up", "PortValue"}},
		{listener(ir.Listener{UDP: true, ProxyProto: ir.BeforeTLS}), []string{"listener lis", "PROXY"}},
		{listener(ir.Listener{UDP: true, Chains: []ir.Chain{{Name: "c", HTTP: &ir.HTTP{Routes: "t"}}}}), []string{"chain c", "QUIC"}},
		{chain(ir.Chain{Name: "c"}), []string{"chain c", "exactly one"}},
		{chain(ir.Chain{Name: "c", HTTP: &ir.HTTP{}, TCP: &ir.TCP{}}), []string{"exactly one"}},
		{chain(ir.Chain{Name: "c", ServerNames: []string{"*", "a"}, HTTP: &ir.HTTP{}}), []string{"*"}},
		{chain(ir.Chain{Name: "c", SourceCIDRs: []string{"10.0.0.0/99"}, HTTP: &ir.HTTP{}}), []string{`"10.0.0.0/99"`}},
		{chain(ir.Chain{Name: "c", TCP: &ir.TCP{}}), []string{"no target"}},
		{chain(ir.Chain{Name: "c", TCP: &ir.TCP{Targets: []ir.Weighted{{Upstream: "u", HostRewrite: "h"}}}}), []string{"TCP has none"}},
		{chain(ir.Chain{Name: "c", TLS: &ir.ServerTLS{ClientSANs: []ir.StringMatch{{Exact: "x"}}}, TCP: &ir.TCP{Targets: []ir.Weighted{{Upstream: "u"}}}}), []string{"ClientCA"}},
		{http(ir.HTTP{HTTP3: true}), []string{"UDP"}},
		{http(ir.HTTP{EscapedSlashes: "eat"}), []string{`"eat"`}},
		{http(ir.HTTP{Underscores: "eat"}), []string{`"eat"`}},
		{http(ir.HTTP{ForwardClientCert: "eat"}), []string{`"eat"`}},
		{http(ir.HTTP{Tracing: &ir.Tracing{Driver: "lightstep"}}), []string{`"lightstep"`}},
		{http(ir.HTTP{Tracing: &ir.Tracing{Driver: "zipkin", Upstream: "u", Tags: []ir.TraceTag{{Name: "n"}}}}), []string{"tag n"}},
		{http(ir.HTTP{AccessLogs: []ir.AccessLog{{}}}), []string{"access log 0"}},
		{http(ir.HTTP{AccessLogs: []ir.AccessLog{{Path: "p", Upstream: "u"}}}), []string{"choose one"}},
		{http(ir.HTTP{AccessLogs: []ir.AccessLog{{Path: "p", Text: "t", JSON: map[string]any{}}}}), []string{"choose one"}},
		{http(ir.HTTP{AccessLogs: []ir.AccessLog{{Path: "p", JSON: map[string]any{"f": func() {}}}}}), []string{"JSON format"}},
		{http(ir.HTTP{AccessLogs: []ir.AccessLog{{Upstream: "u", TCP: true, LogName: "n", Headers: []ir.LogHeader{{Name: "h"}}}}}), []string{"no headers"}},
		{http(ir.HTTP{LocalReplies: []ir.LocalReply{{Status: 404, Body: "b", JSON: map[string]string{}}}}), []string{"status 404"}},
		{http(ir.HTTP{Filters: []ir.Filter{{Name: "cors"}, {Name: "cors"}}}), []string{"twice"}},
		{filter(ir.Filter{Name: "waf"}), []string{"filter waf"}},
		{filter(ir.Filter{Name: "cors", Disabled: true}), []string{"only a route"}},
		{filter(ir.Filter{Name: "gzip", Gzip: &ir.Gzip{Level: "huge"}}), []string{`"huge"`}},
		{filter(ir.Filter{Name: "gzip", Gzip: &ir.Gzip{MemoryLevel: 99}}), []string{"MemoryLevel"}},
		{filter(ir.Filter{Name: "buffer"}), []string{"buffer"}},
		{filter(ir.Filter{Name: "ip-allow"}), []string{"ip-allow"}},
		{filter(ir.Filter{Name: "ext-authz"}), []string{"ext-authz"}},
		{filter(ir.Filter{Name: "ext-authz", ExtAuthz: &ir.ExtAuthz{Upstream: "u", GRPC: true, PathPrefix: "/p"}}), []string{"HTTP authentication"}},
		{filter(ir.Filter{Name: "ext-authz", ExtAuthz: &ir.ExtAuthz{Upstream: "u", AddAuthHeaders: []ir.HeaderValue{{Name: "n", Append: true}}}}), []string{"header n"}},
		{filter(ir.Filter{Name: "rate-limit"}), []string{"rate-limit"}},
		{route(ir.Route{Action: ir.Action{Forward: []ir.Weighted{{Upstream: "u"}}, Direct: &ir.Direct{}}}), []string{"virtual host host", "route 0", "exactly one"}},
		{route(ir.Route{Action: forward(ir.Weighted{Upstream: "a"}, ir.Weighted{Upstream: "b"})}), []string{"weights"}},
		{route(ir.Route{Action: forward(ir.Weighted{})}), []string{"without an upstream"}},
		{route(ir.Route{Action: ir.Action{Redirect: &ir.Redirect{Code: 200}}}), []string{"200"}},
		{route(ir.Route{Action: ir.Action{Redirect: &ir.Redirect{HTTPS: true, Scheme: "http"}}}), []string{"choose one"}},
		{route(ir.Route{Action: ir.Action{Redirect: &ir.Redirect{Path: "/p", Prefix: "/q"}}}), []string{"2 ways"}},
		{route(ir.Route{Match: ir.Match{PathKind: 9}}), []string{"path kind 9"}},
		{route(ir.Route{Match: ir.Match{PathKind: ir.PathRegex, Path: "/("}}), []string{"path", "regular expression", "/("}},
		{route(ir.Route{Match: ir.Match{Headers: []ir.HeaderMatch{{Name: "h", Value: ir.StringMatch{Regex: "*"}}}}}), []string{"header h", "regular expression"}},
		{route(ir.Route{Rewrite: ir.Rewrite{Regex: &ir.RegexRewrite{Pattern: "["}}}), []string{"rewrite"}},
		{route(ir.Route{Rewrite: ir.Rewrite{Regex: &ir.RegexRewrite{Pattern: "(a)", Substitution: `\2`}}}), []string{"group 2", "has 1"}},
		{route(ir.Route{Rewrite: ir.Rewrite{Regex: &ir.RegexRewrite{Pattern: "(a)", Substitution: `x\`}}}), []string{"backslash"}},
		{upstream(ir.Upstream{Hosts: []ir.HostPort{{Host: "web.example", Port: 80}}}), []string{`"web.example"`}},
		{route(ir.Route{Match: ir.Match{Headers: []ir.HeaderMatch{{Name: "h", Value: ir.StringMatch{Exact: "a", Prefix: "b"}}}}}), []string{"header h", "2 ways"}},
		{route(ir.Route{Match: ir.Match{Query: []ir.HeaderMatch{{Name: "q", Value: ir.StringMatch{Exact: "a", Invert: true}}}}}), []string{"query parameter q"}},
		{route(ir.Route{Match: ir.Match{Headers: []ir.HeaderMatch{{Value: ir.StringMatch{Exact: "a"}}}}}), []string{"Name"}},
		{route(ir.Route{Rewrite: ir.Rewrite{Path: "/p", Prefix: ptr("/q")}}), []string{"2 ways"}},
		{route(ir.Route{Rewrite: ir.Rewrite{Host: "h", AutoHost: true}}), []string{"2 ways"}},
		{route(ir.Route{Retry: &ir.Retry{BackoffMax: &second}}), []string{"retry"}},
		{route(ir.Route{Mirrors: []ir.Mirror{{}}}), []string{"mirror"}},
		{route(ir.Route{Hash: []ir.Hash{{}}}), []string{"hash 0"}},
		{route(ir.Route{RateLimits: []ir.RateLimit{{Actions: []ir.RateLimitAction{{}}}}}), []string{"rate limit 0"}},
		{route(ir.Route{CORS: &ir.CORS{Origins: []ir.StringMatch{{Present: true}}}}), []string{"CORS"}},
		{route(ir.Route{LocalReplies: []ir.LocalReply{{Status: 404}, {Status: 404}}}), []string{"404", "twice"}},
		{route(ir.Route{FilterSettings: map[string]ir.Filter{"waf": {}}}), []string{"filter waf"}},
		{route(ir.Route{FilterSettings: map[string]ir.Filter{"cors": {}}}), []string{"filter cors", "not change"}},
		{route(ir.Route{FilterSettings: map[string]ir.Filter{"cors": {Name: "lua"}}}), []string{"one of lua"}},
		{route(ir.Route{DisableAuth: true, FilterSettings: map[string]ir.Filter{"ext-authz": {Disabled: true}}}), []string{"set twice"}},
		{route(ir.Route{AddRequestHeaders: []ir.HeaderValue{{Name: "bad\nname"}}}), []string{"Key"}},
	} {
		if c.err == nil {
			t.Errorf("nothing was refused; want %q", c.want)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(c.err.Error(), want) {
				t.Errorf("error %q does not contain %q", c.err, want)
			}
		}
	}
}
