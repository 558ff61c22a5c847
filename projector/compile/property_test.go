package compile_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
	"github.com/chancery-dev/chancery/projector/envoy"
)

// model is what an incremental compiler was told, to compile it from nothing.
type model struct {
	settings projector.Settings
	seq      ledger.Seq
	objects  map[ledger.ObjectKey]*projector.Object
	overlay  projector.Overlay
}

func (m *model) full() (projector.Result, *compile.Compiler) {
	keys := slices.SortedFunc(maps.Keys(m.objects), ledger.ObjectKey.Compare)
	objects := make([]*projector.Object, len(keys))
	for i, k := range keys {
		objects[i] = m.objects[k]
	}
	return compile.Full(m.settings, slices.Values(objects), m.overlay)
}

// TestIncrementalEqualsFull edits a world at random and compares the compiler
// that followed with one that starts from nothing: snapshot, reports, and what
// is kept.
func TestIncrementalEqualsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			settings: projector.DefaultSettings(), objects: map[ledger.ObjectKey]*projector.Object{},
			overlay: projector.Overlay{
				Held: map[ledger.ObjectKey]*projector.Object{}, LastGood: map[ledger.ObjectKey]*projector.Object{},
				Refused: map[ledger.ObjectKey]projector.Refusal{},
			},
		}
		c := compile.New(m.settings)
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			for range rapid.IntRange(1, 8).Draw(t, "edits") {
				m.edit(t, c)
			}
			got := c.Compile()
			want, fresh := m.full()
			if diff := diffResults(got, want); diff != "" {
				t.Fatalf("incremental is not full:\n%s", diff)
			}
			reports := slices.Collect(c.Reports())
			if diff := cmp.Diff(slices.Collect(fresh.Reports()), reports); diff != "" {
				t.Fatalf("reports, full is -, incremental is +:\n%s", diff)
			}
			if problems := envoy.Check(got.Snapshot); len(problems) > 0 {
				t.Fatalf("the snapshot is not consistent: %v", problems)
			}
			for _, r := range reports {
				for _, f := range r.Findings {
					if !knownCode(f.Code) {
						t.Fatalf("%s: code %s is not in the table", r.Object, f.Code)
					}
					if f.Code == projector.CodeInternal {
						t.Fatalf("%s: %s", r.Object, f.Message)
					}
				}
			}
			for _, typ := range projector.ResourceTypes {
				for r := range got.Snapshot.All(typ) {
					if typ != projector.Routes && typ != projector.EndpointNeeds && len(c.Sources(typ, r.Name)) == 0 && !impliedSecret(r.Name) {
						t.Fatalf("%s %s comes from no object", typ, r.Name)
					}
				}
			}
		}
	})
}

func impliedSecret(name string) bool {
	return name == "east/default/fallback-self-signed-cert/certificate" || name == "west/default/fallback-self-signed-cert/certificate"
}

func knownCode(c projector.Code) bool {
	return slices.ContainsFunc(projector.Codes, func(i projector.CodeInfo) bool { return i.Code == c })
}

func diffResults(got, want projector.Result) string {
	if got.Snapshot.Fingerprint() == want.Snapshot.Fingerprint() {
		if got.Routes != want.Routes {
			return fmt.Sprintf("%d routes counted, want %d", got.Routes, want.Routes)
		}
		return cmp.Diff(want.Kept, got.Kept)
	}
	out := ""
	for _, u := range projector.Diff(want.Snapshot, got.Snapshot) {
		out += fmt.Sprintf("%s %s:\n", u.Type, u.Name)
		for label, s := range map[string]*projector.Snapshot{"full": want.Snapshot, "incremental": got.Snapshot} {
			if r, ok := s.Get(u.Type, u.Name); ok {
				text, err := envoy.ToJSON(r, u.Type)
				out += fmt.Sprintf("  %s: %s %v\n", label, text, err)
			}
		}
	}
	return out
}

func (m *model) edit(t *rapid.T, c *compile.Compiler) {
	kind := rapid.SampledFrom([]string{
		"put", "put", "put", "put", "put", "put", "delete", "delete", "last good", "hold", "unhold", "refuse", "settings",
	}).Draw(t, "edit")
	o := drawObject(t)
	switch kind {
	case "put":
		m.seq++
		o.Seq, o.FirstSeq = m.seq, m.seq
		before := m.objects[o.Key]
		if before != nil && rapid.IntRange(0, 3).Draw(t, "same uid") > 0 {
			o.FirstSeq = before.FirstSeq
		}
		m.objects[o.Key] = o
		c.Apply([]projector.Change{{Key: o.Key, Before: before, After: o}})
	case "delete":
		keys := slices.SortedFunc(maps.Keys(m.objects), ledger.ObjectKey.Compare)
		if len(keys) == 0 {
			return
		}
		k := rapid.SampledFrom(keys).Draw(t, "deleted")
		c.Apply([]projector.Change{{Key: k, Before: m.objects[k]}})
		delete(m.objects, k)
	case "last good":
		m.overlay.LastGood[o.Key] = o
		c.SetOverlay(compile.OverlayChange{LastGood: map[ledger.ObjectKey]*projector.Object{o.Key: o}})
	case "hold":
		held := o
		if rapid.Bool().Draw(t, "held absent") {
			held = nil
		}
		m.overlay.Held[o.Key] = held
		c.SetOverlay(compile.OverlayChange{Hold: map[ledger.ObjectKey]*projector.Object{o.Key: held}})
	case "unhold":
		for _, k := range slices.SortedFunc(maps.Keys(m.overlay.Held), ledger.ObjectKey.Compare) {
			delete(m.overlay.Held, k)
			c.SetOverlay(compile.OverlayChange{Unhold: []ledger.ObjectKey{k}})
		}
	case "refuse":
		if now := m.objects[o.Key]; now != nil {
			r := projector.Refusal{Digest: now.Digest, Message: "no"}
			m.overlay.Refused[o.Key] = r
			c.SetOverlay(compile.OverlayChange{Refused: map[ledger.ObjectKey]projector.Refusal{o.Key: r}})
		}
	case "settings":
		m.settings.AmbassadorID = rapid.SampledFrom([]string{"default", "default", "other"}).Draw(t, "ambassador id")
		c.SetSettings(m.settings)
	}
}

// drawObject draws from a small world, so that everything meets everything.
func drawObject(t *rapid.T) *projector.Object {
	pick := func(label string, options ...string) string { return rapid.SampledFrom(options).Draw(t, label) }
	cluster := ledger.ClusterName(pick("cluster", "east", "east", "east", "west"))
	ns := pick("namespace", "default", "default", "apps")
	spec := map[string]any{}
	maybe := func(key string, values ...any) {
		if rapid.IntRange(0, 4).Draw(t, key) == 4 {
			spec[key] = rapid.SampledFrom(values).Draw(t, key+" value")
		}
	}
	maybe("ambassador_id", []any{"other"}, []any{"default", "other"})
	name := pick("name", "a", "b", "c")
	meta := map[string]any{"name": name, "namespace": ns}
	if rapid.Bool().Draw(t, "labelled") {
		meta["labels"] = map[string]any{"team": pick("team", "red", "blue")}
	}
	selector := map[string]any{"matchLabels": map[string]any{"team": "red"}}
	hostnames := []any{"*", "a.example.com", "b.example.com", "*.example.com", "a.*", "*le.com", "x.y.example.com", "a.example.com:8080"}
	kind := pick("kind", "Mapping", "Mapping", "Mapping", "Host", "Host", "Listener", "TLSContext", "Module", "Service", "Service", "Secret",
		"KubernetesEndpointResolver", "AuthService", "RateLimitService", "Annotated", "TCPMapping")
	group, version := "getambassador.io", "getambassador.io/v3alpha1"
	top := map[string]any{}
	switch kind {
	case "Mapping":
		fillMapping(t, spec, hostnames)
	case "Host":
		maybe("hostname", hostnames...)
		maybe("mappingSelector", selector, map[string]any{"matchExpressions": []any{map[string]any{"key": "a", "operator": "Exists"}}})
		maybe("tlsSecret", map[string]any{"name": "a"}, map[string]any{"name": "b", "namespace": "default"})
		maybe("tlsContext", map[string]any{"name": "a"})
		maybe("tls", map[string]any{"min_tls_version": "v1.2", "ca_secret": "c"})
		maybe("requestPolicy", map[string]any{"insecure": map[string]any{"action": "Route"}}, map[string]any{"insecure": map[string]any{"action": "Reject"}})
	case "Listener":
		spec["port"] = rapid.SampledFrom([]any{8080, 8443}).Draw(t, "port")
		spec["protocol"] = pick("protocol", "HTTP", "HTTPS", "HTTPS", "HTTPSPROXY", "TCP", "TLS")
		spec["securityModel"] = pick("model", "XFP", "XFP", "SECURE", "INSECURE")
		spec["hostBinding"] = map[string]any{"namespace": map[string]any{"from": pick("from", "ALL", "ALL", "SELF", "SELECTOR")}}
		maybe("l7Depth", 1)
		maybe("protocolStack", []any{"TLS", "HTTP", "UDP"}, []any{"PROXY", "TLS", "HTTP", "TCP"})
	case "TLSContext":
		maybe("secret", "a", "b.default")
		maybe("ca_secret", "c")
		maybe("hosts", []any{"a.example.com"})
		maybe("alpn_protocols", "h2,http/1.1")
	case "Module":
		meta["name"] = pick("module", "ambassador", "ambassador", "tls")
		config := map[string]any{}
		spec["config"] = config
		if rapid.Bool().Draw(t, "resolver") {
			config["resolver"] = pick("module resolver", "endpoint", "a", "none")
		}
		if rapid.Bool().Draw(t, "timeout") {
			config["cluster_request_timeout_ms"] = rapid.SampledFrom([]any{1000, "bad"}).Draw(t, "module timeout")
		}
		if rapid.Bool().Draw(t, "remote") {
			config["use_remote_address"] = rapid.Bool().Draw(t, "use remote address")
		}
		if rapid.Bool().Draw(t, "cors") {
			config["cors"] = map[string]any{"origins": []any{"http://a"}}
		}
	case "Service", "Annotated":
		group, version = "", "v1"
		maybe("clusterIP", "10.0.0.1", "10.0.0.2", "None")
		maybe("type", "ExternalName")
		spec["ports"] = []any{map[string]any{"port": rapid.SampledFrom([]any{80, 8080}).Draw(t, "service port"), "name": "http"}}
		if kind == "Annotated" {
			kind = "Service"
			doc := map[string]any{}
			fillMapping(t, doc, hostnames)
			b, err := json.Marshal(map[string]any{
				"apiVersion": "getambassador.io/v3alpha1", "kind": "Mapping",
				"metadata": map[string]any{"name": pick("annotated name", "a", "z")}, "spec": doc,
			})
			if err != nil {
				t.Fatal(err)
			}
			meta["annotations"] = map[string]any{"getambassador.io/config": string(b) + pick("tail", "", "\n---\nnot: [valid")}
		}
	case "Secret":
		group, version = "", "v1"
		keys := map[string]any{}
		for _, k := range []string{"tls.crt", "tls.key"} {
			if rapid.IntRange(0, 4).Draw(t, k) < 4 {
				keys[k] = "hmac-sha256:00"
			}
		}
		facts := map[string]any{"keys": keys}
		if rapid.IntRange(0, 4).Draw(t, "problem") == 4 {
			facts["problems"] = []any{"tls.key is not the key of the certificate in tls.crt"}
		}
		top["facts"], top["type"] = facts, "kubernetes.io/tls"
		if rapid.IntRange(0, 5).Draw(t, "fallback") == 5 {
			name = "fallback-self-signed-cert"
			meta["name"], meta["namespace"] = name, "default"
			ns = "default"
		}
	case "AuthService":
		spec["auth_service"] = pick("auth service", "a", "b:8080", "bad host")
		maybe("proto", "grpc", "http")
		maybe("protocol_version", "v3")
	case "RateLimitService":
		spec["service"] = pick("rate limit service", "a", "b:8080")
		maybe("domain", "other")
		spec["protocol_version"] = pick("rate limit version", "v3", "v3", "v2")
	case "TCPMapping":
		spec["port"], spec["service"] = 9000, "a"
	}
	top["apiVersion"], top["kind"], top["metadata"], top["spec"] = version, kind, meta, spec
	raw, err := json.Marshal(top)
	if err != nil {
		t.Fatal(err)
	}
	if rapid.IntRange(0, 30).Draw(t, "garbage") == 30 {
		raw = []byte(pick("garbage text", "{", "null", `{"kind":1}`, `{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping"}`))
	}
	return &projector.Object{
		Key: ledger.ObjectKey{Cluster: cluster, Group: group, Kind: kind, Namespace: ns, Name: meta["name"].(string)},
		Raw: raw, Digest: ledger.DigestOf(raw),
	}
}

func fillMapping(t *rapid.T, spec map[string]any, hostnames []any) {
	maybe := func(key string, values ...any) {
		if rapid.IntRange(0, 4).Draw(t, key) == 4 {
			spec[key] = rapid.SampledFrom(values).Draw(t, key+" value")
		}
	}
	spec["prefix"] = rapid.SampledFrom([]any{"/", "/a", "/a/", "/.well-known/acme-challenge/x"}).Draw(t, "prefix")
	spec["service"] = rapid.SampledFrom([]any{"a", "b", "a.default", "a.apps:8080", "https://a", "http://", "10.1.1.1:80", "localhost:1"}).Draw(t, "service")
	if rapid.IntRange(0, 4).Draw(t, "has hostname") < 4 {
		spec["hostname"] = rapid.SampledFrom(hostnames).Draw(t, "hostname")
	}
	maybe("host", "a.example.com", "a.*")
	maybe("host_regex", true)
	maybe("weight", 10, 50, 100, 120)
	maybe("prefix_regex", true)
	maybe("prefix_exact", true)
	maybe("method", "GET")
	maybe("headers", map[string]any{"x": "1"}, map[string]any{"x": "1", "y": "2"})
	maybe("precedence", 1, -1)
	maybe("shadow", true)
	maybe("host_redirect", true)
	maybe("tls", "a", "nope")
	maybe("resolver", "endpoint", "a", "nope")
	maybe("load_balancer", map[string]any{"policy": "round_robin"}, map[string]any{"policy": "ring_hash", "header": "x"})
	maybe("timeout_ms", 100, "bad")
	maybe("regex_rewrite", map[string]any{"pattern": "(", "substitution": "x"}, map[string]any{"pattern": "a", "substitution": "b"})
	maybe("add_request_headers", map[string]any{"x-a": map[string]any{"value": "1"}})
	maybe("bypass_auth", true)
	maybe("grpc", true)
	maybe("labels", map[string]any{"ambassador": []any{map[string]any{"g": []any{map[string]any{"remote_address": map[string]any{"key": "remote_address"}}}}}})
}
