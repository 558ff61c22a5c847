package emissary

import (
	"cmp"
	"crypto/sha1" //nolint:gosec // Emissary's group ids are SHA-1; nothing relies on it being hard to collide
	"encoding/hex"
	"fmt"
	"maps"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// acmePrefix is the path that certificate authorities ask for; it is routed
// whatever a Host does with insecure requests.
const acmePrefix = "/.well-known/acme-challenge/"

// Order is a Mapping's place among routes. Greater comes first.
type Order struct {
	Precedence, Path, Headers, Query int
	Rest                             []string
}

// Compare is negative if o comes later among routes than p.
func (o Order) Compare(p Order) int {
	return cmp.Or(
		cmp.Compare(o.Precedence, p.Precedence), cmp.Compare(o.Path, p.Path),
		cmp.Compare(o.Headers, p.Headers), cmp.Compare(o.Query, p.Query), slices.Compare(o.Rest, p.Rest),
	)
}

// Mapping is one Mapping, ready to join its group.
type Mapping struct {
	Key      UnitKey
	FirstSeq ledger.Seq
	GroupID  string
	Order    Order
	// Host is the glob, or the expression, that the Mapping gives; "" for none.
	Host      string
	HostRegex bool
	Labels    map[string]string
	Match     ir.Match
	ACME      bool

	Shadow   bool
	Weight   *int
	Needed   Needed       // not for redirects
	Redirect *ir.Redirect // host_redirect
	Timeout  time.Duration
	Idle     *time.Duration
	Rewrite  *string
	HostTo   string
	AutoHost bool
	AuthCtx  map[string]string

	// core are the fields in which a group agrees, in JSON.
	core map[string]string
	// flat are the fields that a group takes from its heaviest Mapping.
	flat flat
	add  headerAdds
}

// flat holds fields that are nil where a Mapping does not set them.
type flat struct {
	cors         *getambassador.CORS
	retry        *ir.Retry
	priority     *string
	delRequest   []string
	delResponse  []string
	upgrade      []string
	regexRewrite *ir.RegexRewrite
	ignoreCase   *bool
	bypassAuth   *bool
	hash         []ir.Hash
	limits       []ir.RateLimit
}

type headerAdds struct {
	request, response map[string]getambassador.AddedHeader
}

// keyValue is one header or query match as Emissary orders them.
type keyValue struct {
	name, value string
	regex       bool
	present     bool
}

func (k keyValue) length() int {
	n := utf8.RuneCountInString(k.name) + utf8.RuneCountInString(k.value)
	if k.present {
		n = utf8.RuneCountInString(k.name) + 1
	}
	if k.regex {
		n++
	}
	return n
}

func (k keyValue) key() string {
	if k.present {
		return k.name + "-*"
	}
	return k.name + "-" + k.value
}

// ReadMapping reads a Mapping. It is not ok if the Mapping cannot be served.
func ReadMapping(w World, u Unit) (*Mapping, []projector.Finding, bool) {
	f := &findings{}
	m := u.Resource.(*getambassador.Mapping)
	s := &m.Spec
	out := &Mapping{Key: u.Key, FirstSeq: u.FirstSeq, Labels: m.Labels, Weight: s.Weight, core: map[string]string{}}
	ignored(f, s)
	ok := readMatch(w, f, s, out)
	ok = readAction(w, f, m, out) && ok
	readPolicies(w, f, s, out)
	if !ok {
		return nil, f.list, false
	}
	readCore(s, out)
	return out, f.list, true
}

// ignored reports the fields that Emissary accepts without effect, and those
// that this version does not serve.
func ignored(f *findings, s *getambassador.MappingSpec) {
	dead := func(path string, set bool) {
		if set {
			f.noEffect(path, "has no effect in Emissary and is ignored")
		}
	}
	dead("spec.envoy_override", s.EnvoyOverride != nil)
	dead("spec.modules", s.Modules != nil)
	if s.OutlierDetection != "" {
		f.warnf(projector.CodeNotServed, "spec.outlier_detection", "is not supported; the Mapping is served without it")
	}
	if len(s.HealthChecks) > 0 {
		f.warnf(projector.CodeNotServed, "spec.health_checks", "is not served by this version; endpoints are used as the cluster lists them")
	}
	if s.ErrorResponseOverrides != nil || s.BypassErrorResponseOverrides != nil {
		f.warnf(projector.CodeNotServed, "spec.error_response_overrides", "is not supported; the Mapping is served without it")
	}
}

func readMatch(w World, f *findings, s *getambassador.MappingSpec, out *Mapping) bool {
	ok := true
	if n := len(s.Headers) + len(s.RegexHeaders) + len(s.QueryParameters) + len(s.RegexQueryParameters); n > MaxMatches {
		f.errorf(projector.CodeLimit, "spec.headers", fmt.Sprintf("%d header and query matches are more than %d", n, MaxMatches))
		return false
	}
	var headers, query []keyValue
	host, hostRegex, hostPath := "", false, "spec.hostname"
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		if strings.EqualFold(name, ":authority") {
			host, hostPath = s.Headers[name], "spec.headers[:authority]"
			continue
		}
		headers = append(headers, keyValue{name: name, value: s.Headers[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(s.RegexHeaders)) {
		if strings.EqualFold(name, ":authority") {
			host, hostRegex, hostPath = s.RegexHeaders[name], true, "spec.regex_headers[:authority]"
			continue
		}
		present := s.RegexHeaders[name] == ".*" && slices.Contains(s.V2BoolHeaders, name)
		headers = append(headers, keyValue{name: name, value: s.RegexHeaders[name], regex: true, present: present})
		ok = validRegex(f, "spec.regex_headers["+name+"]", s.RegexHeaders[name]) && ok
	}
	exact := false
	if s.Host != "" {
		host, hostRegex, hostPath = s.Host, s.HostRegex != nil && *s.HostRegex, "spec.host"
		exact = !hostRegex
	}
	if s.Hostname != "" {
		if host != "" {
			f.warnf(projector.CodeNoEffect, hostPath, "hostname is set as well and counts alone")
		}
		host, hostRegex, hostPath, exact = s.Hostname, false, "spec.hostname", false
	}
	if exact && strings.Contains(host, "*") {
		f.errorf(projector.CodeHostname, "spec.host", fmt.Sprintf("%q can never match: host is exact; use hostname for a wildcard", host))
		ok = false
	}
	if hostRegex {
		ok = validRegex(f, hostPath, host) && ok
	}
	out.Host, out.HostRegex = host, hostRegex
	if host != "" {
		headers = append(headers, keyValue{name: ":authority", value: host, regex: hostRegex})
	}
	if s.Method != "" {
		regex := s.MethodRegex != nil && *s.MethodRegex
		headers = append(headers, keyValue{name: ":method", value: s.Method, regex: regex})
		if regex {
			ok = validRegex(f, "spec.method", s.Method) && ok
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.QueryParameters)) {
		query = append(query, keyValue{name: name, value: s.QueryParameters[name]})
	}
	for _, name := range slices.Sorted(maps.Keys(s.RegexQueryParameters)) {
		present := slices.Contains(s.V2BoolQueryParameters, name)
		query = append(query, keyValue{name: name, value: s.RegexQueryParameters[name], regex: !present, present: present})
		if !present {
			ok = validRegex(f, "spec.regex_query_parameters["+name+"]", s.RegexQueryParameters[name]) && ok
		}
	}
	precedence := 0
	if s.Precedence != nil {
		precedence = *s.Precedence
	}
	out.Match = match(s, headers, query)
	if out.Match.PathKind == ir.PathRegex {
		ok = validRegex(f, "spec.prefix", s.Prefix) && ok
	}
	out.Order = order(precedence, s.Prefix, headers, query)
	out.GroupID = groupID(w, out, precedence, s.Prefix, headers, query)
	out.ACME = strings.HasPrefix(s.Prefix, acmePrefix)
	return ok
}

// validRegex checks an expression as far as Go's RE2 syntax goes.
func validRegex(f *findings, path, expr string) bool {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err == nil {
		_, err = syntax.Compile(re.Simplify())
	}
	if err != nil {
		f.errorf(projector.CodeRegex, path, fmt.Sprintf("%q is not a regular expression: %v", expr, err))
		return false
	}
	return true
}

func match(s *getambassador.MappingSpec, headers, query []keyValue) ir.Match {
	m := ir.Match{Path: s.Prefix, IgnoreCase: s.CaseSensitive != nil && !*s.CaseSensitive}
	switch {
	case s.PrefixRegex != nil && *s.PrefixRegex:
		m.PathKind, m.IgnoreCase = ir.PathRegex, false
	case s.PrefixExact != nil && *s.PrefixExact:
		m.PathKind = ir.PathExact
	}
	for _, h := range headers {
		v := ir.StringMatch{Exact: h.value}
		switch {
		case h.regex:
			v = ir.StringMatch{Regex: h.value}
		case h.name != ":authority":
		case h.value == "*":
			continue // matches every host
		case strings.HasPrefix(h.value, "*"):
			v = ir.StringMatch{Suffix: h.value[1:]}
		case strings.HasSuffix(h.value, "*"):
			v = ir.StringMatch{Prefix: h.value[:len(h.value)-1]}
		}
		m.Headers = append(m.Headers, ir.HeaderMatch{Name: h.name, Value: v})
	}
	for _, q := range query {
		v := ir.StringMatch{Exact: q.value}
		switch {
		case q.present:
			v = ir.StringMatch{Present: true}
		case q.regex:
			v = ir.StringMatch{Regex: q.value}
		}
		m.Query = append(m.Query, ir.HeaderMatch{Name: q.name, Value: v})
	}
	return m
}

// order is Emissary's _route_weight.
func order(precedence int, prefix string, headers, query []keyValue) Order {
	o := Order{Precedence: precedence, Path: utf8.RuneCountInString(prefix), Rest: []string{prefix, "GET"}}
	for _, h := range headers {
		o.Headers += h.length()
		o.Rest = append(o.Rest, h.key())
	}
	for _, q := range query {
		o.Query += q.length()
		o.Rest = append(o.Rest, q.key())
	}
	return o
}

// groupID is Emissary's _group_id: Mappings with the same one share traffic.
func groupID(w World, m *Mapping, precedence int, prefix string, headers, query []keyValue) string {
	h := sha1.New() //nolint:gosec // see the import
	write := func(s string) { h.Write([]byte(s)) }
	write("HTTP-")
	write("GET")
	write(prefix)
	for _, kv := range append(slices.Clone(headers), query...) {
		write(kv.name)
		if !kv.present {
			write(kv.value)
		}
	}
	if m.Host == "" || m.HostRegex {
		for _, sel := range w.Selectors() {
			if !labelsMatch(sel, m.Labels) {
				continue
			}
			for _, k := range slices.Sorted(maps.Keys(sel)) {
				write(k)
				write(sel[k])
			}
		}
	}
	if precedence != 0 {
		write(strconv.Itoa(precedence))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// labelsMatch reports whether all of a selector's labels are there. An empty
// selector selects nothing.
func labelsMatch(selector, labels map[string]string) bool {
	for k, v := range selector {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return len(selector) > 0
}

// readAction reads where requests go.
func readAction(w World, f *findings, m *getambassador.Mapping, out *Mapping) bool {
	s := &m.Spec
	isSet := func(b *bool) bool { return b != nil && *b }
	out.Shadow = isSet(s.Shadow)
	redirect := isSet(s.HostRedirect)
	if out.Shadow && redirect {
		f.errorf(projector.CodeRedirect, "spec.host_redirect", "shadow is set as well; host_redirect is ignored, use one of them")
		redirect = false
	}
	if redirect {
		return readRedirect(w, f, m, out)
	}
	policy, ok := upstreamPolicy(w, f, s)
	lb, hash, lbOK := readLoadBalancer(w, f, s)
	policy.LB, out.flat.hash = lb, hash
	t := target{
		path: "spec.service", service: s.Service, namespace: m.Namespace, tls: s.TLS, resolver: s.Resolver,
		stat: s.StatsName, tag: s.ClusterTag, policy: policy,
	}
	needed, name, serviceOK := upstream(w, f, t)
	if !ok || !lbOK || !serviceOK {
		return false
	}
	out.Needed = needed
	out.Timeout = time.Duration(w.MappingDefaults().RequestTimeoutMs) * time.Millisecond
	if s.TimeoutMs != nil {
		d, good := f.ms("spec.timeout_ms", *s.TimeoutMs)
		out.Timeout, ok = *d, ok && good
	}
	if s.IdleTimeoutMs != nil {
		d, good := f.ms("spec.idle_timeout_ms", *s.IdleTimeoutMs)
		out.Idle, ok = d, ok && good
	}
	if !ok {
		return false
	}
	slash := "/"
	out.Rewrite = cmp.Or(s.Rewrite, &slash)
	if *out.Rewrite == "" {
		out.Rewrite = nil
	}
	out.HostTo, out.AutoHost = s.HostRewrite, isSet(s.AutoHostRewrite)
	if d := needed.Upstream.Discovery; out.AutoHost && out.HostTo == "" && (d == ir.DiscoverStatic || d == ir.DiscoverEndpoints) && !isIP(name.Host) {
		// The proxy takes the name from an upstream that it resolves by DNS; of
		// one that is looked up here the name is known.
		out.HostTo, out.AutoHost = name.Host, false
	}
	out.AuthCtx = s.AuthContextExtensions
	linkerd := w.MappingDefaults().LinkerdHeaders
	if s.AddLinkerdHeaders != nil {
		linkerd = *s.AddLinkerdHeaders
	}
	out.add.request = headersOr(s.AddRequestHeaders, w.MappingDefaults().AddRequest)
	out.add.response = headersOr(s.AddResponseHeaders, w.MappingDefaults().AddResponse)
	if linkerd {
		no := false
		out.add.request = maps.Clone(out.add.request)
		if out.add.request == nil {
			out.add.request = map[string]getambassador.AddedHeader{}
		}
		out.add.request["l5d-dst-override"] = getambassador.AddedHeader{
			Value: name.Host + ":" + strconv.FormatUint(uint64(name.Port), 10), Append: &no,
		}
	}
	return true
}

func headersOr(own, otherwise map[string]getambassador.AddedHeader) map[string]getambassador.AddedHeader {
	if own != nil {
		return own
	}
	return otherwise
}

func readRedirect(w World, f *findings, m *getambassador.Mapping, out *Mapping) bool {
	s := &m.Spec
	name, complaint := ParseService(s.Service)
	if complaint != "" {
		severity := projector.Warning
		if name.Host == "" {
			severity = projector.Error
		}
		f.add(severity, projector.CodeServiceName, "spec.service", complaint)
	}
	if name.Host == "" {
		return false
	}
	r := &ir.Redirect{Code: 301, Host: Qualify(name.Host, m.Namespace, w)}
	if name.Port != 0 {
		r.Host += ":" + strconv.FormatUint(uint64(name.Port), 10)
	}
	if s.RedirectResponseCode != nil {
		r.Code = uint32(*s.RedirectResponseCode)
	}
	conflict := func(path string, set bool) {
		if set {
			f.errorf(projector.CodeRedirect, path, "another path setting counts before this one, which is ignored")
		}
	}
	switch {
	case s.PathRedirect != "":
		r.Path = s.PathRedirect
		conflict("spec.prefix_redirect", s.PrefixRedirect != "")
		conflict("spec.regex_redirect", s.RegexRedirect != nil)
	case s.PrefixRedirect != "":
		r.Prefix, r.PrefixIsSet = s.PrefixRedirect, true
		conflict("spec.regex_redirect", s.RegexRedirect != nil)
	case s.RegexRedirect != nil:
		if !validRegex(f, "spec.regex_redirect.pattern", s.RegexRedirect.Pattern) {
			return false
		}
		r.Regex = &ir.RegexRewrite{Pattern: s.RegexRedirect.Pattern, Substitution: s.RegexRedirect.Substitution}
	}
	out.Redirect = r
	return true
}

// upstreamPolicy reads how the upstream is treated.
func upstreamPolicy(w World, f *findings, s *getambassador.MappingSpec) (ir.Upstream, bool) {
	d := w.MappingDefaults()
	ok := true
	p := ir.Upstream{Connect: 3 * time.Second, HTTP2: s.GRPC != nil && *s.GRPC}
	if s.ConnectTimeoutMs != nil {
		d, good := f.ms("spec.connect_timeout_ms", *s.ConnectTimeoutMs)
		p.Connect, ok = *d, ok && good
	}
	if n := cmp.Or(s.ClusterIdleTimeoutMs, d.ClusterIdleMs); n != nil {
		d, good := f.ms("spec.cluster_idle_timeout_ms", *n)
		p.Idle, ok = d, ok && good
	}
	if n := cmp.Or(s.ClusterMaxConnectionLifetimeMs, d.MaxLifetimeMs); n != nil {
		d, good := f.ms("spec.cluster_max_connection_lifetime_ms", *n)
		p.MaxAge, ok = d, ok && good
	}
	breakers := s.CircuitBreakers
	if breakers == nil {
		breakers = d.Breakers
	}
	for i, b := range breakers {
		positive := func(n *int) *uint32 {
			if n == nil {
				return nil
			}
			if *n < 0 {
				f.errorf(projector.CodeInvalid, fmt.Sprintf("spec.circuit_breakers[%d]", i), "a limit is negative")
				ok = false
				return nil
			}
			v := uint32(*n)
			return &v
		}
		p.Breakers = append(p.Breakers, ir.Breaker{
			High: b.Priority == "high", Connections: positive(b.MaxConnections), Pending: positive(b.MaxPendingRequests),
			Requests: positive(b.MaxRequests), Retries: positive(b.MaxRetries),
		})
	}
	if k := cmp.Or(s.KeepAlive, d.KeepAlive); k != nil {
		p.Keepalive = &ir.Keepalive{Probes: seconds(k.Probes), Time: seconds(k.IdleTime), Interval: seconds(k.Interval)}
	}
	p.DNS = &ir.DNS{V4: true, RespectTTL: s.RespectDNSTTL != nil && *s.RespectDNSTTL}
	if v4 := cmp.Or(s.EnableIPv4, d.EnableIPv4); v4 != nil {
		p.DNS.V4 = *v4
	}
	if v6 := cmp.Or(s.EnableIPv6, d.EnableIPv6); v6 != nil {
		p.DNS.V6 = *v6
	}
	switch s.DNSType {
	case "", "strict_dns":
	case "logical_dns":
		p.Discovery = ir.DiscoverLogicalDNS
	default:
		f.warnf(projector.CodeInvalid, "spec.dns_type", fmt.Sprintf("%q is neither strict_dns nor logical_dns; strict_dns is used", s.DNSType))
	}
	return p, ok
}

func seconds(n *int) *uint32 {
	if n == nil || *n < 0 {
		return nil
	}
	v := uint32(*n)
	return &v
}

// readLoadBalancer reads the policy and what requests of one client share.
func readLoadBalancer(w World, f *findings, s *getambassador.MappingSpec) (ir.LoadBalancer, []ir.Hash, bool) {
	lb := cmp.Or(s.LoadBalancer, w.MappingDefaults().LoadBalancer)
	if lb == nil {
		return ir.LoadBalancer{}, nil, true
	}
	resolver := cmp.Or(s.Resolver, w.MappingDefaults().Resolver)
	if kind, _ := w.Resolver(resolver); kind == ServiceResolver {
		if s.LoadBalancer == nil {
			return ir.LoadBalancer{}, nil, true // a Module's policy is for Mappings that can have one
		}
		f.errorf(projector.CodeResolver, "spec.load_balancer", fmt.Sprintf("resolver %q leaves load balancing to the Service; name a KubernetesEndpointResolver in resolver", resolver))
		return ir.LoadBalancer{}, nil, false
	}
	out := ir.LoadBalancer{Policy: lb.Policy}
	set := 0
	var hash []ir.Hash
	if lb.Cookie != nil {
		set++
		c := &ir.HashCookie{Name: lb.Cookie.Name, Path: lb.Cookie.Path}
		if lb.Cookie.TTL != "" {
			ttl, ok := duration(lb.Cookie.TTL)
			if !ok {
				f.errorf(projector.CodeInvalid, "spec.load_balancer.cookie.ttl", fmt.Sprintf("%q is not a duration such as 60s", lb.Cookie.TTL))
				return ir.LoadBalancer{}, nil, false
			}
			c.TTL = &ttl
		}
		hash = append(hash, ir.Hash{Cookie: c})
	}
	if lb.Header != "" {
		set++
		hash = append(hash, ir.Hash{Header: lb.Header})
	}
	if lb.SourceIP != nil {
		set++
		hash = append(hash, ir.Hash{SourceIP: true})
	}
	sticky := lb.Policy == "ring_hash" || lb.Policy == "maglev"
	if sticky && set != 1 || !sticky && set != 0 {
		f.errorf(projector.CodeInvalid, "spec.load_balancer", "ring_hash and maglev want exactly one of cookie, header and source_ip, the other policies none")
		return ir.LoadBalancer{}, nil, false
	}
	return out, hash, true
}

// duration reads text such as "1.5s" or "300ms", without a clock.
func duration(s string) (time.Duration, bool) {
	d, err := time.ParseDuration(s)
	return d, err == nil && d >= 0
}

// readPolicies reads what a group takes from its heaviest Mapping.
func readPolicies(w World, f *findings, s *getambassador.MappingSpec, out *Mapping) {
	d := w.MappingDefaults()
	fl := &out.flat
	fl.cors = cmp.Or(s.CORS, d.CORS)
	if retry := cmp.Or(s.RetryPolicy, d.Retry); retry != nil {
		r := &ir.Retry{On: retry.RetryOn, Count: seconds(retry.NumRetries)}
		if retry.PerTryTimeout != "" {
			if per, ok := duration(retry.PerTryTimeout); ok {
				r.PerTry = &per
			} else {
				f.warnf(projector.CodeInvalid, "spec.retry_policy.per_try_timeout", fmt.Sprintf("%q is not a duration such as 500ms; there is no limit per try", retry.PerTryTimeout))
			}
		}
		fl.retry = r
	}
	if s.Priority != "" {
		p := strings.ToLower(s.Priority)
		if p != "default" && p != "high" {
			f.warnf(projector.CodeInvalid, "spec.priority", fmt.Sprintf("%q is neither default nor high; default is used", s.Priority))
			p = "default"
		}
		fl.priority = &p
	}
	fl.delRequest, fl.delResponse = []string(s.RemoveRequestHeaders), []string(s.RemoveResponseHeaders)
	if fl.delRequest == nil {
		fl.delRequest = d.RemoveRequest
	}
	if fl.delResponse == nil {
		fl.delResponse = d.RemoveResponse
	}
	fl.upgrade = slices.Clone(s.AllowUpgrade)
	if s.UseWebsocket != nil && *s.UseWebsocket && !slices.Contains(fl.upgrade, "websocket") {
		fl.upgrade = append(fl.upgrade, "websocket")
	}
	if s.RegexRewrite != nil && s.RegexRewrite.Pattern != "" {
		if validRegex(f, "spec.regex_rewrite.pattern", s.RegexRewrite.Pattern) {
			fl.regexRewrite = &ir.RegexRewrite{Pattern: s.RegexRewrite.Pattern, Substitution: s.RegexRewrite.Substitution}
			if s.Rewrite != nil && *s.Rewrite != "" {
				f.noEffect("spec.rewrite", "regex_rewrite counts before rewrite")
			}
		}
	}
	if s.CaseSensitive != nil {
		ignore := !*s.CaseSensitive
		fl.ignoreCase = &ignore
	}
	fl.bypassAuth = s.BypassAuth
	fl.limits = rateLimits(w, f, s.Labels)
}

// coreKeys are the fields in which the Mappings of a group must agree.
func readCore(s *getambassador.MappingSpec, out *Mapping) {
	set := func(key string, isSet bool, v any) {
		if isSet {
			out.core[key] = asJSON(v)
		}
	}
	set("bypass_auth", s.BypassAuth != nil, s.BypassAuth)
	set("circuit_breakers", s.CircuitBreakers != nil, s.CircuitBreakers)
	set("connect_timeout_ms", s.ConnectTimeoutMs != nil, s.ConnectTimeoutMs)
	set("cluster_idle_timeout_ms", s.ClusterIdleTimeoutMs != nil, s.ClusterIdleTimeoutMs)
	set("cluster_max_connection_lifetime_ms", s.ClusterMaxConnectionLifetimeMs != nil, s.ClusterMaxConnectionLifetimeMs)
	set("headers", true, out.Match.Headers)
	set("keepalive", s.KeepAlive != nil, s.KeepAlive)
	set("labels", s.Labels != nil, s.Labels)
	set("load_balancer", s.LoadBalancer != nil, s.LoadBalancer)
	set("prefix", true, s.Prefix)
	set("prefix_regex", s.PrefixRegex != nil, s.PrefixRegex)
	set("prefix_exact", s.PrefixExact != nil, s.PrefixExact)
}
