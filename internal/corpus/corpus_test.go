package corpus_test

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/chancery-dev/chancery/internal/corpus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// writeCase writes a case's files below a folder of its own and loads it.
func writeCase(t *testing.T, resources, probes string) *corpus.Case {
	t.Helper()
	root := t.TempDir()
	writeFiles(t, filepath.Join(root, "planted"), map[string]string{"resources.yaml": resources, "probes.json": probes})
	cases, err := corpus.Load(root)
	if err != nil {
		t.Fatal(err)
	}
	return cases[0]
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newStage(t *testing.T, c *corpus.Case) *corpus.Stage {
	t.Helper()
	s, err := corpus.NewStage(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the stage: %v", err)
		}
	})
	return s
}

func TestLoadOurOwnCases(t *testing.T) {
	cases, err := corpus.Load("testdata")
	if err != nil {
		t.Fatal(err)
	}
	probes, quirks, byName := 0, 0, map[string]*corpus.Case{}
	for _, c := range cases {
		probes += len(c.Probes)
		byName[c.Name] = c
		if c.Feature == "" {
			t.Errorf("case %s says nothing of its feature in notes.md", c.Name)
		}
		if c.Quirk != "" {
			quirks++
		}
	}
	if len(cases) != 139 || probes != 377 || quirks != 11 {
		t.Errorf("loaded %d cases, %d probes and %d quirks; want 139, 377 and 11", len(cases), probes, quirks)
	}
	c := byName["cors-wildcard-origin"]
	if c == nil || c.Feature != "cors" || c.Quirk != "an origin with a wildcard inside matches nothing" {
		t.Errorf("cors-wildcard-origin: %+v", c)
	}
}

func TestLoadTheOtherCases(t *testing.T) {
	dir := os.Getenv(corpus.FolderVariable)
	if dir == "" {
		t.Logf("%s names no folder: only our own cases are loaded", corpus.FolderVariable)
		return
	}
	cases, err := corpus.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d cases in %s", len(cases), dir)
}

func TestLoadRefusesWhatWouldCheckLess(t *testing.T) {
	const good = `[{"name": "a", "method": "GET", "url": "http://x/", "connect": 8080, "expect": {"status": 200}}]`
	for _, c := range []struct{ name, probes, resources, want string }{
		{"unknown field", strings.Replace(good, "status", "statuss", 1), "", `unknown field "statuss"`},
		{"no expectation", `[{"name": "a", "url": "http://x/"}]`, "", "has no expectation"},
		{"no probe", `[]`, "", "no probe"},
		{"no scheme", strings.Replace(good, "http://", "", 1), "", "has no scheme"},
		{"not YAML", good, "kind: [", "resources.yaml"},
		{"wrong Service", good, "kind: Service\nspec: {ports: 80}\n", "Service"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			writeFiles(t, filepath.Join(root, "planted"), map[string]string{"resources.yaml": c.resources, "probes.json": c.probes})
			_, err := corpus.Load(root)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "planted") {
				t.Errorf("loaded with error %v, want the case's name and %q in it", err, c.want)
			}
		})
	}
	t.Run("no case", func(t *testing.T) {
		if _, err := corpus.Load(t.TempDir()); err == nil {
			t.Error("an empty folder loaded")
		}
	})
	t.Run("no objects", func(t *testing.T) {
		root := t.TempDir()
		writeFiles(t, filepath.Join(root, "planted"), map[string]string{"probes.json": good})
		if _, err := corpus.Load(root); err == nil {
			t.Error("a case without resources.yaml loaded")
		}
	})
}

const world = `
kind: Service
metadata: {name: alpha}
spec:
  clusterIP: 10.96.0.7
  ports: [{name: web, port: 80, targetPort: 8080}]
---
kind: Service
metadata: {name: alpha, namespace: other}
spec: {ports: [{name: web, port: 80, targetPort: web}, {port: 81}]}
---
kind: Service
metadata: {name: away}
spec: {externalName: away.example.com}
---
kind: Endpoints
metadata: {name: alpha, namespace: other}
subsets: [{addresses: [{ip: 10.1.0.1}], ports: [{name: web, port: 9001}, {port: 81}]}]
---
kind: EndpointSlice
metadata: {name: alpha-x7, labels: {kubernetes.io/service-name: alpha}}
endpoints: [{addresses: [10.1.0.2]}]
ports: [{port: 8080}]
---
kind: Secret
metadata: {name: ignored}
`

const anyProbe = `[{"name": "a", "method": "GET", "url": "http://x/", "connect": 8080, "expect": {"status": 200}}]`

// TestBackendNames asks each backend itself what it stands for.
func TestBackendNames(t *testing.T) {
	type identity struct {
		Backend string `json:"backend"`
		Port    int    `json:"port"`
	}
	stage := newStage(t, writeCase(t, world, anyProbe))
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		host string
		port int
		want identity
	}{
		{"alpha", 80, identity{"alpha.default", 80}},
		{"alpha.other", 80, identity{"alpha.other", 80}},
		{"alpha.other.svc", 80, identity{"alpha.other", 80}},
		{"alpha.other.svc.cluster.local.", 80, identity{"alpha.other", 80}},
		{"10.96.0.7", 80, identity{"alpha.default", 80}},
		{"away.example.com", 443, identity{"away.default", 443}},
		{"10.1.0.1", 9001, identity{"alpha.other", 80}},
		{"10.1.0.1", 81, identity{"alpha.other", 81}},
		{"10.1.0.2", 8080, identity{"alpha.default", 80}},
		{"10.1.0.2", 8081, identity{"10.1.0.2", 8081}},
		{"example.org", 80, identity{"example.org", 80}},
	} {
		address, err := stage.Backend(c.host, c.port)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := stage.Backend(c.host, c.port); err != nil || again != address {
			t.Errorf("backend of %s:%d moved from %s to %s, %v", c.host, c.port, address, again, err)
		}
		resp, err := client.Get("http://" + address)
		if err != nil {
			t.Fatal(err)
		}
		var got identity
		err = json.NewDecoder(resp.Body).Decode(&got)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("backend of %s:%d (-want +got):\n%s", c.host, c.port, diff)
		}
	}
}

func TestStagesDoNotShareAnAddress(t *testing.T) {
	c := writeCase(t, world, anyProbe)
	a, b := newStage(t, c), newStage(t, c)
	if a.Address(8080) == b.Address(8080) {
		t.Errorf("two stages listen on %s", a.Address(8080))
	}
}
