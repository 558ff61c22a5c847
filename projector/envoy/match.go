package envoy

import (
	"fmt"
	"regexp/syntax"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

func routeMatch(m ir.Match) (*routev3.RouteMatch, error) {
	out := &routev3.RouteMatch{}
	if err := pathMatch(out, m); err != nil {
		return nil, err
	}
	for _, h := range m.Headers {
		hm, err := headerMatch(h)
		if err != nil {
			return nil, fmt.Errorf("header %s: %w", h.Name, err)
		}
		out.Headers = append(out.Headers, hm)
	}
	for _, q := range m.Query {
		qm, err := queryMatch(q)
		if err != nil {
			return nil, fmt.Errorf("query parameter %s: %w", q.Name, err)
		}
		out.QueryParameters = append(out.QueryParameters, qm)
	}
	if m.GRPC {
		out.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	if f := m.Fraction; f != nil {
		out.RuntimeFraction = percentOf(f.Percent, f.RuntimeKey)
	}
	return out, nil
}

func pathMatch(out *routev3.RouteMatch, m ir.Match) error {
	if m.IgnoreCase {
		out.CaseSensitive = wrapperspb.Bool(false)
	}
	switch m.PathKind {
	case ir.PathPrefix:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: m.Path}
	case ir.PathExact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path}
	case ir.PathRegex:
		re, err := regex(m.Path, m.IgnoreCase)
		if err != nil {
			return fmt.Errorf("path: %w", err)
		}
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: re}
		out.CaseSensitive = nil // Envoy refuses it beside a regex
	case ir.PathElement:
		if p := strings.TrimRight(m.Path, "/"); p != "" {
			out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: p}
		} else {
			out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
		}
	default:
		return fmt.Errorf("path kind %d is unknown", m.PathKind)
	}
	return nil
}

// regex writes an RE2 pattern, which in a match must fit the whole value. Go's
// syntax is RE2's, so that what Envoy cannot parse is refused here, where the
// object is known that it comes from. The size of the program is Envoy's to
// judge.
func regex(pattern string, ignoreCase bool) (*matcherv3.RegexMatcher, error) {
	if ignoreCase {
		pattern = "(?i)" + pattern
	}
	if _, err := syntax.Parse(pattern, syntax.Perl); err != nil {
		return nil, fmt.Errorf("regular expression: %w", err)
	}
	return &matcherv3.RegexMatcher{Regex: pattern}, nil
}

func headerMatch(h ir.HeaderMatch) (*routev3.HeaderMatcher, error) {
	m := &routev3.HeaderMatcher{Name: h.Name, InvertMatch: h.Value.Invert, TreatMissingHeaderAsEmpty: h.Value.MatchEmpty}
	if h.Value.Present {
		m.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}
		return m, nil
	}
	s, err := stringMatcher(h.Value)
	if err != nil {
		return nil, err
	}
	m.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: s}
	return m, nil
}

func queryMatch(q ir.HeaderMatch) (*routev3.QueryParameterMatcher, error) {
	if q.Value.Invert || q.Value.MatchEmpty {
		return nil, fmt.Errorf("a query parameter cannot be matched by its absence")
	}
	m := &routev3.QueryParameterMatcher{Name: q.Name}
	if q.Value.Present {
		m.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		return m, nil
	}
	s, err := stringMatcher(q.Value)
	if err != nil {
		return nil, err
	}
	m.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: s}
	return m, nil
}

// stringMatcher writes the comparison itself; the caller looks at Present,
// Invert and MatchEmpty.
func stringMatcher(s ir.StringMatch) (*matcherv3.StringMatcher, error) {
	set := 0
	for _, v := range [...]string{s.Exact, s.Prefix, s.Suffix, s.Regex, s.Contains} {
		if v != "" {
			set++
		}
	}
	if set > 1 || s.Present && set > 0 {
		return nil, fmt.Errorf("a value is compared in %d ways; choose one", max(set, 2))
	}
	m := &matcherv3.StringMatcher{IgnoreCase: s.IgnoreCase}
	switch {
	case s.Prefix != "":
		m.MatchPattern = &matcherv3.StringMatcher_Prefix{Prefix: s.Prefix}
	case s.Suffix != "":
		m.MatchPattern = &matcherv3.StringMatcher_Suffix{Suffix: s.Suffix}
	case s.Contains != "":
		m.MatchPattern = &matcherv3.StringMatcher_Contains{Contains: s.Contains}
	case s.Regex != "":
		re, err := regex(s.Regex, s.IgnoreCase)
		if err != nil {
			return nil, err
		}
		m.MatchPattern = &matcherv3.StringMatcher_SafeRegex{SafeRegex: re}
		m.IgnoreCase = false // without effect on a regex
	default:
		m.MatchPattern = &matcherv3.StringMatcher_Exact{Exact: s.Exact}
	}
	return m, nil
}

func exactNames(names []string) *matcherv3.ListStringMatcher {
	if len(names) == 0 {
		return nil
	}
	l := &matcherv3.ListStringMatcher{}
	for _, n := range names {
		l.Patterns = append(l.Patterns, &matcherv3.StringMatcher{
			MatchPattern: &matcherv3.StringMatcher_Exact{Exact: n}, IgnoreCase: true,
		})
	}
	return l
}

func percentOf(percent uint32, key string) *corev3.RuntimeFractionalPercent {
	return &corev3.RuntimeFractionalPercent{
		DefaultValue: &typev3.FractionalPercent{Numerator: percent, Denominator: typev3.FractionalPercent_HUNDRED},
		RuntimeKey:   key,
	}
}
