package compile_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

const smallWorld = `
apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: http}
spec: {port: 8080, protocol: HTTP, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: any}
spec: {hostname: "*", requestPolicy: {insecure: {action: Route}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: other}
spec: {hostname: "*", prefix: /other/, service: web}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: m}
spec: {hostname: "*", prefix: /good/, service: web}
`

// fixture is a small world that is compiled, and a Mapping in it to change.
type fixture struct {
	t *testing.T
	c *compile.Compiler
	m *projector.Object
}

func newFixture(t *testing.T) fixture {
	objects := readYAML(t, "east", []byte(smallWorld), 0)
	_, c := compile.Full(projector.DefaultSettings(), slices.Values(objects), projector.Overlay{})
	return fixture{t, c, objects[len(objects)-1]}
}

// version returns another version of the Mapping.
func (f fixture) version(spec string) *projector.Object {
	o := readYAML(f.t, "east", []byte("apiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {name: m}\nspec: {"+spec+"}\n"), 10)[0]
	return o
}

func (f fixture) put(o *projector.Object) projector.Result {
	f.c.Apply([]projector.Change{{Key: o.Key, After: o}})
	return f.c.Compile()
}

func (f fixture) prefixes(r projector.Result) []string {
	f.t.Helper()
	var out []string
	for line := range strings.Lines(string(routes(f.t, r.Snapshot))) {
		if m, _, ok := strings.Cut(strings.TrimSpace(line), "* -> "); ok {
			out = append(out, m)
		}
	}
	return out
}

func (f fixture) report(k ledger.ObjectKey) projector.ObjectReport {
	f.t.Helper()
	r, ok := f.c.Report(k)
	if !ok {
		f.t.Fatalf("no report on %s", k)
	}
	return r
}

// TestLastGood serves the last good version in place of one that is bad in
// each of the ways in which it can be.
func TestLastGood(t *testing.T) {
	for name, spec := range map[string]string{
		"unreadable": `hostname: "*", prefix: 1, service: web`,
		"semantic":   `hostname: "*", prefix: /bad/, service: web, resolver: none`,
		"regex":      `hostname: "*", prefix: "/bad(", prefix_regex: true, service: web`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			bad := f.version(spec)
			r := f.put(bad)
			if diff := cmp.Diff([]string{"/other/"}, f.prefixes(r)); diff != "" {
				t.Errorf("without a last good version:\n%s", diff)
			}
			if len(r.Kept) != 0 {
				t.Errorf("kept %v without a last good version", r.Kept)
			}
			f.c.SetOverlay(compile.OverlayChange{LastGood: map[ledger.ObjectKey]*projector.Object{f.m.Key: f.m}})
			r = f.c.Compile()
			if diff := cmp.Diff([]string{"/other/", "/good/"}, f.prefixes(r)); diff != "" {
				t.Errorf("with a last good version:\n%s", diff)
			}
			if diff := cmp.Diff(map[ledger.ObjectKey]ledger.Digest{f.m.Key: f.m.Digest}, r.Kept); diff != "" {
				t.Errorf("kept:\n%s", diff)
			}
			rep := f.report(f.m.Key)
			if rep.State != projector.Rejected || rep.Serving != f.m.Digest || rep.Digest != bad.Digest {
				t.Errorf("report is %+v", rep)
			}
			good := f.version(`hostname: "*", prefix: /better/, service: web`)
			r = f.put(good)
			if diff := cmp.Diff([]string{"/better/", "/other/"}, f.prefixes(r)); diff != "" || len(r.Kept) != 0 {
				t.Errorf("after the correction, kept %v:\n%s", r.Kept, diff)
			}
			if rep := f.report(f.m.Key); rep.State != projector.Accepted || !rep.Serving.IsZero() {
				t.Errorf("after the correction the report is %+v", rep)
			}
		})
	}
}

// TestRefused rejects the very version that an Envoy refused, and no other.
func TestRefused(t *testing.T) {
	f := newFixture(t)
	bad := f.version(`hostname: "*", prefix: /refused/, service: web`)
	f.put(bad)
	f.c.SetOverlay(compile.OverlayChange{
		LastGood: map[ledger.ObjectKey]*projector.Object{f.m.Key: f.m},
		Refused:  map[ledger.ObjectKey]projector.Refusal{f.m.Key: {Digest: bad.Digest, Message: "no such thing"}},
	})
	r := f.c.Compile()
	if diff := cmp.Diff([]string{"/other/", "/good/"}, f.prefixes(r)); diff != "" {
		t.Error(diff)
	}
	if rep := f.report(f.m.Key); len(rep.Findings) == 0 || rep.Findings[0].Code != projector.CodeRefused || !strings.Contains(rep.Findings[0].Message, "no such thing") {
		t.Errorf("report is %+v", rep)
	}
	r = f.put(f.version(`hostname: "*", prefix: /next/, service: web`))
	if diff := cmp.Diff([]string{"/other/", "/next/"}, f.prefixes(r)); diff != "" {
		t.Errorf("another version:\n%s", diff)
	}
}

// TestHeld serves another version, or none, for as long as the hold lasts.
func TestHeld(t *testing.T) {
	f := newFixture(t)
	f.put(f.version(`hostname: "*", prefix: /new/, service: web`))
	f.c.SetOverlay(compile.OverlayChange{Hold: map[ledger.ObjectKey]*projector.Object{f.m.Key: f.m}})
	if diff := cmp.Diff([]string{"/other/", "/good/"}, f.prefixes(f.c.Compile())); diff != "" {
		t.Errorf("held:\n%s", diff)
	}
	if rep := f.report(f.m.Key); rep.State != projector.Held || rep.Serving != f.m.Digest {
		t.Errorf("report is %+v", rep)
	}
	f.c.Apply([]projector.Change{{Key: f.m.Key}})
	if diff := cmp.Diff([]string{"/other/", "/good/"}, f.prefixes(f.c.Compile())); diff != "" {
		t.Errorf("held and deleted:\n%s", diff)
	}
	f.c.SetOverlay(compile.OverlayChange{Hold: map[ledger.ObjectKey]*projector.Object{f.m.Key: nil}})
	if diff := cmp.Diff([]string{"/other/"}, f.prefixes(f.c.Compile())); diff != "" {
		t.Errorf("held as absent:\n%s", diff)
	}
	f.c.SetOverlay(compile.OverlayChange{Unhold: []ledger.ObjectKey{f.m.Key}})
	f.c.Compile()
	if _, ok := f.c.Report(f.m.Key); ok {
		t.Error("there is a report on an object that is gone")
	}
}

// TestPanic costs only the object that the compiler panics on, and what the
// panicking rule had written is taken back.
func TestPanic(t *testing.T) {
	f := newFixture(t)
	f.c.SetFault(func(o *projector.Object) {
		if o.Key == f.m.Key && o.Digest != f.m.Digest {
			panic("planted")
		}
	})
	r := f.put(f.version(`hostname: "*", prefix: /new/, service: web`))
	if diff := cmp.Diff([]string{"/other/"}, f.prefixes(r)); diff != "" {
		t.Error(diff)
	}
	rep := f.report(f.m.Key)
	if rep.State != projector.Rejected || len(rep.Findings) != 1 || rep.Findings[0].Code != projector.CodeInternal || !strings.Contains(rep.Findings[0].Message, "planted") {
		t.Errorf("report is %+v", rep)
	}
	f.c.SetOverlay(compile.OverlayChange{LastGood: map[ledger.ObjectKey]*projector.Object{f.m.Key: f.m}})
	if diff := cmp.Diff([]string{"/other/", "/good/"}, f.prefixes(f.c.Compile())); diff != "" {
		t.Errorf("with a last good version:\n%s", diff)
	}
	f.c.SetFault(nil)
	r = f.put(f.version(`hostname: "*", prefix: /again/, service: web`))
	if diff := cmp.Diff([]string{"/other/", "/again/"}, f.prefixes(r)); diff != "" {
		t.Errorf("afterwards:\n%s", diff)
	}
}

// TestCostOfAChange counts rules: what a change costs does not depend on what
// it does not touch, and an equal outcome stops early.
func TestCostOfAChange(t *testing.T) {
	cost := func(n int, tls bool, change func(world []*projector.Object) *projector.Object) int {
		world := largeWorld(n, tls)
		_, c := compile.Full(projector.DefaultSettings(), slices.Values(world), projector.Overlay{})
		o := change(world)
		before := c.Evaluations()
		c.Apply([]projector.Change{{Key: o.Key, After: o}})
		c.Compile()
		return c.Evaluations() - before
	}
	for name, change := range map[string]func(world []*projector.Object) *projector.Object{
		"timeout": func(w []*projector.Object) *projector.Object { return mappingOf(len(w)+1, 20, 5) },
		"new":     func(w []*projector.Object) *projector.Object { return mappingOf(len(w)+1, 5_000, 5) },
		"service": func(w []*projector.Object) *projector.Object {
			return object(len(w)+1, key("", "Service", "s00020"), `{"spec":{"clusterIP":"10.9.9.9","ports":[{"port":8080}]}}`)
		},
		"unrelated": func(w []*projector.Object) *projector.Object {
			return object(len(w)+1, key("", "Service", "unrelated"), `{"spec":{"clusterIP":"10.9.9.9"}}`)
		},
		"label": func(w []*projector.Object) *projector.Object {
			o := mappingOf(len(w)+1, 20, 1000)
			raw := strings.Replace(string(o.Raw), `"metadata":{`, `"metadata":{"labels":{"a":"b"},`, 1)
			return object(int(o.Seq), o.Key, raw)
		},
	} {
		for _, tls := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/tls=%v", name, tls), func(t *testing.T) {
				small, large := cost(50, tls, change), cost(400, tls, change)
				if small != large || large > 20 {
					t.Errorf("%d rules among 50 Mappings, %d among 400, want the same and few", small, large)
				}
			})
		}
	}
}

// TestSources names the objects behind each kind of resource.
func TestSources(t *testing.T) {
	f := newFixture(t)
	for _, tt := range []struct {
		typ  projector.ResourceType
		name string
		want []string
	}{
		{projector.Routes, "tcp-0.0.0.0-8080", []string{"Host any", "Mapping m", "Mapping other"}},
		{projector.Upstreams, "east/web.default:80", []string{"Mapping m", "Mapping other"}},
		{projector.Listeners, "tcp-0.0.0.0-8080", []string{"Listener http"}},
	} {
		var got []string
		for _, k := range f.c.Sources(tt.typ, tt.name) {
			got = append(got, k.Kind+" "+k.Name)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %s:\n%s", tt.typ, tt.name, diff)
		}
	}
}

// TestOrderOfArrival gives the same snapshot whatever came first.
func TestOrderOfArrival(t *testing.T) {
	objects := readYAML(t, "east", []byte(smallWorld), 0)
	want, _ := compile.Full(projector.DefaultSettings(), slices.Values(objects), projector.Overlay{})
	c := compile.New(projector.DefaultSettings())
	for _, o := range slices.Backward(objects) {
		c.Apply([]projector.Change{{Key: o.Key, After: o}})
		c.Compile()
	}
	if got := c.Compile(); got.Snapshot.Fingerprint() != want.Snapshot.Fingerprint() {
		t.Error("the order of arrival shows in the snapshot")
	}
	for _, o := range objects {
		c.Apply([]projector.Change{{Key: o.Key, Before: o}})
	}
	if got := c.Compile(); got.Snapshot.Fingerprint() != projector.EmptySnapshot().Fingerprint() {
		t.Error("something is left when everything is gone")
	}
	if n := c.Rows(); n != 1 {
		t.Errorf("%d rows are left when everything is gone, want the settings only", n)
	}
}
