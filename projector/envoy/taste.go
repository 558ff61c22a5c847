package envoy

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Tasteable rewrites updates for an Envoy that only has to judge them and
// must do nothing in the world: listeners bind no port (UDP ones, which must,
// an ephemeral one on loopback), upstreams are neither probed nor looked up in
// DNS, log files are not opened. Names stay, and so do needs: the taster
// answers them with Endpoints of no address and with DummySecret.
func Tasteable(updates []projector.Update) ([]projector.Update, error) {
	out := make([]projector.Update, 0, len(updates))
	for _, u := range updates {
		if u.Resource == nil || u.Type != projector.Listeners && u.Type != projector.Upstreams {
			out = append(out, u)
			continue
		}
		r, err := tasteable(*u.Resource, u.Type)
		if err != nil {
			return nil, err
		}
		out = append(out, projector.Update{Type: u.Type, Name: u.Name, Resource: &r})
	}
	return out, nil
}

func tasteable(r projector.Resource, t projector.ResourceType) (projector.Resource, error) {
	m, err := Message(r, t)
	if err != nil {
		return projector.Resource{}, err
	}
	switch m := m.(type) {
	case *listenerv3.Listener:
		if err := unbind(m); err != nil {
			return projector.Resource{}, wrap(r, t, err)
		}
	case *clusterv3.Cluster:
		m.HealthChecks = nil
		if m.GetClusterType() != nil { // DNS: no name may be asked for
			m.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
			m.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: m.Name}
		}
	}
	b, err := marshal(m)
	if err != nil {
		return projector.Resource{}, wrap(r, t, err)
	}
	return projector.NewResource(r.Name, b), nil
}

func unbind(l *listenerv3.Listener) error {
	if l.UdpListenerConfig != nil {
		l.Address = socketAddress("127.0.0.1", 0, true)
	} else {
		l.BindToPort = wrapperspb.Bool(false)
	}
	_, err := walk(l, func(m proto.Message) (bool, error) {
		f, ok := m.(*fileaccesslogv3.FileAccessLog)
		if !ok {
			return false, nil
		}
		f.Path = "/dev/null"
		return true, nil
	})
	return err
}

// KeyKind is the kind of a certificate's key. Envoy wants certificates of
// different kinds on one chain.
type KeyKind string

// The kinds of key.
const (
	RSA   KeyKind = "rsa"
	ECDSA KeyKind = "ecdsa"
)

// Dummies are certificates that prove nothing, made by the caller: for a
// taster, which must not have the real keys.
type Dummies struct {
	Certificates map[KeyKind]ir.Secret // Chain and Key
	CA           []byte                // PEM
}

// DummySecret answers a need as a taster does. kind is that of the real key,
// if it is a certificate; "" is ECDSA.
func DummySecret(ref ir.SecretRef, kind KeyKind, d Dummies) (projector.Resource, error) {
	if ref.Use == ir.UseCA {
		return Secret(ir.Secret{Name: ref.Name, CA: d.CA}, ir.UseCA)
	}
	if kind == "" {
		kind = ECDSA
	}
	s, ok := d.Certificates[kind]
	if !ok {
		return projector.Resource{}, fmt.Errorf("secret %s: there is no dummy certificate with a key of kind %q", ref.Name, kind)
	}
	s.Name = ref.Name
	return Secret(s, ref.Use)
}
