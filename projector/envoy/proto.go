package envoy

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// typePrefix begins every type URL.
const typePrefix = "type.googleapis.com/"

// message is a protobuf message that carries the rules of its .proto file,
// which Envoy checks too.
type message interface {
	proto.Message
	Validate() error
}

// marshal writes canonical bytes: fields by number, map keys in order.
func marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// resource validates and marshals m; what says what it is in an error.
func resource(what, name string, m message) (projector.Resource, error) {
	if err := m.Validate(); err != nil {
		return projector.Resource{}, fmt.Errorf("%s %s: %w", what, name, err)
	}
	b, err := marshal(m)
	if err != nil {
		return projector.Resource{}, fmt.Errorf("%s %s: %w", what, name, err)
	}
	return projector.NewResource(name, b), nil
}

// packAny wraps an extension's configuration.
func packAny(m message) (*anypb.Any, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	b, err := marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: typePrefix + string(m.ProtoReflect().Descriptor().FullName()), Value: b}, nil
}

// extension names and wraps an extension's configuration.
func extension(name string, m message) (*corev3.TypedExtensionConfig, error) {
	a, err := packAny(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: a}, nil
}

func duration(d *time.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(*d)
}

func positive(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func uint32Value(v *uint32) *wrapperspb.UInt32Value {
	if v == nil {
		return nil
	}
	return wrapperspb.UInt32(*v)
}

func positive32(v uint32) *wrapperspb.UInt32Value {
	if v == 0 {
		return nil
	}
	return wrapperspb.UInt32(v)
}

func boolValue(v *bool) *wrapperspb.BoolValue {
	if v == nil {
		return nil
	}
	return wrapperspb.Bool(*v)
}

func inline(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

func inlineBytes(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func socketAddress(host string, port uint32, udp bool) *corev3.Address {
	sa := &corev3.SocketAddress{Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}
	if udp {
		sa.Protocol = corev3.SocketAddress_UDP
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: sa}}
}

func pipeAddress(path string) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
}

// ads says that a resource comes by the aggregated stream. Envoy's default of
// 15 s applies before it goes on without.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}
}

func grpcService(upstream, authority string, timeout time.Duration) *corev3.GrpcService {
	return &corev3.GrpcService{
		TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{
			ClusterName: upstream, Authority: authority,
		}},
		Timeout: positive(timeout),
	}
}

// addHeaders writes header additions. Value is taken as it is: Envoy reads %…%
// in it as a command operator.
func addHeaders(hs []ir.HeaderValue) []*corev3.HeaderValueOption {
	out := make([]*corev3.HeaderValueOption, 0, len(hs))
	for _, h := range hs {
		action := corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		switch {
		case h.IfAbsent:
			action = corev3.HeaderValueOption_ADD_IF_ABSENT
		case h.Append:
			action = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
		}
		out = append(out, &corev3.HeaderValueOption{
			Header:         &corev3.HeaderValue{Key: h.Name, Value: h.Value},
			AppendAction:   action,
			KeepEmptyValue: h.Value == "",
		})
	}
	return out
}

// sourceMetadata is the key under which configuration names the object that it
// comes from: %METADATA(ROUTE:chancery:name)% in an access log.
const sourceMetadata = "chancery"

func metadata(s ir.Source) *corev3.Metadata {
	if s == (ir.Source{}) {
		return nil
	}
	fields := map[string]*structpb.Value{}
	for _, kv := range [...][2]string{{"cluster", s.Cluster}, {"kind", s.Kind}, {"namespace", s.Namespace}, {"name", s.Name}} {
		if kv[1] != "" {
			fields[kv[0]] = structpb.NewStringValue(kv[1])
		}
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{sourceMetadata: {Fields: fields}}}
}
