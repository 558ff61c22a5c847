package envoy

import (
	"fmt"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/ratelimit/v3"
	rbacconfigv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	gzipv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	extauthzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	bridgev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_http1_bridge/v3"
	grpcstatsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_stats/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ratelimit/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

// The names of the filters in Envoy's chain. A route's settings find a filter
// by its name.
const (
	bridgeFilter         = "envoy.filters.http.grpc_http1_bridge"
	grpcWebFilter        = "envoy.filters.http.grpc_web"
	grpcStatsFilter      = "envoy.filters.http.grpc_stats"
	luaFilter            = "envoy.filters.http.lua"
	compressorFilter     = "envoy.filters.http.compressor"
	bufferFilter         = "envoy.filters.http.buffer"
	rbacFilter           = "envoy.filters.http.rbac"
	corsFilter           = "envoy.filters.http.cors"
	extAuthzFilter       = "envoy.filters.http.ext_authz"
	rateLimitFilter      = "envoy.filters.http.ratelimit"
	customResponseFilter = "envoy.filters.http.custom_response"
	headerMutationFilter = "envoy.filters.http.header_mutation"
	routerFilter         = "envoy.filters.http.router"
)

// filterNames translates the ir's words.
var filterNames = map[string]string{
	"grpc-http1-bridge": bridgeFilter,
	"grpc-web":          grpcWebFilter,
	"grpc-stats":        grpcStatsFilter,
	"lua":               luaFilter,
	"gzip":              compressorFilter,
	"buffer":            bufferFilter,
	"ip-allow":          rbacFilter,
	"ip-deny":           rbacFilter,
	"cors":              corsFilter,
	"ext-authz":         extAuthzFilter,
	"rate-limit":        rateLimitFilter,
}

// httpFilter writes one filter of the chain.
func httpFilter(f ir.Filter) (*hcmv3.HttpFilter, error) {
	name, m, err := filterConfig(f)
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", f.Name, err)
	}
	return namedFilter(name, m)
}

func namedFilter(name string, m message) (*hcmv3.HttpFilter, error) {
	a, err := packAny(m)
	if err != nil {
		return nil, fmt.Errorf("filter %s: %w", name, err)
	}
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: a}}, nil
}

func filterConfig(f ir.Filter) (string, message, error) {
	if f.Disabled {
		return "", nil, fmt.Errorf("only a route turns a filter off; leave it out of the chain")
	}
	name, ok := filterNames[f.Name]
	if !ok {
		return "", nil, fmt.Errorf("no filter has this name")
	}
	if f.Direct != nil { // under the name of what it stands for, so that what turns that off turns this off
		return name, luaDirect(*f.Direct), nil
	}
	var m message
	var err error
	switch f.Name {
	case "grpc-http1-bridge":
		m = &bridgev3.Config{}
	case "grpc-web":
		m = &grpcwebv3.GrpcWeb{}
	case "grpc-stats":
		m = grpcStats(f.GRPCStats)
	case "lua":
		m = &luav3.Lua{DefaultSourceCode: inline(f.Lua)}
	case "gzip":
		m, err = compressor(f.Gzip)
	case "buffer":
		m = &bufferv3.Buffer{MaxRequestBytes: wrapperspb.UInt32(f.Buffer)}
	case "ip-allow", "ip-deny":
		m, err = ipRules(f)
	case "cors":
		m = &corsv3.Cors{}
	case "ext-authz":
		m, err = extAuthz(f.ExtAuthz)
	case "rate-limit":
		m, err = rateLimitService(f.RateLimit)
	}
	return name, m, err
}

// luaDirect answers every request. The body reaches Lua as a string of decimal
// escapes, so that nothing in it can be code.
func luaDirect(d ir.Direct) *luav3.Lua {
	var quoted strings.Builder
	for _, b := range []byte(d.Body) {
		fmt.Fprintf(&quoted, `\%03d`, b)
	}
	kind := "text/plain"
	if strings.HasPrefix(strings.TrimSpace(d.Body), "{") {
		kind = "application/json"
	}
	return &luav3.Lua{DefaultSourceCode: inline(fmt.Sprintf(
		"function envoy_on_request(request)\n  request:respond({[\":status\"] = \"%d\", [\"content-type\"] = \"%s\"}, \"%s\")\nend\n",
		d.Status, kind, quoted.String()))}
}

func grpcStats(g *ir.GRPCStats) *grpcstatsv3.FilterConfig {
	out := &grpcstatsv3.FilterConfig{}
	if g == nil {
		return out
	}
	out.EnableUpstreamStats = g.UpstreamStats
	switch {
	case g.AllMethods:
		out.PerMethodStatSpecifier = &grpcstatsv3.FilterConfig_StatsForAllMethods{StatsForAllMethods: wrapperspb.Bool(true)}
	case len(g.Services) > 0:
		list := &corev3.GrpcMethodList{}
		for _, s := range g.Services {
			list.Services = append(list.Services, &corev3.GrpcMethodList_Service{Name: s.Name, MethodNames: s.Methods})
		}
		out.PerMethodStatSpecifier = &grpcstatsv3.FilterConfig_IndividualMethodStatsAllowlist{IndividualMethodStatsAllowlist: list}
	}
	return out
}

// enumOf finds a name of a protobuf enum whatever its case.
func enumOf(values map[string]int32, what, name string) (int32, error) {
	if name == "" {
		return 0, nil
	}
	v, ok := values[strings.ToUpper(name)]
	if !ok {
		return 0, fmt.Errorf("%s %q is unknown to the proxy", what, name)
	}
	return v, nil
}

func compressor(g *ir.Gzip) (*compressorv3.Compressor, error) {
	if g == nil {
		g = &ir.Gzip{}
	}
	level, err := enumOf(gzipv3.Gzip_CompressionLevel_value, "compression level", g.Level)
	if err != nil {
		return nil, err
	}
	strategy, err := enumOf(gzipv3.Gzip_CompressionStrategy_value, "compression strategy", g.Strategy)
	if err != nil {
		return nil, err
	}
	library, err := extension("envoy.compression.gzip.compressor", &gzipv3.Gzip{
		MemoryLevel:         positive32(g.MemoryLevel),
		WindowBits:          positive32(g.WindowBits),
		CompressionLevel:    gzipv3.Gzip_CompressionLevel(level),
		CompressionStrategy: gzipv3.Gzip_CompressionStrategy(strategy),
	})
	if err != nil {
		return nil, err
	}
	return &compressorv3.Compressor{
		CompressorLibrary: library,
		ResponseDirectionConfig: &compressorv3.Compressor_ResponseDirectionConfig{
			CommonConfig: &compressorv3.Compressor_CommonDirectionConfig{
				MinContentLength: positive32(g.MinLength),
				ContentType:      g.ContentTypes, //nolint:staticcheck // deprecated, and what Emissary sends: it matches the same
			},
			DisableOnEtagHeader:        g.DisableOnETag,
			RemoveAcceptEncodingHeader: g.RemoveAcceptEncoding,
		},
	}, nil
}

func ipRules(f ir.Filter) (*rbacv3.RBAC, error) {
	action := rbacconfigv3.RBAC_ALLOW
	if f.Name == "ip-deny" {
		action = rbacconfigv3.RBAC_DENY
	}
	p := &rbacconfigv3.Policy{Permissions: []*rbacconfigv3.Permission{{Rule: &rbacconfigv3.Permission_Any{Any: true}}}}
	for _, c := range f.IP {
		r, err := cidrRange(c.Range)
		if err != nil {
			return nil, err
		}
		id := &rbacconfigv3.Principal{Identifier: &rbacconfigv3.Principal_DirectRemoteIp{DirectRemoteIp: r}}
		if c.Remote {
			id.Identifier = &rbacconfigv3.Principal_RemoteIp{RemoteIp: r}
		}
		p.Principals = append(p.Principals, id)
	}
	if len(p.Principals) == 0 {
		return nil, fmt.Errorf("no address range is named; leave the filter out instead")
	}
	return &rbacv3.RBAC{Rules: &rbacconfigv3.RBAC{Action: action, Policies: map[string]*rbacconfigv3.Policy{f.Name: p}}}, nil
}

// cidrRange reads "10.0.0.0/8", or an address, which is the range of itself.
func cidrRange(s string) (*corev3.CidrRange, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is no address range; write it like 10.0.0.0/8", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	return &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))}, nil
}

func extAuthz(e *ir.ExtAuthz) (*extauthzv3.ExtAuthz, error) {
	if e == nil || e.Upstream == "" {
		return nil, fmt.Errorf("no authentication service is named")
	}
	host := e.HostHeader
	if host == "" {
		host = e.Upstream
	}
	out := &extauthzv3.ExtAuthz{
		TransportApiVersion: corev3.ApiVersion_V3,
		FailureModeAllow:    e.FailOpen,
		ClearRouteCache:     e.ClearRouteCache,
		AllowedHeaders:      exactNames(e.AllowedRequest),
	}
	if e.BodyBytes > 0 {
		out.WithRequestBody = &extauthzv3.BufferSettings{MaxRequestBytes: e.BodyBytes, AllowPartialMessage: e.PartialBody}
	}
	if e.ErrorStatus != 0 {
		out.StatusOnError = &typev3.HttpStatus{Code: typev3.StatusCode(e.ErrorStatus)}
	}
	if e.GRPC {
		if e.PathPrefix != "" || len(e.AllowedUpstream)+len(e.AllowedClient)+len(e.AddAuthHeaders) > 0 {
			return nil, fmt.Errorf("path prefix and authorization headers are for HTTP authentication services only")
		}
		out.Services = &extauthzv3.ExtAuthz_GrpcService{GrpcService: grpcService(e.Upstream, e.HostHeader, e.Timeout)}
		return out, nil
	}
	h := &extauthzv3.HttpService{
		ServerUri: &corev3.HttpUri{
			Uri:              "http://" + host,
			HttpUpstreamType: &corev3.HttpUri_Cluster{Cluster: e.Upstream},
			Timeout:          durationpb.New(e.Timeout),
		},
		PathPrefix: e.PathPrefix,
		AuthorizationResponse: &extauthzv3.AuthorizationResponse{
			AllowedUpstreamHeaders: exactNames(e.AllowedUpstream),
			AllowedClientHeaders:   exactNames(e.AllowedClient),
		},
	}
	for _, a := range e.AddAuthHeaders {
		if a.Append || a.IfAbsent {
			return nil, fmt.Errorf("header %s to the authentication service can only be set, not appended", a.Name)
		}
		if h.AuthorizationRequest == nil {
			h.AuthorizationRequest = &extauthzv3.AuthorizationRequest{}
		}
		h.AuthorizationRequest.HeadersToAdd = append(h.AuthorizationRequest.HeadersToAdd, &corev3.HeaderValue{Key: a.Name, Value: a.Value})
	}
	out.Services = &extauthzv3.ExtAuthz_HttpService{HttpService: h}
	return out, nil
}

func rateLimitService(r *ir.RateLimitService) (*ratelimitv3.RateLimit, error) {
	if r == nil || r.Upstream == "" {
		return nil, fmt.Errorf("no rate limit service is named")
	}
	return &ratelimitv3.RateLimit{
		Domain:                         r.Domain,
		RequestType:                    "both",
		Timeout:                        positive(r.Timeout),
		FailureModeDeny:                r.FailClosed,
		RateLimitedAsResourceExhausted: r.ResourceExhaustedCode,
		RateLimitService: &ratelimitconfigv3.RateLimitServiceConfig{
			GrpcService:         grpcService(r.Upstream, "", 0),
			TransportApiVersion: corev3.ApiVersion_V3,
		},
	}, nil
}

// routeFilter writes what a route sets for the filter of this name in the
// ir's words, and returns the name in Envoy's.
func routeFilter(key string, f ir.Filter) (string, message, error) {
	name, ok := filterNames[key]
	if !ok {
		return "", nil, fmt.Errorf("no filter has this name")
	}
	if f.Name != "" && f.Name != key {
		return "", nil, fmt.Errorf("the setting is one of %s", f.Name)
	}
	if f.Disabled {
		return name, &routev3.FilterConfig{Disabled: true}, nil
	}
	f.Name = key
	switch key {
	case "lua":
		return name, &luav3.LuaPerRoute{Override: &luav3.LuaPerRoute_SourceCode{SourceCode: inline(f.Lua)}}, nil
	case "buffer":
		return name, &bufferv3.BufferPerRoute{Override: &bufferv3.BufferPerRoute_Buffer{
			Buffer: &bufferv3.Buffer{MaxRequestBytes: wrapperspb.UInt32(f.Buffer)},
		}}, nil
	case "ip-allow", "ip-deny":
		rules, err := ipRules(f)
		if err != nil {
			return "", nil, err
		}
		return name, &rbacv3.RBACPerRoute{Rbac: rules}, nil
	default:
		return "", nil, fmt.Errorf("a route can turn it off, but not change it")
	}
}
