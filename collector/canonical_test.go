package collector_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/collector"
)

func decode(t testing.TB, text string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var obj map[string]any
	if err := d.Decode(&obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

func TestCanonical(t *testing.T) {
	obj := decode(t, `{
		"kind": "Mapping", "apiVersion": "getambassador.io/v2",
		"metadata": {
			"name": "web", "uid": "u-1", "resourceVersion": "42", "generation": 7, "selfLink": "/x",
			"creationTimestamp": "2024-01-02T03:04:05Z", "managedFields": [{"manager": "x"}],
			"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "b": "2", "a": "1"}
		},
		"spec": {"z": 9007199254740993, "y": -0, "x": 1.50, "w": 1e3, "v": 0.1, "u": "a<b>\n\"ü", "t": [null, true, {}]},
		"status": {"state": "Running"}
	}`)
	before := fmt.Sprint(obj)
	got, facts, err := collector.Canonical(obj)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"apiVersion":"getambassador.io/v2","kind":"Mapping","metadata":{"annotations":{"a":"1","b":"2"},` +
		`"creationTimestamp":"2024-01-02T03:04:05Z","name":"web","namespace":"default"},` +
		`"spec":{"t":[null,true,{}],"u":"a<b>\n\"ü","v":0.1,"w":1000,"x":1.5,"y":0,"z":9007199254740993}}`
	if d := cmp.Diff(want, string(got)); d != "" {
		t.Errorf("canonical form (-want +got):\n%s", d)
	}
	if d := cmp.Diff(collector.Facts{UID: "u-1", ResourceVersion: "42", Generation: 7}, facts); d != "" {
		t.Errorf("facts (-want +got):\n%s", d)
	}
	if fmt.Sprint(obj) != before {
		t.Error("the object was changed")
	}
	again, _, err := collector.Canonical(decode(t, string(got)))
	if err != nil || string(again) != string(got) {
		t.Errorf("the canonical form of the canonical form is %s, %v", again, err)
	}
}

func TestCanonicalBounds(t *testing.T) {
	deep := any("x")
	for range 200 {
		deep = []any{deep}
	}
	for name, c := range map[string]struct {
		edit func(obj, meta map[string]any)
		want string
	}{
		"deep":            {func(o, _ map[string]any) { o["spec"] = deep }, "nested more than 100 deep"},
		"large":           {func(o, _ map[string]any) { o["spec"] = strings.Repeat("x", 1<<20) }, "larger than 1048576 bytes"},
		"large in pieces": {func(o, _ map[string]any) { o["spec"] = slice(strings.Repeat("x", 1000), 1100) }, "larger than 1048576 bytes"},
		"not UTF-8":       {func(o, _ map[string]any) { o["spec"] = "a\xff" }, "is not UTF-8"},
		"control":         {func(o, _ map[string]any) { o["spec"] = "a\x1b[31m" }, "control character"},
		"control in key":  {func(o, _ map[string]any) { o["spec"] = map[string]any{"a\x00": 1} }, "control character"},
		"long name":       {func(_, m map[string]any) { m["name"] = strings.Repeat("n", 254) }, "has 254 bytes, at most 253"},
		"slash in name":   {func(_, m map[string]any) { m["name"] = "a/b" }, "a character that a name cannot have"},
		"name not text":   {func(_, m map[string]any) { m["name"] = json.Number("5") }, "metadata.name is missing or not a string"},
		"no name":         {func(_, m map[string]any) { delete(m, "name") }, "metadata.name is missing"},
		"namespace":       {func(_, m map[string]any) { m["namespace"] = true }, "metadata.namespace is not a string"},
		"metadata":        {func(o, _ map[string]any) { o["metadata"] = "web" }, "metadata is missing or not a map"},
		"no kind":         {func(o, _ map[string]any) { delete(o, "kind") }, "kind is missing"},
		"labels":          {func(_, m map[string]any) { m["labels"] = map[string]any{"a": true} }, `metadata.labels: the value of "a" is not a string`},
		"annotations":     {func(_, m map[string]any) { m["annotations"] = []any{} }, "metadata.annotations: not a map"},
		"generation":      {func(_, m map[string]any) { m["generation"] = json.Number("1.5") }, "metadata.generation is not a whole number"},
		"number":          {func(o, _ map[string]any) { o["spec"] = json.Number("1e999") }, "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			obj := aMapping()
			c.edit(obj, obj["metadata"].(map[string]any))
			_, _, err := collector.Canonical(obj)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if len(err.Error()) > 500 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func slice(v any, n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = v
	}
	return out
}

func aMapping() map[string]any {
	return map[string]any{
		"apiVersion": "getambassador.io/v3alpha1", "kind": "Mapping",
		"metadata": map[string]any{"name": "web"}, "spec": map[string]any{"prefix": "/"},
	}
}

func TestNormalise(t *testing.T) {
	n := collector.Normaliser{Cluster: "east", DigestKey: []byte("k")}
	object := func(apiVersion, kind string, meta map[string]any) map[string]any {
		m := map[string]any{"name": "x"}
		maps.Copy(m, meta)
		return map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": m}
	}
	for name, c := range map[string]struct {
		obj   map[string]any
		key   string // "" for ignored
		err   string
		actor string
	}{
		"mapping":        {obj: object("getambassador.io/v1", "Mapping", nil), key: "east:Mapping.getambassador.io/default/x", actor: "file:me"},
		"service":        {obj: object("v1", "Service", map[string]any{"namespace": "shop"}), key: "east:Service/shop/x", actor: "file:me"},
		"ingress class":  {obj: object("networking.k8s.io/v1", "IngressClass", map[string]any{"namespace": "ignored"}), key: "east:IngressClass.networking.k8s.io/_/x", actor: "file:me"},
		"unknown kind":   {obj: object("getambassador.io/v2", "Mappping", nil), err: `getambassador.io has no kind "Mappping"`},
		"other group":    {obj: object("apps/v1", "Deployment", nil)},
		"config map":     {obj: object("v1", "ConfigMap", nil)},
		"endpoint slice": {obj: object("discovery.k8s.io/v1", "EndpointSlice", nil)},
		"argo": {obj: object("v1", "Service", map[string]any{"annotations": map[string]any{
			"argocd.argoproj.io/tracking-id": "shop:/Service:default/x",
		}}), key: "east:Service/default/x", actor: "gitops:argocd/shop"},
		"flux": {obj: object("v1", "Service", map[string]any{"labels": map[string]any{
			"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system",
		}, "managedFields": []any{map[string]any{"manager": "kustomize-controller", "time": "2024-01-01T00:00:00Z"}}}), key: "east:Service/default/x", actor: "gitops:flux/flux-system/apps"},
		"helm, then by hand": {obj: object("v1", "Service", map[string]any{
			"annotations": map[string]any{"meta.helm.sh/release-name": "shop"},
			"managedFields": []any{
				map[string]any{"manager": "helm", "time": "2024-01-01T00:00:00Z"},
				map[string]any{"manager": "kubectl-edit", "time": "2024-02-01T00:00:00Z"},
				map[string]any{"manager": "controller", "subresource": "status", "time": "2024-03-01T00:00:00Z"},
			},
		}), key: "east:Service/default/x", actor: "managed-fields:kubectl-edit"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := n.Normalise(c.obj, "a.yaml", "me")
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want one with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var key, actor string
			if o != nil {
				key, actor = o.Key.String(), o.Actor.Source+":"+o.Actor.Name
			}
			if key != c.key || actor != c.actor {
				t.Errorf("%q by %q, want %q by %q", key, actor, c.key, c.actor)
			}
		})
	}
}

func FuzzCanonical(f *testing.F) {
	f.Add(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"x":[1,2.5,"é",null]}}`)
	f.Add(`{"apiVersion":"getambassador.io/v2","kind":"Mapping","metadata":{"name":"a","labels":{"b":"c"}},"spec":{"x":-0e1}}`)
	f.Fuzz(func(t *testing.T, text string) {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var obj map[string]any
		if d.Decode(&obj) != nil {
			return
		}
		b, _, err := collector.Canonical(obj)
		if err != nil {
			return
		}
		again, _, err := collector.Canonical(decode(t, string(b)))
		if err != nil || string(again) != string(b) {
			t.Errorf("not stable: %s, then %s (%v)", b, again, err)
		}
	})
}
