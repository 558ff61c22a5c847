package emissary

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Group is the Mappings with one match: their routes, in order, before it is
// known which Hosts take them.
type Group struct {
	Cluster   ledger.ClusterName
	ID        string
	Order     Order
	First     UnitKey    // the Mapping that made the group
	FirstSeq  ledger.Seq // the smallest of its Mappings
	Host      string
	HostRegex bool
	Labels    map[string]string
	ACME      bool
	Members   []UnitKey
	Needed    []Needed
	// Routes are for secure requests, without a look at X-Forwarded-Proto.
	Routes []ir.Route
}

// Compare orders groups as their routes are tried: what comes first is less.
func (g *Group) Compare(o *Group) int {
	return cmp.Or(
		o.Order.Compare(g.Order),
		// Emissary sorts and then reverses: of equal ones the later is first.
		o.First.Compare(g.First),
	)
}

// MemberFindings are the findings of a group, by the Mapping that they concern.
type MemberFindings map[UnitKey][]projector.Finding

func (m MemberFindings) add(k UnitKey, severity projector.Severity, code projector.Code, path, message string, other *UnitKey) {
	f := projector.Finding{Code: code, Severity: severity, Path: path, Message: message}
	if other != nil {
		key := other.Object
		f.Other = &key
	}
	m[k] = append(m[k], f)
}

// BuildGroup joins the Mappings of one match, which come in the order in which
// Emissary loads them. The group is nil if it has no routes.
func BuildGroup(mappings []*Mapping) (*Group, MemberFindings) {
	found := MemberFindings{}
	first := mappings[0]
	g := &Group{
		Cluster: first.Key.Object.Cluster, ID: first.GroupID, First: first.Key, FirstSeq: first.FirstSeq,
		Order: first.Order, ACME: first.ACME,
	}
	var members []*Mapping
	var redirect, shadow *Mapping
	for _, m := range mappings {
		if mismatch := coreMismatch(first, m); mismatch != "" {
			found.add(m.Key, projector.Error, projector.CodeGroup, "spec."+mismatch,
				fmt.Sprintf("%s has the same match and another %s; this Mapping is not served: make them agree or change the match", first.Key, mismatch), &first.Key)
			continue
		}
		switch {
		case m.Shadow && shadow != nil:
			found.add(m.Key, projector.Error, projector.CodeRedirect, "spec.shadow", fmt.Sprintf("%s is the shadow of this match already", shadow.Key), &shadow.Key)
			continue
		case m.Shadow:
			shadow = m
		case m.Redirect != nil && redirect != nil:
			found.add(m.Key, projector.Error, projector.CodeRedirect, "spec.host_redirect", fmt.Sprintf("%s redirects this match already", redirect.Key), &redirect.Key)
			continue
		case m.Redirect != nil && len(members) > 0:
			found.add(m.Key, projector.Error, projector.CodeRedirect, "spec.host_redirect", fmt.Sprintf("%s routes this match already", members[0].Key), &members[0].Key)
			continue
		case m.Redirect != nil:
			redirect = m
		case redirect != nil:
			found.add(m.Key, projector.Error, projector.CodeRedirect, "spec.host_redirect", fmt.Sprintf("%s redirects this match already", redirect.Key), &redirect.Key)
			continue
		default:
			members = append(members, m)
			if m.Order.Compare(g.Order) > 0 {
				g.Order = m.Order
			}
		}
		g.Members = append(g.Members, m.Key)
		g.FirstSeq = min(g.FirstSeq, m.FirstSeq)
	}
	settings := flatten(g, first, members, redirect, shadow)
	switch {
	case redirect != nil:
		g.Routes = []ir.Route{redirectRoute(redirect, settings)}
	case len(members) == 0:
		if shadow != nil {
			found.add(shadow.Key, projector.Warning, projector.CodeRedirect, "spec.shadow", "no Mapping with the same match routes, so nothing is shadowed", nil)
		}
		return nil, found
	default:
		g.routes(members, shadow, settings, found)
	}
	return g, found
}

// coreMismatch returns a field in which m may not differ from the group.
func coreMismatch(first, m *Mapping) string {
	for _, k := range slices.Sorted(maps.Keys(m.core)) {
		if v, ok := first.core[k]; !ok || v != m.core[k] {
			return k
		}
	}
	return ""
}

// settings are a group's fields after flattening.
type settings struct {
	flat
	path   ir.PathKind // of the first Mapping: prefix_exact and prefix_regex are the group's
	add    headerAdds
	labels map[string]string
}

// flatten takes each field from the heaviest Mapping that sets it.
func flatten(g *Group, first *Mapping, members []*Mapping, redirect, shadow *Mapping) settings {
	s := settings{path: first.Match.PathKind, add: headerAdds{map[string]getambassador.AddedHeader{}, map[string]getambassador.AddedHeader{}}, labels: map[string]string{}}
	all := slices.Clone(members)
	if len(all) == 0 {
		for _, m := range []*Mapping{redirect, shadow} {
			if m != nil {
				all = append(all, m)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *Mapping) int { return a.Order.Compare(b.Order) })
	g.Host, g.HostRegex = first.Host, first.HostRegex
	for _, m := range all {
		s.take(&m.flat)
		maps.Copy(s.add.request, m.add.request)
		maps.Copy(s.add.response, m.add.response)
		maps.Copy(s.labels, m.Labels)
		g.Host, g.HostRegex = m.Host, m.HostRegex
	}
	g.Labels = s.labels
	return s
}

func (s *settings) take(f *flat) {
	s.cors = cmp.Or(f.cors, s.cors)
	s.retry = cmp.Or(f.retry, s.retry)
	s.priority = cmp.Or(f.priority, s.priority)
	s.regexRewrite = cmp.Or(f.regexRewrite, s.regexRewrite)
	s.ignoreCase = cmp.Or(f.ignoreCase, s.ignoreCase)
	s.bypassAuth = cmp.Or(f.bypassAuth, s.bypassAuth)
	if f.delRequest != nil {
		s.delRequest = f.delRequest
	}
	if f.delResponse != nil {
		s.delResponse = f.delResponse
	}
	if f.upgrade != nil {
		s.upgrade = f.upgrade
	}
	if f.limits != nil {
		s.limits = f.limits
	}
	if f.hash != nil {
		s.hash = f.hash
	}
}

func (s *settings) match(m *Mapping) ir.Match {
	match := m.Match
	match.PathKind = s.path
	if s.ignoreCase != nil && match.PathKind != ir.PathRegex {
		match.IgnoreCase = *s.ignoreCase
	}
	return match
}

func redirectRoute(m *Mapping, s settings) ir.Route {
	return ir.Route{
		Name: routeName(m.Key), Metadata: m.Key.Source(), Match: s.match(m), DisableAuth: true,
		Action: ir.Action{Redirect: m.Redirect},
	}
}

func routeName(k UnitKey) string {
	return string(k.Object.Cluster) + "/" + k.Namespace + "/" + k.Name
}

// routes writes one route per Mapping: the same match with cumulative shares.
func (g *Group) routes(members []*Mapping, shadow *Mapping, s settings, found MemberFindings) {
	ordered, shares := cumulate(members, found)
	if len(members) > 1 {
		weighted := slices.ContainsFunc(members, func(m *Mapping) bool { return m.Weight != nil })
		for _, m := range members[1:] {
			if !weighted {
				found.add(m.Key, projector.Info, projector.CodeSameRoute, "spec.prefix",
					fmt.Sprintf("%s has the same match; each of the %d gets an equal share", members[0].Key, len(members)), &members[0].Key)
			}
		}
	}
	var mirrors []ir.Mirror
	if shadow != nil {
		percent := uint32(100)
		if shadow.Weight != nil {
			percent = uint32(min(max(*shadow.Weight, 0), 100))
		}
		mirrors = []ir.Mirror{{Upstream: shadow.Needed.Upstream.Name, Percent: percent}}
		g.Needed = append(g.Needed, shadow.Needed)
	}
	for i, m := range ordered {
		r := ir.Route{
			Name: routeName(m.Key), Metadata: m.Key.Source(), Match: s.match(m),
			Action:      ir.Action{Forward: []ir.Weighted{{Upstream: m.Needed.Upstream.Name}}},
			Timeout:     &m.Timeout,
			IdleTimeout: m.Idle, Retry: s.retry, Mirrors: mirrors, Hash: s.hash,
			HighPriority:       s.priority != nil && *s.priority == "high",
			DelRequestHeaders:  s.delRequest,
			DelResponseHeaders: s.delResponse,
			AddRequestHeaders:  headerValues(s.add.request),
			AddResponseHeaders: headerValues(s.add.response),
			DisableAuth:        s.bypassAuth != nil && *s.bypassAuth,
			AuthContext:        m.AuthCtx,
			RateLimits:         s.limits,
		}
		if shares[i] < 100 {
			r.Match.Fraction = &ir.Fraction{Percent: uint32(shares[i]), RuntimeKey: "routing.traffic_shift." + m.Needed.Upstream.Name}
		}
		r.Rewrite.Host, r.Rewrite.AutoHost = m.HostTo, m.AutoHost && m.HostTo == ""
		if s.regexRewrite != nil {
			r.Rewrite.Regex = s.regexRewrite
		} else {
			r.Rewrite.Prefix = m.Rewrite
		}
		for _, p := range s.upgrade {
			r.Upgrades = append(r.Upgrades, ir.Upgrade{Protocol: p})
		}
		if s.cors != nil {
			r.CORS = cors(s.cors, g.ID)
		}
		g.Routes = append(g.Routes, r)
		g.Needed = append(g.Needed, m.Needed)
	}
}

// cumulate turns weights into cumulative shares, as Emissary does: weighted
// Mappings first, what is left divided among the others. It returns the
// Mappings in the order of their routes.
func cumulate(members []*Mapping, found MemberFindings) ([]*Mapping, []int) {
	if len(members) == 1 {
		return members, []int{100}
	}
	shares := make(map[*Mapping]int, len(members))
	asTheyAre := func() ([]*Mapping, []int) {
		out := make([]int, len(members))
		for i, m := range members {
			out[i] = shares[m]
		}
		return members, out
	}
	var weighted, weightless []*Mapping
	sum := 0
	for _, m := range members {
		if m.Weight == nil {
			weightless = append(weightless, m)
			continue
		}
		if *m.Weight > 100 {
			found.add(m.Key, projector.Error, projector.CodeWeights, "spec.weight", fmt.Sprintf("weight %d is above 100; the shares of this match are not as written", *m.Weight), nil)
			return asTheyAre()
		}
		sum += *m.Weight
		shares[m] = sum
		weighted = append(weighted, m)
	}
	if sum > 100 {
		last := weighted[len(weighted)-1]
		found.add(last.Key, projector.Error, projector.CodeWeights, "spec.weight", fmt.Sprintf("the weights of this match are %d together, above 100; the shares are not as written", sum), nil)
		return asTheyAre()
	}
	if n := len(weightless); n > 0 {
		share := int(math.RoundToEven(float64(100-sum) / float64(n)))
		for i, m := range weightless {
			sum += share
			if i == n-1 {
				sum = 100
			}
			shares[m] = sum
		}
	} else if sum < 100 {
		found.add(weighted[0].Key, projector.Warning, projector.CodeWeights, "spec.weight",
			fmt.Sprintf("the weights of this match are %d together; the rest falls through to a less specific route, or is answered 404", sum), nil)
	}
	members = append(weighted, weightless...)
	return asTheyAre()
}

func headerValues(m map[string]getambassador.AddedHeader) []ir.HeaderValue {
	var out []ir.HeaderValue
	for _, name := range slices.Sorted(maps.Keys(m)) {
		h := m[name]
		out = append(out, ir.HeaderValue{Name: name, Value: h.Value, Append: h.Append == nil || *h.Append})
	}
	return out
}

func cors(c *getambassador.CORS, group string) *ir.CORS {
	out := &ir.CORS{
		Methods: strings.Join(c.Methods, ", "), Headers: strings.Join(c.Headers, ", "),
		ExposeHeaders: strings.Join(c.ExposedHeaders, ", "), MaxAge: c.MaxAge, Credentials: c.Credentials,
		RuntimeKey: "routing.cors_enabled." + group,
	}
	for _, o := range c.Origins {
		out.Origins = append(out.Origins, ir.StringMatch{Exact: o})
	}
	return out
}

// covers reports whether the group takes every request under its prefix, so
// that nothing under it gets to routes that come later.
func (g *Group) covers() (prefix string, ok bool) {
	last := g.Routes[len(g.Routes)-1].Match
	return last.Path, last.PathKind == ir.PathPrefix && last.Fraction == nil && !last.IgnoreCase && !last.GRPC &&
		len(last.Headers) == 0 && len(last.Query) == 0
}

// Shadowed returns the groups, of those that a Host takes, whose routes can
// never be reached, each with the one before it that takes all their requests.
// Only precedence brings that about: else a longer prefix is tried first.
func Shadowed(groups []*Group) map[*Group]*Group {
	if len(groups) == 0 || groups[0].Order.Precedence == groups[len(groups)-1].Order.Precedence {
		return nil
	}
	out := map[*Group]*Group{}
	covering := map[string]*Group{}
	for _, g := range groups {
		m := g.Routes[0].Match
		if m.PathKind == ir.PathPrefix || m.PathKind == ir.PathExact {
			for i := range len(m.Path) + 1 {
				if by := covering[m.Path[:i]]; by != nil {
					out[g] = by
					break
				}
			}
		}
		if prefix, ok := g.covers(); ok && covering[prefix] == nil {
			covering[prefix] = g
		}
	}
	return out
}

// String names a group for people.
func (g *Group) String() string { return g.First.String() + " (" + strconv.Itoa(len(g.Members)) + ")" }
