package envoy_test

import (
	"bytes"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// summary writes a load assignment as "zone ip:port status".
func summary(t *testing.T, e ir.Endpoints) []string {
	t.Helper()
	r, err := envoy.Endpoints(e)
	if err != nil {
		t.Fatal(err)
	}
	m := &endpointv3.ClusterLoadAssignment{}
	if err := proto.Unmarshal(r.Bytes, m); err != nil {
		t.Fatal(err)
	}
	if m.ClusterName != e.Name || r.Name != e.Name {
		t.Errorf("names %q and %q, want %q", m.ClusterName, r.Name, e.Name)
	}
	out := []string{}
	for _, l := range m.Endpoints {
		for _, lb := range l.LbEndpoints {
			out = append(out, strings.TrimSpace(l.Locality.GetZone()+" "+lb.GetEndpoint().Address.GetSocketAddress().Address+" "+lb.HealthStatus.String()))
		}
	}
	return out
}

func TestEndpoints(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []ir.Endpoint
		want []string
	}{
		{"none", nil, []string{}},
		{"by zone, then address", []ir.Endpoint{{IP: "10.0.0.2", Zone: "b"}, {IP: "10.0.0.3", Zone: "a"}, {IP: "10.0.0.1", Zone: "b"}}, []string{
			"a 10.0.0.3 UNKNOWN", "b 10.0.0.1 UNKNOWN", "b 10.0.0.2 UNKNOWN",
		}},
		{"each once", []ir.Endpoint{{IP: "10.0.0.1"}, {IP: "10.0.0.1", Node: "other"}}, []string{"10.0.0.1 UNKNOWN"}},
		{"draining", []ir.Endpoint{{IP: "10.0.0.1", Draining: true}, {IP: "10.0.0.2"}}, []string{"10.0.0.1 DRAINING", "10.0.0.2 UNKNOWN"}},
		{"draining by one account", []ir.Endpoint{{IP: "10.0.0.1", Draining: true}, {IP: "10.0.0.1"}}, []string{"10.0.0.1 UNKNOWN"}},
		{"nothing but draining", []ir.Endpoint{{IP: "10.0.0.1", Draining: true}}, []string{"10.0.0.1 UNKNOWN"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.in {
				c.in[i].Port = 80
			}
			if diff := cmp.Diff(c.want, summary(t, ir.Endpoints{Name: "east/ns/svc/80", Addresses: c.in})); diff != "" {
				t.Error(diff)
			}
		})
	}
	if _, err := envoy.Endpoints(ir.Endpoints{Name: "e", Addresses: []ir.Endpoint{{IP: "10.0.0.1", Port: 70000}}}); err == nil {
		t.Error("port 70000 was written")
	}
	if _, err := envoy.Endpoints(ir.Endpoints{Name: "e", Addresses: []ir.Endpoint{{IP: "web", Port: 80}}}); err == nil {
		t.Error("a name was written as an address")
	}
}

func TestSecret(t *testing.T) {
	const canary = "do-not-show"
	for _, c := range []struct {
		name string
		in   ir.Secret
		use  ir.SecretUse
		ok   bool
	}{
		{"certificate", ir.Secret{Chain: []byte("chain"), Key: []byte(canary)}, ir.UseCertificate, true},
		{"no chain", ir.Secret{Key: []byte(canary)}, ir.UseCertificate, false},
		{"no key", ir.Secret{Chain: []byte("chain")}, ir.UseCertificate, false},
		{"anchors", ir.Secret{CA: []byte("ca"), CRL: []byte("crl")}, ir.UseCA, true},
		{"no anchors", ir.Secret{Key: []byte(canary)}, ir.UseCA, false},
		{"no use", ir.Secret{Key: []byte(canary)}, "", false},
	} {
		c.in.Name = "east/ns/secret"
		r, err := envoy.Secret(c.in, c.use)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			if strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), c.in.Name) {
				t.Errorf("%s: error %q shows a key or names no secret", c.name, err)
			}
			continue
		}
		m := &tlsv3.Secret{}
		if err := proto.Unmarshal(r.Bytes, m); err != nil {
			t.Fatal(err)
		}
		key, ca, crl := m.GetTlsCertificate().GetPrivateKey().GetInlineBytes(), m.GetValidationContext().GetTrustedCa().GetInlineBytes(), m.GetValidationContext().GetCrl().GetInlineBytes()
		if !bytes.Equal(key, c.in.Key) || !bytes.Equal(ca, c.in.CA) || !bytes.Equal(crl, c.in.CRL) {
			t.Errorf("%s: wrote %v", c.name, m)
		}
	}
}

func TestNeeds(t *testing.T) {
	c := full()
	e, err := envoy.EndpointNeed(c.Endpoints[0])
	if err != nil {
		t.Fatal(err)
	}
	if got, err := envoy.ReadEndpointNeed(e); err != nil || got != c.Endpoints[0] {
		t.Errorf("read %+v %v", got, err)
	}
	s, err := envoy.SecretNeed(c.Secrets[1])
	if err != nil {
		t.Fatal(err)
	}
	got, err := envoy.ReadSecretNeed(s)
	if diff := cmp.Diff(c.Secrets[1], got); err != nil || diff != "" {
		t.Errorf("read %v %s", err, diff)
	}
	if _, err := envoy.ReadEndpointNeed(s); err == nil {
		t.Error("a secret was read as endpoints")
	}
	if _, err := envoy.SecretNeed(ir.SecretRef{Name: "x"}); err == nil {
		t.Error("a secret without a use is needed")
	}
	if _, err := envoy.EndpointNeed(ir.EndpointSet{}); err == nil {
		t.Error("a need without a name was written")
	}
}
