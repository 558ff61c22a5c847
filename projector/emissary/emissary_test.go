package emissary_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/emissary"
)

func TestGlobsOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"a.com", "a.com", true},
		{"a.com", "b.com", false},
		{"*", "a.com", true},
		{"a.com", "*", true},
		{"*", "*", true},
		{"*", "", true},
		{"a.com", "", false},
		{"*.com", "a.com", true},
		{"*.com", ".com", false}, // a leading dot never matches
		{"*a.com", "a.com", false},
		{"*a.com", "ba.com", true},
		{"a.*", "a.com", true},
		{"a.*", "a.", false}, // the star stands for something
		{"a.*", "b.com", false},
		{"*.com", "a.*", true}, // they might meet
		{"*.a.com", "*.com", true},
		{"*.a.com", "*.b.com", false},
		{"a.b.*", "a.*", true},
		{"a.b.*", "b.*", false},
		{"*a*", "xay", false}, // not a glob
		{"*a*", "*a*", true},  // but equal to itself
		{"a.com:80", "a.com", false},
	} {
		if got := emissary.GlobsOverlap(tt.a, tt.b); got != tt.want {
			t.Errorf("GlobsOverlap(%q, %q) = %v", tt.a, tt.b, got)
		}
		if got := emissary.GlobsOverlap(tt.b, tt.a); got != tt.want {
			t.Errorf("GlobsOverlap(%q, %q) = %v, the other way round it is not", tt.b, tt.a, got)
		}
	}
}

func TestParseService(t *testing.T) {
	for _, tt := range []struct {
		in        string
		want      emissary.ServiceName
		complaint bool
	}{
		{"web", emissary.ServiceName{Host: "web"}, false},
		{"web:8080", emissary.ServiceName{Host: "web", Port: 8080}, false},
		{"http://web.ns", emissary.ServiceName{Scheme: "http", Host: "web.ns"}, false},
		{"HTTPS://web:443", emissary.ServiceName{Scheme: "https", Host: "web", Port: 443}, false},
		{"https://web/", emissary.ServiceName{Scheme: "https", Host: "web"}, false},
		{"web/path", emissary.ServiceName{Host: "web"}, true},
		{"web?q=1", emissary.ServiceName{Host: "web"}, true},
		{"user@web", emissary.ServiceName{Host: "web"}, true},
		{"ftp://web", emissary.ServiceName{Host: "web"}, true},
		{"[::1]:80", emissary.ServiceName{Host: "::1", Port: 80}, false},
		{"[::1]", emissary.ServiceName{Host: "::1"}, false},
		{"[::1", emissary.ServiceName{}, true},
		{"[::1]80", emissary.ServiceName{}, true},
		{"::1", emissary.ServiceName{}, true},
		{"web%2dx:1", emissary.ServiceName{Host: "web-x", Port: 1}, false},
		{"web%zz", emissary.ServiceName{}, true},
		{"web:0", emissary.ServiceName{}, true},
		{"web:65536", emissary.ServiceName{}, true},
		{"web:http", emissary.ServiceName{}, true},
		{"", emissary.ServiceName{}, true},
		{"http://", emissary.ServiceName{}, true},
		{"we b", emissary.ServiceName{}, true},
	} {
		got, complaint := emissary.ParseService(tt.in)
		if diff := cmp.Diff(tt.want, got); diff != "" || (complaint != "") != tt.complaint {
			t.Errorf("ParseService(%q) complains %q:\n%s", tt.in, complaint, diff)
		}
	}
}

func FuzzParseService(f *testing.F) {
	for _, s := range []string{"web", "https://web.ns:80/x", "[::1]:80", "%41", "a@b:c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, complaint := emissary.ParseService(s)
		if name.Host == "" && complaint == "" {
			t.Errorf("ParseService(%q) has no host and no complaint", s)
		}
		if name.Port > 65535 {
			t.Errorf("ParseService(%q) has port %d", s, name.Port)
		}
	})
}

// world is a cluster with nothing in it but selectors.
type world struct{ selectors []map[string]string }

func (w world) Settings() projector.Settings { return projector.DefaultSettings() }
func (w world) Cluster() string              { return "east" }
func (w world) MappingDefaults() *emissary.MappingDefaults {
	return &emissary.DefaultModule().Mappings
}

func (w world) Resolver(name string) (string, bool) {
	kind, ok := emissary.BuiltinResolvers[name]
	return kind, ok
}
func (w world) Context(string) (*emissary.Context, bool)         { return nil, false }
func (w world) Service(string, string) (*emissary.Service, bool) { return nil, false }
func (w world) Secret(string, string) (*emissary.Secret, bool)   { return nil, false }
func (w world) RateLimitDomain() string                          { return "" }
func (w world) Selectors() []map[string]string                   { return w.selectors }

func mapping(t *testing.T, w emissary.World, name, spec, labels string) *emissary.Mapping {
	t.Helper()
	raw := fmt.Sprintf(`{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":%q,"namespace":"default","labels":{%s}},"spec":{"service":"web",%s}}`, name, labels, spec)
	o := &projector.Object{
		Key: ledger.ObjectKey{Cluster: "east", Group: getambassador.Group, Kind: "Mapping", Namespace: "default", Name: name},
		Raw: []byte(raw), Digest: ledger.DigestOf([]byte(raw)), Seq: 1, FirstSeq: 1,
	}
	d := emissary.Decode(o, "default")
	if d.Bad {
		t.Fatalf("%s: %v", raw, d.Findings)
	}
	m, found, ok := emissary.ReadMapping(w, d.Units[0])
	if !ok {
		t.Fatalf("%s: %v", raw, found)
	}
	return m
}

// TestGroupID holds the ids that Emissary computes: SHA-1 over the method,
// the prefix, the headers, the query, the selectors and the precedence, end to
// end.
func TestGroupID(t *testing.T) {
	red := world{selectors: []map[string]string{{"team": "red"}}}
	for _, tt := range []struct {
		name   string
		w      world
		spec   string
		labels string
		plain  string // what is hashed
	}{
		{"prefix", world{}, `"hostname":"*","prefix":"/a/"`, ``, "HTTP-GET/a/:authority*"},
		{"host", world{}, `"hostname":"a.com","prefix":"/a/"`, ``, "HTTP-GET/a/:authoritya.com"},
		{"no host", world{}, `"prefix":"/a/"`, ``, "HTTP-GET/a/"},
		{"method", world{}, `"hostname":"*","prefix":"/a/","method":"PUT"`, ``, "HTTP-GET/a/:authority*:methodPUT"},
		{"headers", world{}, `"hostname":"*","prefix":"/a/","headers":{"y":"2","x":"1"}`, ``, "HTTP-GET/a/x1y2:authority*"},
		{"query", world{}, `"hostname":"*","prefix":"/a/","query_parameters":{"q":"1"}`, ``, "HTTP-GET/a/:authority*q1"},
		{"precedence", world{}, `"hostname":"*","prefix":"/a/","precedence":5`, ``, "HTTP-GET/a/:authority*5"},
		{"exact is not in it", world{}, `"hostname":"*","prefix":"/a/","prefix_exact":true`, ``, "HTTP-GET/a/:authority*"},
		{"selector", red, `"prefix":"/a/"`, `"team":"red"`, "HTTP-GET/a/teamred"},
		{"selector, other label", red, `"prefix":"/a/"`, `"team":"blue"`, "HTTP-GET/a/"},
		{"selector and host", red, `"hostname":"a.com","prefix":"/a/"`, `"team":"red"`, "HTTP-GET/a/:authoritya.com"},
		{"selector and regex", red, `"host":"a","host_regex":true,"prefix":"/a/"`, `"team":"red"`, "HTTP-GET/a/:authorityateamred"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, want := mapping(t, tt.w, "m", tt.spec, tt.labels).GroupID, sha1Hex(tt.plain); got != want {
				t.Errorf("group id %s, want %s", got, want)
			}
		})
	}
}

// TestOrder lists Mappings in the order in which their routes are tried.
func TestOrder(t *testing.T) {
	specs := []string{
		`"hostname":"*","prefix":"/","precedence":1`,
		`"hostname":"*","prefix":"/abc","headers":{"x":"y"}`,
		`"hostname":"a.com","prefix":"/abc"`, // its host is a header of 15, that of * one of 11
		`"hostname":"*","prefix":"/abc","query_parameters":{"q":"longest of all"}`,
		`"hostname":"*","prefix":"/abd"`,
		`"hostname":"*","prefix":"/abc"`,
		`"hostname":"*","prefix":"/é"`, // two characters, three bytes
		`"hostname":"*","prefix":"/","precedence":-1`,
	}
	specs[1], specs[2] = specs[2], specs[1]
	for i := 1; i < len(specs); i++ {
		before := mapping(t, world{}, "m", specs[i-1], "").Order
		after := mapping(t, world{}, "m", specs[i], "").Order
		if before.Compare(after) <= 0 {
			t.Errorf("%s does not come before %s: %+v, %+v", specs[i-1], specs[i], before, after)
		}
	}
}

// TestWeights holds the shares of a group's routes, in their order.
func TestWeights(t *testing.T) {
	for _, tt := range []struct {
		weights []int // -1 for none
		want    []int
	}{
		{[]int{-1}, []int{100}},
		{[]int{7}, []int{100}},
		{[]int{-1, -1}, []int{50, 100}},
		{[]int{-1, -1, -1}, []int{33, 66, 100}},
		{[]int{-1, 10}, []int{10, 100}},
		{[]int{10, 20, -1, -1}, []int{10, 30, 65, 100}},
		{[]int{95, -1, -1}, []int{95, 97, 100}}, // half of 5 is rounded to even
		{[]int{100, -1, -1}, []int{100, 100, 100}},
		{[]int{10, 20}, []int{10, 30}},
		{[]int{60, 70, -1}, []int{60, 130, 0}},
		{[]int{10, 120}, []int{10, 0}},
		{[]int{0, -1}, []int{0, 100}},
	} {
		var group []*emissary.Mapping
		for i, w := range tt.weights {
			spec := `"hostname":"*","prefix":"/"`
			if w >= 0 {
				spec += fmt.Sprintf(`,"weight":%d`, w)
			}
			group = append(group, mapping(t, world{}, fmt.Sprintf("m%d", i), spec, ""))
		}
		g, _ := emissary.BuildGroup(group)
		var got []int
		for _, r := range g.Routes {
			share := 100
			if r.Match.Fraction != nil {
				share = int(r.Match.Fraction.Percent)
			}
			got = append(got, share)
		}
		var want []int
		for _, w := range tt.want {
			want = append(want, min(w, 100))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("weights %v:\n%s", tt.weights, diff)
		}
	}
}
