package compile_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

func key(group, kind, name string) ledger.ObjectKey {
	return ledger.ObjectKey{Cluster: "east", Group: group, Kind: kind, Namespace: "default", Name: name}
}

func object(seq int, k ledger.ObjectKey, raw string) *projector.Object {
	return &projector.Object{Key: k, Raw: []byte(raw), Digest: ledger.DigestOf([]byte(raw)), Seq: ledger.Seq(seq), FirstSeq: ledger.Seq(seq)}
}

const ours = "getambassador.io"

func mappingOf(seq, i, timeout int) *projector.Object {
	return object(seq, key(ours, "Mapping", fmt.Sprintf("m%05d", i)), fmt.Sprintf(
		`{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":"m%05d","namespace":"default"},"spec":{"hostname":"h%05d.example.com","prefix":"/api/","service":"s%05d:8080","timeout_ms":%d}}`, i, i, i, timeout))
}

// largeWorld is n Mappings, each with a Host of its own and a Service. With
// tls, each Host terminates TLS with a Secret of its own.
func largeWorld(n int, tls bool) []*projector.Object {
	var out []*projector.Object
	add := func(k ledger.ObjectKey, raw string) { out = append(out, object(len(out)+1, k, raw)) }
	for _, l := range []struct {
		name, protocol string
		port           int
	}{{"http", "HTTP", 8080}, {"https", "HTTPS", 8443}} {
		add(key(ours, "Listener", l.name), fmt.Sprintf(`{"apiVersion":"getambassador.io/v3alpha1","kind":"Listener","metadata":{"name":%q,"namespace":"default"},"spec":{"port":%d,"protocol":%q,"securityModel":"XFP","hostBinding":{"namespace":{"from":"ALL"}}}}`, l.name, l.port, l.protocol))
	}
	for i := range n {
		host := `"requestPolicy":{"insecure":{"action":"Route"}}`
		if tls {
			host = fmt.Sprintf(`"tlsSecret":{"name":"c%05d"}`, i)
			add(key("", "Secret", fmt.Sprintf("c%05d", i)), fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"c%05d","namespace":"default"},"type":"kubernetes.io/tls","facts":{"keys":{"tls.crt":"x","tls.key":"y"}}}`, i))
		}
		add(key(ours, "Host", fmt.Sprintf("h%05d", i)), fmt.Sprintf(`{"apiVersion":"getambassador.io/v3alpha1","kind":"Host","metadata":{"name":"h%05d","namespace":"default"},"spec":{"hostname":"h%05d.example.com",%s}}`, i, i, host))
		add(key("", "Service", fmt.Sprintf("s%05d", i)), fmt.Sprintf(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"s%05d","namespace":"default"},"spec":{"clusterIP":"10.%d.%d.%d","ports":[{"port":8080}]}}`, i, i>>16, i>>8&255, i&255))
		out = append(out, mappingOf(len(out)+1, i, 1000))
	}
	return out
}

var benchmarkWorlds = []struct {
	name string
	tls  bool
}{{"tls", true}, {"cleartext", false}}

// BenchmarkOneHost changes one of n Mappings that all share the Host "*": the
// one route table has to be written anew.
func BenchmarkOneHost(b *testing.B) {
	for _, n := range []int{100, 1_000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			world := []*projector.Object{
				object(1, key(ours, "Listener", "http"), `{"apiVersion":"getambassador.io/v3alpha1","kind":"Listener","metadata":{"name":"http","namespace":"default"},"spec":{"port":8080,"protocol":"HTTP","securityModel":"XFP","hostBinding":{"namespace":{"from":"ALL"}}}}`),
				object(2, key(ours, "Host", "any"), `{"apiVersion":"getambassador.io/v3alpha1","kind":"Host","metadata":{"name":"any","namespace":"default"},"spec":{"hostname":"*","requestPolicy":{"insecure":{"action":"Route"}}}}`),
			}
			mapping := func(seq, i, timeout int) *projector.Object {
				return object(seq, key(ours, "Mapping", fmt.Sprintf("m%05d", i)), fmt.Sprintf(
					`{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":"m%05d","namespace":"default"},"spec":{"hostname":"*","prefix":"/api/%05d/","service":"10.0.0.1:8080","timeout_ms":%d}}`, i, i, timeout))
			}
			for i := range n {
				world = append(world, mapping(i+3, i, 1000))
			}
			_, c := compile.Full(projector.DefaultSettings(), slices.Values(world), projector.Overlay{})
			i := 0
			for b.Loop() {
				i++
				m := mapping(n+3+i, n/2, 1000+i)
				c.Apply([]projector.Change{{Key: m.Key, After: m}})
				c.Compile()
			}
		})
	}
}

// BenchmarkCompile compiles n Mappings from nothing, and one changed Mapping
// among them.
func BenchmarkCompile(b *testing.B) {
	for _, w := range benchmarkWorlds {
		for _, n := range []int{100, 1_000, 10_000} {
			world := largeWorld(n, w.tls)
			b.Run(fmt.Sprintf("full/%s/%d", w.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					compile.Full(projector.DefaultSettings(), slices.Values(world), projector.Overlay{})
				}
			})
			b.Run(fmt.Sprintf("one/%s/%d", w.name, n), func(b *testing.B) {
				b.ReportAllocs()
				_, c := compile.Full(projector.DefaultSettings(), slices.Values(world), projector.Overlay{})
				before := c.Evaluations()
				i := 0
				for b.Loop() {
					i++
					m := mappingOf(len(world)+i, n/2, 1000+i)
					c.Apply([]projector.Change{{Key: m.Key, After: m}})
					c.Compile()
				}
				b.ReportMetric(float64(c.Evaluations()-before)/float64(i), "rules/op")
			})
		}
	}
}
