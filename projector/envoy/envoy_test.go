package envoy_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// write writes all of a configuration.
func write(c config) ([]projector.Update, error) {
	var out []projector.Update
	var first error
	add := func(t projector.ResourceType, r projector.Resource, err error) {
		if err != nil {
			if first == nil {
				first = err
			}
			return
		}
		out = append(out, projector.Update{Type: t, Name: r.Name, Resource: &r})
	}
	for _, u := range c.Upstreams {
		r, err := envoy.Upstream(u)
		add(projector.Upstreams, r, err)
	}
	for _, l := range c.Listeners {
		r, err := envoy.Listener(l)
		add(projector.Listeners, r, err)
	}
	for _, t := range c.Tables {
		r, err := envoy.Routes(t)
		add(projector.Routes, r, err)
	}
	for _, e := range c.Endpoints {
		r, err := envoy.EndpointNeed(e)
		add(projector.EndpointNeeds, r, err)
	}
	for _, s := range c.Secrets {
		r, err := envoy.SecretNeed(s)
		add(projector.SecretNeeds, r, err)
	}
	return out, first
}

func snapshot(tb testing.TB, c config) *projector.Snapshot {
	tb.Helper()
	updates, err := write(c)
	if err != nil {
		tb.Fatal(err)
	}
	return projector.EmptySnapshot().With(updates)
}

// credentials are made once: a chain that is its own anchor, with both kinds
// of key, and an empty revocation list.
var credentials = sync.OnceValue(func() (out struct {
	envoy.Dummies
	CRL []byte
},
) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dummy"}, DNSNames: []string{"shop.example", "localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, SubjectKeyId: []byte{1},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	out.Certificates = map[envoy.KeyKind]ir.Secret{}
	encode := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	ecDER, err := x509.CreateCertificate(rand.Reader, template, template, &ec.PublicKey, ec)
	check(err)
	rsDER, err := x509.CreateCertificate(rand.Reader, template, template, &rs.PublicKey, rs)
	check(err)
	ecKey, err := x509.MarshalPKCS8PrivateKey(ec)
	check(err)
	rsKey, err := x509.MarshalPKCS8PrivateKey(rs)
	check(err)
	out.Certificates[envoy.ECDSA] = ir.Secret{Chain: encode("CERTIFICATE", ecDER), Key: encode("PRIVATE KEY", ecKey)}
	out.Certificates[envoy.RSA] = ir.Secret{Chain: encode("CERTIFICATE", rsDER), Key: encode("PRIVATE KEY", rsKey)}
	out.CA = encode("CERTIFICATE", ecDER)
	parsed, err := x509.ParseCertificate(ecDER)
	check(err)
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(24 * time.Hour),
	}, parsed, ec)
	check(err)
	out.CRL = encode("X509 CRL", crl)
	return out
})

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// live answers the needs of a configuration.
func live(c config) (map[string]ir.Endpoints, map[string]ir.Secret) {
	endpoints, secrets := map[string]ir.Endpoints{}, map[string]ir.Secret{}
	for _, e := range c.Endpoints {
		endpoints[e.Name] = ir.Endpoints{Name: e.Name, Addresses: []ir.Endpoint{
			{IP: "127.0.0.1", Port: 9, Zone: "a", Node: "n1"}, {IP: "127.0.0.2", Port: 9, Zone: "b", Node: "n2", Draining: true},
		}}
	}
	for _, s := range c.Secrets {
		secret := credentials().Certificates[envoy.ECDSA]
		if s.Use == ir.UseCA {
			secret = ir.Secret{CA: credentials().CA}
			if s.CRL != "" {
				secret.CRL = credentials().CRL
			}
		}
		secrets[s.Name] = secret
	}
	return endpoints, secrets
}

func static(tb testing.TB, c config, o envoy.StaticOptions) []byte {
	tb.Helper()
	endpoints, secrets := live(c)
	b, err := envoy.BootstrapStatic(snapshot(tb, c), endpoints, secrets, o)
	if err != nil {
		tb.Fatal(err)
	}
	return withSystemCA(tb, b)
}

// withSystemCA puts anchors of ours in place of a machine's that may have none.
func withSystemCA(tb testing.TB, bootstrap []byte) []byte {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "anchors.pem")
	if err := os.WriteFile(path, credentials().CA, 0o600); err != nil {
		tb.Fatal(err)
	}
	return bytes.ReplaceAll(bootstrap, []byte(envoy.SystemCAFile), []byte(path))
}

var baseID atomic.Int64

// validate asks the real Envoy for its judgement, and returns what it said.
func validate(tb testing.TB, bootstrap []byte) (string, error) {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "bootstrap.json")
	if err := os.WriteFile(path, bootstrap, 0o600); err != nil {
		tb.Fatal(err)
	}
	id := int(int64(os.Getpid()%100_000)*100 + baseID.Add(1))
	var out bytes.Buffer
	cmd := exec.CommandContext(tb.Context(), testbed.Envoy(tb), "--mode", "validate", "-c", path,
		"--base-id", strconv.Itoa(id), "--log-level", "warning", "--concurrency", "1")
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

func mustValidate(tb testing.TB, bootstrap []byte) string {
	tb.Helper()
	out, err := validate(tb, bootstrap)
	if err != nil {
		tb.Fatalf("envoy: %v\n%s", err, out)
	}
	return out
}

func TestEnvoyTakesEveryField(t *testing.T) {
	out := mustValidate(t, static(t, full(), envoy.StaticOptions{Admin: envoy.Admin{Address: "127.0.0.1", Port: 0}}))
	t.Log(out)
}

func TestEnvoyRefuses(t *testing.T) {
	c := full()
	c.Upstreams[0].TLS.Curves = []string{"no-such-curve"}
	out, err := validate(t, static(t, c, envoy.StaticOptions{}))
	if err == nil {
		t.Fatalf("envoy took an unknown curve, so its judgement proves nothing:\n%s", out)
	}
}

func TestEnvoyTakesTheADSBootstrap(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ec := credentials().Certificates[envoy.ECDSA]
	tls := &envoy.MutualTLS{CertFile: put("cert", ec.Chain), KeyFile: put("key", ec.Key), CAFile: put("ca", credentials().CA), ServerName: "edge.example"}
	for name, o := range map[string]envoy.ADSOptions{
		"addresses": {
			NodeID: "n", NodeCluster: "default", Edges: []ir.HostPort{{Host: "127.0.0.1", Port: 18000}, {Host: "127.0.0.2", Port: 18000}},
			TLS: tls, Admin: envoy.Admin{Socket: filepath.Join(dir, "admin")}, MinimumClusters: 1, InitialFetch: time.Second,
		},
		"names":  {NodeID: "n", NodeCluster: "c", Edges: []ir.HostPort{{Host: "localhost", Port: 18000}}, TLS: tls, Admin: envoy.Admin{Address: "::1", Port: 1}},
		"socket": {NodeID: "n", NodeCluster: "c", Socket: filepath.Join(dir, "xds")},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := envoy.BootstrapADS(o)
			if err != nil {
				t.Fatal(err)
			}
			mustValidate(t, b)
		})
	}
	for field, o := range map[string]envoy.ADSOptions{
		"NodeID":   {NodeCluster: "c", Socket: "s"},
		"Edges":    {NodeID: "n", NodeCluster: "c"},
		"Socket":   {NodeID: "n", NodeCluster: "c", Socket: "s", Edges: []ir.HostPort{{Host: "127.0.0.1", Port: 1}}},
		"admin":    {NodeID: "n", NodeCluster: "c", Socket: "s", Admin: envoy.Admin{Address: "0.0.0.0", Port: 9901}},
		"CertFile": {NodeID: "n", NodeCluster: "c", Socket: "s", TLS: &envoy.MutualTLS{CAFile: "ca"}},
	} {
		if _, err := envoy.BootstrapADS(o); err == nil || !bytes.Contains([]byte(err.Error()), []byte(field)) {
			t.Errorf("options wrong in %s: error %v", field, err)
		}
	}
}

func TestEnvoyTakesWhatIsTasted(t *testing.T) {
	updates, err := write(full())
	if err != nil {
		t.Fatal(err)
	}
	tasted, err := envoy.Tasteable(updates)
	if err != nil {
		t.Fatal(err)
	}
	s := projector.EmptySnapshot().With(tasted)
	for r := range s.All(projector.Listeners) {
		b, err := envoy.ToJSON(r, projector.Listeners)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(`"bind_to_port": false`)) && !bytes.Contains(b, []byte(`"port_value": 0`)) {
			t.Errorf("listener %s would bind its port:\n%s", r.Name, b)
		}
	}
	for r := range s.All(projector.Upstreams) {
		b, err := envoy.ToJSON(r, projector.Upstreams)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("health_checks")) || bytes.Contains(b, []byte("localhost\",")) {
			t.Errorf("upstream %s would be probed or looked up:\n%s", r.Name, b)
		}
	}
	secrets := map[string]ir.Secret{}
	for _, ref := range full().Secrets {
		for _, kind := range []envoy.KeyKind{envoy.RSA, envoy.ECDSA, ""} {
			if _, err := envoy.DummySecret(ref, kind, credentials().Dummies); err != nil {
				t.Error(err)
			}
		}
		d := credentials().Certificates[envoy.ECDSA]
		d.CA = credentials().CA
		secrets[ref.Name] = d
	}
	b, err := envoy.BootstrapStatic(s, nil, secrets, envoy.StaticOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mustValidate(t, withSystemCA(t, b))
}

func TestMissingSecretIsNamed(t *testing.T) {
	c := full()
	_, err := envoy.BootstrapStatic(snapshot(t, c), nil, nil, envoy.StaticOptions{})
	if err == nil {
		t.Fatal("a bootstrap without its certificates was written")
	}
	want := fmt.Sprintf("%q", err.Error())
	if !bytes.Contains([]byte(want), []byte("east/shop/ca/ca")) {
		t.Errorf("error %s does not name the secret", want)
	}
}
