package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector"
)

// unmarshal reads b, in which nothing may be unknown.
func unmarshal(b []byte, m proto.Message) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("damaged %s: %w", m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// Message reads a resource of Envoy's. Needs have no message.
func Message(r projector.Resource, t projector.ResourceType) (proto.Message, error) {
	var m proto.Message
	switch t {
	case projector.Upstreams:
		m = &clusterv3.Cluster{}
	case projector.Listeners:
		m = &listenerv3.Listener{}
	case projector.Routes:
		m = &routev3.RouteConfiguration{}
	default:
		return nil, fmt.Errorf("%s %s is not a message of Envoy's", t, r.Name)
	}
	if err := unmarshal(r.Bytes, m); err != nil {
		return nil, fmt.Errorf("%s %s: %w", t, r.Name, err)
	}
	return m, nil
}

// ToJSON prints a resource for people: Envoy's JSON, or the need, indented,
// the same for the same bytes.
func ToJSON(r projector.Resource, t projector.ResourceType) ([]byte, error) {
	if t == projector.EndpointNeeds || t == projector.SecretNeeds {
		return indent(r.Bytes)
	}
	m, err := Message(r, t)
	if err != nil {
		return nil, err
	}
	return messageJSON(m)
}

// EndpointsToJSON prints what Endpoints wrote.
func EndpointsToJSON(r projector.Resource) ([]byte, error) {
	m := &endpointv3.ClusterLoadAssignment{}
	if err := unmarshal(r.Bytes, m); err != nil {
		return nil, fmt.Errorf("endpoints %s: %w", r.Name, err)
	}
	return messageJSON(m)
}

// messageJSON evens out protojson's spaces, which differ from build to build.
func messageJSON(m proto.Message) ([]byte, error) {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	return indent(b)
}

func indent(b []byte) ([]byte, error) {
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
