package envoy

import (
	"fmt"
	"net/netip"
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Listener writes an Envoy listener. An error names the listener and the chain.
func Listener(l ir.Listener) (projector.Resource, error) {
	m, err := listener(l)
	if err != nil {
		return projector.Resource{}, fmt.Errorf("listener %s: %w", l.Name, err)
	}
	return resource("listener", l.Name, m)
}

func listener(l ir.Listener) (*listenerv3.Listener, error) {
	if _, err := netip.ParseAddr(l.Address); err != nil {
		return nil, fmt.Errorf("address %q is no IP address", l.Address)
	}
	m := &listenerv3.Listener{
		Name:                          l.Name,
		Address:                       socketAddress(l.Address, l.Port, l.UDP),
		StatPrefix:                    l.StatsPrefix,
		PerConnectionBufferLimitBytes: positive32(l.BufferLimit),
	}
	if l.UDP {
		if l.ProxyProto != ir.Absent {
			return nil, fmt.Errorf("the PROXY protocol is not spoken over UDP")
		}
		m.UdpListenerConfig = &listenerv3.UdpListenerConfig{QuicOptions: &listenerv3.QuicProtocolOptions{}}
	} else if err := listenerFilters(m, l); err != nil {
		return nil, err
	}
	var err error
	if m.AccessLog, err = accessLogs(l.AccessLogs); err != nil {
		return nil, err
	}
	for _, c := range l.Chains {
		chains, err := filterChains(l, c)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		m.FilterChains = append(m.FilterChains, chains...)
	}
	return m, nil
}

func listenerFilters(m *listenerv3.Listener, l ir.Listener) error {
	var names []string
	if l.ProxyProto == ir.BeforeTLS {
		names = append(names, proxyProtocolFilter)
	}
	if l.InspectTLS {
		names = append(names, tlsInspectorFilter)
	}
	if l.ProxyProto == ir.AfterTLS {
		names = append(names, proxyProtocolFilter)
	}
	for _, name := range names {
		var config message = &proxyprotocolv3.ProxyProtocol{}
		if name == tlsInspectorFilter {
			config = &tlsinspectorv3.TlsInspector{}
		}
		a, err := packAny(config)
		if err != nil {
			return err
		}
		m.ListenerFilters = append(m.ListenerFilters, &listenerv3.ListenerFilter{
			Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: a},
		})
	}
	return nil
}

const (
	proxyProtocolFilter = "envoy.filters.listener.proxy_protocol"
	tlsInspectorFilter  = "envoy.filters.listener.tls_inspector"
	hcmFilter           = "envoy.filters.network.http_connection_manager"
	tcpProxyFilter      = "envoy.filters.network.tcp_proxy"
)

// filterChains writes a chain: one for Envoy, or one for each port, for Envoy's
// matches name at most one.
func filterChains(l ir.Listener, c ir.Chain) ([]*listenerv3.FilterChain, error) {
	out := &listenerv3.FilterChain{Name: c.Name}
	match := &listenerv3.FilterChainMatch{}
	for _, name := range c.ServerNames {
		if name != "*" {
			match.ServerNames = append(match.ServerNames, name)
		}
	}
	if slices.Contains(c.ServerNames, "*") && len(match.ServerNames) > 0 {
		return nil, fmt.Errorf("the server name * stands beside others; give it a chain of its own")
	}
	switch {
	case c.TLSOnly && l.UDP:
		match.TransportProtocol = "quic"
	case c.TLSOnly:
		match.TransportProtocol = "tls"
	}
	for _, s := range c.SourceCIDRs {
		r, err := cidrRange(s)
		if err != nil {
			return nil, err
		}
		match.SourcePrefixRanges = append(match.SourcePrefixRanges, r)
	}
	if len(match.ServerNames)+len(match.SourcePrefixRanges) > 0 || match.TransportProtocol != "" {
		out.FilterChainMatch = match
	}
	if l.UDP && (c.TLS == nil || c.HTTP == nil || !c.HTTP.HTTP3) {
		return nil, fmt.Errorf("a UDP listener carries HTTP/3 over QUIC: the chain needs TLS and HTTP3")
	}
	if !l.UDP && c.HTTP != nil && c.HTTP.HTTP3 {
		return nil, fmt.Errorf("HTTP/3 needs a UDP listener")
	}
	var err error
	if c.TLS != nil {
		if out.TransportSocket, err = serverTLS(c.TLS, l.UDP); err != nil {
			return nil, fmt.Errorf("TLS: %w", err)
		}
	}
	if out.Filters, err = networkFilters(c); err != nil {
		return nil, err
	}
	if len(c.Ports) == 0 {
		return []*listenerv3.FilterChain{out}, nil
	}
	var chains []*listenerv3.FilterChain
	for _, port := range c.Ports {
		chains = append(chains, &listenerv3.FilterChain{
			Name: fmt.Sprintf("%s-%d", c.Name, port),
			FilterChainMatch: &listenerv3.FilterChainMatch{
				DestinationPort: wrapperspb.UInt32(port), ServerNames: match.ServerNames,
				TransportProtocol: match.TransportProtocol, SourcePrefixRanges: match.SourcePrefixRanges,
			},
			TransportSocket: out.TransportSocket,
			Filters:         out.Filters,
		})
	}
	return chains, nil
}

func networkFilters(c ir.Chain) ([]*listenerv3.Filter, error) {
	var name string
	var config message
	var err error
	switch {
	case (c.HTTP == nil) == (c.TCP == nil):
		return nil, fmt.Errorf("a chain is exactly one of HTTP and TCP")
	case c.HTTP != nil:
		name = hcmFilter
		config, err = connectionManager(c.HTTP)
	default:
		name = tcpProxyFilter
		config, err = tcpProxy(c.TCP)
	}
	if err != nil {
		return nil, err
	}
	a, err := packAny(config)
	if err != nil {
		return nil, err
	}
	return []*listenerv3.Filter{{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}}, nil
}

func tcpProxy(t *ir.TCP) (*tcpproxyv3.TcpProxy, error) {
	m := &tcpproxyv3.TcpProxy{StatPrefix: t.StatsPrefix, IdleTimeout: duration(t.Idle)}
	if m.StatPrefix == "" {
		m.StatPrefix = "ingress_tcp"
	}
	var err error
	var logs []*accesslogv3.AccessLog
	if logs, err = accessLogs(t.AccessLogs); err != nil {
		return nil, err
	}
	m.AccessLog = logs
	w := &tcpproxyv3.TcpProxy_WeightedCluster{}
	for _, target := range t.Targets {
		if !plain(target) {
			return nil, fmt.Errorf("headers are changed on the way to %s, but TCP has none", target.Upstream)
		}
		if target.Upstream == "" {
			return nil, fmt.Errorf("a target without an upstream")
		}
		if target.Weight == 0 && len(t.Targets) > 1 {
			continue // Envoy takes no zero here; what has no share is left out
		}
		w.Clusters = append(w.Clusters, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: target.Upstream, Weight: target.Weight})
	}
	switch len(w.Clusters) {
	case 0:
		return nil, fmt.Errorf("no target has a weight")
	case 1:
		m.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: w.Clusters[0].Name}
	default:
		m.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: w}
	}
	return m, nil
}
