package dir_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/collector/dir"
	"github.com/chancery-dev/chancery/collector/outbox"
)

// directory is a source with one file for each object.
type directory struct {
	t    testing.TB
	path string
}

func newDirectory(t testing.TB) directory { return directory{t, t.TempDir()} }

func (d directory) Site() collector.Site {
	return dir.NewSite(d.path, collectortest.Normaliser(), dir.Timing{})
}

func (d directory) file(o map[string]any) string {
	return filepath.Join(d.path, fmt.Sprintf("%s-%s.yaml", o["kind"], o["metadata"].(map[string]any)["name"]))
}

func (d directory) Put(objects ...map[string]any) {
	d.t.Helper()
	for _, o := range objects {
		b, err := yaml.Marshal(o)
		if err != nil {
			d.t.Fatal(err)
		}
		d.write(d.file(o), string(b))
	}
}

// write puts a file in place with a rename.
func (d directory) write(path, content string) {
	d.t.Helper()
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		d.t.Fatal(err)
	}
}

func (d directory) Delete(objects ...map[string]any) {
	d.t.Helper()
	for _, o := range objects {
		if err := os.Remove(d.file(o)); err != nil {
			d.t.Fatal(err)
		}
	}
}

func (d directory) Break(o map[string]any) {
	d.t.Helper()
	d.write(d.file(o), "apiVersion: [unfinished\nkind: {")
}

func (d directory) Restore(o map[string]any) { d.Put(o) }

func TestSite(t *testing.T) {
	collectortest.TestSite(t, func(t *testing.T) collectortest.Source { return newDirectory(t) })
}

// fileOutbox returns an outbox on disk.
func fileOutbox(t testing.TB) *collectortest.Outbox {
	t.Helper()
	box, err := outbox.Open(filepath.Join(t.TempDir(), "outbox.db"), collectortest.Cluster, outbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Close(); err != nil {
			t.Error(err)
		}
	})
	return collectortest.NewOutbox(box, 0)
}
