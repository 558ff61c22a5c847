package corpus_test

import (
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/internal/corpus"
)

// observed is a whole observation, made anew for each test that changes it.
func observed() *corpus.Expect {
	return &corpus.Expect{
		Status: 200, Backend: "alpha.default", BackendPort: 80, GRPCStatus: "0", ServerCert: "a.example", ALPN: "h2",
		ResponseHeaders:       map[string]corpus.Values{"server": {"envoy"}, "vary": {"a", "b"}},
		ResponseHeadersAbsent: []string{"x-gone"},
		ResponseHeaderCase:    []string{"X-Spelled"},
		Body:                  "text",
		Upstream: &corpus.UpstreamRequest{
			Method: "GET", Path: "/", Authority: "a.example", Protocol: "HTTP/1.1", TLS: true, TLSSNI: "up", TLSClient: "me",
			Headers: map[string]corpus.Values{"x-a": {"1"}, "x-request-id": {"*"}},
			Absent:  []string{"x-removed"},
		},
		Hits: map[string]int{"alpha.default": 2},
		Side: []*corpus.SideRequest{{
			Backend: "auth.default", Kind: "ext_authz", Method: "GET", Path: "/", Host: "a.example",
			Headers: map[string]corpus.Values{"x-a": {"1"}}, Detail: map[string]string{"protocol": "v3"},
		}},
	}
}

func TestCompareAgrees(t *testing.T) {
	for name, want := range map[string]*corpus.Expect{
		"with itself": observed(),
		"with a subset": {
			Status: 200, Backend: "alpha.default", GRPCStatus: "0", ServerCert: "a.example", ALPN: "h2",
			ResponseHeaders: map[string]corpus.Values{"server": {"*"}},
			Upstream:        &corpus.UpstreamRequest{TLS: true, TLSSNI: "up", TLSClient: "me"},
			Hits:            map[string]int{"alpha.default": 2},
			Side:            []*corpus.SideRequest{{Backend: "auth.default", Kind: "ext_authz", Method: "GET", Path: "/", Host: "a.example"}},
		},
	} {
		if d := corpus.Compare(want, observed()); len(d) > 0 {
			t.Errorf("%s: %q", name, d)
		}
	}
}

// TestCompareFinds changes one thing that came, for each thing that an expectation can mention.
func TestCompareFinds(t *testing.T) {
	for want, change := range map[string]func(*corpus.Expect){
		"error: want":                            func(e *corpus.Expect) { e.Error = "tls" },
		"status: want":                           func(e *corpus.Expect) { e.Status = 503 },
		"backend: want":                          func(e *corpus.Expect) { e.Backend = "beta.default" },
		"backend port: want":                     func(e *corpus.Expect) { e.BackendPort = 81 },
		"response header server: want":           func(e *corpus.Expect) { e.ResponseHeaders["server"] = corpus.Values{"other"} },
		`response header vary: want "a | b", a`:  func(e *corpus.Expect) { delete(e.ResponseHeaders, "vary") },
		"response header vary: want \"a | b\",":  func(e *corpus.Expect) { e.ResponseHeaders["vary"] = corpus.Values{"b", "a"} },
		"response header x-gone: want it absent": func(e *corpus.Expect) { e.ResponseHeaders["x-gone"] = corpus.Values{"1"} },
		"X-Spelled: not spelled so":              func(e *corpus.Expect) { e.ResponseHeaderCase = nil },
		"body: want":                             func(e *corpus.Expect) { e.Body = "" },
		"grpc-status: want":                      func(e *corpus.Expect) { e.GRPCStatus = "14" },
		"server certificate: want":               func(e *corpus.Expect) { e.ServerCert = "b.example" },
		"alpn: want":                             func(e *corpus.Expect) { e.ALPN = "" },
		"upstream request: none came":            func(e *corpus.Expect) { e.Upstream = nil },
		"upstream method: want":                  func(e *corpus.Expect) { e.Upstream.Method = "PUT" },
		"upstream path: want":                    func(e *corpus.Expect) { e.Upstream.Path = "/x" },
		"upstream authority: want":               func(e *corpus.Expect) { e.Upstream.Authority = "b.example" },
		"upstream protocol: want":                func(e *corpus.Expect) { e.Upstream.Protocol = "HTTP/2.0" },
		"upstream tls: want":                     func(e *corpus.Expect) { e.Upstream.TLS = false },
		"upstream sni: want":                     func(e *corpus.Expect) { e.Upstream.TLSSNI = "" },
		"upstream client certificate: want":      func(e *corpus.Expect) { e.Upstream.TLSClient = "" },
		"upstream header x-a: want":              func(e *corpus.Expect) { e.Upstream.Headers["x-a"] = corpus.Values{"2"} },
		"upstream header x-request-id: want":     func(e *corpus.Expect) { delete(e.Upstream.Headers, "x-request-id") },
		"upstream header x-removed: want":        func(e *corpus.Expect) { e.Upstream.Absent = nil },
		"requests per backend: want":             func(e *corpus.Expect) { e.Hits = nil },
		"side requests: want 1, got 0":           func(e *corpus.Expect) { e.Side = nil },
		"side request 0: want":                   func(e *corpus.Expect) { e.Side[0].Path = "/x" },
		"side request 0 protocol: want":          func(e *corpus.Expect) { e.Side[0].Detail = nil },
		"side request 0 header x-a: want":        func(e *corpus.Expect) { e.Side[0].Headers = nil },
	} {
		got := observed()
		change(got)
		if d := corpus.Compare(observed(), got); !strings.Contains(strings.Join(d, "\n"), want) {
			t.Errorf("planted %q, found %q", want, d)
		}
	}
}

func TestCompareIgnoresHeaders(t *testing.T) {
	got := observed()
	got.Upstream.Headers["x-a"] = corpus.Values{"2"}
	got.Side[0].Headers["x-a"] = corpus.Values{"2"}
	if d := corpus.Compare(observed(), got, "x-a"); len(d) > 0 {
		t.Errorf("with x-a ignored: %q", d)
	}
}

func TestCompareShares(t *testing.T) {
	shares := func(tolerance, alpha, beta float64) *corpus.Expect {
		return &corpus.Expect{Distribution: map[string]float64{"alpha": alpha, "beta": beta}, Tolerance: tolerance, DistinctEndpoints: 2}
	}
	if d := corpus.Compare(shares(0.1, 0.9, 0.1), shares(0, 0.8, 0.2)); len(d) > 0 {
		t.Errorf("within the tolerance: %q", d)
	}
	if d := corpus.Compare(shares(0.1, 0.9, 0.1), shares(0, 0.79, 0.21)); len(d) != 2 {
		t.Errorf("outside of the tolerance: %q, want both shares", d)
	}
	surplus := shares(0, 0.9, 0.1)
	surplus.Distribution["503"] = 0.2
	if d := corpus.Compare(shares(0.1, 0.9, 0.1), surplus); len(d) != 1 {
		t.Errorf("with 503s: %q, want their share", d)
	}
	one := shares(0, 0.9, 0.1)
	one.DistinctEndpoints = 1
	if d := corpus.Compare(shares(0.1, 0.9, 0.1), one); len(d) != 1 {
		t.Errorf("with one endpoint: %q", d)
	}
}

func TestCompareShowsWhereLongTextsPart(t *testing.T) {
	want, got := &corpus.Expect{Body: strings.Repeat("a", 300) + "b"}, &corpus.Expect{Body: strings.Repeat("a", 300) + "c"}
	d := corpus.Compare(want, got)
	if len(d) != 1 || !strings.Contains(d[0], `aab", got "…aa`) || !strings.HasSuffix(d[0], `aac"`) {
		t.Errorf("found %q, want the place where the texts part", d)
	}
}
