package envoy

import (
	"fmt"
	"maps"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

// VirtualHost writes one virtual host as RouteTable takes it. The caller keeps
// the bytes as long as the value does not change.
func VirtualHost(v ir.VirtualHost) ([]byte, error) {
	m, err := virtualHost(v)
	if err != nil {
		return nil, fmt.Errorf("virtual host %s: %w", v.Name, err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("virtual host %s: %w", v.Name, err)
	}
	b, err := marshal(m)
	if err != nil {
		return nil, fmt.Errorf("virtual host %s: %w", v.Name, err)
	}
	return b, nil
}

func virtualHost(v ir.VirtualHost) (*routev3.VirtualHost, error) {
	if v.Name == SentinelName {
		return nil, fmt.Errorf("the name is taken by the sentinel; choose another")
	}
	out := &routev3.VirtualHost{Name: v.Name, Domains: v.Domains, Metadata: metadata(v.Metadata)}
	if v.RequireTLS {
		out.RequireTls = routev3.VirtualHost_ALL
	}
	for i, r := range v.Routes {
		m, err := route(r)
		if err != nil {
			return nil, fmt.Errorf("route %d %s: %w", i, r.Name, err)
		}
		out.Routes = append(out.Routes, m)
	}
	var err error
	if out.RateLimits, err = rateLimits(v.RateLimits); err != nil {
		return nil, err
	}
	if v.CORS != nil {
		c, err := cors(v.CORS)
		if err != nil {
			return nil, err
		}
		out.TypedPerFilterConfig = map[string]*anypb.Any{corsFilter: c}
	}
	return out, nil
}

func route(r ir.Route) (*routev3.Route, error) {
	match, err := routeMatch(r.Match)
	if err != nil {
		return nil, fmt.Errorf("match: %w", err)
	}
	out := &routev3.Route{
		Name:                    r.Name,
		Match:                   match,
		Metadata:                metadata(r.Metadata),
		RequestHeadersToAdd:     addHeaders(r.AddRequestHeaders),
		RequestHeadersToRemove:  r.DelRequestHeaders,
		ResponseHeadersToAdd:    addHeaders(r.AddResponseHeaders),
		ResponseHeadersToRemove: r.DelResponseHeaders,
		StatPrefix:              r.StatPrefix,
	}
	if r.BufferLimit != nil {
		out.RequestBodyBufferLimit = wrapperspb.UInt64(uint64(*r.BufferLimit))
	}
	if out.TypedPerFilterConfig, err = routeFilters(r); err != nil {
		return nil, err
	}
	a := r.Action
	switch {
	case len(a.Forward) > 0 && a.Redirect == nil && a.Direct == nil:
		f, err := forward(r)
		if err != nil {
			return nil, err
		}
		out.Action = &routev3.Route_Route{Route: f}
	case a.Redirect != nil && len(a.Forward) == 0 && a.Direct == nil:
		d, err := redirect(r.Match, *a.Redirect)
		if err != nil {
			return nil, err
		}
		out.Action = &routev3.Route_Redirect{Redirect: d}
	case a.Direct != nil && len(a.Forward) == 0 && a.Redirect == nil:
		out.Action = &routev3.Route_DirectResponse{DirectResponse: direct(*a.Direct)}
	default:
		return nil, fmt.Errorf("an action is exactly one of forward, redirect and direct response")
	}
	return out, nil
}

func direct(d ir.Direct) *routev3.DirectResponseAction {
	out := &routev3.DirectResponseAction{Status: d.Status}
	if d.Body != "" {
		out.Body = inline(d.Body)
	}
	return out
}

// routeFilters writes what the route sets for filters of the chain. A setting
// for a filter that the chain does not have is without effect.
func routeFilters(r ir.Route) (map[string]*anypb.Any, error) {
	out := map[string]*anypb.Any{}
	set := func(name string, m message) error {
		a, err := packAny(m)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, ok := out[name]; ok {
			return fmt.Errorf("%s is set twice for the route", name)
		}
		out[name] = a
		return nil
	}
	if r.CORS != nil {
		c, err := cors(r.CORS)
		if err != nil {
			return nil, err
		}
		out[corsFilter] = c
	}
	switch {
	case r.DisableAuth: // the filter as such, whatever stands in for it
		if err := set(extAuthzFilter, &routev3.FilterConfig{Disabled: true}); err != nil {
			return nil, err
		}
	case len(r.AuthContext) > 0:
		if err := set(extAuthzFilter, &extauthzv3.ExtAuthzPerRoute{Override: &extauthzv3.ExtAuthzPerRoute_CheckSettings{
			CheckSettings: &extauthzv3.CheckSettings{ContextExtensions: r.AuthContext},
		}}); err != nil {
			return nil, err
		}
	}
	if len(r.LocalReplies) > 0 {
		m, err := replyMatcher(r.LocalReplies)
		if err != nil {
			return nil, err
		}
		if err := set(customResponseFilter, m); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.FilterSettings)) {
		to, m, err := routeFilter(name, r.FilterSettings[name])
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w", name, err)
		}
		if err := set(to, m); err != nil {
			return nil, err
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

func cors(c *ir.CORS) (*anypb.Any, error) {
	p := &corsv3.CorsPolicy{
		AllowMethods:                 c.Methods,
		AllowHeaders:                 c.Headers,
		ExposeHeaders:                c.ExposeHeaders,
		MaxAge:                       c.MaxAge,
		AllowCredentials:             boolValue(c.Credentials),
		ForwardNotMatchingPreflights: boolValue(c.ForwardPreflight),
	}
	if c.RuntimeKey != "" {
		p.FilterEnabled = percentOf(100, c.RuntimeKey)
	}
	for _, o := range c.Origins {
		if o.Present || o.Invert || o.MatchEmpty {
			return nil, fmt.Errorf("CORS: an origin is compared with a value; %+v is none", o)
		}
		m, err := stringMatcher(o)
		if err != nil {
			return nil, fmt.Errorf("CORS: %w", err)
		}
		p.AllowOriginStringMatch = append(p.AllowOriginStringMatch, m)
	}
	a, err := packAny(p)
	if err != nil {
		return nil, fmt.Errorf("CORS: %w", err)
	}
	return a, nil
}

func rateLimits(rs []ir.RateLimit) ([]*routev3.RateLimit, error) {
	var out []*routev3.RateLimit
	for i, r := range rs {
		m := &routev3.RateLimit{}
		if r.Stage != 0 {
			m.Stage = wrapperspb.UInt32(r.Stage)
		}
		for _, a := range r.Actions {
			action, err := rateLimitAction(a)
			if err != nil {
				return nil, fmt.Errorf("rate limit %d: %w", i, err)
			}
			m.Actions = append(m.Actions, action)
		}
		out = append(out, m)
	}
	return out, nil
}

func rateLimitAction(a ir.RateLimitAction) (*routev3.RateLimit_Action, error) {
	var out []*routev3.RateLimit_Action
	if a.SourceCluster {
		out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_SourceCluster_{SourceCluster: &routev3.RateLimit_Action_SourceCluster{}}})
	}
	if a.DestinationCluster {
		out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_DestinationCluster_{DestinationCluster: &routev3.RateLimit_Action_DestinationCluster{}}})
	}
	if a.RemoteAddress {
		out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RemoteAddress_{RemoteAddress: &routev3.RateLimit_Action_RemoteAddress{}}})
	}
	if k := a.GenericKey; k != nil {
		out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_GenericKey_{
			GenericKey: &routev3.RateLimit_Action_GenericKey{DescriptorKey: k.Key, DescriptorValue: k.Value},
		}})
	}
	if h := a.Header; h != nil {
		out = append(out, &routev3.RateLimit_Action{ActionSpecifier: &routev3.RateLimit_Action_RequestHeaders_{
			RequestHeaders: &routev3.RateLimit_Action_RequestHeaders{HeaderName: h.Header, DescriptorKey: h.Key, SkipIfAbsent: h.SkipIfAbsent},
		}})
	}
	if len(out) != 1 {
		return nil, fmt.Errorf("an action is exactly one kind of entry, not %d", len(out))
	}
	return out[0], nil
}

func priority(high bool) corev3.RoutingPriority {
	if high {
		return corev3.RoutingPriority_HIGH
	}
	return corev3.RoutingPriority_DEFAULT
}
