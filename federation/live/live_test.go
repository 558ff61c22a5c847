package live_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/federation/live"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// failer is what testing.T, testing.B and rapid.T share.
type failer interface {
	Helper()
	Fatal(args ...any)
}

func object(t failer, kind, name string, body map[string]any) live.Object {
	t.Helper()
	meta, _ := body["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		body["metadata"] = meta
	}
	meta["name"], meta["namespace"] = name, "default"
	b, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return live.NewObject(kind, "default", name, b)
}

func service(t failer, name string) live.Object {
	return object(t, "Service", name, map[string]any{})
}

// endpoint is an endpoint of a slice: "address conditions", where conditions
// are letters of r (ready) s (serving) t (terminating), capital for true.
func endpoint(s string) map[string]any {
	address, letters, _ := strings.Cut(s, " ")
	conditions := map[string]any{}
	for _, l := range letters {
		name := map[string]string{"r": "ready", "s": "serving", "t": "terminating"}[strings.ToLower(string(l))]
		conditions[name] = strings.ToUpper(string(l)) == string(l)
	}
	return map[string]any{"addresses": []string{address}, "conditions": conditions, "zone": "z1", "nodeName": "n1"}
}

func endpointSlice(t failer, name, svc string, ports map[string]int, endpoints ...string) live.Object {
	var ps, es []any
	for _, n := range slices.Sorted(maps.Keys(ports)) {
		ps = append(ps, map[string]any{"name": n, "port": ports[n], "protocol": "TCP"})
	}
	for _, e := range endpoints {
		es = append(es, endpoint(e))
	}
	return object(t, "EndpointSlice", name, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{"kubernetes.io/service-name": svc}}, "ports": ps, "endpoints": es,
	})
}

func set(svc, port string) ir.EndpointSet {
	return ir.EndpointSet{
		Name: "east/default/" + svc + "/" + port, Cluster: "east", Namespace: "default", Service: svc, PortName: port,
	}
}

func show(e live.Endpoints) string {
	var out []string
	for _, a := range e.Addresses {
		s := fmt.Sprintf("%s:%d", a.IP, a.Port)
		if a.Draining {
			s += "!"
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestEndpoints(t *testing.T) {
	http := map[string]int{"http": 8080}
	for _, c := range []struct {
		name    string
		objects []live.Object
		port    string
		want    string
		problem string
	}{
		{"ready, and ready unsaid", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.2", "10.0.0.1 R")}, "http", "10.0.0.1:8080 10.0.0.2:8080", ""},
		{"not ready", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1 r", "10.0.0.2 R")}, "http", "10.0.0.2:8080", ""},
		{"draining beside ready", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1 rST", "10.0.0.2 R")}, "http", "10.0.0.2:8080", ""},
		{"draining only", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1 rST", "10.0.0.2 rsT", "10.0.0.3 r")}, "http", "10.0.0.1:8080!", ""},
		{"published while not ready", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1 RsT")}, "http", "10.0.0.1:8080", ""},
		{"several slices, twice the same", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1", "10.0.0.9"), endpointSlice(t, "web-2", "web", map[string]int{"http": 9090}, "10.0.0.10"), endpointSlice(t, "web-3", "web", http, "10.0.0.1")}, "http", "10.0.0.1:8080 10.0.0.9:8080 10.0.0.10:9090", ""},
		{"both families", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1"), endpointSlice(t, "web-2", "web", http, "fd00::1", "::ffff:10.0.0.1")}, "http", "10.0.0.1:8080 fd00::1:8080", ""},
		{"unnamed port", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", map[string]int{"": 80}, "10.0.0.1")}, "", "10.0.0.1:80", ""},
		{"one of two ports", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", map[string]int{"a": 1, "b": 2}, "10.0.0.1")}, "b", "10.0.0.1:2", ""},
		{"no such port", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1")}, "grpc", "", `no TCP port named "grpc", only ["http"]`},
		{"no such service", []live.Object{service(t, "other")}, "http", "", "there is no such Service"},
		{"no slice", []live.Object{service(t, "web")}, "http", "", "neither EndpointSlice nor Endpoints"},
		{"scaled to zero", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http)}, "http", "", ""},
		{"another's slice", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web2", http, "10.0.0.1")}, "http", "", "neither"},
		{"a DNS name", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "a.example", "10.0.0.1")}, "http", "10.0.0.1:8080", "1 of its addresses are no IP addresses"},
		{"Endpoints", []live.Object{service(t, "web"), object(t, "Endpoints", "web", map[string]any{"subsets": []any{
			map[string]any{"addresses": []any{map[string]any{"ip": "10.0.0.1"}}, "notReadyAddresses": []any{map[string]any{"ip": "10.0.0.2"}}, "ports": []any{map[string]any{"name": "http", "port": 80}}},
			map[string]any{"addresses": []any{map[string]any{"ip": "10.0.0.3"}}, "ports": []any{map[string]any{"name": "http", "port": 81}}},
		}})}, "http", "10.0.0.1:80 10.0.0.3:81", ""},
		{"Endpoints beside a slice", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1"), object(t, "Endpoints", "web", map[string]any{"subsets": []any{
			map[string]any{"addresses": []any{map[string]any{"ip": "10.0.0.2"}}, "ports": []any{map[string]any{"name": "http", "port": 80}}},
		}})}, "http", "10.0.0.1:8080", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := live.NewPlane()
			need := set("web", c.port)
			p.SetNeeds(live.Needs{Endpoints: []ir.EndpointSet{need}})
			p.SetObjects("east", c.objects, false)
			a := p.Answers(epoch)
			e, ok := a.Endpoints[need.Name]
			if !ok {
				t.Fatal("there is no answer")
			}
			if got := show(e); got != c.want {
				t.Errorf("endpoints %q, want %q", got, c.want)
			}
			wantProblem(t, a, c.problem)
		})
	}
}

func wantProblem(t *testing.T, a live.Answers, want string) {
	t.Helper()
	var all []string
	for _, p := range a.Problems {
		all = append(all, p.String())
		if p.Remedy == "" {
			t.Errorf("problem without remedy: %s", p)
		}
	}
	got := strings.Join(all, "\n")
	if want == "" && got != "" || !strings.Contains(got, want) {
		t.Errorf("problems %q, want %q in them", got, want)
	}
}

func TestUnknownIsNotEmpty(t *testing.T) {
	http := map[string]int{"http": 8080}
	need := set("web", "http")
	good := []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", http, "10.0.0.1")}
	broken := live.NewObject("EndpointSlice", "default", "web-1", []byte(`{"endpoints": 3`))

	start := func() *live.Plane {
		p := live.NewPlane()
		p.SetNeeds(live.Needs{Endpoints: []ir.EndpointSet{need}})
		return p
	}
	expect := func(t *testing.T, p *live.Plane, want, problem string) {
		t.Helper()
		a := p.Answers(epoch)
		got := "no answer"
		if e, ok := a.Endpoints[need.Name]; ok {
			got = show(e)
		}
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
		wantProblem(t, a, problem)
	}

	t.Run("a cluster never read", func(t *testing.T) {
		p := start()
		expect(t, p, "no answer", "not been read yet")
		p.SetObjects("east", nil, true)
		expect(t, p, "no answer", "not been read yet")
		p.SetObjects("east", good, false)
		expect(t, p, "10.0.0.1:8080", "")
	})
	t.Run("restored", func(t *testing.T) {
		p := live.NewPlane()
		p.Restore([]ir.Endpoints{{Name: need.Name, Addresses: []ir.Endpoint{{IP: "10.9.9.9", Port: 1}}}, {Name: "gone"}}, nil)
		p.SetNeeds(live.Needs{Endpoints: []ir.EndpointSet{need}})
		expect(t, p, "10.9.9.9:1", "not been read yet")
		if a := p.Answers(epoch); len(a.Endpoints) != 1 {
			t.Errorf("what is not needed was kept: %v", a.Endpoints)
		}
		p.SetObjects("east", []live.Object{service(t, "other")}, true)
		expect(t, p, "10.9.9.9:1", "cannot be read completely")
		p.SetObjects("east", good, false)
		expect(t, p, "10.0.0.1:8080", "")
	})
	t.Run("a stale view lacks what there is", func(t *testing.T) {
		p := start()
		p.SetObjects("east", good, false)
		p.SetObjects("east", nil, true)
		expect(t, p, "10.0.0.1:8080", "cannot be read completely")
		p.SetObjects("east", []live.Object{endpointSlice(t, "web-1", "web", http, "10.0.0.2")}, true)
		expect(t, p, "10.0.0.2:8080", "cannot be read completely")
		p.SetObjects("east", good, false)
		expect(t, p, "10.0.0.1:8080", "")
	})
	t.Run("a view that is suddenly empty", func(t *testing.T) {
		p := start()
		p.SetObjects("east", good, false)
		p.SetObjects("east", nil, false)
		expect(t, p, "10.0.0.1:8080", "no object at all")
		p.SetObjects("east", good[:1], false)
		expect(t, p, "", "neither")
	})
	t.Run("a slice that breaks", func(t *testing.T) {
		p := start()
		p.SetObjects("east", good, false)
		p.SetObjects("east", []live.Object{good[0], broken}, false)
		expect(t, p, "10.0.0.1:8080", "cannot be read")
		p.SetObjects("east", good[:1], false)
		expect(t, p, "", "neither")
	})
	t.Run("a slice that was never whole", func(t *testing.T) {
		p := start()
		p.SetObjects("east", []live.Object{good[0], broken}, false)
		expect(t, p, "no answer", "cannot be read")
		p.SetObjects("east", good, false)
		expect(t, p, "10.0.0.1:8080", "")
	})
	t.Run("an object too large", func(t *testing.T) {
		p := start()
		p.SetObjects("east", []live.Object{good[0], live.NewObject("EndpointSlice", "default", "web-1", make([]byte, 5<<20))}, false)
		expect(t, p, "no answer", "larger than 4 MiB")
	})
}

// TestIncremental compares a plane that has seen a history with one that sees
// its end only.
func TestIncremental(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := live.NewPlane()
		objects := map[string]live.Object{"Service keep": service(t, "keep")}
		needs := map[string]ir.EndpointSet{}
		services := []string{"a", "b"}
		t.Repeat(map[string]func(*rapid.T){
			"put slice": func(t *rapid.T) {
				name := rapid.SampledFrom([]string{"s1", "s2", "s3"}).Draw(t, "name")
				var eps []string
				for range rapid.IntRange(0, 3).Draw(t, "n") {
					eps = append(eps, rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2 r", "10.0.0.3 rST", "10.0.0.4 R"}).Draw(t, "endpoint"))
				}
				port := rapid.SampledFrom([]string{"http", "grpc"}).Draw(t, "port")
				objects["EndpointSlice "+name] = endpointSlice(t, name, rapid.SampledFrom(services).Draw(t, "service"), map[string]int{port: 80}, eps...)
			},
			"put service": func(t *rapid.T) {
				n := rapid.SampledFrom(services).Draw(t, "service")
				objects["Service "+n] = service(t, n)
			},
			"delete": func(t *rapid.T) {
				keys := slices.Sorted(maps.Keys(objects))
				if k := rapid.SampledFrom(keys).Draw(t, "object"); k != "Service keep" {
					delete(objects, k)
				}
			},
			"toggle need": func(t *rapid.T) {
				n := set(rapid.SampledFrom(services).Draw(t, "service"), rapid.SampledFrom([]string{"http", "grpc"}).Draw(t, "port"))
				if _, ok := needs[n.Name]; ok {
					delete(needs, n.Name)
				} else {
					needs[n.Name] = n
				}
			},
			"": func(t *rapid.T) {
				all := slices.Collect(maps.Values(objects))
				var ns live.Needs
				ns.Endpoints = slices.Collect(maps.Values(needs))
				before := p.Answers(epoch)
				kept := maps.Clone(before.Endpoints)
				p.SetNeeds(ns)
				p.SetObjects("east", all, false)
				got := p.Answers(epoch)
				if d := cmp.Diff(kept, before.Endpoints); d != "" {
					t.Fatalf("answers that were given away changed:\n%s", d)
				}
				fresh := live.NewPlane()
				fresh.SetObjects("east", all, false)
				fresh.SetNeeds(ns)
				want := fresh.Answers(epoch)
				if d := cmp.Diff(want.Endpoints, got.Endpoints); d != "" {
					t.Fatalf("endpoints (-fresh +incremental):\n%s", d)
				}
				if d := cmp.Diff(want.Problems, got.Problems); d != "" {
					t.Fatalf("problems (-fresh +incremental):\n%s", d)
				}
				if again := p.Answers(epoch); again.Revision != got.Revision {
					t.Fatal("the revision grew without a change")
				}
			},
		})
	})
}

func TestUpdateNeeds(t *testing.T) {
	need := set("web", "http")
	b, err := json.Marshal(need)
	if err != nil {
		t.Fatal(err)
	}
	good, bad := projector.NewResource(need.Name, b), projector.NewResource("bad", []byte("{"))
	p := live.NewPlane()
	p.SetObjects("east", []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", map[string]int{"http": 1}, "10.0.0.1")}, false)
	err = p.UpdateNeeds([]projector.Update{
		{Type: projector.EndpointNeeds, Name: "bad", Resource: &bad},
		{Type: projector.EndpointNeeds, Name: need.Name, Resource: &good},
		{Type: projector.Routes, Name: "r", Resource: &bad},
	})
	if err == nil || !strings.Contains(err.Error(), `"bad"`) || strings.Contains(err.Error(), `"r"`) {
		t.Errorf("error %v, want one about the need that does not decode", err)
	}
	if got := show(p.Answers(epoch).Endpoints[need.Name]); got != "10.0.0.1:1" {
		t.Errorf("endpoints %q", got)
	}
	if err := p.UpdateNeeds([]projector.Update{{Type: projector.EndpointNeeds, Name: need.Name}}); err != nil {
		t.Fatal(err)
	}
	if a := p.Answers(epoch); len(a.Endpoints) > 0 {
		t.Errorf("endpoints of a need that is gone: %v", a.Endpoints)
	}
	got, err := live.NeedsOf(projector.EmptySnapshot().With([]projector.Update{{Type: projector.EndpointNeeds, Name: need.Name, Resource: &good}}))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(live.Needs{Endpoints: []ir.EndpointSet{need}}, got); d != "" {
		t.Errorf("needs (-want +got):\n%s", d)
	}
}

// pair is a certificate with its key, as PEM.
type pair struct{ cert, key []byte }

type spec struct {
	cn        string
	dns       []string
	from, end time.Duration // from epoch
	ca        bool
	key       crypto.Signer
}

func p256(t failer) crypto.Signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var serial int64

func issue(t failer, s spec) pair {
	t.Helper()
	if s.key == nil {
		s.key = p256(t)
	}
	serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: s.cn}, DNSNames: s.dns,
		NotBefore: epoch.Add(s.from), NotAfter: epoch.Add(s.end), IsCA: s.ca, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, s.key.Public(), s.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}
}

func secret(t failer, name string, data map[string][]byte) live.Object {
	return object(t, "Secret", name, map[string]any{"data": data})
}

func tlsSecret(t failer, p pair) live.Object {
	return secret(t, "web-tls", map[string][]byte{"tls.crt": p.cert, "tls.key": p.key})
}

func certNeed(hosts ...string) ir.SecretRef {
	return ir.SecretRef{
		Name: "east/default/web-tls/certificate", Cluster: "east", Namespace: "default", Secret: "web-tls",
		Use: ir.UseCertificate, Hosts: hosts,
	}
}

const year = 365 * 24 * time.Hour

func TestCertificateContent(t *testing.T) {
	good := issue(t, spec{dns: []string{"web.example"}, end: year})
	other := issue(t, spec{dns: []string{"web.example"}, end: year, ca: true})
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec := p256(t).(*ecdsa.PrivateKey)
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	sec1 := issue(t, spec{dns: []string{"web.example"}, end: year, key: ec})
	sec1.key = append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ecDER})...)
	weak, odd := issue(t, spec{end: year, key: small}), issue(t, spec{end: year, key: p224})
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		name    string
		data    map[string][]byte
		served  bool
		problem string
	}{
		{"kubernetes.io/tls", map[string][]byte{"tls.crt": good.cert, "tls.key": good.key}, true, ""},
		{"Emissary's user.key", map[string][]byte{"tls.crt": good.cert, "user.key": good.key}, true, ""},
		{"Istio's", map[string][]byte{"cert-chain.pem": good.cert, "key.pem": good.key}, true, ""},
		{"a SEC 1 key after its parameters", map[string][]byte{"tls.crt": sec1.cert, "tls.key": sec1.key}, true, ""},
		{"a chain", map[string][]byte{"tls.crt": slices.Concat(b("# text\n"), good.cert, other.cert), "tls.key": good.key}, true, ""},
		{"no key", map[string][]byte{"tls.crt": good.cert}, false, "it has no tls.key or user.key or key.pem"},
		{"no certificate", map[string][]byte{"tls.key": good.key}, false, "it has no tls.crt or cert-chain.pem"},
		{"another's key", map[string][]byte{"tls.crt": good.cert, "tls.key": other.key}, false, "the key does not belong to the certificate"},
		{"the chain turned round", map[string][]byte{"tls.crt": slices.Concat(other.cert, good.cert), "tls.key": good.key}, false, "does not begin with the certificate"},
		{"no PEM", map[string][]byte{"tls.crt": b("x"), "tls.key": good.key}, false, "tls.crt holds no PEM block CERTIFICATE"},
		{"a key that is no PEM", map[string][]byte{"tls.crt": good.cert, "tls.key": b("x")}, false, "tls.key holds no PEM block PRIVATE KEY"},
		{"bad DER", map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b("x")}), "tls.key": good.key}, false, "certificate 1 in tls.crt does not parse"},
		{"bad DER in the key", map[string][]byte{"tls.crt": good.cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b("x")})}, false, "the key in tls.key does not parse"},
		{"an encrypted key", map[string][]byte{"tls.crt": good.cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: b("x")})}, false, "is encrypted"},
		{"RSA of 1024 bits", map[string][]byte{"tls.crt": weak.cert, "tls.key": weak.key}, false, "1024 bits"},
		{"P-224", map[string][]byte{"tls.crt": odd.cert, "tls.key": odd.key}, false, "P-224"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := live.NewPlane()
			need := certNeed()
			p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{need}})
			p.SetObjects("east", []live.Object{secret(t, "web-tls", c.data)}, false)
			a := p.Answers(epoch)
			wantProblem(t, a, c.problem)
			s, ok := a.Secrets[need.Name]
			if ok != c.served {
				t.Fatalf("served: %v, want %v", ok, c.served)
			}
			if ok {
				content := s.Reveal()
				if bytes.Contains(content.Chain, []byte("#")) || !bytes.HasPrefix(content.Chain, []byte("-----BEGIN CERTIFICATE")) || !bytes.Contains(content.Key, []byte("PRIVATE KEY")) {
					t.Error("the content is not the bare chain and key")
				}
			}
		})
	}
}

// TestCertificateLife tells what is served through steps of a Secret's life.
func TestCertificateLife(t *testing.T) {
	hour := time.Hour
	a := issue(t, spec{dns: []string{"web.example"}, end: 100 * hour})
	longer := issue(t, spec{dns: []string{"*.example"}, end: 200 * hour})
	shorter := issue(t, spec{dns: []string{"web.example"}, end: 50 * hour})
	elsewhere := issue(t, spec{dns: []string{"other.example"}, end: 300 * hour})
	future := issue(t, spec{dns: []string{"web.example"}, from: 10 * hour, end: 300 * hour})
	expired := issue(t, spec{dns: []string{"web.example"}, from: -10 * hour, end: -hour})
	byCN := issue(t, spec{cn: "web.example", end: 100 * hour})
	mixed := a
	mixed.key = longer.key

	type step struct {
		at      time.Duration
		secret  *pair // nil: deleted
		stale   bool
		want    *pair
		problem string
	}
	for name, c := range map[string]struct {
		hosts []string
		steps []step
	}{
		"renewal": {[]string{"web.example"}, []step{{0, &a, false, &a, ""}, {hour, &longer, false, &longer, ""}}},
		"bad key keeps the previous": {[]string{"web.example"}, []step{
			{0, &longer, false, &longer, ""},
			{hour, &mixed, false, &longer, "key does not belong to the certificate; the previous one is being served"},
			{300 * hour, &mixed, false, &longer, "does not belong"},
			{301 * hour, &a, false, &a, "ended"},
		}},
		"shorter validity waits": {[]string{"web.example"}, []step{
			{0, &a, false, &a, ""},
			{hour, &shorter, false, &a, "before the previous one"},
			{99 * hour, &shorter, false, &a, "before the previous one"},
			{100 * hour, &shorter, false, &shorter, "ended"},
		}},
		"another host keeps the previous": {[]string{"web.example"}, []step{
			{0, &a, false, &a, ""},
			{hour, &elsewhere, false, &a, "is not for web.example, only for other.example; the previous one"},
			{100 * hour, &elsewhere, false, &elsewhere, "no better one"},
		}},
		"another host at first is served": {[]string{"web.example"}, []step{{0, &elsewhere, false, &elsewhere, "is not for web.example"}, {hour, &a, false, &a, ""}}},
		"not valid yet": {[]string{"web.example"}, []step{
			{0, &a, false, &a, ""}, {hour, &future, false, &a, "not valid before"}, {10 * hour, &future, false, &future, ""},
		}},
		"expired at first is served": {nil, []step{{0, &expired, false, &expired, "ended"}}},
		"ends while it is served":    {nil, []step{{0, &a, false, &a, ""}, {100 * hour, &a, false, &a, "ended"}}},
		"common name":                {[]string{"web.example"}, []step{{0, &byCN, false, &byCN, ""}}},
		"wildcard host":              {[]string{"*.example", "*"}, []step{{0, &longer, false, &longer, ""}, {hour, &a, false, &longer, "not for *.example"}}},
		"deleted": {nil, []step{
			{0, &a, false, &a, ""},
			{hour, nil, false, &a, "was deleted; what it held is served until 2026-01-02T01:00:00Z"},
			{24 * hour, nil, false, &a, "was deleted"},
			{25 * hour, nil, false, nil, "more than 24h"},
		}},
		"deleted and back": {nil, []step{
			{0, &a, false, &a, ""},
			{hour, nil, false, &a, "was deleted"},
			{2 * hour, &a, false, &a, ""},
			{3 * hour, nil, false, &a, "was deleted"},
			{26 * hour, nil, false, &a, "was deleted"},
			{27 * hour, nil, false, nil, "more than"},
		}},
		"absent from a stale view": {nil, []step{
			{0, &a, false, &a, ""},
			{hour, nil, true, &a, "cannot be read completely"},
			{90 * hour, nil, true, &a, "cannot be read completely"},
			{91 * hour, nil, false, &a, "was deleted"},
		}},
		"never there": {nil, []step{{0, nil, false, nil, "there is no such Secret; nothing is served"}, {hour, &a, false, &a, ""}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := live.NewPlane()
			need := certNeed(c.hosts...)
			p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{need}})
			for i, s := range c.steps {
				objects := []live.Object{service(t, "web")}
				if s.secret != nil {
					objects = append(objects, tlsSecret(t, *s.secret))
				}
				p.SetObjects("east", objects, s.stale)
				a := p.Answers(epoch.Add(s.at))
				got, served := a.Secrets[need.Name]
				switch {
				case served != (s.want != nil):
					t.Fatalf("step %d: served: %v", i, served)
				case served && !bytes.Equal(got.Reveal().Chain, s.want.cert):
					t.Fatalf("step %d: another certificate is served: %v", i, got)
				case served && !bytes.Equal(got.Reveal().Key, s.want.key):
					t.Fatalf("step %d: another key is served", i)
				}
				wantProblem(t, a, s.problem)
				// Time alone changes nothing before Next, and Next says when.
				if next := p.Next(); !next.IsZero() {
					if !next.After(epoch.Add(s.at)) {
						t.Fatalf("step %d: next is %s, in the past", i, next)
					}
					if b := p.Answers(next.Add(-time.Nanosecond)); b.Revision != a.Revision {
						t.Fatalf("step %d: answers changed before next", i)
					}
				}
			}
		})
	}
}

// TestNeverWithoutCertificate rotates, breaks and deletes a Secret at random.
// Whatever is served works, and once something is served it goes away only
// when the Secret has been gone for a day.
func TestNeverWithoutCertificate(t *testing.T) {
	const hour = time.Hour
	var pool []pair
	for _, s := range []spec{
		{dns: []string{"web.example"}, end: 30 * hour},
		{dns: []string{"web.example"}, end: 100 * hour},
		{dns: []string{"*.example"}, from: 20 * hour, end: 200 * hour},
		{dns: []string{"other"}, end: 300 * hour},
	} {
		pool = append(pool, issue(t, s))
	}
	pool = append(pool, pair{pool[0].cert, pool[1].key}, pair{pool[0].cert, nil}, pair{[]byte("x"), pool[1].key})
	const whole = 4 // of the pool; the others can never be served
	rapid.Check(t, func(t *rapid.T) {
		p := live.NewPlane()
		need := certNeed("web.example")
		p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{need}})
		now := epoch
		var gone time.Time
		var before live.Secret
		served := false
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "hours")) * hour)
			i := rapid.IntRange(-1, len(pool)-1).Draw(t, "pair") // -1: deleted
			stale := rapid.IntRange(0, 4).Draw(t, "stale") == 0
			objects := []live.Object{service(t, "web")}
			if i >= 0 {
				objects = append(objects, tlsSecret(t, pool[i]))
			}
			p.SetObjects("east", objects, stale)
			got, ok := p.Answers(now).Secrets[need.Name]
			switch {
			case i >= 0 || stale:
				gone = time.Time{}
			case gone.IsZero():
				gone = now
			}
			if served && !ok && (gone.IsZero() || now.Sub(gone) < live.KeepDeleted) {
				t.Fatalf("nothing is served at %s, and %s was", now, before)
			}
			if i >= 0 && i < whole && !ok {
				t.Fatal("nothing is served, and the Secret is whole")
			}
			if ok {
				c := got.Reveal()
				at := slices.IndexFunc(pool[:whole], func(p pair) bool { return bytes.Equal(p.cert, c.Chain) && bytes.Equal(p.key, c.Key) })
				if at < 0 {
					t.Fatalf("what is served is none of the certificates with its key: %s", got)
				}
				good := func(s live.Secret) bool {
					return now.Before(s.NotAfter) && !now.Before(s.NotBefore) && s.SANs[0] != "other"
				}
				if served && good(before) && !good(got) {
					t.Fatalf("%s was good and was replaced by %s", before, got)
				}
			}
			before, served = got, ok
		}
	})
}

func TestHostsChange(t *testing.T) {
	a := issue(t, spec{dns: []string{"a.example"}, end: 2 * year})
	both := issue(t, spec{dns: []string{"a.example", "b.example"}, end: year})
	p := live.NewPlane()
	p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{certNeed("a.example")}})
	p.SetObjects("east", []live.Object{tlsSecret(t, a)}, false)
	p.Answers(epoch)
	p.SetObjects("east", []live.Object{tlsSecret(t, both)}, false)
	if got := p.Answers(epoch).Secrets[certNeed().Name]; !bytes.Equal(got.Reveal().Chain, a.cert) {
		t.Error("the certificate that ends earlier is served")
	}
	// Now the one that is served does not do any more.
	p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{certNeed("a.example", "b.example")}})
	if got := p.Answers(epoch).Secrets[certNeed().Name]; !bytes.Equal(got.Reveal().Chain, both.cert) {
		t.Error("the certificate that lacks a host is served")
	}
}

func TestTrustAnchors(t *testing.T) {
	key := p256(t)
	ca := issue(t, spec{cn: "ca", end: year, ca: true, key: key})
	ca2 := issue(t, spec{cn: "ca2", end: year, ca: true})
	leaf := issue(t, spec{dns: []string{"leaf"}, end: year})
	block, _ := pem.Decode(ca.cert)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	parsed.KeyUsage = x509.KeyUsageCRLSign
	crlDER, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: epoch, NextUpdate: epoch.Add(year),
	}, &x509.Certificate{Subject: parsed.Subject, SubjectKeyId: []byte{1}, KeyUsage: x509.KeyUsageCRLSign}, key)
	if err != nil {
		t.Fatal(err)
	}
	crl := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: crlDER})
	for _, c := range []struct {
		name    string
		data    map[string][]byte
		crl     map[string][]byte
		want    []byte
		problem string
	}{
		{"ca.crt", map[string][]byte{"ca.crt": ca.cert}, nil, ca.cert, ""},
		{"tls.crt of a CA secret", map[string][]byte{"tls.crt": ca.cert}, nil, ca.cert, ""},
		{"a CA's own before its issuer's", map[string][]byte{"tls.crt": ca.cert, "ca.crt": ca2.cert}, nil, ca.cert, ""},
		{"a leaf's issuer", map[string][]byte{"tls.crt": leaf.cert, "tls.key": leaf.key, "ca.crt": ca.cert}, nil, ca.cert, ""},
		{"Istio's", map[string][]byte{"cert-chain.pem": leaf.cert, "key.pem": leaf.key, "root-cert.pem": ca.cert}, nil, ca.cert, ""},
		{"a self-signed leaf", map[string][]byte{"tls.crt": leaf.cert}, nil, leaf.cert, ""},
		{"two", map[string][]byte{"ca.crt": slices.Concat(ca.cert, ca2.cert)}, nil, slices.Concat(ca.cert, ca2.cert), ""},
		{"a key beside it stays out", map[string][]byte{"ca.crt": slices.Concat(ca.key, ca.cert)}, nil, ca.cert, ""},
		{"none", map[string][]byte{"x": ca.cert}, nil, nil, "it has no ca.crt or root-cert.pem or tls.crt"},
		{"with a CRL", map[string][]byte{"ca.crt": ca.cert}, map[string][]byte{"crl.pem": crl}, ca.cert, ""},
		{"with a bad CRL", map[string][]byte{"ca.crt": ca.cert}, map[string][]byte{"crl.pem": pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("x")})}, nil, "no certificate revocation list that parses"},
		{"with an empty CRL", map[string][]byte{"ca.crt": ca.cert}, map[string][]byte{}, nil, "it has no crl.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			need := ir.SecretRef{Name: "n", Cluster: "east", Namespace: "default", Secret: "ca", Use: ir.UseCA}
			objects := []live.Object{secret(t, "ca", c.data)}
			if c.crl != nil {
				need.CRL = "crl"
				objects = append(objects, secret(t, "crl", c.crl))
			}
			p := live.NewPlane()
			p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{need}})
			p.SetObjects("east", objects, false)
			a := p.Answers(epoch)
			wantProblem(t, a, c.problem)
			got := a.Secrets["n"].Reveal()
			if !bytes.Equal(got.CA, c.want) || len(got.Key) > 0 {
				t.Errorf("trust anchors:\n%s\nwant\n%s", got.CA, c.want)
			}
			if want := c.crl != nil && c.want != nil; want != (len(got.CRL) > 0) {
				t.Errorf("with a CRL: %v, want %v", !want, want)
			}
		})
	}
	t.Run("a CRL that comes and goes", func(t *testing.T) {
		need := ir.SecretRef{Name: "n", Cluster: "east", Namespace: "default", Secret: "ca", Use: ir.UseCA, CRL: "crl"}
		p := live.NewPlane()
		p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{need}})
		caOnly := []live.Object{secret(t, "ca", map[string][]byte{"ca.crt": ca.cert})}
		p.SetObjects("east", caOnly, false)
		if a := p.Answers(epoch); len(a.Secrets) > 0 {
			t.Error("trust anchors are served without their revocation list")
		}
		p.SetObjects("east", append(caOnly, secret(t, "crl", map[string][]byte{"crl.pem": crl})), false)
		first := p.Answers(epoch).Secrets["n"]
		p.SetObjects("east", caOnly, false)
		if a := p.Answers(epoch.Add(time.Hour)); !bytes.Equal(a.Secrets["n"].Reveal().CRL, crl) || a.Secrets["n"].Version != first.Version {
			t.Error("the revocation list was dropped when its Secret was deleted")
		}
		if a := p.Answers(epoch.Add(26 * time.Hour)); len(a.Secrets) > 0 {
			t.Error("trust anchors are served without their revocation list")
		}
	})
}

func TestRestoredCertificate(t *testing.T) {
	good := issue(t, spec{dns: []string{"web.example"}, end: year})
	need := certNeed("web.example")
	p := live.NewPlane()
	p.Restore(nil, []ir.Secret{
		{Name: need.Name, Chain: good.cert, Key: good.key},
		{Name: "damaged", Chain: good.cert, Key: []byte("x")},
	})
	p.SetNeeds(live.Needs{Secrets: []ir.SecretRef{need}})
	for _, objects := range [][]live.Object{nil, {secret(t, "web-tls", map[string][]byte{"tls.crt": []byte("x")})}} {
		if objects != nil {
			p.SetObjects("east", objects, false)
		}
		a := p.Answers(epoch)
		if s := a.Secrets[need.Name]; len(a.Secrets) != 1 || !bytes.Equal(s.Reveal().Key, good.key) {
			t.Errorf("secrets %v, want the restored one", a.Secrets)
		}
		wantProblem(t, a, "the previous one is being served")
	}
}

// TestNothingLeaks plants canaries as keys, in every way in which a Secret can
// be broken, and looks for them in all that is printed.
func TestNothingLeaks(t *testing.T) {
	good := issue(t, spec{dns: []string{"web.example"}, end: year})
	block, _ := pem.Decode(good.key)
	canaries := [][]byte{
		[]byte("8675309867530986753"), []byte("canary-in-the-coal-mine"),
		block.Bytes, []byte(base64.StdEncoding.EncodeToString(block.Bytes))[:60],
	}
	plant := string(canaries[1])
	var objects []live.Object
	var needs []ir.SecretRef
	add := func(raw []byte) {
		n := certNeed()
		n.Secret = fmt.Sprintf("s%d", len(objects))
		n.Name = n.Secret
		needs = append(needs, n)
		ca := n
		ca.Name, ca.Use = n.Name+"-ca", ir.UseCA
		needs = append(needs, ca)
		objects = append(objects, live.NewObject("Secret", "default", n.Secret, raw))
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	data := func(m map[string][]byte) []byte { return marshal(map[string]any{"data": m}) }
	add(data(map[string][]byte{"tls.crt": good.cert, "tls.key": good.key}))
	add(data(map[string][]byte{"tls.crt": slices.Concat(good.key, good.cert), "tls.key": good.key}))
	add(data(map[string][]byte{"tls.crt": []byte(plant), "tls.key": []byte(plant)}))
	add(data(map[string][]byte{"tls.crt": good.cert, "tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte(plant)})}))
	add(data(map[string][]byte{"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})}))
	add([]byte(`{"data": {"tls.key": 8675309867530986753}}`))
	add([]byte(`{"data": {"tls.key": "canary-in-the-coal-mine!"}}`))
	add([]byte(`{"data": "canary-in-the-coal-mine"`))
	add([]byte(`{"stringData": {"tls.key": ["canary-in-the-coal-mine"]}}`))

	p := live.NewPlane()
	p.SetNeeds(live.Needs{Secrets: needs})
	p.SetObjects("east", objects, false)
	a := p.Answers(epoch)
	if len(a.Secrets) < 2 || len(a.Problems) < 10 {
		t.Fatalf("%d secrets and %d problems, too few to prove anything", len(a.Secrets), len(a.Problems))
	}
	if !bytes.Equal(a.Secrets["s0"].Reveal().Key, good.key) {
		t.Fatal("the good secret is not served")
	}
	if bytes.Contains(a.Secrets["s1"].Reveal().Chain, []byte("PRIVATE")) {
		t.Error("a key that stood in tls.crt is in the chain")
	}

	var said bytes.Buffer
	for _, v := range []any{a, a.Secrets, a.Secrets["s0"], &a, objects, objects[0], p, *p, live.View{Objects: objects}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&said, verb+"\n", v)
		}
	}
	said.Write(marshal(a))
	said.Write(marshal(objects))
	for _, h := range []slog.Handler{slog.NewTextHandler(&said, nil), slog.NewJSONHandler(&said, nil)} {
		slog.New(h).Info("said", slog.Any("answers", a), slog.Any("secret", a.Secrets["s0"]), slog.Any("objects", objects))
	}
	for i, c := range canaries {
		for _, form := range []string{string(c), fmt.Sprintf("%x", c), fmt.Sprintf("%X", c), base64.StdEncoding.EncodeToString(c), strings.Trim(fmt.Sprintf("%d", c), "[]")} {
			if strings.Contains(said.String(), form) {
				t.Errorf("canary %d was printed, as %.40q", i, form)
			}
		}
	}
	if !strings.Contains(said.String(), "redacted") {
		t.Error("nothing was redacted")
	}
}

// script is a Source that delivers what it is sent, and ends when told.
type script struct {
	views chan live.View
	fail  chan error
}

func (s script) Watch(ctx context.Context, deliver func(live.View)) error {
	for {
		select {
		case v := <-s.views:
			deliver(v)
		case err := <-s.fail:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	src := script{make(chan live.View), make(chan error)}
	needs := make(chan func(*live.Plane))
	out := make(chan live.Answers)
	ended := make(chan error, 1)
	go func() {
		ended <- live.Run(ctx, live.Config{
			Plane: live.NewPlane(), Sources: map[ledger.ClusterName]live.Source{"east": src},
			Needs: needs, Out: out, Now: func() time.Time { return epoch },
		})
	}()
	await := func(what string, ok func(live.Answers) bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case a := <-out:
				if ok(a) {
					return
				}
			case <-deadline:
				t.Fatalf("waited in vain for %s", what)
			}
		}
	}
	need := set("web", "http")
	at := func(want string) func(live.Answers) bool {
		return func(a live.Answers) bool { return show(a.Endpoints[need.Name]) == want }
	}
	view := func(ip string) live.View {
		return live.View{Objects: []live.Object{service(t, "web"), endpointSlice(t, "web-1", "web", map[string]int{"http": 1}, ip)}}
	}
	await("the first answers", func(live.Answers) bool { return true })
	needs <- func(p *live.Plane) { p.SetNeeds(live.Needs{Endpoints: []ir.EndpointSet{need}}) }
	src.views <- view("10.0.0.1")
	await("endpoints", at("10.0.0.1:1"))
	// Nobody receives: the loop goes on, and the latest wins.
	for i := range 20 {
		src.views <- view(fmt.Sprintf("10.0.1.%d", i))
	}
	src.views <- view("10.0.2.1")
	src.fail <- errors.New("the disk is gone")
	await("the latest", func(a live.Answers) bool {
		return at("10.0.2.1:1")(a) && len(a.Problems) == 1 && strings.Contains(a.Problems[0].Text, "cannot be read completely")
	})
	src.views <- view("10.0.3.1") // the source is watched again
	await("recovery", func(a live.Answers) bool { return at("10.0.3.1:1")(a) && len(a.Problems) == 0 })
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := live.Run(t.Context(), live.Config{}); err == nil {
		t.Error("a Config without a Plane is taken")
	}
}

func BenchmarkOneSliceOfMany(b *testing.B) {
	const services = 5000
	p := live.NewPlane()
	var objects []live.Object
	var needs live.Needs
	for i := range services {
		n := fmt.Sprintf("svc-%d", i)
		objects = append(objects, service(b, n), endpointSlice(b, n+"-1", n, map[string]int{"http": 80}, "10.0.0.1"))
		needs.Endpoints = append(needs.Endpoints, set(n, "http"))
	}
	p.SetNeeds(needs)
	p.SetObjects("east", objects, false)
	p.Answers(epoch)
	i := 0
	for b.Loop() {
		i++
		objects[1] = endpointSlice(b, "svc-0-1", "svc-0", map[string]int{"http": 80}, fmt.Sprintf("10.0.%d.%d", i/250%250, i%250+1))
		p.SetObjects("east", objects, false)
		p.Answers(epoch)
	}
}
