package corpus_test

import (
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/chancery-dev/chancery/internal/corpus"
)

func parseProto[M proto.Message](t *testing.T, text string, m M) M {
	t.Helper()
	if err := protojson.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}

// place returns text with the Stage's addresses: LISTEN, ADMIN and UP (the backend of alpha.default:80).
func place(t *testing.T, s *corpus.Stage, text string) string {
	t.Helper()
	up, err := s.Backend("alpha.default", 80)
	if err != nil {
		t.Fatal(err)
	}
	ip, _, _ := strings.Cut(s.Address(0), ":")
	upIP, upPort, _ := strings.Cut(up, ":")
	_, admin, _ := strings.Cut(s.AdminAddress(), ":")
	return strings.NewReplacer("LISTEN", ip, "ADMINPORT", admin, "UPIP", upIP, "UPPORT", upPort).Replace(text)
}

func TestRewrite(t *testing.T) {
	stage := newStage(t, writeCase(t, world, anyProbe))
	for _, c := range []struct {
		name     string
		in, want proto.Message
	}{
		{
			"a listener keeps its port",
			parseProto(t, `{"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8443}},
				"additionalAddresses": [{"address": {"socketAddress": {"address": "::", "portValue": 8443}}}], "statPrefix": "kept"}`, &listenerv3.Listener{}),
			parseProto(t, place(t, stage, `{"name": "l", "address": {"socketAddress": {"address": "LISTEN", "portValue": 8443}},
				"enableReusePort": false, "statPrefix": "kept"}`), &listenerv3.Listener{}),
		},
		{
			"a listener on a pipe is left alone",
			parseProto(t, `{"name": "l", "address": {"pipe": {"path": "@x"}}}`, &listenerv3.Listener{}),
			parseProto(t, `{"name": "l", "address": {"pipe": {"path": "@x"}}}`, &listenerv3.Listener{}),
		},
		{
			"a cluster that asks DNS becomes static",
			parseProto(t, `{"name": "c", "type": "STRICT_DNS", "dnsLookupFamily": "V4_ONLY", "respectDnsTtl": true, "connectTimeout": "3s",
				"loadAssignment": {"clusterName": "c", "endpoints": [{"lbEndpoints": [{"loadBalancingWeight": 3, "endpoint":
				{"address": {"socketAddress": {"address": "alpha.default", "portValue": 80}}}}]}]}}`, &clusterv3.Cluster{}),
			parseProto(t, place(t, stage, `{"name": "c", "type": "STATIC", "connectTimeout": "3s",
				"loadAssignment": {"clusterName": "c", "endpoints": [{"lbEndpoints": [{"loadBalancingWeight": 3, "endpoint":
				{"address": {"socketAddress": {"address": "UPIP", "portValue": UPPORT}}, "hostname": "alpha.default"}}]}]}}`), &clusterv3.Cluster{}),
		},
		{
			"so does one with DNS as an extension",
			parseProto(t, `{"name": "c", "clusterType": {"name": "envoy.clusters.dns"}, "loadAssignment": {"clusterName": "c"}}`, &clusterv3.Cluster{}),
			parseProto(t, `{"name": "c", "type": "STATIC", "loadAssignment": {"clusterName": "c"}}`, &clusterv3.Cluster{}),
		},
		{
			"a cluster with endpoints from elsewhere stays so",
			parseProto(t, `{"name": "c", "type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}}}}`, &clusterv3.Cluster{}),
			parseProto(t, `{"name": "c", "type": "EDS", "edsClusterConfig": {"edsConfig": {"ads": {}}}}`, &clusterv3.Cluster{}),
		},
		{
			"endpoints keep the hostname that they have",
			parseProto(t, `{"clusterName": "c", "endpoints": [{"lbEndpoints": [{"endpoint": {"hostname": "kept", "healthCheckConfig": {"portValue": 7},
				"address": {"socketAddress": {"address": "alpha.default", "portValue": 80}}}}]}]}`, &endpointv3.ClusterLoadAssignment{}),
			parseProto(t, place(t, stage, `{"clusterName": "c", "endpoints": [{"lbEndpoints": [{"endpoint": {"hostname": "kept", "healthCheckConfig": {},
				"address": {"socketAddress": {"address": "UPIP", "portValue": UPPORT}}}}]}]}`), &endpointv3.ClusterLoadAssignment{}),
		},
		{
			"routes are none of its business",
			parseProto(t, `{"name": "r"}`, &routev3.RouteConfiguration{}),
			parseProto(t, `{"name": "r"}`, &routev3.RouteConfiguration{}),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := proto.Clone(c.in)
			got, err := stage.Rewrite(c.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if diff := cmp.Diff(before, c.in, protocmp.Transform()); diff != "" {
				t.Errorf("the original changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestRewriteLeavesOutUDP(t *testing.T) {
	stage := newStage(t, writeCase(t, world, anyProbe))
	got, err := stage.Rewrite(parseProto(t, `{"address": {"socketAddress": {"protocol": "UDP", "address": "0.0.0.0", "portValue": 8443}}}`, &listenerv3.Listener{}))
	if got != nil || err != nil {
		t.Errorf("a listener for UDP became %v, %v; want nothing", got, err)
	}
}

func TestBootstrap(t *testing.T) {
	stage := newStage(t, writeCase(t, world, anyProbe))
	got, err := stage.Bootstrap([]byte(`{
		"admin": {"address": {"socketAddress": {"address": "0.0.0.0", "portValue": 9901}}},
		"dynamicResources": {"ldsConfig": {"ads": {}}}, "statsSinks": [{"name": "x"}],
		"staticResources": {
			"listeners": [
				{"name": "quic", "address": {"socketAddress": {"protocol": "UDP", "address": "0.0.0.0", "portValue": 8443}}},
				{"name": "l", "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 8080}}}],
			"clusters": [{"name": "c", "loadAssignment": {"clusterName": "c", "endpoints": [{"lbEndpoints": [{"endpoint":
				{"address": {"socketAddress": {"address": "alpha.default", "portValue": 80}}}}]}]}}],
			"secrets": [{"name": "kept"}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := place(t, stage, `{
		"node": {"id": "corpus", "cluster": "corpus"},
		"admin": {"address": {"socketAddress": {"address": "LISTEN", "portValue": ADMINPORT}}},
		"staticResources": {
			"listeners": [{"name": "l", "address": {"socketAddress": {"address": "LISTEN", "portValue": 8080}}, "enableReusePort": false}],
			"clusters": [{"name": "c", "loadAssignment": {"clusterName": "c", "endpoints": [{"lbEndpoints": [{"endpoint":
				{"address": {"socketAddress": {"address": "UPIP", "portValue": UPPORT}}, "hostname": "alpha.default"}}]}]}}],
			"secrets": [{"name": "kept"}]}}`)
	if diff := cmp.Diff(parseProto(t, want, &bootstrapv3.Bootstrap{}), parseProto(t, string(got), &bootstrapv3.Bootstrap{}), protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestBootstrapRefuses(t *testing.T) {
	stage := newStage(t, writeCase(t, world, anyProbe))
	for text, want := range map[string]string{
		`text`:                          "not valid",
		`{"staticResources": {"x": 1}}`: `unknown field "x"`,
		`{"node": {}}`:                  "no static_resources",
	} {
		if _, err := stage.Bootstrap([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q in it", text, err, want)
		}
	}
}
