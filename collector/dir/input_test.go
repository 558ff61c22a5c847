package dir_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/collector/dir"
)

func mapping(name, prefix string) string {
	return fmt.Sprintf("apiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {name: %s}\nspec:\n  hostname: '*'\n  prefix: %s\n  service: echo\n", name, prefix)
}

// names returns what was read, as "Kind name", sorted.
func names(c dir.Contents) []string {
	var out []string
	for _, o := range c.Objects {
		out = append(out, o.ID.Kind+" "+o.ID.Namespace+"/"+o.ID.Name)
	}
	slices.Sort(out)
	return out
}

func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		files    map[string]string
		objects  []string
		findings []string // each a part of one finding, in order
	}{
		"documents": {
			files:   map[string]string{"a.yaml": "# nothing\n---\n" + mapping("a", "/") + "--- # next\n" + mapping("b", "/") + "...\n---\n\n---\n"},
			objects: []string{"Mapping default/a", "Mapping default/b"},
		},
		"a marker within a text": {
			files:   map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\n  annotations:\n    getambassador.io/config: |\n      ---\n      kind: Mapping\n"},
			objects: []string{"Service default/s"},
		},
		"windows": {
			files:   map[string]string{"a.yml": "\xef\xbb\xbf" + strings.ReplaceAll(mapping("a", "/")+"---\n"+mapping("b", "/"), "\n", "\r\n")},
			objects: []string{"Mapping default/a", "Mapping default/b"},
		},
		"json": {
			files:   map[string]string{"a.json": `{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"}} {"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"n"}}]}`},
			objects: []string{"Namespace /n", "Service default/s"},
		},
		"a list": {
			files:   map[string]string{"a.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: s}}\n- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e}, endpoints: []}\n"},
			objects: []string{"EndpointSlice default/e", "Service default/s"},
		},
		"below": {
			files:   map[string]string{"x/y/a.yaml": mapping("a", "/"), ".hidden/b.yaml": mapping("b", "/"), ".c.yaml": mapping("c", "/"), "notes.txt": "x", "kustomization.yaml": "resources: [a.yaml]"},
			objects: []string{"Mapping default/a"},
		},
		"one document does not parse": {
			files:    map[string]string{"a.yaml": mapping("a", "/") + "---\nkind: [\n---\n" + mapping("b", "/"), "b.yaml": mapping("c", "/")},
			objects:  []string{"Mapping default/a", "Mapping default/b", "Mapping default/c"},
			findings: []string{"a.yaml, document 2: is not YAML"},
		},
		"wrong types": {
			files:    map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: web\n---\n- a\n---\ntext\n---\napiVersion: 5\nkind: Service\n---\napiVersion: v1\nkind: Service\nmetadata: {name: 7}\n"},
			findings: []string{"document 1: Service: metadata is missing or not a map", "document 2: is not an object", "document 3: is not an object", "document 4: apiVersion", "document 5: Service: metadata.name"},
		},
		"the same twice": {
			files:    map[string]string{"a.yaml": mapping("a", "/first") + "---\n" + mapping("a", "/second"), "b.yaml": mapping("a", "/third")},
			objects:  []string{"Mapping default/a"},
			findings: []string{"a.yaml, document 2: getambassador.io/Mapping default/a stands in document 1 already", "b.yaml: getambassador.io/Mapping default/a is in a.yaml too"},
		},
		"a key twice": {
			files:    map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nkind: Service\nmetadata: {name: a}\n"},
			findings: []string{"already set"},
		},
		"another's kinds": {
			files:   map[string]string{"a.yaml": "apiVersion: example.com/v1\nkind: Thing\nmetadata: {}\n---\n" + mapping("a", "/")},
			objects: []string{"Mapping default/a"},
		},
		"a bomb": {
			files:    map[string]string{"a.yaml": bomb(), "b.yaml": mapping("b", "/")},
			objects:  []string{"Mapping default/b"},
			findings: []string{"a.yaml, document 1: is not YAML"},
		},
		"nested": {
			files:    map[string]string{"a.yaml": strings.Repeat("[", 50_000), "b.yaml": mapping("b", "/")},
			objects:  []string{"Mapping default/b"},
			findings: []string{"a.yaml, document 1: is not YAML"},
		},
		"large": {
			files:    map[string]string{"a.yaml": "# " + strings.Repeat("x", dir.MaxFileBytes), "b.yaml": mapping("b", "/")},
			objects:  []string{"Mapping default/b"},
			findings: []string{"a.yaml: cannot be read: 16777218 bytes, more than 16777216; split it"},
		},
		"binary": {
			files:    map[string]string{"a.yaml": "\x00\x01\x02", "b.json": "\xff{"},
			findings: []string{"a.yaml, document 1: is not YAML", "b.json, document 1: is not JSON"},
		},
		"nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range c.files {
				put(t, filepath.Join(root, file), content)
			}
			got, err := dir.Read(root)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.objects, names(got)); d != "" {
				t.Errorf("objects (-want +got):\n%s", d)
			}
			if len(got.Report.Findings) != len(c.findings) {
				t.Fatalf("findings %v, want %d", got.Report.Findings, len(c.findings))
			}
			for i, f := range got.Report.Findings {
				if text := f.Where + ": " + f.Message; !strings.Contains(text, c.findings[i]) {
					t.Errorf("finding %q, want one with %q", text, c.findings[i])
				}
			}
		})
	}
	if _, err := dir.Read(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Error("a directory that is not there is read")
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

// view is what a watch has told, put together.
type view struct {
	t       *testing.T
	changes chan dir.Change
	objects map[string]string // name → prefix
	report  collector.Report
	full    int
}

func watch(t *testing.T, root string) *view {
	t.Helper()
	v := &view{t: t, changes: make(chan dir.Change, 1000), objects: map[string]string{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- dir.Watch(ctx, root, dir.Timing{}, func(c dir.Change) { v.changes <- c }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return v
}

// until waits until the view is as wanted.
func (v *view) until(objects map[string]string, findings ...string) {
	v.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		var texts []string
		for _, f := range v.report.Findings {
			texts = append(texts, f.Where+": "+f.Message)
		}
		ok := cmp.Equal(objects, v.objects) && len(texts) == len(findings)
		for i := range findings {
			ok = ok && strings.Contains(texts[i], findings[i])
		}
		if ok {
			return
		}
		select {
		case c := <-v.changes:
			v.apply(c)
		case <-deadline:
			v.t.Fatalf("objects %v, findings %q; want %v, %q", v.objects, texts, objects, findings)
		}
	}
}

func (v *view) apply(c dir.Change) {
	if c.Full {
		v.full++
	}
	for _, o := range c.Put {
		spec, _ := o.Raw["spec"].(map[string]any)
		v.objects[o.ID.Name] = fmt.Sprint(spec["prefix"])
	}
	for _, id := range c.Gone {
		delete(v.objects, id.Name)
	}
	if c.Report != nil {
		v.report = *c.Report
	}
}

func TestWatch(t *testing.T) {
	root := t.TempDir()
	file := func(name string) string { return filepath.Join(root, name) }
	put(t, file("a.yaml"), mapping("a", "/1")+"---\n"+mapping("b", "/1"))
	v := watch(t, root)
	v.until(map[string]string{"a": "/1", "b": "/1"})

	// Written in place, in a directory that is new, and moved from one file to another.
	put(t, file("a.yaml"), mapping("a", "/2")+"---\n"+mapping("b", "/1"))
	v.until(map[string]string{"a": "/2", "b": "/1"})
	put(t, file("x/y/c.yaml"), mapping("c", "/1"))
	v.until(map[string]string{"a": "/2", "b": "/1", "c": "/1"})
	put(t, file("z.yaml"), mapping("b", "/3"))
	put(t, file("a.yaml"), mapping("a", "/2"))
	v.until(map[string]string{"a": "/2", "b": "/3", "c": "/1"})

	// A document that does not parse: its file's objects stay, and its other documents are read.
	put(t, file("a.yaml"), mapping("d", "/1")+"---\nkind: [")
	v.until(map[string]string{"a": "/2", "b": "/3", "c": "/1", "d": "/1"}, "a.yaml, document 2: is not YAML")
	put(t, file("a.yaml"), mapping("d", "/1"))
	v.until(map[string]string{"b": "/3", "c": "/1", "d": "/1"})

	// An object that loses its name: the others of its file can go.
	put(t, file("a.yaml"), mapping("d", "/1")+"---\n"+mapping("e", "/1"))
	v.until(map[string]string{"b": "/3", "c": "/1", "d": "/1", "e": "/1"})

	// A directory goes, is renamed, and comes back.
	if err := os.Rename(file("x"), file("w")); err != nil {
		t.Fatal(err)
	}
	put(t, file("w/y/c.yaml"), mapping("c", "/2"))
	v.until(map[string]string{"b": "/3", "c": "/2", "d": "/1", "e": "/1"})
	if err := os.RemoveAll(file("w")); err != nil {
		t.Fatal(err)
	}
	v.until(map[string]string{"b": "/3", "d": "/1", "e": "/1"})
	put(t, file("w/y/c.yaml"), mapping("c", "/4"))
	v.until(map[string]string{"b": "/3", "c": "/4", "d": "/1", "e": "/1"})

	// The root goes: unknown, not empty.
	aside := root + ".aside"
	if err := os.Rename(root, aside); err != nil {
		t.Fatal(err)
	}
	v.until(map[string]string{"b": "/3", "c": "/4", "d": "/1", "e": "/1"}, ".: cannot be read")
	put(t, filepath.Join(aside, "z.yaml"), mapping("b", "/5"))
	if err := os.Rename(aside, root); err != nil {
		t.Fatal(err)
	}
	v.until(map[string]string{"b": "/5", "c": "/4", "d": "/1", "e": "/1"})
	if v.full != 1 {
		t.Errorf("%d full changes, want 1", v.full)
	}
}

// TestWatchLate: a directory that is not there yet is a finding, and is read when it comes.
func TestWatchLate(t *testing.T) {
	root := filepath.Join(t.TempDir(), "site")
	v := watch(t, root)
	v.until(map[string]string{}, ".: cannot be read")
	put(t, filepath.Join(root, "a.yaml"), mapping("a", "/1"))
	v.until(map[string]string{"a": "/1"})
}

// TestWatchLinks: a mounted ConfigMap is replaced through a link, and so can the whole directory be.
func TestWatchLinks(t *testing.T) {
	base := t.TempDir()
	root := filepath.Join(base, "mount")
	version := func(n int, files map[string]string) {
		t.Helper()
		name := fmt.Sprintf("..v%d", n)
		for f, content := range files {
			put(t, filepath.Join(root, name, f), content)
		}
		tmp := filepath.Join(root, "..data_tmp")
		if err := os.Symlink(name, tmp); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(tmp, filepath.Join(root, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version(1, map[string]string{"a.yaml": mapping("a", "/1"), "b.yaml": mapping("b", "/1")})
	for _, f := range []string{"a.yaml", "b.yaml"} {
		if err := os.Symlink(filepath.Join("..data", f), filepath.Join(root, f)); err != nil {
			t.Fatal(err)
		}
	}
	v := watch(t, root)
	v.until(map[string]string{"a": "/1", "b": "/1"})
	version(2, map[string]string{"a.yaml": mapping("a", "/2"), "b.yaml": mapping("b", "/1")})
	v.until(map[string]string{"a": "/2", "b": "/1"})
	version(3, map[string]string{"a.yaml": mapping("a", "/3")}) // the link b.yaml dangles: unknown
	v.until(map[string]string{"a": "/3", "b": "/1"}, "b.yaml: is a link to a file that does not exist")
	if err := os.Remove(filepath.Join(root, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	v.until(map[string]string{"a": "/3"})

	// A directory that is itself a link, as a checkout that is replaced as a whole.
	for n := range 2 {
		put(t, filepath.Join(base, fmt.Sprintf("checkout%d", n), "a.yaml"), mapping("a", fmt.Sprintf("/%d", n)))
	}
	current := filepath.Join(base, "current")
	if err := os.Symlink("checkout0", current); err != nil {
		t.Fatal(err)
	}
	v = watch(t, current)
	v.until(map[string]string{"a": "/0"})
	if err := os.Symlink("checkout1", current+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(current+".tmp", current); err != nil {
		t.Fatal(err)
	}
	v.until(map[string]string{"a": "/1"})
	put(t, filepath.Join(base, "checkout1", "a.yaml"), mapping("a", "/new"))
	v.until(map[string]string{"a": "/new"})
}

// TestFilesThatVanish: files come and go while they are read. Nothing is found wrong with them, and what is there at
// the end is there.
func TestFilesThatVanish(t *testing.T) {
	root := t.TempDir()
	put(t, filepath.Join(root, "stays.yaml"), mapping("stays", "/"))
	v := watch(t, root)
	v.until(map[string]string{"stays": "/"})
	for n := range 300 {
		path := filepath.Join(root, fmt.Sprintf("f%d.yaml", n%7))
		put(t, path, mapping(fmt.Sprintf("f%d", n%7), "/"))
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(root, "last.yaml"), mapping("last", "/"))
	v.until(map[string]string{"stays": "/", "last": "/"})
	for {
		select {
		case c := <-v.changes:
			v.apply(c)
			continue
		default:
		}
		break
	}
	if len(v.report.Findings) > 0 {
		t.Errorf("findings %v", v.report.Findings)
	}
}

// TestSiteFindings: what a site finds wrong keeps what it was told before, in the ledger too.
func TestSiteFindings(t *testing.T) {
	d := newDirectory(t)
	file := filepath.Join(d.path, "all.yaml")
	docs := []string{mapping("a", "/a"), mapping("b", "/b"), mapping("c", "/c"), mapping("d", "/d")}
	d.write(file, strings.Join(docs, "---\n"))
	rig := collectortest.NewRig(t, d.Site)
	rig.Start()
	want := map[string]string{"a": "/a", "b": "/b", "c": "/c", "d": "/d"}
	rig.Wait(collectortest.All(collectortest.Mappings(want), collectortest.Syncs(1)))

	// An unknown kind, by a slip: the Mapping that it was stays; another document's change goes on, and so does a removal.
	d.write(file, strings.Join([]string{
		strings.Replace(mapping("a", "/slip"), "kind: Mapping", "kind: Mappping", 1), mapping("b", "/b2"), docs[2],
	}, "---\n"))
	want["b"] = "/b2"
	delete(want, "d")
	rig.Wait(collectortest.All(collectortest.Mappings(want), collectortest.Findings(1, `all.yaml, document 1: getambassador.io/Mappping default/a: getambassador.io has no kind "Mappping"`)))

	// The same across a restart.
	rig.Restart()
	rig.Wait(collectortest.All(collectortest.Mappings(want), collectortest.Findings(1, "Mappping"), collectortest.Syncs(2)))

	// Wrong types, where a collector minds them: what the spec says is for the compiler to judge.
	d.write(file, strings.Join([]string{
		strings.Replace(mapping("a", "/x"), "metadata: {", "metadata: {labels: {tier: 5}, ", 1), mapping("b", "[]"), docs[2],
	}, "---\n"))
	rig.Wait(collectortest.Findings(1, `metadata.labels: the value of "tier" is not a string`))
	d.write(file, strings.Join(docs, "---\n"))
	rig.Wait(collectortest.All(collectortest.Mappings(map[string]string{"a": "/a", "b": "/b", "c": "/c", "d": "/d"}), collectortest.Findings(0, "")))
}

// BenchmarkRenameToPublish measures from the rename of a file to the call that publishes its change, with a real
// outbox, and reports the median.
func BenchmarkRenameToPublish(b *testing.B) {
	d := newDirectory(b)
	for i := range 1000 {
		d.write(filepath.Join(d.path, fmt.Sprintf("m%d.yaml", i)), mapping(fmt.Sprintf("m%d", i), "/"))
	}
	rig := collectortest.NewRig(b, d.Site)
	rig.Outbox = fileOutbox(b)
	rig.Start()
	rig.Wait(collectortest.Syncs(1))
	published := make(chan time.Time, 16)
	rig.Hub.OnPublish(func(at time.Time, _ []collector.Message) { published <- at })
	file := filepath.Join(d.path, "m500.yaml")
	tmp := filepath.Join(d.path, ".m500.tmp")
	var took []time.Duration
	n := 0
	for b.Loop() {
		n++
		put(b, tmp, mapping("m500", fmt.Sprintf("/%d", n)))
		started := time.Now()
		if err := os.Rename(tmp, file); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-published).Sub(started))
	}
	rig.Stop()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "µs-p99")
}
