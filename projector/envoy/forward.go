package envoy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previoushostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

// forward writes the action of a route that goes to upstreams.
func forward(r ir.Route) (*routev3.RouteAction, error) {
	out := &routev3.RouteAction{
		Timeout:     duration(r.Timeout),
		IdleTimeout: duration(r.IdleTimeout),
		Priority:    priority(r.HighPriority),
	}
	if r.MaxStreamDuration != nil {
		out.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: duration(r.MaxStreamDuration)}
	}
	if err := targets(out, r.Action.Forward); err != nil {
		return nil, err
	}
	if err := rewrite(out, r.Match, r.Rewrite); err != nil {
		return nil, err
	}
	var err error
	if out.RetryPolicy, err = retry(r.Retry); err != nil {
		return nil, fmt.Errorf("retry: %w", err)
	}
	if out.RateLimits, err = rateLimits(r.RateLimits); err != nil {
		return nil, err
	}
	for _, m := range r.Mirrors {
		mirrored, err := mirror(m)
		if err != nil {
			return nil, fmt.Errorf("mirror to %s: %w", m.Upstream, err)
		}
		out.RequestMirrorPolicies = append(out.RequestMirrorPolicies, mirrored)
	}
	for i, h := range r.Hash {
		policy, err := hashPolicy(h)
		if err != nil {
			return nil, fmt.Errorf("hash %d: %w", i, err)
		}
		out.HashPolicy = append(out.HashPolicy, policy)
	}
	for _, u := range r.Upgrades {
		c := &routev3.RouteAction_UpgradeConfig{UpgradeType: u.Protocol}
		if u.Disabled {
			c.Enabled = wrapperspb.Bool(false)
		}
		out.UpgradeConfigs = append(out.UpgradeConfigs, c)
	}
	return out, nil
}

// targets writes one cluster, or several by weight. A single target's weight
// says nothing.
func targets(out *routev3.RouteAction, ts []ir.Weighted) error {
	if len(ts) == 1 && plain(ts[0]) {
		if ts[0].Upstream == "" {
			return fmt.Errorf("a target without an upstream")
		}
		out.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: ts[0].Upstream}
		return nil
	}
	w := &routev3.WeightedCluster{}
	sum := uint64(0)
	for _, t := range ts {
		if t.Upstream == "" {
			return fmt.Errorf("a target without an upstream")
		}
		weight := t.Weight
		if len(ts) == 1 {
			weight = 1
		}
		sum += uint64(weight)
		c := &routev3.WeightedCluster_ClusterWeight{
			Name:                    t.Upstream,
			Weight:                  wrapperspb.UInt32(weight),
			RequestHeadersToAdd:     addHeaders(t.AddRequestHeaders),
			RequestHeadersToRemove:  t.DelRequestHeaders,
			ResponseHeadersToAdd:    addHeaders(t.AddResponseHeaders),
			ResponseHeadersToRemove: t.DelResponseHeaders,
		}
		if t.HostRewrite != "" {
			c.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: t.HostRewrite}
		}
		w.Clusters = append(w.Clusters, c)
	}
	if sum == 0 || sum > 1<<32-1 {
		return fmt.Errorf("the weights of the %d targets add up to %d; they must add up to 1 to 4294967295", len(ts), sum)
	}
	out.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
	return nil
}

func plain(t ir.Weighted) bool {
	return len(t.AddRequestHeaders)+len(t.DelRequestHeaders)+len(t.AddResponseHeaders)+len(t.DelResponseHeaders) == 0 && t.HostRewrite == ""
}

func rewrite(out *routev3.RouteAction, m ir.Match, r ir.Rewrite) error {
	paths := 0
	if r.Prefix != nil {
		paths++
		out.PrefixRewrite, out.RegexRewrite = prefixRewrite(m, *r.Prefix)
	}
	if r.Regex != nil {
		paths++
		var err error
		if out.RegexRewrite, err = regexRewrite(r.Regex); err != nil {
			return err
		}
	}
	if r.Path != "" {
		paths++
		out.RegexRewrite = &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: "^.*$"}, Substitution: literal(r.Path)}
	}
	if paths > 1 {
		return fmt.Errorf("the path is rewritten in %d ways; choose one", paths)
	}
	hosts := 0
	if r.Host != "" {
		hosts++
		out.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Host}
	}
	if r.AutoHost {
		hosts++
		out.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	if r.HostHeader != "" {
		hosts++
		out.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteHeader{HostRewriteHeader: r.HostHeader}
	}
	if hosts > 1 {
		return fmt.Errorf("the host is rewritten in %d ways; choose one", hosts)
	}
	return nil
}

// prefixRewrite replaces the matched prefix: by Envoy's own means, or by a
// regex where those would leave a path without its slash (nothing in place of
// the prefix) or with two (a whole element's prefix replaced by "/").
func prefixRewrite(m ir.Match, to string) (string, *matcherv3.RegexMatchAndSubstitute) {
	from := strings.TrimRight(m.Path, "/")
	switch {
	case m.PathKind == ir.PathElement && from != "" && (to == "" || to == "/"),
		m.PathKind == ir.PathPrefix && to == "":
		pattern := "^" + regexp.QuoteMeta(from) + "/*"
		if m.IgnoreCase {
			pattern = "(?i)" + pattern
		}
		return "", &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: pattern}, Substitution: "/"}
	case m.PathKind == ir.PathElement && from != "":
		return strings.TrimRight(to, "/"), nil
	case to == "":
		return "/", nil
	}
	return to, nil
}

func regexRewrite(r *ir.RegexRewrite) (*matcherv3.RegexMatchAndSubstitute, error) {
	parsed, err := syntax.Parse(r.Pattern, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("rewrite: %w", err)
	}
	for i := 0; i < len(r.Substitution); i++ {
		if r.Substitution[i] != '\\' {
			continue
		}
		i++
		switch {
		case i < len(r.Substitution) && r.Substitution[i] == '\\':
		case i == len(r.Substitution) || r.Substitution[i] < '0' || r.Substitution[i] > '9':
			return nil, fmt.Errorf(`rewrite: in the substitution %q a backslash begins neither \0 to \9 nor \\`, r.Substitution)
		case int(r.Substitution[i]-'0') > parsed.MaxCap():
			return nil, fmt.Errorf(`rewrite: the substitution %q names group %c, the pattern %q has %d`, r.Substitution, r.Substitution[i], r.Pattern, parsed.MaxCap())
		}
	}
	return &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: r.Pattern}, Substitution: r.Substitution}, nil
}

// literal escapes what RE2 reads in a substitution.
func literal(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

// maxHostSelection bounds how often a retry picks again when it picked a host
// that has failed already.
const maxHostSelection = 5

func retry(r *ir.Retry) (*routev3.RetryPolicy, error) {
	if r == nil {
		return nil, nil
	}
	out := &routev3.RetryPolicy{
		RetryOn:              r.On,
		NumRetries:           uint32Value(r.Count),
		PerTryTimeout:        duration(r.PerTry),
		RetriableStatusCodes: r.StatusCodes,
	}
	switch {
	case r.BackoffBase != nil:
		out.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: duration(r.BackoffBase), MaxInterval: duration(r.BackoffMax)}
	case r.BackoffMax != nil:
		return nil, fmt.Errorf("a longest wait without a first one; set both")
	}
	if r.PreviousHosts {
		e, err := extension("envoy.retry_host_predicates.previous_hosts", &previoushostsv3.PreviousHostsPredicate{})
		if err != nil {
			return nil, err
		}
		out.RetryHostPredicate = []*routev3.RetryPolicy_RetryHostPredicate{{
			Name: e.Name, ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: e.TypedConfig},
		}}
		out.HostSelectionRetryMaxAttempts = maxHostSelection
	}
	return out, nil
}

func mirror(m ir.Mirror) (*routev3.RouteAction_RequestMirrorPolicy, error) {
	denominator := m.Denominator
	if denominator == 0 {
		denominator = 100
	}
	p := &typev3.FractionalPercent{Numerator: m.Percent}
	switch denominator {
	case 100:
		p.Denominator = typev3.FractionalPercent_HUNDRED
	case 10_000:
		p.Denominator = typev3.FractionalPercent_TEN_THOUSAND
	case 1_000_000:
		p.Denominator = typev3.FractionalPercent_MILLION
	default: // the proxy has no other: the nearest millionth
		p.Denominator = typev3.FractionalPercent_MILLION
		p.Numerator = uint32((uint64(min(m.Percent, denominator))*1_000_000 + uint64(denominator)/2) / uint64(denominator))
	}
	if m.Upstream == "" {
		return nil, fmt.Errorf("no upstream is named")
	}
	return &routev3.RouteAction_RequestMirrorPolicy{
		Cluster:         m.Upstream,
		RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: p},
	}, nil
}

func hashPolicy(h ir.Hash) (*routev3.RouteAction_HashPolicy, error) {
	set := 0
	out := &routev3.RouteAction_HashPolicy{}
	if h.Header != "" {
		set++
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: h.Header}}
	}
	if h.SourceIP {
		set++
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
		}
	}
	if c := h.Cookie; c != nil {
		set++
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{
			Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: c.Name, Path: c.Path, Ttl: duration(c.TTL)},
		}
	}
	if set != 1 {
		return nil, fmt.Errorf("exactly one of header, source address and cookie, not %d", set)
	}
	return out, nil
}

var redirectCodes = map[uint32]routev3.RedirectAction_RedirectResponseCode{
	0:   routev3.RedirectAction_MOVED_PERMANENTLY,
	301: routev3.RedirectAction_MOVED_PERMANENTLY,
	302: routev3.RedirectAction_FOUND,
	303: routev3.RedirectAction_SEE_OTHER,
	307: routev3.RedirectAction_TEMPORARY_REDIRECT,
	308: routev3.RedirectAction_PERMANENT_REDIRECT,
}

func redirect(m ir.Match, r ir.Redirect) (*routev3.RedirectAction, error) {
	code, ok := redirectCodes[r.Code]
	if !ok {
		return nil, fmt.Errorf("redirect code %d is none of 301, 302, 303, 307 and 308", r.Code)
	}
	out := &routev3.RedirectAction{HostRedirect: r.Host, PortRedirect: r.Port, ResponseCode: code, StripQuery: r.StripQuery}
	switch {
	case r.HTTPS && r.Scheme != "":
		return nil, fmt.Errorf("the redirect goes to HTTPS and to scheme %s; choose one", r.Scheme)
	case r.HTTPS:
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_HttpsRedirect{HttpsRedirect: true}
	case r.Scheme != "":
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	paths := 0
	if r.Path != "" {
		paths++
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.Path}
	}
	if r.Prefix != "" || r.PrefixIsSet {
		paths++
		prefix, re := prefixRewrite(m, r.Prefix)
		if re != nil {
			out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: re}
		} else {
			out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: prefix}
		}
	}
	if r.Regex != nil {
		paths++
		re, err := regexRewrite(r.Regex)
		if err != nil {
			return nil, err
		}
		out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: re}
	}
	if paths > 1 {
		return nil, fmt.Errorf("the redirect's path is written in %d ways; choose one", paths)
	}
	return out, nil
}
