package getambassador_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/api/getambassador"
)

func TestDecodeErrors(t *testing.T) {
	for name, test := range map[string]struct {
		raw  string
		want error
	}{
		"empty":          {"", getambassador.ErrMalformed},
		"null":           {"null", getambassador.ErrMalformed},
		"list":           {"[]", getambassador.ErrMalformed},
		"cut":            {`{"kind":`, getambassador.ErrMalformed},
		"two objects":    {`{"kind":"Host"} {}`, getambassador.ErrMalformed},
		"nothing said":   {`{}`, getambassador.ErrNotOurs},
		"types of types": {`{"apiVersion":1,"kind":{}}`, getambassador.ErrNotOurs},
		"other kind":     {`{"apiVersion":"getambassador.io/v2","kind":"Pod"}`, getambassador.ErrNotOurs},
		"x group":        {`{"apiVersion":"x.getambassador.io/v2","kind":"Host"}`, getambassador.ErrNotOurs},
		"no name":        {`{"apiVersion":"getambassador.io/v2","kind":"Host"}`, getambassador.ErrInvalid},
		"bad metadata":   {`{"apiVersion":"getambassador.io/v2","kind":"Host","metadata":3}`, getambassador.ErrInvalid},
	} {
		obj, _, err := getambassador.Decode([]byte(test.raw))
		if !errors.Is(err, test.want) || obj != nil {
			t.Errorf("%s: got %v, %v; want %v", name, obj, err, test.want)
		}
	}
}

// An object with thousands of mistakes gets a bounded number of lines, and is
// refused even if all of those shown are warnings.
func TestProblemsAreBounded(t *testing.T) {
	spec := map[string]any{"hostname": "*", "service": "web", "prefix": json.Number("1")}
	for i := range 2000 {
		spec[fmt.Sprintf("a%d", i)] = strings.Repeat("x", 1000)
	}
	obj, problems, err := getambassador.DecodeValue(map[string]any{
		"apiVersion": "getambassador.io/v3alpha1", "kind": "Mapping",
		"metadata": map[string]any{"name": "it"}, "spec": spec,
	})
	if !errors.Is(err, getambassador.ErrInvalid) || obj != nil || len(problems) > 60 {
		t.Fatalf("got %v, %d problems, %v", obj, len(problems), err)
	}
	last := problems[len(problems)-1]
	if want := "and 1951 more problems, 1 of them errors"; last.Message != want || last.Severity != getambassador.Error {
		t.Errorf("the last problem is %s %q; want error %q", last.Severity, last, want)
	}
}

func TestDeepConfigIsRefused(t *testing.T) {
	for depth, valid := range map[int]bool{40: true, 400: false} {
		raw := `{"apiVersion":"getambassador.io/v2","kind":"Module","metadata":{"name":"ambassador"},"spec":{"config":` +
			strings.Repeat(`{"a":`, depth) + `1` + strings.Repeat(`}`, depth) + `}}`
		if _, problems, err := getambassador.Decode([]byte(raw)); (err == nil) != valid {
			t.Errorf("depth %d: %v %v", depth, problems, err)
		}
	}
}

// DecodeValue takes numbers as any of Go's JSON readers gives them, and
// neither changes nor keeps what it was given.
func TestDecodeValueLeavesItsInput(t *testing.T) {
	for _, number := range []any{json.Number("7"), json.Number("7.0"), json.Number("0.7e1"), float64(7), int64(7), 7} {
		in := map[string]any{
			"apiVersion": "getambassador.io/v2", "kind": "Module",
			"metadata": map[string]any{"name": "ambassador", "labels": map[string]any{"a": "b"}, "generation": number},
			"spec":     map[string]any{"ambassador_id": []any{"--apiVersion-v3alpha1-only--x"}, "config": map[string]any{"list": []any{number}}},
		}
		before := fmt.Sprint(in)
		obj, problems, err := getambassador.DecodeValue(in)
		if err != nil || len(problems) > 0 {
			t.Fatalf("%T: %v %v", number, problems, err)
		}
		module := obj.(*getambassador.Module)
		if got := module.Spec.Config["list"].([]any)[0]; got != int64(7) || module.Generation != 7 {
			t.Errorf("%T: the number became %T %v, the generation %d", number, got, got, module.Generation)
		}
		module.Labels["a"] = "changed"
		module.Spec.Config["list"].([]any)[0] = "changed"
		module.Spec.AmbassadorID[0] = "changed"
		if after := fmt.Sprint(in); after != before {
			t.Errorf("the input was\n%s\nand is\n%s", before, after)
		}
	}
}

func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range loadSchemas(t) {
		seen[s.Kind] = true
	}
	for _, kind := range getambassador.Kinds() {
		if !seen[kind] {
			t.Errorf("kind %s has no published schema", kind)
		}
		delete(seen, kind)
	}
	if len(seen) > 0 {
		t.Errorf("kinds without a type: %v", seen)
	}
}

func TestDescribe(t *testing.T) {
	host := &getambassador.Host{TypeMeta: getambassador.TypeMeta{Kind: "Host"}}
	if got := getambassador.Describe(host); got != "Host (no name)" {
		t.Errorf("got %q", got)
	}
	host.Name, host.Namespace = "web", "shop"
	if got := getambassador.Describe(host); got != "Host shop/web" {
		t.Errorf("got %q", got)
	}
}

// checkDecode decodes raw and checks what must hold whatever it is: the error
// agrees with the problems, the answer is the same again, and a valid object
// written out reads as itself without a word.
func checkDecode(t interface {
	Helper()
	Fatalf(string, ...any)
}, raw []byte,
) {
	t.Helper()
	obj, problems, err := getambassador.Decode(raw)
	again, problemsAgain, errAgain := getambassador.Decode(raw)
	if !reflect.DeepEqual(obj, again) || !reflect.DeepEqual(problems, problemsAgain) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		t.Fatalf("two answers:\n%v %v %v\n%v %v %v", obj, problems, err, again, problemsAgain, errAgain)
	}
	errs := 0
	for _, p := range problems {
		if p.Severity == getambassador.Error {
			errs++
		}
		if p.Message == "" || len(p.Message) > 400 {
			t.Fatalf("a problem of %d bytes: %.500s", len(p.Message), p)
		}
	}
	if (errs > 0) != errors.Is(err, getambassador.ErrInvalid) || (err != nil) != (obj == nil) {
		t.Fatalf("%d errors, object %v, error %v", errs, obj, err)
	}
	if err != nil {
		return
	}
	_ = obj.AmbassadorIDs()
	_ = getambassador.SecretRefs(obj)
	written, err := json.Marshal(obj)
	if err != nil {
		t.Fatalf("a valid object does not marshal: %v", err)
	}
	reread, problems, err := getambassador.Decode(written)
	if err != nil || len(problems) > 0 {
		t.Fatalf("%s\nreads as %v %v", written, problems, err)
	}
	if diff := cmp.Diff(obj, reread); diff != "" {
		t.Fatalf("written and read again:\n%s", diff)
	}
}

// seeds returns the documents of every golden, as JSON.
func seeds(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, text := range archives(t, "testdata/convert/*.txtar") {
		for document := range strings.SplitSeq(text, "---\n") {
			raw, err := yaml.YAMLToJSON([]byte(document))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, raw)
		}
	}
	return out
}

// archives returns in.yaml of each archive.
func archives(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	var out []string
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(txtar.Parse(data).Files[0].Data))
	}
	return out
}

func FuzzDecode(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { checkDecode(t, raw) })
}

func FuzzFromAnnotations(f *testing.F) {
	for _, text := range archives(f, "testdata/annotation/*.txtar") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		parent := getambassador.Parent{Kind: "Service", Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web"}}
		found, problems := getambassador.FromAnnotations(parent, text)
		again, problemsAgain := getambassador.FromAnnotations(parent, text)
		if diff := cmp.Diff(found, again); diff != "" || !reflect.DeepEqual(problems, problemsAgain) {
			t.Fatalf("two answers:\n%s\n%v\n%v", diff, problems, problemsAgain)
		}
		seen := map[int]bool{}
		for _, raw := range found {
			if raw.Document < 1 || seen[raw.Document] || raw.Name == "" {
				t.Fatalf("found %+v", raw)
			}
			seen[raw.Document] = true
			checkDecode(t, raw.JSON)
			obj, _, err := getambassador.Decode(raw.JSON)
			if err == nil && (obj.Meta().Name != raw.Name || obj.Meta().Namespace != raw.Namespace || obj.ObjectKind() != raw.Kind) {
				t.Fatalf("found %+v, decoded %s", raw, getambassador.Describe(obj))
			}
		}
		for _, p := range problems {
			if p.Message == "" || seen[p.Document] {
				t.Fatalf("problem %+v", p)
			}
			seen[p.Document] = true
		}
	})
}

// Any JSON at all in any place of an object is answered, never a panic.
func TestAnyJSONIsAnswered(t *testing.T) {
	schemas := loadSchemas(t)
	scalar := rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.Int64(), func(n int64) any { return n }),
		rapid.Map(rapid.Float64(), func(n float64) any { return n }),
		rapid.Map(rapid.String(), func(s string) any { return s }),
	)
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(schemas).Draw(t, "schema")
		in := object(s, s.sample(rapid.IntRange(0, picks-1).Draw(t, "pick")))
		for range rapid.IntRange(1, 4).Draw(t, "mutations") {
			mutate(t, in, scalar)
		}
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatalf("the mutated object is not JSON: %v", err)
		}
		checkDecode(t, raw)
		if _, _, err := getambassador.Decode(raw); err != nil {
			refused++
		}
	})
	if refused == 0 {
		t.Error("no mutation made an object invalid")
	}
}

// mutate replaces, adds or removes one value somewhere below v.
func mutate(t *rapid.T, v any, scalar *rapid.Generator[any]) {
	for {
		var child any
		var set func(any)
		switch v := v.(type) {
		case map[string]any:
			key := rapid.SampledFrom(append(sortedKeys(v), "new")).Draw(t, "key")
			child, set = v[key], func(x any) { v[key] = x }
			if rapid.IntRange(0, 9).Draw(t, "remove") == 0 {
				delete(v, key)
				return
			}
		case []any:
			if len(v) == 0 {
				return
			}
			i := rapid.IntRange(0, len(v)-1).Draw(t, "index")
			child, set = v[i], func(x any) { v[i] = x }
		}
		_, isMap := child.(map[string]any)
		_, isList := child.([]any)
		if !isMap && !isList || rapid.IntRange(0, 5).Draw(t, "stop") == 0 {
			x := scalar.Draw(t, "value")
			switch rapid.IntRange(0, 4).Draw(t, "wrap") {
			case 0:
				x = []any{x}
			case 1:
				x = map[string]any{rapid.String().Draw(t, "new key"): x}
			}
			set(x)
			return
		}
		v = child
	}
}

func sortedKeys(m map[string]any) []string {
	return slices.Sorted(maps.Keys(m))
}

func BenchmarkDecode(b *testing.B) {
	for _, seed := range []struct{ name, raw string }{
		{"mapping", `{"apiVersion":"getambassador.io/v3alpha1","kind":"Mapping","metadata":{"name":"web","namespace":"shop","labels":{"app":"web"}},"spec":{"hostname":"shop.example.com","prefix":"/web/","service":"web:8080","timeout_ms":3000,"retry_policy":{"retry_on":"5xx","num_retries":2},"add_request_headers":{"x-one":{"value":"1"}}}}`},
		{"mapping-v2", `{"apiVersion":"getambassador.io/v2","kind":"Mapping","metadata":{"name":"web","namespace":"shop"},"spec":{"host":"shop.example.com","prefix":"/web/","service":"web:8080","tls":true,"headers":{"x":true}}}`},
	} {
		b.Run(seed.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := getambassador.Decode([]byte(seed.raw)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
