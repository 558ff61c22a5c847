package envoy

import (
	"fmt"
	"slices"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// StaticOptions says what a static bootstrap has beside the snapshot.
type StaticOptions struct {
	NodeID      string // "" for "chancery-static"
	NodeCluster string // "" for "chancery"
	Admin       Admin
}

// BootstrapStatic writes a whole bootstrap as JSON that needs no control
// plane: what a snapshot would have fetched stands in it. endpoints and
// secrets are by the name of the need; endpoints that are missing are none, a
// secret that is missing is an error. The result holds private keys.
func BootstrapStatic(s *projector.Snapshot, endpoints map[string]ir.Endpoints, secrets map[string]ir.Secret, o StaticOptions) ([]byte, error) {
	b, err := base(o.Admin)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	b.Node = &corev3.Node{Id: o.NodeID, Cluster: o.NodeCluster}
	if o.NodeID == "" {
		b.Node.Id = "chancery-static"
	}
	if o.NodeCluster == "" {
		b.Node.Cluster = "chancery"
	}
	b.StaticResources = &bootstrapv3.Bootstrap_StaticResources{}
	for _, r := range byName(s, projector.Listeners) {
		l := &listenerv3.Listener{}
		if err := inlined(r, projector.Listeners, l, s); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		b.StaticResources.Listeners = append(b.StaticResources.Listeners, l)
	}
	for _, r := range byName(s, projector.Upstreams) {
		c := &clusterv3.Cluster{}
		if err := inlined(r, projector.Upstreams, c, s); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		if eds := c.EdsClusterConfig; eds != nil {
			e := endpoints[eds.ServiceName]
			e.Name = c.Name
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
			c.EdsClusterConfig, c.LoadAssignment = nil, loadAssignment(e)
		}
		b.StaticResources.Clusters = append(b.StaticResources.Clusters, c)
	}
	for _, r := range byName(s, projector.SecretNeeds) {
		m, err := staticSecret(r, secrets)
		if err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		b.StaticResources.Secrets = append(b.StaticResources.Secrets, m)
	}
	return bootstrapJSON(b)
}

func byName(s *projector.Snapshot, t projector.ResourceType) []projector.Resource {
	return slices.SortedFunc(s.All(t), func(a, b projector.Resource) int { return strings.Compare(a.Name, b.Name) })
}

// inlined reads r into m and puts what it would fetch in its place.
func inlined(r projector.Resource, t projector.ResourceType, m proto.Message, s *projector.Snapshot) error {
	if err := unmarshal(r.Bytes, m); err != nil {
		return wrap(r, t, err)
	}
	_, err := walk(m, func(m proto.Message) (bool, error) {
		switch m := m.(type) {
		case *tlsv3.SdsSecretConfig:
			m.SdsConfig = nil // then the name is that of a static secret
			return true, nil
		case *hcmv3.HttpConnectionManager:
			name := m.GetRds().GetRouteConfigName()
			table, ok := s.Get(projector.Routes, name)
			if !ok {
				return false, fmt.Errorf("there is no route table %s", name)
			}
			config := &routev3.RouteConfiguration{}
			if err := unmarshal(table.Bytes, config); err != nil {
				return false, wrap(table, projector.Routes, err)
			}
			m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: config}
			return true, nil
		}
		return false, nil
	})
	if err != nil {
		return wrap(r, t, err)
	}
	return nil
}

func staticSecret(need projector.Resource, secrets map[string]ir.Secret) (*tlsv3.Secret, error) {
	ref, err := ReadSecretNeed(need)
	if err != nil {
		return nil, err
	}
	content, ok := secrets[ref.Name]
	if !ok {
		return nil, fmt.Errorf("secret %s is not there; give the Secret %s of namespace %s with the other objects", ref.Name, ref.Secret, ref.Namespace)
	}
	content.Name = ref.Name
	r, err := Secret(content, ref.Use)
	if err != nil {
		return nil, err
	}
	m := &tlsv3.Secret{}
	if err := unmarshal(r.Bytes, m); err != nil {
		return nil, fmt.Errorf("secret %s: %w", ref.Name, err)
	}
	return m, nil
}
