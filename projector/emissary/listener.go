package emissary

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Security models of a Listener: which requests count as secure.
const (
	ModelXFP      = "XFP"
	ModelSecure   = "SECURE"
	ModelInsecure = "INSECURE"
)

// Bound is a bound address: Listeners of several clusters may share one.
type Bound struct {
	Address string
	Port    uint32
	UDP     bool
}

// Name is the name of the bound listener.
func (b Bound) Name() string {
	proto := "tcp"
	if b.UDP {
		proto = "udp"
	}
	return proto + "-" + b.Address + "-" + strconv.FormatUint(uint64(b.Port), 10)
}

// Listener is a Listener, ready to take Hosts.
type Listener struct {
	Key      UnitKey
	FirstSeq ledger.Seq
	Bound    Bound
	TLS      bool
	HTTP     bool
	Proxy    ir.Position
	Model    string
	Depth    uint32
	Stats    string
	// AllNamespaces is whether Hosts of other namespaces are taken as well.
	AllNamespaces bool
	Selector      map[string]string
}

var stacks = map[string][]string{
	"HTTP": {"HTTP", "TCP"}, "HTTPS": {"TLS", "HTTP", "TCP"},
	"HTTPPROXY": {"PROXY", "HTTP", "TCP"}, "HTTPSPROXY": {"TLS", "PROXY", "HTTP", "TCP"},
	"TCP": {"TCP"}, "TLS": {"TLS", "TCP"},
}

// ReadListener reads a Listener. It is not ok if the Listener cannot be served.
func ReadListener(w World, u Unit) (*Listener, []projector.Finding, bool) {
	f := &findings{}
	o := u.Resource.(*getambassador.Listener)
	s := &o.Spec
	l := &Listener{Key: u.Key, FirstSeq: u.FirstSeq, Model: s.SecurityModel, Stats: s.StatsPrefix}
	stack := s.ProtocolStack
	if len(stack) == 0 {
		stack = stacks[s.Protocol]
	} else if s.Protocol != "" {
		f.errorf(projector.CodeInvalid, "spec.protocol", "protocolStack is set as well and counts alone; use one of them")
	}
	if len(stack) == 0 {
		f.errorf(projector.CodeInvalid, "spec.protocol", "set protocol to HTTP, HTTPS, HTTPPROXY, HTTPSPROXY, TCP or TLS, or give a protocolStack")
		return nil, f.list, false
	}
	last := stack[len(stack)-1]
	if last != "TCP" && last != "UDP" {
		f.errorf(projector.CodeInvalid, "spec.protocolStack", fmt.Sprintf("the last protocol is %s; it must be TCP or UDP", last))
		return nil, f.list, false
	}
	tls, proxy := slices.Index(stack, "TLS"), slices.Index(stack, "PROXY")
	l.TLS, l.HTTP = tls >= 0, slices.Contains(stack, "HTTP")
	switch {
	case proxy < 0:
	case tls >= 0 && tls < proxy:
		l.Proxy = ir.AfterTLS
	default:
		l.Proxy = ir.BeforeTLS
	}
	l.Bound = Bound{Address: w.Settings().BindAddress, Port: uint32(s.Port), UDP: last == "UDP"}
	if l.Bound.UDP && (!l.HTTP || !l.TLS || l.Proxy != ir.Absent) {
		f.errorf(projector.CodeInvalid, "spec.protocolStack", "UDP is for HTTP/3: the stack is TLS, HTTP, UDP")
		return nil, f.list, false
	}
	if s.L7Depth != nil && *s.L7Depth > 0 {
		l.Depth = uint32(*s.L7Depth)
	}
	return l, f.list, readBinding(f, s, l)
}

func readBinding(f *findings, s *getambassador.ListenerSpec, l *Listener) bool {
	b := s.HostBinding
	if b.Namespace == nil && b.Selector == nil {
		f.errorf(projector.CodeInvalid, "spec.hostBinding", "give namespace or selector; without them no Host is served")
		return false
	}
	if b.Namespace != nil {
		switch b.Namespace.From {
		case "", "SELF":
		case "ALL":
			l.AllNamespaces = true
		default:
			f.errorf(projector.CodeSelector, "spec.hostBinding.namespace.from", b.Namespace.From+" is not supported by Emissary; use SELF or ALL")
			return false
		}
	}
	if b.Selector != nil {
		if len(b.Selector.MatchExpressions) > 0 {
			f.errorf(projector.CodeSelector, "spec.hostBinding.selector.matchExpressions", "is not supported by Emissary; use matchLabels")
			return false
		}
		l.Selector = b.Selector.MatchLabels
	}
	return true
}

// Binds reports whether a Listener takes a Host of its cluster.
func (l *Listener) Binds(h *Host) bool {
	if !l.HTTP {
		return false
	}
	if h.Implied {
		return true
	}
	if !l.AllNamespaces && h.Key.Namespace != l.Key.Namespace {
		return false
	}
	return len(l.Selector) == 0 || labelsMatch(l.Selector, h.Labels)
}

// StatsPrefix is the prefix of a chain's statistics.
func (l *Listener) StatsPrefix() string {
	switch {
	case l.Stats != "":
		return l.Stats
	case l.HTTP && l.TLS:
		return "ingress_https"
	case l.HTTP:
		return "ingress_http"
	case l.TLS:
		return "ingress_tls_" + strconv.FormatUint(uint64(l.Bound.Port), 10)
	}
	return "ingress_tcp_" + strconv.FormatUint(uint64(l.Bound.Port), 10)
}

// Attachment is a Host on a Listener: once for TLS, and once for cleartext.
type Attachment struct {
	Host *Host
	// What of the Listener a virtual host depends on.
	Model string
	TLS   bool
	// Trusted says that X-Forwarded-Proto may come from a proxy in front: the
	// transport alone does not tell whether a request is secure.
	Trusted bool
	// Unauthenticated says that the routes are not subject to the chain's
	// authentication: it is another cluster's.
	Unauthenticated bool
}

// Attach returns the ways in which a Listener serves a Host. remote is whether
// the proxy takes the peer's address for the client's, so that it overwrites
// X-Forwarded-Proto.
func (l *Listener) Attach(h *Host, remote bool) []Attachment {
	if !l.Binds(h) {
		return nil
	}
	a := Attachment{Host: h, Model: l.Model, Trusted: l.Depth > 0 || !remote}
	var out []Attachment
	if l.TLS && h.TLS != nil {
		tls := a
		tls.TLS = true
		out = append(out, tls)
	}
	if !l.Bound.UDP && (l.Model != ModelInsecure || h.Action != ActionReject) {
		out = append(out, a)
	}
	return out
}

// VirtualHost writes what an attachment routes. The groups come in order.
func (a Attachment) VirtualHost(groups []*Group) ir.VirtualHost {
	h := a.Host
	v := ir.VirtualHost{
		Name:    string(h.Key.Object.Cluster) + "/" + h.Hostname,
		Domains: []string{h.Hostname}, Metadata: h.Key.Source(),
	}
	for _, g := range groups {
		for i := range g.Routes {
			v.Routes = a.variants(v.Routes, &g.Routes[i], g.ACME)
		}
	}
	return v
}

// variants appends a route as secure and insecure requests see it. Where the
// transport says whether a request is secure, only that one is written.
func (a Attachment) variants(routes []ir.Route, r *ir.Route, acme bool) []ir.Route {
	if a.Unauthenticated {
		without := *r
		without.DisableAuth = true
		r = &without
	}
	secure, insecure := a.Model != ModelInsecure, a.Model != ModelSecure
	byHeader := a.Model == ModelXFP
	if byHeader && !a.Trusted {
		secure, insecure, byHeader = a.TLS, !a.TLS, false
	}
	if secure {
		s := *r
		if byHeader {
			s.Match.Headers = append(slices.Clip(s.Match.Headers), ir.HeaderMatch{Name: "x-forwarded-proto", Value: ir.StringMatch{Exact: "https"}})
		}
		routes = append(routes, s)
	}
	if insecure {
		action := a.Host.Action
		if acme {
			action = ActionRoute
		}
		switch action {
		case ActionRoute:
			routes = append(routes, *r)
		case ActionRedirect:
			routes = append(routes, ir.Route{
				Name: r.Name, Match: r.Match, Metadata: r.Metadata, DisableAuth: true,
				Action: ir.Action{Redirect: &ir.Redirect{Code: 301, HTTPS: true}},
			})
		}
	}
	return routes
}

// TableName names the route table of a chain: one for cleartext, and one for
// each server name.
func TableName(b Bound, sni string, tls bool) string {
	if !tls {
		return b.Name()
	}
	return b.Name() + "/" + strings.ToLower(sni)
}
