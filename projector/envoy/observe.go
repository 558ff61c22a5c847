package envoy

import (
	"encoding/json"
	"fmt"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	fileaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	grpcaccesslogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

func accessLogs(logs []ir.AccessLog) ([]*accesslogv3.AccessLog, error) {
	var out []*accesslogv3.AccessLog
	for i, l := range logs {
		name, m, err := accessLog(l)
		if err != nil {
			return nil, fmt.Errorf("access log %d: %w", i, err)
		}
		a, err := packAny(m)
		if err != nil {
			return nil, fmt.Errorf("access log %d: %w", i, err)
		}
		out = append(out, &accesslogv3.AccessLog{Name: name, ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: a}})
	}
	return out, nil
}

func accessLog(l ir.AccessLog) (string, message, error) {
	switch {
	case l.Path != "" && l.Upstream != "":
		return "", nil, fmt.Errorf("it goes both to %s and to %s; choose one", l.Path, l.Upstream)
	case l.Path != "":
		m, err := fileLog(l)
		return "envoy.access_loggers.file", m, err
	case l.Upstream == "":
		return "", nil, fmt.Errorf("it goes to neither a file nor a service")
	}
	common := &grpcaccesslogv3.CommonGrpcAccessLogConfig{
		LogName:             l.LogName,
		GrpcService:         grpcService(l.Upstream, "", 0),
		TransportApiVersion: corev3.ApiVersion_V3,
		BufferFlushInterval: positive(l.Flush),
		BufferSizeBytes:     positive32(l.Bytes),
	}
	if l.TCP {
		if len(l.Headers) > 0 {
			return "", nil, fmt.Errorf("a log of TCP connections has no headers")
		}
		return "envoy.access_loggers.tcp_grpc", &grpcaccesslogv3.TcpGrpcAccessLogConfig{CommonConfig: common}, nil
	}
	m := &grpcaccesslogv3.HttpGrpcAccessLogConfig{CommonConfig: common}
	for _, h := range l.Headers {
		if h.Request {
			m.AdditionalRequestHeadersToLog = append(m.AdditionalRequestHeadersToLog, h.Name)
		}
		if h.Response {
			m.AdditionalResponseHeadersToLog = append(m.AdditionalResponseHeadersToLog, h.Name)
		}
		if h.Trailer {
			m.AdditionalResponseTrailersToLog = append(m.AdditionalResponseTrailersToLog, h.Name)
		}
	}
	return "envoy.access_loggers.http_grpc", m, nil
}

func fileLog(l ir.AccessLog) (*fileaccesslogv3.FileAccessLog, error) {
	m := &fileaccesslogv3.FileAccessLog{Path: l.Path}
	switch {
	case l.JSON != nil && l.Text != "":
		return nil, fmt.Errorf("it is both text and JSON; choose one")
	case l.JSON != nil:
		s, err := jsonStruct(l.JSON)
		if err != nil {
			return nil, err
		}
		if l.Typed {
			m.AccessLogFormat = logFormat(&corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: s}})
		} else {
			m.AccessLogFormat = &fileaccesslogv3.FileAccessLog_JsonFormat{JsonFormat: s} //nolint:staticcheck // deprecated, and the one way to have every value as a string
		}
	case l.Text != "":
		m.AccessLogFormat = logFormat(&corev3.SubstitutionFormatString{
			Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(l.Text)},
		})
	}
	return m, nil
}

func logFormat(f *corev3.SubstitutionFormatString) *fileaccesslogv3.FileAccessLog_LogFormat {
	return &fileaccesslogv3.FileAccessLog_LogFormat{LogFormat: f}
}

// jsonStruct reads any values that JSON can carry, as a decoder or a program
// may have left them.
func jsonStruct(v map[string]any) (*structpb.Struct, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("JSON format: %w", err)
	}
	s := &structpb.Struct{}
	if err := s.UnmarshalJSON(b); err != nil {
		return nil, fmt.Errorf("JSON format: %w", err)
	}
	return s, nil
}

func tracing(t *ir.Tracing) (*hcmv3.HttpConnectionManager_Tracing, error) {
	if t == nil {
		return nil, nil
	}
	name, m, err := tracer(*t)
	if err != nil {
		return nil, err
	}
	var config *anypb.Any
	if config, err = packAny(m); err != nil {
		return nil, err
	}
	out := &hcmv3.HttpConnectionManager_Tracing{
		ClientSampling:    &typev3.Percent{Value: t.Client},
		RandomSampling:    &typev3.Percent{Value: t.Random},
		OverallSampling:   &typev3.Percent{Value: t.Overall},
		Provider:          &tracev3.Tracing_Http{Name: name, ConfigType: &tracev3.Tracing_Http_TypedConfig{TypedConfig: config}},
		SpawnUpstreamSpan: wrapperspb.Bool(true),
	}
	for _, tag := range t.Tags {
		c, err := traceTag(tag)
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", tag.Name, err)
		}
		out.CustomTags = append(out.CustomTags, c)
	}
	return out, nil
}

func tracer(t ir.Tracing) (string, message, error) {
	switch t.Driver {
	case "zipkin":
		endpoint := t.CollectorPath
		if endpoint == "" {
			endpoint = "/api/v2/spans"
		}
		return "envoy.tracers.zipkin", &tracev3.ZipkinConfig{
			CollectorCluster:         t.Upstream,
			CollectorEndpoint:        endpoint,
			CollectorEndpointVersion: tracev3.ZipkinConfig_HTTP_JSON,
			TraceId_128Bit:           t.Shared128,
		}, nil
	case "datadog":
		return "envoy.tracers.datadog", &tracev3.DatadogConfig{CollectorCluster: t.Upstream, ServiceName: t.ServiceName}, nil
	case "opentelemetry":
		return "envoy.tracers.opentelemetry", &tracev3.OpenTelemetryConfig{
			GrpcService: grpcService(t.Upstream, "", 0), ServiceName: t.ServiceName,
		}, nil
	}
	return "", nil, fmt.Errorf("driver %q is none of zipkin, datadog and opentelemetry", t.Driver)
}

func traceTag(t ir.TraceTag) (*tracingv3.CustomTag, error) {
	out := &tracingv3.CustomTag{Tag: t.Name}
	switch {
	case t.Literal != "":
		out.Type = &tracingv3.CustomTag_Literal_{Literal: &tracingv3.CustomTag_Literal{Value: t.Literal}}
	case t.Environment != "":
		out.Type = &tracingv3.CustomTag_Environment_{Environment: &tracingv3.CustomTag_Environment{Name: t.Environment, DefaultValue: t.Default}}
	case t.Header != "":
		out.Type = &tracingv3.CustomTag_RequestHeader{RequestHeader: &tracingv3.CustomTag_Header{Name: t.Header, DefaultValue: t.Default}}
	default:
		return nil, fmt.Errorf("it says neither a value, an environment variable nor a header")
	}
	return out, nil
}
