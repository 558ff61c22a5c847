package envoy_test

import (
	"time"

	"github.com/chancery-dev/chancery/projector/ir"
)

func ptr[T any](v T) *T { return &v }

// config is what a compile would hand over: the ir of one snapshot.
type config struct {
	Listeners []ir.Listener
	Tables    []ir.RouteTable
	Upstreams []ir.Upstream
	Endpoints []ir.EndpointSet
	Secrets   []ir.SecretRef
}

// full uses every field of the ir: TestFullIsFull says so.
func full() config {
	second := ptr(time.Second)
	header := []ir.HeaderValue{{Name: "x-added", Value: "v", Append: true}, {Name: "x-default", Value: "d", IfAbsent: true}}
	logs := []ir.AccessLog{
		{Path: "/dev/null", Text: "%PROTOCOL% %METADATA(ROUTE:chancery:name)%\n"},
		{Path: "/dev/null", JSON: map[string]any{"code": "%RESPONSE_CODE%", "nested": map[string]any{"a": "b"}}},
		{Path: "/dev/null", JSON: map[string]any{"code": "%RESPONSE_CODE%"}, Typed: true},
		{
			Upstream: "logs", LogName: "http", Flush: time.Second, Bytes: 4096,
			Headers: []ir.LogHeader{{Name: "x-both", Request: true, Response: true}, {Name: "x-trailer", Trailer: true}},
		},
	}
	tcpLogs := []ir.AccessLog{{Upstream: "logs", LogName: "tcp", TCP: true, Flush: time.Second, Bytes: 1024}}
	source := ir.Source{Cluster: "east", Kind: "Mapping", Namespace: "shop", Name: "web"}
	sans := []ir.StringMatch{{Exact: "client.example"}, {Prefix: "Spiffe://", IgnoreCase: true}, {Suffix: ".example"}, {Contains: "svc"}, {Regex: "a.*"}}
	filters := []ir.Filter{
		{Name: "grpc-http1-bridge"},
		{Name: "grpc-web"},
		{Name: "grpc-stats", GRPCStats: &ir.GRPCStats{Services: []ir.GRPCService{{Name: "pkg.Svc", Methods: []string{"Get"}}}, UpstreamStats: true}},
		{Name: "lua", Lua: "function envoy_on_request(h)\nend\n"},
		{Name: "gzip", Gzip: &ir.Gzip{
			MemoryLevel: 3, WindowBits: 10, MinLength: 64, Level: "best_speed", Strategy: "huffman_only",
			ContentTypes: []string{"text/html"}, DisableOnETag: true, RemoveAcceptEncoding: true,
		}},
		{Name: "buffer", Buffer: 65536},
		{Name: "ip-deny", IP: []ir.CIDR{{Range: "192.0.2.0/24"}, {Range: "2001:db8::1", Remote: true}}},
		{Name: "cors"},
		{Name: "ext-authz", ExtAuthz: &ir.ExtAuthz{
			Upstream: "auth", PathPrefix: "/check", Timeout: time.Second,
			AllowedRequest: []string{"x-user"}, AllowedUpstream: []string{"x-id"}, AllowedClient: []string{"location"},
			AddAuthHeaders: []ir.HeaderValue{{Name: "x-asks", Value: "chancery"}},
			BodyBytes:      4096, PartialBody: true, FailOpen: true, ErrorStatus: 503, ClearRouteCache: true, HostHeader: "auth.example",
		}},
		{Name: "rate-limit", RateLimit: &ir.RateLimitService{Upstream: "limits", Domain: "shop", Timeout: time.Second, FailClosed: true, ResourceExhaustedCode: true}},
	}
	replies := []ir.LocalReply{
		{Status: 404, Body: "nothing at %REQ(:PATH)%\n", ContentType: "text/plain"},
		{Status: 503, JSON: map[string]string{"error": "%RESPONSE_CODE%"}},
	}
	limits := []ir.RateLimit{{Stage: 1, Actions: []ir.RateLimitAction{
		{SourceCluster: true},
		{DestinationCluster: true},
		{RemoteAddress: true},
		{GenericKey: &ir.KeyValue{Key: "tier", Value: "gold"}},
		{Header: &ir.HeaderEntry{Key: "user", Header: "x-user", SkipIfAbsent: true}},
	}}}
	cors := &ir.CORS{
		Origins: []ir.StringMatch{{Exact: "https://shop.example"}}, Methods: "GET", Headers: "x-a", ExposeHeaders: "x-b",
		MaxAge: "60", Credentials: ptr(true), RuntimeKey: "routing.cors", ForwardPreflight: ptr(false),
	}
	forward := func(name string) ir.Action { return ir.Action{Forward: []ir.Weighted{{Upstream: name, Weight: 100}}} }

	everything := ir.Route{
		Name: "everything",
		Match: ir.Match{
			Path: "/Everything", IgnoreCase: true, GRPC: true,
			Headers: []ir.HeaderMatch{
				{Name: ":method", Value: ir.StringMatch{Exact: "POST"}},
				{Name: "x-present", Value: ir.StringMatch{Present: true, Invert: true}},
				{Name: "x-empty", Value: ir.StringMatch{Regex: "v?", MatchEmpty: true}},
			},
			Query:    []ir.HeaderMatch{{Name: "q", Value: ir.StringMatch{Present: true}}, {Name: "p", Value: ir.StringMatch{Prefix: "v"}}},
			Fraction: &ir.Fraction{Percent: 50, RuntimeKey: "routing.traffic_shift.web"},
		},
		Action: ir.Action{Forward: []ir.Weighted{
			{Upstream: "static", Weight: 1},
			{
				Upstream: "endpoints", Weight: 3, AddRequestHeaders: header, DelRequestHeaders: []string{"x-a"},
				AddResponseHeaders: header, DelResponseHeaders: []string{"x-b"}, HostRewrite: "canary.example",
			},
		}},
		Metadata: source,
		Timeout:  second, IdleTimeout: second, MaxStreamDuration: second,
		Retry: &ir.Retry{
			On: "5xx,retriable-status-codes", Count: ptr(uint32(2)), PerTry: second, StatusCodes: []uint32{429},
			BackoffBase: second, BackoffMax: ptr(3 * time.Second), PreviousHosts: true,
		},
		Rewrite: ir.Rewrite{Prefix: ptr("/new"), Host: "inside.example"},
		Mirrors: []ir.Mirror{{Upstream: "static", Percent: 10}, {Upstream: "dns", Percent: 5, Denominator: 1000}},
		Hash: []ir.Hash{
			{Header: "x-user"},
			{SourceIP: true},
			{Cookie: &ir.HashCookie{Name: "session", Path: "/", TTL: second}},
		},
		CORS: cors, RateLimits: limits,
		Upgrades:          []ir.Upgrade{{Protocol: "websocket"}, {Protocol: "spdy/3.1", Disabled: true}},
		HighPriority:      true,
		AddRequestHeaders: header, AddResponseHeaders: header,
		DelRequestHeaders: []string{"x-c"}, DelResponseHeaders: []string{"x-d"},
		AuthContext:  map[string]string{"tenant": "shop"},
		LocalReplies: replies,
		BufferLimit:  ptr(uint32(1024)),
		StatPrefix:   "everything",
		FilterSettings: map[string]ir.Filter{
			"lua":     {Name: "lua", Lua: "function envoy_on_request(h)\nend\n-- of the route\n"},
			"buffer":  {Name: "buffer", Buffer: 1024},
			"ip-deny": {Name: "ip-deny", IP: []ir.CIDR{{Range: "198.51.100.0/24"}}},
			"gzip":    {Name: "gzip", Disabled: true},
		},
	}
	routes := []ir.Route{
		everything,
		{Match: ir.Match{Path: "/exact", PathKind: ir.PathExact}, Action: forward("logical"), DisableAuth: true, Rewrite: ir.Rewrite{Path: `/whole\path`, AutoHost: true}},
		{Match: ir.Match{Path: "/re/[a-z]+", PathKind: ir.PathRegex}, Action: forward("dns"), Rewrite: ir.Rewrite{Regex: &ir.RegexRewrite{Pattern: "^/re/(.*)$", Substitution: `/\1`}, HostHeader: "x-host"}},
		{Match: ir.Match{Path: "/element/", PathKind: ir.PathElement}, Action: forward("downstream"), Rewrite: ir.Rewrite{Prefix: ptr("/")}},
		{Match: ir.Match{Path: "/strip"}, Action: forward("static"), Rewrite: ir.Rewrite{Prefix: ptr("")}},
		{Match: ir.Match{Path: "/r1"}, Action: ir.Action{Redirect: &ir.Redirect{Code: 302, HTTPS: true, Host: "other.example", Port: 8443, Path: "/there", StripQuery: true}}},
		{Match: ir.Match{Path: "/r2"}, Action: ir.Action{Redirect: &ir.Redirect{Code: 308, Scheme: "https", Prefix: "/p"}}},
		{Match: ir.Match{Path: "/r3"}, Action: ir.Action{Redirect: &ir.Redirect{Code: 307, Regex: &ir.RegexRewrite{Pattern: "^/r3(.*)", Substitution: `\1`}}}},
		{Match: ir.Match{Path: "/r4"}, Action: ir.Action{Redirect: &ir.Redirect{Code: 303, PrefixIsSet: true}}},
		{Match: ir.Match{Path: "/direct"}, Action: ir.Action{Direct: &ir.Direct{Status: 418, Body: "short and stout"}}},
	}
	grpcAuth := []ir.Filter{
		{Name: "grpc-stats", GRPCStats: &ir.GRPCStats{AllMethods: true}},
		{Name: "ip-allow", IP: []ir.CIDR{{Range: "127.0.0.0/8"}}},
		{Name: "ext-authz", ExtAuthz: &ir.ExtAuthz{Upstream: "auth", GRPC: true, Timeout: time.Second}},
	}
	brokenAuth := []ir.Filter{{Name: "ext-authz", Direct: &ir.Direct{Status: 500, Body: `{"message":"auth is \"broken\" ]] -- \n"}`}}}
	tls := &ir.ServerTLS{
		Certificates: []string{"east/shop/web/certificate"}, ClientCA: "east/shop/ca/ca", RequireCert: true,
		MinVersion: "1.2", MaxVersion: "1.3", Ciphers: []string{"ECDHE-ECDSA-AES128-GCM-SHA256"}, Curves: []string{"X25519"},
		ALPN: []string{"h2", "http/1.1"}, ClientSANs: sans,
	}
	plainTLS := &ir.ServerTLS{Certificates: []string{"east/shop/web/certificate"}}

	return config{
		Listeners: []ir.Listener{
			{
				Name: "web-https-8443", Address: "127.0.0.1", Port: 18443, StatsPrefix: "web", ProxyProto: ir.BeforeTLS,
				InspectTLS: true, BufferLimit: 32768, AccessLogs: tcpLogs,
				Chains: []ir.Chain{
					{
						Name: "shop", ServerNames: []string{"shop.example", "*.shop.example"}, TLSOnly: true,
						SourceCIDRs: []string{"127.0.0.0/8"}, Ports: []uint32{18443, 443}, TLS: tls,
						HTTP: &ir.HTTP{
							Routes: "shop", StatsPrefix: "ingress_https", ServerName: "envoy", UseRemoteAddress: true, TrustedHops: 1,
							Filters: filters, AccessLogs: logs,
							Tracing: &ir.Tracing{
								Upstream: "traces", Driver: "zipkin", CollectorPath: "/spans", Shared128: true,
								Client: 100, Random: 50, Overall: 25,
								Tags: []ir.TraceTag{
									{Name: "a", Literal: "x"},
									{Name: "b", Environment: "HOSTNAME", Default: "none"},
									{Name: "c", Header: "x-c", Default: "none"},
								},
							},
							StripMatchingPort: true, MergeSlashes: true, EscapedSlashes: "reject", Underscores: "drop",
							PreserveRequestID: true, AcceptHTTP10: true, AllowChunkedLength: true, ProperCase: true,
							MaxRequestHeadersKiB: 90, MaxConcurrentStreams: 128,
							StreamIdle: second, ConnectionIdle: second, RequestTimeout: second, SuppressEnvoyHeaders: true,
							ForwardClientCert: "sanitize_set",
							SetClientCert:     &ir.ClientCertDetails{Subject: true, Cert: true, Chain: true, DNS: true, URI: true},
							Upgrades:          []string{"websocket"}, AltSvc: `h3=":443"; ma=86400`, LocalReplies: replies, RouteReplies: true,
						},
					},
					{Name: "datadog", ServerNames: []string{"d.example"}, TLSOnly: true, TLS: plainTLS, HTTP: &ir.HTTP{
						Routes: "plain", Filters: grpcAuth, LocalReplies: replies, HeaderCases: []string{"X-Case"}, EscapedSlashes: "unescape-forward",
						Tracing: &ir.Tracing{Upstream: "traces", Driver: "datadog", ServiceName: "shop", Client: 100, Random: 100, Overall: 100},
					}},
					{Name: "otel", ServerNames: []string{"o.example"}, TLSOnly: true, TLS: plainTLS, HTTP: &ir.HTTP{
						Routes: "plain", Filters: brokenAuth,
						Tracing: &ir.Tracing{Upstream: "traces", Driver: "opentelemetry", ServiceName: "shop", Client: 100, Random: 100, Overall: 100},
					}},
					{Name: "pass", ServerNames: []string{"pass.example"}, TLSOnly: true, TCP: &ir.TCP{
						StatsPrefix: "pass", Idle: second, AccessLogs: tcpLogs,
						Targets: []ir.Weighted{{Upstream: "static", Weight: 20}, {Upstream: "dns", Weight: 80}},
					}},
					{Name: "clear", HTTP: &ir.HTTP{Routes: "plain", UseRemoteAddress: true}},
				},
			},
			{Name: "tcp-9000", Address: "127.0.0.1", Port: 19000, ProxyProto: ir.AfterTLS, Chains: []ir.Chain{
				{Name: "one", TCP: &ir.TCP{Targets: []ir.Weighted{{Upstream: "static"}}}},
			}},
			{Name: "web-quic-8443", Address: "127.0.0.1", Port: 18443, UDP: true, Chains: []ir.Chain{
				{Name: "shop", ServerNames: []string{"shop.example"}, TLSOnly: true, TLS: plainTLS, HTTP: &ir.HTTP{Routes: "shop", HTTP3: true, MaxConcurrentStreams: 10}},
			}},
		},
		Tables: []ir.RouteTable{
			{
				Name: "shop", Sentinel: true, MaxDirectResponseBytes: 8192,
				Hosts: []ir.VirtualHost{
					{Name: "shop", Domains: []string{"shop.example"}, Routes: routes, RequireTLS: true, CORS: cors, RateLimits: limits, Metadata: source},
					{Name: "any", Domains: []string{"*"}, Routes: []ir.Route{{Match: ir.Match{}, Action: forward("static")}}},
				},
			},
			{Name: "plain", Sentinel: true, Hosts: []ir.VirtualHost{{Name: "any", Domains: []string{"*"}, Routes: []ir.Route{{Action: forward("static")}}}}},
		},
		Upstreams: []ir.Upstream{
			{
				Name: "static", AltStat: "shop", Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 9}}, Connect: time.Second, HTTP2: true,
				TLS: &ir.ClientTLS{
					SNI: "inside.example", Certificate: "east/shop/web/certificate", CA: "east/shop/ca/ca",
					SANs: sans, MinVersion: "1.2", MaxVersion: "1.3",
					Ciphers: []string{"ECDHE-ECDSA-AES128-GCM-SHA256"}, Curves: []string{"P-256"}, ALPN: []string{"h2"},
				},
				LB: ir.LoadBalancer{Policy: "maglev"},
				Breakers: []ir.Breaker{
					{Connections: ptr(uint32(1)), Pending: ptr(uint32(2)), Requests: ptr(uint32(3)), Retries: ptr(uint32(4))},
					{High: true, Connections: ptr(uint32(5))},
				},
				Keepalive: &ir.Keepalive{Probes: ptr(uint32(1)), Time: ptr(uint32(2)), Interval: ptr(uint32(3))},
				Idle:      second, MaxAge: second,
				Health: []ir.HealthCheck{
					{
						Timeout: time.Second, Interval: 2 * time.Second, Unhealthy: 3, Healthy: 2,
						HTTP: &ir.HTTPCheck{Path: "/health", Host: "h.example", Add: header, Remove: []string{"x-e"}, Statuses: []ir.StatusRange{{Min: 200, Max: 204}}},
					},
					{Timeout: time.Second, Interval: time.Second, Unhealthy: 2, Healthy: 2, GRPC: &ir.GRPCCheck{Service: "svc", Authority: "a.example"}},
				},
				Outlier: &ir.Outlier{
					Consecutive5xx: ptr(uint32(3)), ConsecutiveGateway: ptr(uint32(2)), MaxEjectionPercent: ptr(uint32(50)),
					Interval: second, BaseEjection: second,
				},
				ProxyProto: 2,
			},
			{Name: "endpoints", Discovery: ir.DiscoverEndpoints, Endpoints: "east/shop/web/80", HeaderCase: true, LB: ir.LoadBalancer{Policy: "ring_hash"}, ProxyProto: 1},
			{Name: "dns", Discovery: ir.DiscoverDNS, Hosts: []ir.HostPort{{Host: "localhost", Port: 9}}, DNS: &ir.DNS{V4: true, V6: true, RespectTTL: true}, LB: ir.LoadBalancer{Policy: "least_request"}},
			{Name: "logical", Discovery: ir.DiscoverLogicalDNS, Hosts: []ir.HostPort{{Host: "localhost", Port: 9}}, DNS: &ir.DNS{V6: true}, TLS: &ir.ClientTLS{SystemCA: true, SANs: []ir.StringMatch{{Exact: "localhost"}}}},
			{Name: "downstream", Discovery: ir.DiscoverStatic, Downstream: true, HeaderCase: true, Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 9}}},
			{Name: "auth", Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 9}}, HTTP2: true},
			{Name: "limits", Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 9}}, HTTP2: true, LB: ir.LoadBalancer{Policy: "random"}},
			{Name: "logs", Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 9}}, HTTP2: true},
			{Name: "traces", Hosts: []ir.HostPort{{Host: "127.0.0.1", Port: 9}}, HTTP2: true},
		},
		Endpoints: []ir.EndpointSet{{Name: "east/shop/web/80", Cluster: "east", Namespace: "shop", Service: "web", PortName: "http", Port: 80}},
		Secrets: []ir.SecretRef{
			{Name: "east/shop/web/certificate", Cluster: "east", Namespace: "shop", Secret: "web", Use: ir.UseCertificate, Hosts: []string{"shop.example"}},
			{Name: "east/shop/ca/ca", Cluster: "east", Namespace: "shop", Secret: "ca", Use: ir.UseCA, CRL: "crl", CRLNamespace: "shop"},
		},
	}
}
