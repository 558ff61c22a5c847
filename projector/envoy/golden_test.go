package envoy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden is the input of a golden file: the ir by the names of its Go fields
// (durations in nanoseconds), and what to write beside the resources.
type golden struct {
	config
	Taste bool              // write what a taster gets
	ADS   *envoy.ADSOptions // write the bootstrap of an Envoy with an edge
}

// TestGolden compares what is written for each testdata/*.txtar: "in.json" is
// the input, the other files are what is wanted. The real Envoy judges each.
func TestGolden(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 4 {
		t.Fatalf("golden files: %v %v", paths, err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { testGolden(t, path) })
	}
}

func testGolden(t *testing.T, path string) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(archive.Files) == 0 || archive.Files[0].Name != "in.json" {
		t.Fatal("the first file is not in.json")
	}
	in := golden{}
	d := json.NewDecoder(bytes.NewReader(archive.Files[0].Data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		t.Fatal(err)
	}
	got := &txtar.Archive{Comment: archive.Comment, Files: archive.Files[:1:1]}
	add := func(name string, b []byte, err error) {
		if err != nil {
			t.Fatal(err)
		}
		got.Files = append(got.Files, txtar.File{Name: name, Data: b})
	}
	updates, err := write(in.config)
	if err != nil {
		t.Fatal(err)
	}
	if in.Taste {
		if updates, err = envoy.Tasteable(updates); err != nil {
			t.Fatal(err)
		}
	}
	for _, u := range updates {
		b, err := envoy.ToJSON(*u.Resource, u.Type)
		add(fmt.Sprintf("%s/%s.json", u.Type, u.Name), b, err)
	}
	switch {
	case in.ADS != nil:
		b, err := envoy.BootstrapADS(*in.ADS)
		add("bootstrap.json", b, err)
		mustValidate(t, b)
	default:
		endpoints, secrets := live(in.config)
		b, err := envoy.BootstrapStatic(projector.EmptySnapshot().With(updates), endpoints, secrets, envoy.StaticOptions{})
		if err != nil {
			t.Fatal(err)
		}
		mustValidate(t, withSystemCA(t, b))
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
		t.Errorf("want (-), got (+); if it is meant, run make golden:\n%s", diff)
	}
}
