package envoy

import (
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector"
)

// Ref names a resource.
type Ref struct {
	Type projector.ResourceType
	Name string
}

// String returns "listeners web".
func (r Ref) String() string { return r.Type.String() + " " + r.Name }

// Compare orders references by type and name.
func (r Ref) Compare(o Ref) int {
	if r.Type != o.Type {
		return int(r.Type) - int(o.Type)
	}
	return strings.Compare(r.Name, o.Name)
}

// References returns what a resource needs to be in the same snapshot: the
// upstreams of routes, chains, filters and logs, the route tables of listeners,
// the needs behind endpoints and secrets. They are in order, each once.
func References(r projector.Resource, t projector.ResourceType) ([]Ref, error) {
	f, err := read(r, t, nil)
	if err != nil {
		return nil, err
	}
	return f.refs, nil
}

// HostReferences returns what a virtual host's bytes refer to, so that a
// compiler can keep it beside them.
func HostReferences(virtualHost []byte) ([]Ref, error) {
	f, err := readHost(virtualHost)
	if err != nil {
		return nil, err
	}
	return f.refs, nil
}

func sortedRefs(refs []Ref) []Ref {
	slices.SortFunc(refs, Ref.Compare)
	return slices.Compact(refs)
}

// messageRefs finds references anywhere in a message.
func messageRefs(m proto.Message) ([]Ref, error) {
	var refs []Ref
	add := func(t projector.ResourceType, name string) {
		if name != "" {
			refs = append(refs, Ref{t, name})
		}
	}
	_, err := walk(m, func(m proto.Message) (bool, error) {
		switch m := m.(type) {
		case *corev3.GrpcService_EnvoyGrpc:
			add(projector.Upstreams, m.ClusterName)
		case *corev3.HttpUri:
			add(projector.Upstreams, m.GetCluster())
		case *tracev3.ZipkinConfig:
			add(projector.Upstreams, m.CollectorCluster)
		case *tracev3.DatadogConfig:
			add(projector.Upstreams, m.CollectorCluster)
		case *tcpproxyv3.TcpProxy:
			add(projector.Upstreams, m.GetCluster())
		case *tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight:
			add(projector.Upstreams, m.Name)
		case *hcmv3.Rds:
			add(projector.Routes, m.RouteConfigName)
		case *clusterv3.Cluster_EdsClusterConfig:
			add(projector.EndpointNeeds, m.ServiceName)
		case *tlsv3.SdsSecretConfig:
			add(projector.SecretNeeds, m.Name)
		}
		return false, nil
	})
	return sortedRefs(refs), err
}

// routeRefs is messageRefs for what there is most of.
func routeRefs(v *routev3.VirtualHost) []Ref {
	var refs []Ref
	for _, r := range v.Routes {
		a := r.GetRoute()
		if a == nil {
			continue
		}
		if c := a.GetCluster(); c != "" {
			refs = append(refs, Ref{projector.Upstreams, c})
		}
		for _, w := range a.GetWeightedClusters().GetClusters() {
			refs = append(refs, Ref{projector.Upstreams, w.Name})
		}
		for _, m := range a.RequestMirrorPolicies {
			refs = append(refs, Ref{projector.Upstreams, m.Cluster})
		}
	}
	return sortedRefs(refs)
}

// hostFacts is what the checks need of a virtual host.
type hostFacts struct {
	name    string
	domains []string // as Envoy compares them: in lower case
	refs    []Ref
}

func readHost(b []byte) (*hostFacts, error) {
	v := &routev3.VirtualHost{}
	if err := unmarshal(b, v); err != nil {
		return nil, err
	}
	f := &hostFacts{name: v.Name, refs: routeRefs(v)}
	for _, d := range v.Domains {
		f.domains = append(f.domains, strings.ToLower(d))
	}
	return f, nil
}

// eachHost yields the bytes of a route table's virtual hosts.
func eachHost(table []byte, f func(host []byte) error) error {
	return eachField(table, func(num protowire.Number, value, _ []byte) error {
		if num != tableHostField {
			return nil
		}
		return f(value)
	})
}

func wrap(r projector.Resource, t projector.ResourceType, err error) error {
	return fmt.Errorf("%s: %w", Ref{t, r.Name}, err)
}
