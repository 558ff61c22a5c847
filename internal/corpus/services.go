package corpus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// authorization is Envoy's external authorisation service.
type authorization struct {
	authv3.UnimplementedAuthorizationServer
	b *backend
}

// Check allows a request unless its x-auth-status says otherwise.
func (s *authorization) Check(ctx context.Context, r *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	request := r.GetAttributes().GetRequest().GetHttp()
	sent := request.GetHeaders()
	h := s.b.newHit("ext_authz")
	h.method, h.path, h.host = request.GetMethod(), request.GetPath(), request.GetHost()
	h.headers = map[string]Values{}
	for k, v := range sent {
		if !strings.HasPrefix(k, ":") {
			h.headers[k] = Values{v}
		}
	}
	h.detail = map[string]string{"protocol": "v3"}
	if n := len(request.GetBody()) + len(request.GetRawBody()); n > 0 {
		h.detail["body_bytes"] = strconv.Itoa(n)
	}
	for k, v := range r.GetAttributes().GetContextExtensions() {
		h.detail["context."+k] = v
	}
	s.b.stage.record(h)
	s.b.stage.pause(ctx, time.Duration(number(sent["x-auth-delay-ms"], 0))*time.Millisecond)

	code := number(sent["x-auth-status"], 200)
	headers := authHeaders(sent, code)
	if code == 200 {
		return &authv3.CheckResponse{
			Status: &rpcstatus.Status{Code: int32(codes.OK)},
			HttpResponse: &authv3.CheckResponse_OkResponse{
				OkResponse: &authv3.OkHttpResponse{Headers: headers},
			},
		}, nil
	}
	return &authv3.CheckResponse{
		Status: &rpcstatus.Status{Code: int32(codes.Unauthenticated)},
		HttpResponse: &authv3.CheckResponse_DeniedResponse{
			DeniedResponse: &authv3.DeniedHttpResponse{
				Status:  &typev3.HttpStatus{Code: typev3.StatusCode(code)},
				Headers: headers,
				Body:    "denied by auth stub",
			},
		},
	}, nil
}

func authHeaders(sent map[string]string, code int) []*corev3.HeaderValueOption {
	var out []*corev3.HeaderValueOption
	add := func(appendTo bool, lines ...header) {
		for _, line := range lines {
			out = append(out, &corev3.HeaderValueOption{
				Header: &corev3.HeaderValue{Key: line.name, Value: line.value},
				Append: wrapperspb.Bool(appendTo), //nolint:staticcheck // what authorisation services in the field send, and what was recorded
			})
		}
	}
	add(false, header{"x-auth-by", "stub"})
	if code != 200 {
		for k := range strings.SplitSeq(strings.ToLower(sent["x-auth-reflect"]), ",") {
			if v := sent[k]; v != "" {
				add(false, header{k, v})
			}
		}
	}
	add(true, pairs(sent["x-auth-append"])...)
	if l := sent["x-auth-location"]; l != "" {
		add(false, header{"location", l})
	}
	add(false, cookies(sent["x-auth-cookie"])...)
	return out
}

// rateLimit is Envoy's rate limit service.
type rateLimit struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
	b *backend
}

// ShouldRateLimit limits every request but those with a descriptor x-rls-allow=true.
func (s *rateLimit) ShouldRateLimit(ctx context.Context, r *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	h := s.b.newHit("rate_limit")
	h.detail = map[string]string{"domain": r.GetDomain()}
	entries := map[string]string{}
	for i, d := range r.GetDescriptors() {
		var parts []string
		for _, e := range d.GetEntries() {
			parts = append(parts, e.GetKey()+"="+e.GetValue())
			entries[e.GetKey()] = e.GetValue()
		}
		h.detail[fmt.Sprintf("descriptor.%d", i)] = strings.Join(parts, ";")
	}
	s.b.stage.record(h)
	s.b.stage.pause(ctx, time.Duration(number(entries["x-rls-delay-ms"], 0))*time.Millisecond)
	if entries["x-rls-allow"] == "true" {
		return &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK}, nil
	}
	out := &ratelimitv3.RateLimitResponse{
		OverallCode: ratelimitv3.RateLimitResponse_OVER_LIMIT,
		RawBody:     []byte("limited by rate limit stub"),
	}
	for _, line := range pairs(entries["x-rls-append"]) {
		out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, &corev3.HeaderValue{Key: line.name, Value: line.value})
	}
	return out, nil
}

// accessLog is Envoy's access log service.
type accessLog struct {
	accesslogv3.UnimplementedAccessLogServiceServer
	b *backend
}

// StreamAccessLogs records every entry until the stream ends.
func (s *accessLog) StreamAccessLogs(stream accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	name := "" // only the first message of a stream has it
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
			return nil
		}
		if err != nil {
			return err
		}
		if id := m.GetIdentifier(); id != nil {
			name = id.GetLogName()
		}
		for _, e := range m.GetHttpLogs().GetLogEntry() {
			h := s.b.newHit("access_log")
			request, response := e.GetRequest(), e.GetResponse()
			h.method, h.path, h.host = request.GetRequestMethod().String(), request.GetPath(), request.GetAuthority()
			h.detail = map[string]string{"log_name": name, "status": strconv.Itoa(int(response.GetResponseCode().GetValue()))}
			for k, v := range request.GetRequestHeaders() {
				h.detail["request_header."+k] = v
			}
			for k, v := range response.GetResponseHeaders() {
				h.detail["response_header."+k] = v
			}
			s.b.stage.record(h)
		}
		for range m.GetTcpLogs().GetLogEntry() {
			h := s.b.newHit("access_log")
			h.detail = map[string]string{"log_name": name, "kind": "tcp"}
			s.b.stage.record(h)
		}
	}
}
