package corpus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/chancery-dev/chancery/internal/corpus"
	"github.com/chancery-dev/chancery/internal/testbed"
)

// config is a bootstrap written by hand: a prefix to alpha, a split, a mirror and retries.
const config = `{"staticResources": {
  "listeners": [{
    "name": "web", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8080}},
    "filterChains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": {
      "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
      "statPrefix": "web", "codecType": "AUTO", "useRemoteAddress": true, "upgradeConfigs": [{"upgradeType": "websocket"}],
      "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
      "routeConfig": {"name": "web", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/a/"}, "route": {"cluster": "alpha", "prefixRewrite": "/", "timeout": "20s",
          "retryPolicy": {"retryOn": "5xx", "numRetries": 2}},
          "requestHeadersToAdd": [{"header": {"key": "x-added", "value": "yes"}}], "requestHeadersToRemove": ["x-removed"],
          "responseHeadersToRemove": ["x-kept-back"]},
        {"match": {"prefix": "/mirror/"}, "route": {"cluster": "alpha", "requestMirrorPolicies": [{"cluster": "beta"}]}},
        {"match": {"prefix": "/grpc/"}, "route": {"cluster": "alpha-h2"}},
        {"match": {"prefix": "/split/"}, "route": {"weightedClusters": {"clusters": [{"name": "alpha", "weight": 50}, {"name": "beta", "weight": 50}]}}}
      ]}]}}}]}]
  }],
  "clusters": [
    {"name": "alpha", "type": "STRICT_DNS", "connectTimeout": "5s", "loadAssignment": {"clusterName": "alpha", "endpoints": [{"lbEndpoints": [{"endpoint":
      {"address": {"socketAddress": {"address": "alpha", "portValue": 80}}}}]}]}},
    {"name": "alpha-h2", "type": "LOGICAL_DNS", "connectTimeout": "5s", "loadAssignment": {"clusterName": "alpha-h2", "endpoints": [{"lbEndpoints": [{"endpoint":
      {"address": {"socketAddress": {"address": "alpha", "portValue": 80}}}}]}]},
      "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicitHttpConfig": {"http2ProtocolOptions": {}}}}},
    {"name": "beta", "type": "STRICT_DNS", "connectTimeout": "5s", "loadAssignment": {"clusterName": "beta", "endpoints": [{"lbEndpoints": [{"endpoint":
      {"address": {"socketAddress": {"address": "beta.other", "portValue": 8080}}}}]}]}}
  ]
}}`

const services = `
kind: Service
metadata: {name: alpha}
spec: {ports: [{port: 80}]}
---
kind: Service
metadata: {name: beta, namespace: other}
spec: {ports: [{port: 8080}]}
`

// probes are right about config, all of them.
const probes = `[
  {"name": "prefix", "method": "GET", "url": "http://x.example/a/b?c=%2f", "connect": 8080,
    "headers": {"x-removed": "1", "X-Sent": ["1", "2"], "x-echo-set": "x-kept-back=1;x-let-through=2"},
    "expect": {"status": 200, "backend": "alpha.default", "backend_port": 80,
      "response_headers": {"server": "envoy", "x-let-through": "2"}, "response_headers_absent": ["x-kept-back"],
      "upstream_request": {"method": "GET", "path": "/b?c=%2f", "authority": "x.example", "protocol": "HTTP/1.1",
        "headers": {"x-added": "yes", "x-sent": ["1", "2"], "x-forwarded-for": "127.0.0.50", "x-request-id": "*"}, "absent": ["x-removed"]}}},
  {"name": "no route", "method": "GET", "url": "http://x.example/", "connect": 8080, "expect": {"status": 404}},
  {"name": "host header", "method": "GET", "url": "http://x.example/a/", "headers": {"host": "y.example"}, "connect": 8080,
    "expect": {"status": 200, "backend": "alpha.default", "upstream_request": {"authority": "y.example"}}},
  {"name": "nobody listens", "method": "GET", "url": "http://x.example/", "connect": 8081, "expect": {"error": "connect"}},
  {"name": "no certificate", "method": "GET", "url": "https://x.example/a/", "connect": 8080, "expect": {"error": "tls"}},
  {"name": "http2", "method": "POST", "url": "http://x.example/a/", "connect": 8080, "http2": true, "body": "text",
    "expect": {"status": 200, "backend": "alpha.default", "upstream_request": {"method": "POST", "path": "/"}}},
  {"name": "grpc", "method": "POST", "url": "http://x.example/grpc/svc/m", "connect": 8080, "http2": true,
    "headers": {"content-type": "application/grpc", "te": "trailers", "x-echo-grpc-status": "7"},
    "expect": {"status": 200, "backend": "alpha.default", "grpc_status": "7"}},
  {"name": "retries", "method": "GET", "url": "http://x.example/a/", "connect": 8080, "headers": {"x-echo-fail-first": "2:503"},
    "expect": {"status": 200, "backend": "alpha.default", "hits": {"alpha.default": 3}}},
  {"name": "websocket", "method": "GET", "url": "http://x.example/a/", "connect": 8080,
    "headers": {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "x", "sec-websocket-version": "13"},
    "expect": {"status": 101, "backend": "alpha.default", "response_headers": {"upgrade": "websocket"}}},
  {"name": "a large body", "method": "POST", "url": "http://x.example/a/", "connect": 8080, "body_bytes": 300000,
    "headers": {"x-echo-body-bytes": "300000"}, "expect": {"status": 200, "backend": "alpha.default"}},
  {"name": "mirror", "method": "GET", "url": "http://x.example/mirror/", "connect": 8080, "settle_ms": 50,
    "expect": {"status": 200, "backend": "alpha.default", "hits": {"alpha.default": 1, "beta.other": 1},
      "side_requests": [{"backend": "beta.other", "kind": "http", "method": "GET", "path": "/mirror/", "authority": "x.example-shadow"}]}},
  {"name": "split", "method": "GET", "url": "http://x.example/split/", "connect": 8080, "repeat": 100,
    "expect": {"distribution": {"alpha.default": 0.5, "beta.other": 0.5}, "tolerance": 0.3, "distinct_endpoints": 2}},
  {"name": "split at once", "method": "GET", "url": "http://x.example/split/", "connect": 8080, "repeat": 20, "parallel": true,
    "expect": {"distribution": {"alpha.default": 0.5, "beta.other": 0.5}, "tolerance": 0.45}}
]`

func compileTo(bootstrap string) corpus.Compile {
	return func(context.Context, *corpus.Case) ([]byte, error) { return []byte(bootstrap), nil }
}

func run(t *testing.T, serve corpus.Serve, cases ...*corpus.Case) corpus.Result {
	t.Helper()
	result, err := corpus.Run(t.Context(), corpus.Options{Serve: serve, Dir: t.TempDir(), Attempts: 3}, cases)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// overFiles serves a case the other way: resource by resource, through Envoy's own file subscriptions.
func overFiles(envoy, bootstrap string) corpus.Serve {
	return func(ctx context.Context, _ *corpus.Case, s *corpus.Stage, dir string) (func(), error) {
		var b bootstrapv3.Bootstrap
		if err := protojson.Unmarshal([]byte(bootstrap), &b); err != nil {
			return nil, err
		}
		var listeners, clusters []proto.Message
		for _, l := range b.GetStaticResources().GetListeners() {
			listeners = append(listeners, l)
		}
		for _, c := range b.GetStaticResources().GetClusters() {
			clusters = append(clusters, c)
		}
		for name, resources := range map[string][]proto.Message{"lds": listeners, "cds": clusters} {
			if err := writeRewritten(s, filepath.Join(dir, name+".json"), resources); err != nil {
				return nil, err
			}
		}
		ip, port, _ := strings.Cut(s.AdminAddress(), ":")
		dynamic := fmt.Sprintf(`{"node": {"id": "n", "cluster": "n"},
			"admin": {"address": {"socketAddress": {"address": %q, "portValue": %s}}},
			"dynamicResources": {"ldsConfig": {"pathConfigSource": {"path": %q}}, "cdsConfig": {"pathConfigSource": {"path": %q}}}}`,
			ip, port, filepath.Join(dir, "lds.json"), filepath.Join(dir, "cds.json"))
		e, err := corpus.StartEnvoy(ctx, envoy, []byte(dynamic), s.AdminAddress(), dir)
		if err != nil {
			return nil, err
		}
		return e.Stop, nil
	}
}

func writeRewritten(s *corpus.Stage, file string, resources []proto.Message) error {
	response := &discoveryv3.DiscoveryResponse{VersionInfo: "1"}
	for _, r := range resources {
		rewritten, err := s.Rewrite(r)
		if err != nil {
			return err
		}
		packed, err := anypb.New(rewritten)
		if err != nil {
			return err
		}
		response.Resources = append(response.Resources, packed)
	}
	text, err := protojson.Marshal(response)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

func TestRunThroughEnvoy(t *testing.T) {
	envoy := testbed.Envoy(t)
	for name, serve := range map[string]corpus.Serve{
		"static":   corpus.Static(envoy, compileTo(config)),
		"resource": overFiles(envoy, config),
	} {
		t.Run(name, func(t *testing.T) {
			c := writeCase(t, services, probes)
			result := run(t, serve, c)
			for _, failed := range result.Failed() {
				t.Error(strings.Join(failed.Failures, "\n"))
			}
			if result.Passed() != 1 || result.Probes() != len(c.Probes) {
				t.Errorf("%d cases passed with %d probes, want 1 and %d", result.Passed(), result.Probes(), len(c.Probes))
			}
		})
	}
}

// TestRunFindsPlantedDifferences changes each expectation a little: every probe must then fail, and say so.
func TestRunFindsPlantedDifferences(t *testing.T) {
	wrong := strings.NewReplacer(
		`"x-added": "yes"`, `"x-added": "no"`, `{"status": 404}`, `{"status": 403}`, `"authority": "y.example"`, `"authority": "z.example"`,
		`"error": "connect"`, `"error": "closed"`, `"error": "tls"`, `"error": "closed"`, `"method": "POST", "path": "/"`, `"method": "POST", "path": "/a/"`,
		`"grpc_status": "7"`, `"grpc_status": "0"`, `{"alpha.default": 3}`, `{"alpha.default": 2}`, `"status": 101`, `"status": 200`,
		`"backend": "alpha.default"}}`, `"backend": "beta.other"}}`, `"x.example-shadow"`, `"x.example"`,
		`{"alpha.default": 0.5, "beta.other": 0.5}, "tolerance": 0.3`, `{"alpha.default": 1}, "tolerance": 0.1`,
		`{"alpha.default": 0.5, "beta.other": 0.5}, "tolerance": 0.45`, `{"503": 1}, "tolerance": 0.45`,
	).Replace(probes)
	c := writeCase(t, services, wrong)
	result := run(t, corpus.Static(testbed.Envoy(t), compileTo(config)), c)
	if result.Passed() != 0 {
		t.Fatal("a case with wrong expectations passed")
	}
	failures := result.Cases[0].Failures
	for i, p := range c.Probes {
		if i >= len(failures) || !strings.HasPrefix(failures[i], p.Name+": ") {
			t.Errorf("probe %q did not fail; failures: %s", p.Name, strings.Join(failures, "\n"))
			break
		}
	}
}

// TestRunFindsAnotherConfiguration leaves the expectations and changes what is served.
func TestRunFindsAnotherConfiguration(t *testing.T) {
	served := strings.Replace(config, `"prefixRewrite": "/"`, `"prefixRewrite": "/x/"`, 1)
	result := run(t, corpus.Static(testbed.Envoy(t), compileTo(served)), writeCase(t, services, probes))
	if got := strings.Join(result.Cases[0].Failures, "\n"); !strings.Contains(got, `upstream path: want "/b?c=%2f", got "/x/b?c=%2f"`) {
		t.Errorf("another rewrite was served, and the failures are %s", got)
	}
}

func TestRunReportsWhatCannotBeServed(t *testing.T) {
	envoy := testbed.Envoy(t)
	for want, serve := range map[string]corpus.Serve{
		"compile: no such kind": corpus.Static(envoy, func(context.Context, *corpus.Case) ([]byte, error) {
			return nil, errors.New("no such kind")
		}),
		"the compiled bootstrap is not valid": corpus.Static(envoy, compileTo(`{"x": 1}`)),
		"envoy refused the configuration": corpus.Static(envoy,
			compileTo(strings.Replace(config, `"cluster": "alpha"`, `"cluster": "omega"`, 1))),
		"start envoy": corpus.Static(filepath.Join(t.TempDir(), "envoy"), compileTo(config)),
	} {
		result := run(t, serve, writeCase(t, services, probes))
		if got := strings.Join(result.Cases[0].Failures, "\n"); !strings.HasPrefix(got, want) {
			t.Errorf("failed with %q, want %q", got, want)
		}
	}
}

func TestRunSaysWhatNeededAnotherAttempt(t *testing.T) {
	envoy := testbed.Envoy(t)
	// Alone the one request goes to either backend, so that by the tenth attempt alpha has answered.
	c := writeCase(t, services, `[{"name": "luck", "method": "GET", "url": "http://x/split/", "connect": 8080, "repeat": 2,
		"expect": {"distribution": {"alpha.default": 1}}}]`)
	again := 0
	for range 10 {
		result, err := corpus.Run(t.Context(), corpus.Options{Serve: corpus.Static(envoy, compileTo(config)), Dir: t.TempDir(), Attempts: 100}, []*corpus.Case{c})
		if err != nil {
			t.Fatal(err)
		}
		if result.Passed() != 1 {
			t.Fatalf("in 100 attempts: %q", result.Cases[0].Failures)
		}
		if again = len(result.Cases[0].Again); again > 0 {
			break
		}
	}
	if again == 0 {
		t.Error("a probe that agrees one time in four never needed another attempt")
	}
}

func TestRunRefusesOptions(t *testing.T) {
	serve := corpus.Static("envoy", compileTo("{}"))
	for want, o := range map[string]corpus.Options{
		"Serve":    {Dir: "x"},
		"Dir":      {Serve: serve},
		"Jobs":     {Serve: serve, Dir: "x", Jobs: -1},
		"Attempts": {Serve: serve, Dir: "x", Attempts: -1},
	} {
		if _, err := corpus.Run(t.Context(), o, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s in it", err, want)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := corpus.Run(ctx, corpus.Options{Serve: corpus.Static("envoy", compileTo("{}")), Dir: t.TempDir()}, []*corpus.Case{writeCase(t, services, probes)})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}
