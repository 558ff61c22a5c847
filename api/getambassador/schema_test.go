package getambassador_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/api/getambassador"
)

// A node is the published schema of one value, reduced to what decides whether
// a value is valid. testdata/schema.jsonl holds one per kind and version,
// taken from Emissary's CustomResourceDefinitions; v1 equals v2.
type node struct {
	Type          string           `json:"type"`
	Enum          []any            `json:"enum"`
	Required      []string         `json:"required"`
	Minimum       *int             `json:"minimum"`
	Maximum       *int             `json:"maximum"`
	MinItems      int              `json:"minItems"`
	MaxProperties int              `json:"maxProperties"`
	OneOf         []string         `json:"oneOf"`
	Open          bool             `json:"open"`
	Properties    map[string]*node `json:"properties"`
	Items         *node            `json:"items"`
	Values        *node            `json:"values"`
}

type kindSchema struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
	Spec    *node  `json:"spec"`
}

func loadSchemas(t *testing.T) []kindSchema {
	t.Helper()
	f, err := os.Open("testdata/schema.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []kindSchema
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var s kindSchema
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
		if s.Version == "v2" && s.Kind != "Host" {
			s.Version = "v1"
			out = append(out, s)
		}
	}
	if lines.Err() != nil || len(out) != 14+13+12 {
		t.Fatalf("read %d schemas: %v", len(out), lines.Err())
	}
	return out
}

// sample returns a value that uses every property of the schema. Where only
// one property may be set, pick chooses it.
func (n *node) sample(path string, pick int) any {
	switch {
	case len(n.Enum) > 0:
		for _, v := range n.Enum { // not one that equals the zero value
			if v != "" {
				return v
			}
		}
	case slices.Contains(n.OneOf, "array"):
		return []any{"one", "two"}
	case slices.Contains(n.OneOf, "boolean"), slices.Contains(n.OneOf, "object"):
		return "text"
	case n.Properties != nil:
		out := map[string]any{}
		names := slices.Sorted(maps.Keys(n.Properties))
		if n.MaxProperties == 1 {
			names = []string{names[pick%len(names)]}
		}
		for _, name := range names {
			out[name] = n.Properties[name].sample(path+"."+name, pick)
		}
		return out
	case n.Values != nil:
		return map[string]any{"some-key": n.Values.sample(path+"[some-key]", pick)}
	case n.Open || n.Type == "object":
		return map[string]any{"any": []any{json.Number("1"), "x", nil, true, json.Number("1.5")}}
	case n.Type == "array" && n.Items != nil:
		return []any{n.Items.sample(path+"[0]", pick)}
	case n.Type == "array":
		return []any{"one"}
	case n.Type == "boolean":
		return true
	case n.Type == "integer" && n.Minimum != nil:
		return json.Number(fmt.Sprint(*n.Minimum))
	case n.Type == "integer":
		return json.Number("7")
	}
	switch {
	case strings.HasSuffix(path, ".serviceScheme"):
		return "HTTPS://"
	case strings.HasSuffix(path, ".interval"), strings.HasSuffix(path, ".timeout"):
		return "5s"
	}
	return "text"
}

func object(s kindSchema, spec any) map[string]any {
	return map[string]any{
		"apiVersion": "getambassador.io/" + s.Version, "kind": s.Kind,
		"metadata": map[string]any{"name": "it", "namespace": "here"},
		"spec":     spec,
	}
}

// sample returns the kind's sample, without the second spelling of a field.
func (s kindSchema) sample(pick int) map[string]any {
	spec := s.Spec.sample("spec", pick).(map[string]any)
	delete(spec, "ambassadorId")
	return spec
}

// picks is how many alternatives the widest exactly-one choice has.
const picks = 5

// Every property of every published schema is read without a word, and what a
// v3alpha1 object said is all in what comes out.
func TestEveryPropertyIsRead(t *testing.T) {
	for _, s := range loadSchemas(t) {
		for pick := range picks {
			if s.Version != "v3alpha1" && pick > 0 {
				break
			}
			spec := s.sample(pick)
			in := object(s, spec)
			if s.Version != "v3alpha1" && s.Kind == "Mapping" {
				// The v2 schema leaves labels open; the goldens cover them.
				spec["labels"] = map[string]any{"d": []any{map[string]any{"g": []any{"x"}}}}
				for _, name := range []string{"add_request_headers", "add_response_headers"} {
					spec[name] = map[string]any{"x": "y"}
				}
			}
			obj, problems, err := getambassador.DecodeValue(in)
			if err != nil || len(problems) > 0 {
				t.Errorf("%s %s: %v %v", s.Kind, s.Version, err, problems)
				continue
			}
			if s.Version != "v3alpha1" {
				continue
			}
			if diff := cmp.Diff(generic(t, in), generic(t, obj)); diff != "" {
				t.Errorf("%s: what went in (-) and came out (+):\n%s", s.Kind, diff)
			}
		}
	}
}

// generic returns v as JSON reads it.
func generic(t *testing.T, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// damage is one way to break a sample: how, where, and what must be said.
type damage struct {
	path    string
	do      func()
	undo    func()
	message string
	// warning: the object stays valid.
	warning bool
}

// damages returns the ways to break the value that the schema n describes. get
// reads the value in place and set replaces it.
func damages(n *node, path string, get func() any, set func(any), out *[]damage) {
	value := get()
	replace := func(with any, message string) {
		*out = append(*out, damage{path: path, do: func() { set(with) }, undo: func() { set(value) }, message: message})
	}
	switch v := value.(type) {
	case map[string]any:
		replace("3s", "has string \"3s\"")
		replace([]any{}, "has a list")
		for _, name := range slices.Sorted(maps.Keys(v)) {
			child := n.Values
			at := fmt.Sprintf("%s[%s]", path, name)
			if p := n.Properties[name]; p != nil {
				child, at = p, path+"."+name
			}
			if child == nil {
				continue
			}
			damages(child, at, func() any { return v[name] }, func(x any) { v[name] = x }, out)
			if slices.Contains(n.Required, name) {
				was := v[name]
				*out = append(*out, damage{path: at, do: func() { delete(v, name) }, undo: func() { v[name] = was }, message: "is required"})
			}
		}
		if n.Properties != nil {
			*out = append(*out, damage{
				path: path + ".noSuchField", message: "has no effect", warning: true,
				do: func() { v["noSuchField"] = "x" }, undo: func() { delete(v, "noSuchField") },
			})
		}
		if n.MaxProperties == 1 {
			was := maps.Clone(v)
			*out = append(*out, damage{
				path: path, message: "wants exactly one", do: func() { clear(v) }, undo: func() { maps.Copy(v, was) },
			})
		}
	case []any:
		replace(map[string]any{}, "has an object")
		replace(json.Number("7"), "has number 7")
		if n.MinItems > 0 {
			replace([]any{}, "wants at least 1 item")
		}
		if n.Items != nil {
			for i := range v {
				damages(n.Items, fmt.Sprintf("%s[%d]", path, i), func() any { return v[i] }, func(x any) { v[i] = x }, out)
			}
		}
	case string:
		replace([]any{"x"}, "has a list")
		replace(json.Number("1.5"), "has number 1.5")
		if len(n.Enum) > 0 {
			replace("no-such-choice", "has \"no-such-choice\"")
		}
	case bool:
		replace("yes", "wants a boolean, has string \"yes\"")
	case json.Number, float64:
		replace("3s", "wants an integer, has string \"3s\"")
		replace(json.Number("1.5"), "wants an integer, has number 1.5")
		replace(json.Number("1e400"), "wants an integer")
		if len(n.Enum) > 0 {
			replace(json.Number("3"), "has 3")
		}
		if n.Maximum != nil {
			replace(json.Number(fmt.Sprint(*n.Maximum+1)), "wants ")
		}
		if n.Minimum != nil {
			replace(json.Number(fmt.Sprint(*n.Minimum-1)), "wants ")
		}
	}
}

// Every field of every kind and version is damaged in turn: what is said names
// that field, and nothing is said of any other.
func TestEveryDamageIsNamed(t *testing.T) {
	total := 0
	for _, s := range loadSchemas(t) {
		for pick := range picks {
			if s.Version != "v3alpha1" && pick > 0 {
				break
			}
			spec := s.sample(pick)
			in := object(s, spec)
			if s.Version != "v3alpha1" && s.Kind == "Mapping" {
				delete(spec, "labels")
			}
			var all []damage
			damages(s.Spec, "spec", func() any { return in["spec"] }, func(x any) { in["spec"] = x }, &all)
			for _, d := range all {
				d.do()
				obj, problems, err := getambassador.DecodeValue(in)
				d.undo()
				total++
				if len(problems) == 0 {
					t.Errorf("%s %s: %s: nothing said; want %q", s.Kind, s.Version, d.path, d.message)
					continue
				}
				for _, p := range problems {
					if p.Path != d.path || !strings.Contains(p.Message, d.message) {
						t.Errorf("%s %s: said %q; want %s: …%s…", s.Kind, s.Version, p, d.path, d.message)
					}
				}
				if valid := err == nil && obj != nil; valid != d.warning {
					t.Errorf("%s %s: %s: valid %v, want %v (%v)", s.Kind, s.Version, d.path, valid, d.warning, err)
				}
			}
		}
	}
	if total < 3000 {
		t.Errorf("only %d damages were tried", total)
	}
}
