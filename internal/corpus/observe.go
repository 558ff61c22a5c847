package corpus

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Headers that vary from run to run, or that only this package puts there.
var (
	volatileResponse = []string{
		"date", "content-length", "x-envoy-upstream-service-time", "connection", "transfer-encoding",
		"x-echo-id", "keep-alive", "trailer", "x-request-id", "sec-websocket-accept",
	}
	volatileUpstream = []string{"content-length", "connection", "x-envoy-upstream-service-time", "accept-encoding-go", "te"}
	anyValue         = []string{
		"x-request-id", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "traceparent", "tracestate", "x-client-trace-id",
		"x-datadog-trace-id", "x-datadog-parent-id", "x-envoy-peer-metadata", "sec-websocket-key",
	}
)

const (
	maxComparedBody = 600 // bytes; a longer reply that no backend gave is not compared
	// How long we wait for mirrored and logged requests that are expected, on a machine however slow.
	sideTimeout = 20 * time.Second
)

// Observe fires a probe and returns what happened in the form of an expectation. An error is a mistake in the case.
// Only the number of side requests is taken from p.Expect: so many are waited for.
func (s *Stage) Observe(ctx context.Context, p *Probe) (*Expect, error) {
	s.reset()
	if p.Repeat > 1 {
		return s.observeMany(ctx, p)
	}
	r, err := s.do(ctx, p, nil)
	if err != nil {
		return nil, fmt.Errorf("probe %q: %w", p.Name, err)
	}
	answered := s.answering(r)
	if p.SettleMS > 0 {
		s.settle(ctx, p, answered)
	}
	hits := s.recorded()
	perBackend := requestsPerBackend(hits)
	e := &Expect{Error: r.err, Status: r.status, ServerCert: r.certificate, ALPN: r.alpn, Side: sideRequests(hits, answered)}
	if r.err == "" {
		e.readResponse(r, answered)
	}
	if answered != nil {
		e.Backend, e.BackendPort = answered.backend, answered.port
		for _, name := range answered.responded {
			if _, ok := r.headers[name]; !ok {
				e.ResponseHeadersAbsent = append(e.ResponseHeadersAbsent, name)
			}
		}
		slices.Sort(e.ResponseHeadersAbsent)
		e.Upstream = upstreamRequest(p, answered)
		if _, ok := e.Upstream.Headers["x-envoy-expected-rq-timeout-ms"]; ok && perBackend[answered.backend] > 1 {
			e.Upstream.Headers["x-envoy-expected-rq-timeout-ms"] = Values{"*"} // what is left after a retry
		}
	}
	justOne := answered != nil && len(perBackend) == 1 && perBackend[answered.backend] == 1
	if len(perBackend) > 0 && !justOne {
		e.Hits = perBackend
	}
	return e, nil
}

// settle waits until the side requests that are expected have come, and then for surplus ones.
func (s *Stage) settle(ctx context.Context, p *Probe, answered *hit) {
	const step = 5 * time.Millisecond
	for waited := time.Duration(0); p.Expect != nil && waited < sideTimeout && ctx.Err() == nil; waited += step {
		if len(sideRequests(s.recorded(), answered)) >= len(p.Expect.Side) {
			break
		}
		s.pause(ctx, step)
	}
	s.pause(ctx, time.Duration(p.SettleMS)*time.Millisecond)
}

func (s *Stage) observeMany(ctx context.Context, p *Probe) (*Expect, error) {
	replies := make([]*response, p.Repeat)
	errs := make([]error, p.Repeat)
	if p.Parallel {
		var all sync.WaitGroup
		for i := range replies {
			all.Go(func() { replies[i], errs[i] = s.do(ctx, p, nil) })
		}
		all.Wait()
	}
	shares := map[string]float64{}
	endpoints := map[string]bool{}
	extra := map[string]string{}
	for i := range replies {
		if !p.Parallel {
			replies[i], errs[i] = s.do(ctx, p, extra)
		}
		if errs[i] != nil {
			return nil, fmt.Errorf("probe %q: %w", p.Name, errs[i])
		}
		r := replies[i]
		answered := s.answering(r)
		if answered != nil {
			endpoints[answered.endpoint] = true
		}
		shares[outcome(r, answered)] += 1 / float64(p.Repeat)
		if p.Sticky != "" && i == 0 {
			for _, cookie := range r.headers["set-cookie"] {
				if kv, _, _ := strings.Cut(cookie, ";"); strings.HasPrefix(kv, p.Sticky+"=") {
					extra["cookie"] = kv
				}
			}
		}
	}
	return &Expect{Distribution: shares, DistinctEndpoints: len(endpoints)}, nil
}

// outcome is the name of one response in a distribution.
func outcome(r *response, answered *hit) string {
	switch {
	case r.err != "":
		return r.err
	case answered == nil:
		return fmt.Sprint(r.status)
	case r.status != 200:
		return fmt.Sprintf("%s:%d", answered.backend, r.status)
	}
	return answered.backend
}

func (e *Expect) readResponse(r *response, answered *hit) {
	e.ResponseHeaders = map[string]Values{}
	for name, values := range r.headers {
		ours := name == "content-type" && answered != nil && !slices.Contains(answered.responded, name)
		if !ours && !slices.Contains(volatileResponse, name) {
			e.ResponseHeaders[name] = normalise(name, values)
		}
	}
	if status := slices.Concat(r.headers["grpc-status"], r.trailer["grpc-status"]); len(status) > 0 {
		e.GRPCStatus = status[0]
		delete(e.ResponseHeaders, "grpc-status")
	}
	for _, name := range r.spelling {
		if lower := strings.ToLower(name); name != lower && !slices.Contains(volatileResponse, lower) {
			e.ResponseHeaderCase = append(e.ResponseHeaderCase, name)
		}
	}
	slices.Sort(e.ResponseHeaderCase)
	if answered == nil && len(r.body) < maxComparedBody {
		e.Body = r.body
	}
}

func requestsPerBackend(hits []*hit) map[string]int {
	n := map[string]int{}
	for _, h := range hits {
		if h.kind == "http" || h.kind == "grpc" {
			n[h.backend]++
		}
	}
	return n
}

// sideRequests returns the hits that are neither the answered request nor a retry of it, in a stable order.
func sideRequests(hits []*hit, answered *hit) []*SideRequest {
	var side []*SideRequest
	for _, h := range hits {
		isRequest := h.kind == "http" || h.kind == "grpc"
		if h == answered || (isRequest && answered != nil && h.backend == answered.backend) {
			continue
		}
		r := &SideRequest{Backend: h.backend, Kind: h.kind, Method: h.method, Path: h.path, Host: h.host}
		if h.kind != "http" {
			r.Detail = h.detail
		}
		if h.headers != nil {
			r.Headers = map[string]Values{}
		}
		for name, values := range h.headers {
			switch {
			case slices.Contains(volatileUpstream, name), strings.HasPrefix(name, "x-envoy-"):
			case name == "user-agent", name == "accept-encoding", name == "content-type":
			default:
				r.Headers[name] = normalise(name, values)
			}
		}
		side = append(side, r)
	}
	slices.SortFunc(side, func(a, b *SideRequest) int { return strings.Compare(a.key(), b.key()) })
	return side
}

// key orders side requests; fmt prints maps sorted.
func (r *SideRequest) key() string { return r.Backend + r.Kind + r.Path + fmt.Sprint(r.Detail) }

func upstreamRequest(p *Probe, h *hit) *UpstreamRequest {
	u := &UpstreamRequest{
		Method: h.method, Path: h.path, Authority: h.host, Protocol: h.proto,
		TLS: h.tls, TLSSNI: h.sni, TLSClient: h.client,
		Headers: map[string]Values{},
	}
	hopByHop := []string{"host", "connection", "upgrade", "te", "content-length", "transfer-encoding"}
	sent := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(p.Headers)) {
		name = strings.ToLower(name)
		sent[name] = true
		if _, arrived := h.headers[name]; !arrived && !slices.Contains(hopByHop, name) {
			u.Absent = append(u.Absent, name)
		}
	}
	slices.Sort(u.Absent)
	for name, values := range h.headers {
		steers := sent[name] && strings.HasPrefix(name, "x-echo-")
		if !steers && !slices.Contains(volatileUpstream, name) {
			u.Headers[name] = normalise(name, values)
		}
	}
	return u
}

// normalise replaces what varies from run to run by "*".
func normalise(name string, values Values) Values {
	if slices.Contains(anyValue, name) {
		return Values{"*"}
	}
	if name != "set-cookie" {
		return values
	}
	const longestChosen = 8 // a longer cookie value that is not its name was generated by the proxy
	out := Values{}
	for _, cookie := range values {
		pair, attributes, hasAttributes := strings.Cut(cookie, ";")
		name, value, _ := strings.Cut(pair, "=")
		if name != value && len(value) > longestChosen {
			value = "*"
		}
		text := name + "=" + value
		if hasAttributes {
			text += ";" + attributes
		}
		out = append(out, text)
	}
	return out
}
