package getambassador_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/api/getambassador"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// Each file of testdata/convert holds objects as they were written (in.yaml),
// and for each what it is in v3alpha1 and what was said of it (out.yaml).
func TestConvert(t *testing.T) {
	golden(t, "testdata/convert/*.txtar", func(t *testing.T, in []byte) string {
		var out strings.Builder
		for i, document := range bytes.Split(in, []byte("---\n")) {
			raw, err := yaml.YAMLToJSON(document)
			if err != nil {
				t.Fatalf("document %d: %v", i+1, err)
			}
			if i > 0 {
				out.WriteString("---\n")
			}
			show(t, &out, raw)
		}
		return out.String()
	})
}

// Each file of testdata/annotation holds the text of an annotation (in.yaml)
// of the Service web of namespace shop, and what was found in it (out.yaml).
func TestAnnotations(t *testing.T) {
	parent := getambassador.Parent{Kind: "Service", Namespace: "shop", Name: "web", Labels: map[string]string{"app": "web"}}
	golden(t, "testdata/annotation/*.txtar", func(t *testing.T, in []byte) string {
		var out strings.Builder
		found, problems := getambassador.FromAnnotations(parent, string(in))
		for _, raw := range found {
			fmt.Fprintf(&out, "---\n# %s, document %d: %s %s %s/%s\n", raw.Origin, raw.Document, raw.APIVersion, raw.Kind, raw.Namespace, raw.Name)
			show(t, &out, raw.JSON)
		}
		for _, p := range problems {
			fmt.Fprintf(&out, "# %s\n", p)
		}
		return out.String()
	})
	if parent.Labels["app"] != "web" || len(parent.Labels) != 1 {
		t.Errorf("the parent's labels are now %v", parent.Labels)
	}
}

// show writes what Decode makes of one object.
func show(t *testing.T, out *strings.Builder, raw []byte) {
	t.Helper()
	obj, problems, err := getambassador.Decode(raw)
	for _, p := range problems {
		fmt.Fprintf(out, "# %s: %s\n", p.Severity, p)
	}
	if err != nil {
		fmt.Fprintf(out, "# refused: %v\n", err)
		return
	}
	text, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(text)
}

// golden runs f on in.yaml of each archive and compares with its out.yaml.
func golden(t *testing.T, pattern string, f func(t *testing.T, in []byte) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %d files, %v", pattern, len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Files) == 0 || archive.Files[0].Name != "in.yaml" {
				t.Fatal("the first file is not in.yaml")
			}
			got := f(t, archive.Files[0].Data)
			if *update {
				archive.Files = append(archive.Files[:1], txtar.File{Name: "out.yaml", Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if len(archive.Files) != 2 {
				t.Fatal("there is no out.yaml; run with -update and read what it writes")
			}
			if diff := cmp.Diff(string(archive.Files[1].Data), got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}
