package envoy

import (
	"fmt"
	"net/netip"
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	preservecasev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	proxyprotov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

const (
	httpOptions      = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	dnsCluster       = "envoy.cluster.dns"
	proxyProtoSocket = "envoy.transport_sockets.upstream_proxy_protocol"
	rawSocket        = "envoy.transport_sockets.raw_buffer"
	preserveCase     = "envoy.http.stateful_header_formatters.preserve_case"
)

// Upstream writes an Envoy cluster. An error names the upstream and the field.
func Upstream(u ir.Upstream) (projector.Resource, error) {
	c, err := cluster(u)
	if err != nil {
		return projector.Resource{}, fmt.Errorf("upstream %s: %w", u.Name, err)
	}
	return resource("upstream", u.Name, c)
}

var lbPolicies = map[string]clusterv3.Cluster_LbPolicy{
	"":              clusterv3.Cluster_ROUND_ROBIN,
	"round_robin":   clusterv3.Cluster_ROUND_ROBIN,
	"least_request": clusterv3.Cluster_LEAST_REQUEST,
	"ring_hash":     clusterv3.Cluster_RING_HASH,
	"maglev":        clusterv3.Cluster_MAGLEV,
	"random":        clusterv3.Cluster_RANDOM,
}

func cluster(u ir.Upstream) (*clusterv3.Cluster, error) {
	policy, ok := lbPolicies[u.LB.Policy]
	if !ok {
		return nil, fmt.Errorf("load balancer policy %q is none of round_robin, least_request, ring_hash, maglev and random", u.LB.Policy)
	}
	c := &clusterv3.Cluster{
		Name:             u.Name,
		AltStatName:      u.AltStat,
		ConnectTimeout:   positive(u.Connect),
		LbPolicy:         policy,
		OutlierDetection: outlier(u.Outlier),
	}
	if err := discovery(c, u); err != nil {
		return nil, err
	}
	var err error
	if c.CircuitBreakers, err = breakers(u.Breakers); err != nil {
		return nil, err
	}
	if c.HealthChecks, err = healthChecks(u); err != nil {
		return nil, err
	}
	if c.TypedExtensionProtocolOptions, err = protocolOptions(u); err != nil {
		return nil, err
	}
	if c.TransportSocket, err = upstreamSocket(u); err != nil {
		return nil, err
	}
	if k := u.Keepalive; k != nil {
		c.UpstreamConnectionOptions = &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes:   uint32Value(k.Probes),
			KeepaliveTime:     uint32Value(k.Time),
			KeepaliveInterval: uint32Value(k.Interval),
		}}
	}
	return c, nil
}

// discovery says how the upstream's addresses are found.
func discovery(c *clusterv3.Cluster, u ir.Upstream) error {
	if u.Discovery != ir.DiscoverEndpoints && u.Endpoints != "" {
		return fmt.Errorf("endpoints %s are named, but the addresses come from elsewhere", u.Endpoints)
	}
	isDNS := u.Discovery == ir.DiscoverDNS || u.Discovery == ir.DiscoverLogicalDNS
	if u.DNS != nil && !isDNS {
		return fmt.Errorf("DNS settings on an upstream that asks no DNS")
	}
	switch u.Discovery {
	case ir.DiscoverStatic:
		for _, h := range u.Hosts {
			if _, err := netip.ParseAddr(h.Host); err != nil {
				return fmt.Errorf("host %q is no IP address, and nothing is to look it up", h.Host)
			}
		}
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		c.LoadAssignment = hostAssignment(u.Name, u.Hosts)
	case ir.DiscoverDNS, ir.DiscoverLogicalDNS:
		if u.Discovery == ir.DiscoverLogicalDNS && len(u.Hosts) != 1 {
			return fmt.Errorf("logical DNS takes one host, not %d", len(u.Hosts))
		}
		d := &dnsclusterv3.DnsCluster{AllAddressesInSingleEndpoint: u.Discovery == ir.DiscoverLogicalDNS}
		if u.DNS != nil {
			d.RespectDnsTtl = u.DNS.RespectTTL
			d.DnsLookupFamily = lookupFamily(*u.DNS)
		}
		a, err := packAny(d)
		if err != nil {
			return err
		}
		c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: dnsCluster, TypedConfig: a}}
		c.LoadAssignment = hostAssignment(u.Name, u.Hosts)
	case ir.DiscoverEndpoints:
		if u.Endpoints == "" || len(u.Hosts) > 0 {
			return fmt.Errorf("endpoints from the live plane need the name of an endpoint set and no hosts")
		}
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
		c.EdsClusterConfig = &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: u.Endpoints}
	default:
		return fmt.Errorf("discovery %d is unknown", u.Discovery)
	}
	return nil
}

// lookupFamily reads "neither" as IPv4 only, which is Emissary's default.
func lookupFamily(d ir.DNS) dnsv3.DnsLookupFamily {
	switch {
	case d.V4 && d.V6:
		return dnsv3.DnsLookupFamily_AUTO
	case d.V6:
		return dnsv3.DnsLookupFamily_V6_ONLY
	default:
		return dnsv3.DnsLookupFamily_V4_ONLY
	}
}

func hostAssignment(name string, hosts []ir.HostPort) *endpointv3.ClusterLoadAssignment {
	la := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if len(hosts) == 0 {
		return la
	}
	l := &endpointv3.LocalityLbEndpoints{}
	for _, h := range hosts {
		l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socketAddress(h.Host, h.Port, false)},
		}})
	}
	la.Endpoints = []*endpointv3.LocalityLbEndpoints{l}
	return la
}

func breakers(bs []ir.Breaker) (*clusterv3.CircuitBreakers, error) {
	if len(bs) == 0 {
		return nil, nil
	}
	out := &clusterv3.CircuitBreakers{}
	seen := map[bool]bool{}
	for _, b := range bs {
		if seen[b.High] {
			return nil, fmt.Errorf("two circuit breakers of one priority; keep one")
		}
		seen[b.High] = true
		priority := corev3.RoutingPriority_DEFAULT
		if b.High {
			priority = corev3.RoutingPriority_HIGH
		}
		out.Thresholds = append(out.Thresholds, &clusterv3.CircuitBreakers_Thresholds{
			Priority:           priority,
			MaxConnections:     uint32Value(b.Connections),
			MaxPendingRequests: uint32Value(b.Pending),
			MaxRequests:        uint32Value(b.Requests),
			MaxRetries:         uint32Value(b.Retries),
		})
	}
	return out, nil
}

func healthChecks(u ir.Upstream) ([]*corev3.HealthCheck, error) {
	var out []*corev3.HealthCheck
	for i, h := range u.Health {
		hc := &corev3.HealthCheck{
			Timeout:            durationpb.New(h.Timeout),
			Interval:           durationpb.New(h.Interval),
			UnhealthyThreshold: positive32(max(h.Unhealthy, 1)),
			HealthyThreshold:   positive32(max(h.Healthy, 1)),
		}
		if len(u.Health) > 1 { // Envoy wants to tell their statistics apart
			hc.Name = strconv.Itoa(i)
		}
		switch {
		case h.HTTP != nil && h.GRPC != nil:
			return nil, fmt.Errorf("health check %d speaks both HTTP and gRPC; choose one", i)
		case h.HTTP != nil:
			hc.HealthChecker = &corev3.HealthCheck_HttpHealthCheck_{HttpHealthCheck: httpCheck(*h.HTTP, u.HTTP2)}
		case h.GRPC != nil:
			hc.HealthChecker = &corev3.HealthCheck_GrpcHealthCheck_{GrpcHealthCheck: &corev3.HealthCheck_GrpcHealthCheck{
				ServiceName: h.GRPC.Service, Authority: h.GRPC.Authority,
			}}
		default: // a connection is enough
			hc.HealthChecker = &corev3.HealthCheck_TcpHealthCheck_{TcpHealthCheck: &corev3.HealthCheck_TcpHealthCheck{}}
		}
		out = append(out, hc)
	}
	return out, nil
}

func httpCheck(h ir.HTTPCheck, http2 bool) *corev3.HealthCheck_HttpHealthCheck {
	c := &corev3.HealthCheck_HttpHealthCheck{
		Host: h.Host, Path: h.Path,
		RequestHeadersToAdd:    addHeaders(h.Add),
		RequestHeadersToRemove: h.Remove,
	}
	if http2 {
		c.CodecClientType = typev3.CodecClientType_HTTP2
	}
	for _, s := range h.Statuses { // Envoy's ranges end before their end
		c.ExpectedStatuses = append(c.ExpectedStatuses, &typev3.Int64Range{Start: int64(s.Min), End: int64(s.Max) + 1})
	}
	return c
}

func outlier(o *ir.Outlier) *clusterv3.OutlierDetection {
	if o == nil {
		return nil
	}
	return &clusterv3.OutlierDetection{
		Consecutive_5Xx:           uint32Value(o.Consecutive5xx),
		ConsecutiveGatewayFailure: uint32Value(o.ConsecutiveGateway),
		MaxEjectionPercent:        uint32Value(o.MaxEjectionPercent),
		Interval:                  duration(o.Interval),
		BaseEjectionTime:          duration(o.BaseEjection),
	}
}

// protocolOptions writes how HTTP is spoken to the upstream; none where plain
// HTTP/1.1 is.
func protocolOptions(u ir.Upstream) (map[string]*anypb.Any, error) {
	if !u.HTTP2 && !u.Downstream && !u.HeaderCase && u.Idle == nil && u.MaxAge == nil {
		return nil, nil
	}
	o := &upstreamhttpv3.HttpProtocolOptions{}
	if u.Idle != nil || u.MaxAge != nil {
		o.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{IdleTimeout: duration(u.Idle), MaxConnectionDuration: duration(u.MaxAge)}
	}
	http1 := &corev3.Http1ProtocolOptions{}
	if u.HeaderCase {
		format, err := preservedCase()
		if err != nil {
			return nil, err
		}
		http1.HeaderKeyFormat = format
	}
	switch {
	case u.HTTP2 && u.Downstream:
		return nil, fmt.Errorf("HTTP/2 and what the client spoke are both asked for; choose one")
	case u.Downstream:
		o.UpstreamProtocolOptions = &upstreamhttpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{
			UseDownstreamProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
				HttpProtocolOptions: http1, Http2ProtocolOptions: &corev3.Http2ProtocolOptions{},
			},
		}
	case u.HTTP2:
		o.UpstreamProtocolOptions = explicitHTTP(&upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{}},
		})
	default:
		o.UpstreamProtocolOptions = explicitHTTP(&upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: http1},
		})
	}
	a, err := packAny(o)
	if err != nil {
		return nil, err
	}
	return map[string]*anypb.Any{httpOptions: a}, nil
}

func explicitHTTP(c *upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig) *upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: c}
}

// preservedCase passes HTTP/1 header names on in the case in which they came.
func preservedCase() (*corev3.Http1ProtocolOptions_HeaderKeyFormat, error) {
	e, err := extension(preserveCase, &preservecasev3.PreserveCaseFormatterConfig{})
	if err != nil {
		return nil, err
	}
	return &corev3.Http1ProtocolOptions_HeaderKeyFormat{
		HeaderFormat: &corev3.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter{StatefulFormatter: e},
	}, nil
}

func upstreamSocket(u ir.Upstream) (*corev3.TransportSocket, error) {
	var inner *corev3.TransportSocket
	var err error
	if u.TLS != nil {
		if inner, err = clientTLS(u.TLS); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
	}
	versions := map[uint32]corev3.ProxyProtocolConfig_Version{1: corev3.ProxyProtocolConfig_V1, 2: corev3.ProxyProtocolConfig_V2}
	version, ok := versions[u.ProxyProto]
	switch {
	case u.ProxyProto == 0:
		return inner, nil
	case !ok:
		return nil, fmt.Errorf("PROXY protocol version %d is neither 1 nor 2", u.ProxyProto)
	}
	if inner == nil {
		if inner, err = transportSocket(rawSocket, &rawbufferv3.RawBuffer{}); err != nil {
			return nil, err
		}
	}
	return transportSocket(proxyProtoSocket, &proxyprotov3.ProxyProtocolUpstreamTransport{
		Config:          &corev3.ProxyProtocolConfig{Version: version},
		TransportSocket: inner,
	})
}
