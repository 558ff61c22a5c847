package corpus

import (
	"fmt"
	"net"
	"strconv"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Rewrite returns the resource turned towards the Stage, and leaves its argument as it is: a listener moves to the
// Stage's address and keeps its port; every upstream address of a cluster or of endpoints becomes that of its backend,
// and a cluster that would ask DNS becomes static. Resources of other types are returned as they are. A nil message
// means that the resource is to be left out (listeners for UDP are). Give it originals only: an address that was
// rewritten before would get a backend of its own.
func (s *Stage) Rewrite(resource proto.Message) (proto.Message, error) {
	switch r := resource.(type) {
	case *listenerv3.Listener:
		l := proto.CloneOf(r)
		if !s.listener(l) {
			return nil, nil
		}
		return l, nil
	case *clusterv3.Cluster:
		c := proto.CloneOf(r)
		if err := s.cluster(c); err != nil {
			return nil, fmt.Errorf("rewrite cluster %s: %w", c.GetName(), err)
		}
		return c, nil
	case *endpointv3.ClusterLoadAssignment:
		a := proto.CloneOf(r)
		if err := s.endpoints(a); err != nil {
			return nil, fmt.Errorf("rewrite endpoints of %s: %w", a.GetClusterName(), err)
		}
		return a, nil
	}
	return resource, nil
}

// Bootstrap returns a static bootstrap (JSON) with every resource rewritten and the admin interface at AdminAddress.
// Dynamic resources and statistics sinks are dropped. The types that its Any fields name must be linked in.
func (s *Stage) Bootstrap(static []byte) ([]byte, error) {
	var b bootstrapv3.Bootstrap
	if err := protojson.Unmarshal(static, &b); err != nil {
		return nil, fmt.Errorf("the compiled bootstrap is not valid: %w", err)
	}
	resources := b.GetStaticResources()
	if resources == nil {
		return nil, fmt.Errorf("the compiled bootstrap has no static_resources")
	}
	b.Admin = &bootstrapv3.Admin{Address: socketAddress(s.ip, adminPort)}
	b.DynamicResources, b.StatsSinks = nil, nil
	if b.GetNode() == nil {
		b.Node = &corev3.Node{Id: "corpus", Cluster: "corpus"}
	}
	var listeners []*listenerv3.Listener
	for _, l := range resources.GetListeners() {
		if s.listener(l) {
			listeners = append(listeners, l)
		}
	}
	resources.Listeners = listeners
	for _, c := range resources.GetClusters() {
		if err := s.cluster(c); err != nil {
			return nil, fmt.Errorf("rewrite cluster %s: %w", c.GetName(), err)
		}
	}
	out, err := protojson.Marshal(&b)
	if err != nil {
		return nil, fmt.Errorf("the rewritten bootstrap: %w", err)
	}
	return out, nil
}

func socketAddress(ip string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       ip,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

// listener reports false for a listener that no probe can reach: QUIC is not played here.
func (s *Stage) listener(l *listenerv3.Listener) (keep bool) {
	at := l.GetAddress().GetSocketAddress()
	if at == nil {
		return true // a pipe, or internal
	}
	if at.GetProtocol() == corev3.SocketAddress_UDP {
		return false
	}
	l.Address = socketAddress(s.ip, at.GetPortValue())
	l.AdditionalAddresses = nil
	l.EnableReusePort = wrapperspb.Bool(false) // a port in use must be an error, not a share of its traffic
	return true
}

func (s *Stage) cluster(c *clusterv3.Cluster) error {
	if c.GetLoadAssignment() != nil {
		if err := s.endpoints(c.GetLoadAssignment()); err != nil {
			return err
		}
		if asksDNS(c) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		}
	}
	// By name, for most of these are deprecated and still in use.
	for _, name := range []protoreflect.Name{
		"dns_lookup_family", "respect_dns_ttl", "dns_refresh_rate", "dns_jitter", "dns_failure_refresh_rate", "dns_resolvers",
		"dns_resolution_config", "typed_dns_resolver_config", "use_tcp_for_dns_lookups", "upstream_bind_config",
	} {
		m := c.ProtoReflect()
		field := m.Descriptor().Fields().ByName(name)
		if field == nil {
			return fmt.Errorf("field %s of clusters is gone; bring rewrite.go up to this version of the API", name)
		}
		m.Clear(field)
	}
	return nil
}

func asksDNS(c *clusterv3.Cluster) bool {
	return c.GetType() == clusterv3.Cluster_STRICT_DNS || c.GetType() == clusterv3.Cluster_LOGICAL_DNS ||
		strings.Contains(c.GetClusterType().GetName(), "dns")
}

func (s *Stage) endpoints(a *endpointv3.ClusterLoadAssignment) error {
	for _, locality := range a.GetEndpoints() {
		for _, lb := range locality.GetLbEndpoints() {
			ep := lb.GetEndpoint()
			at := ep.GetAddress().GetSocketAddress()
			if at == nil {
				continue
			}
			address, err := s.Backend(at.GetAddress(), int(at.GetPortValue()))
			if err != nil {
				return err
			}
			ip, port, err := net.SplitHostPort(address)
			if err != nil {
				return err
			}
			number, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return err
			}
			ep.Address = socketAddress(ip, uint32(number))
			ep.AdditionalAddresses = nil
			if ep.GetHostname() == "" {
				ep.Hostname = at.GetAddress() // what auto_host_rewrite puts in
			}
			if ep.GetHealthCheckConfig() != nil {
				ep.HealthCheckConfig.PortValue = 0
			}
		}
	}
	return nil
}
