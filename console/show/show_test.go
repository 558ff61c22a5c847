package show_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/console/show"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// hostile is a name that would clear a screen, go back, and turn around.
const hostile = "we\x1b[2Jb\r\nOK\u202eevil\u009b31m\xff\t生命"

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func listOf[T any](items ...T) console.List[T] {
	return console.List[T]{Items: items, Seq: 42, Now: now}
}

func status() console.Status {
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	return console.Status{
		Fleet: "default", Now: now, Sentence: "1 of 2 Envoys serve r4 (12s old): 1 behind, 1 hold, 1 removal withheld.", State: console.Behind,
		Head: &console.Head{Revision: 4, Generation: 7}, Errors: 2, Warnings: 1,
		Sites: []console.Site{
			{Cluster: "east", Source: "dir:east", Objects: 12, Epoch: 3, Synced: 40, Last: ago(3 * time.Second)},
			{Cluster: "west", Objects: 7, Epoch: 1, Synced: 9, Last: ago(3 * time.Hour), Problem: "the sync that ended at event 9 says 7 objects, 6 were recorded"},
			{Cluster: "north", Source: "dir:north"},
		},
		Edges: []console.Edge{
			{Name: "edge-1", Ring: "default", State: console.Held, Revision: 4, Generation: 7, Fingerprint: digest, Seen: ago(time.Second), Envoys: []console.Envoy{{Node: "a", Answer: "served", Generation: 7}}},
			{Name: "edge-2", Ring: "default", State: console.Rejected, Revision: 4, Generation: 7, Fingerprint: digest, Seen: ago(time.Second), Note: hostile, Envoys: []console.Envoy{
				{Node: "b", Answer: "nacked", Generation: 7, Type: "routes", Resources: []string{"x"}, Message: "bad regex"},
			}},
			{Name: "edge-3", Ring: "default", State: console.Offline, Seen: ago(72 * time.Hour), Problems: []string{"no certificate", "other"}},
		},
		Holds:    []console.Hold{hold()},
		Withheld: []console.Withheld{{Cluster: "east", Message: "east no longer lists 9 of its 12 objects; they are served on until: chancery confirm --cluster east"}},
		Objects:  map[string]int{"accepted": 18, "rejected": 1}, Notes: []string{"no Envoy tastes candidates"},
	}
}

func hold() console.Hold {
	return console.Hold{ID: "h1", Kind: "pin", Fleet: "default", Revision: 4, From: 5, Fingerprint: digest, Seq: 41, At: now.Add(-90 * time.Second), By: "alice", BySource: "operator", Reason: hostile}
}

func object() console.Object {
	return console.Object{
		Cluster: "east", Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: hostile, Key: "east:Mapping.getambassador.io/default/" + hostile,
		State: "rejected", Digest: digest, Serving: strings.Replace(digest, "0", "f", 1), Seq: 12, At: now.Add(-time.Hour), By: "alice", BySource: "file",
		Findings: []console.Finding{
			{Code: "CHY0007", Severity: "info", Path: "spec.x", Message: "has no effect"},
			{Code: "CHY0002", Severity: "error", Path: "spec.prefix", Message: "wants a string, has " + hostile, Other: "east:Host/default/all", Remedy: "correct the field"},
		},
		Canonical: json.RawMessage(`{"metadata":{"name":"we\u001b[2Jb` + "\u009b" + `"}}`),
	}
}

// TestGolden writes every view in the formats for people.
func TestGolden(t *testing.T) {
	finding := object().Findings[1]
	finding.Object = object().Key
	plan := console.Plan{
		Fleet: "default", From: 5, To: 4, ToAt: now.Add(-time.Hour),
		Changes:   []console.Change{{Object: "east:Mapping.getambassador.io/default/" + hostile, What: "put", Seq: 30, By: "alice"}, {Object: "east:Host/default/gone", What: "deleted", Seq: 31}},
		Resources: []console.ResourceDiff{{Type: "routes", Changed: []string{"a"}}}, Notes: []string{"the resources cannot be compared"},
	}
	event := console.Event{Seq: 9, Time: now, Cluster: "east", Type: "put", Object: "east:Mapping.getambassador.io/default/" + hostile, By: "alice", BySource: "file", Digest: digest, Summary: "changed", ID: "east/1/a/4"}
	decision := console.Event{Seq: 10, Time: now, Cluster: "_install", Type: "hold", Scope: "default", By: "bob", BySource: "operator", Summary: "h1: pin of fleet default to r4 (was r5)", Reason: hostile, ID: "_install/1/a/4"}
	views := []struct {
		name  string
		write func(*bytes.Buffer, show.Options) error
	}{
		{"status", func(b *bytes.Buffer, o show.Options) error { return show.Status(b, status(), o) }},
		{"objects", func(b *bytes.Buffer, o show.Options) error {
			return show.Objects(b, listOf(object(), console.Object{Cluster: "west", Kind: "Secret", Name: strings.Repeat("long", 40), State: "accepted", At: now}), o)
		}},
		{"object", func(b *bytes.Buffer, o show.Options) error { return show.Object(b, object(), o) }},
		{"findings", func(b *bytes.Buffer, o show.Options) error {
			return show.Findings(b, listOf(finding, console.Finding{Severity: "error", Object: "east:web.yaml", Message: "is not YAML"}), o)
		}},
		{"edges", func(b *bytes.Buffer, o show.Options) error { return show.Edges(b, listOf(status().Edges...), o) }},
		{"sites", func(b *bytes.Buffer, o show.Options) error { return show.Sites(b, listOf(status().Sites...), o) }},
		{"holds", func(b *bytes.Buffer, o show.Options) error { return show.Holds(b, listOf(hold()), o) }},
		{"hold", func(b *bytes.Buffer, o show.Options) error { return show.Hold(b, hold(), o) }},
		{"revisions", func(b *bytes.Buffer, o show.Options) error {
			return show.Revisions(b, listOf(
				console.Revision{Revision: 5, Seq: 30, At: now, Fingerprint: digest, Build: "v1", Routes: 12, Listeners: 2, State: "refused", Message: hostile},
				console.Revision{Revision: 4, Seq: 20, At: now.Add(-time.Hour), Fingerprint: digest, Build: "v1", Routes: 11, Listeners: 2, State: "good", Head: true, Taster: "1.37.2"}), o)
		}},
		{"revision", func(b *bytes.Buffer, o show.Options) error {
			return show.Revision(b, console.Revision{Revision: 4, Fleet: "default", Seq: 20, Event: 21, At: now, Fingerprint: digest, Build: "v1", Routes: 11, Listeners: 2, State: "good", Head: true, Kept: map[string]string{object().Key: digest}}, o)
		}},
		{"resources", func(b *bytes.Buffer, o show.Options) error {
			return show.Resources(b, listOf(console.Resource{Type: "routes", Name: hostile, Version: digest, Bytes: 812, Sources: []string{"east:Mapping/default/web", "east:Host/default/all"}}), o)
		}},
		{"resource", func(b *bytes.Buffer, o show.Options) error {
			return show.Resources(b, listOf(console.Resource{Type: "routes", Name: "x", Version: digest, Body: json.RawMessage(`{"name":"x"}`)}), o)
		}},
		{"history", func(b *bytes.Buffer, o show.Options) error { return show.History(b, listOf(decision, event), o) }},
		{"event-line", func(b *bytes.Buffer, o show.Options) error { return show.EventLine(b, decision, o) }},
		{"plan", func(b *bytes.Buffer, o show.Options) error { return show.Plan(b, plan, o) }},
		{"answer", func(b *bytes.Buffer, o show.Options) error {
			return show.Answer(b, console.Answer{Seq: 42, Hold: "h1", Message: "fleet default is pinned to r4"}, o)
		}},
		{"verified", func(b *bytes.Buffer, o show.Options) error {
			return show.Verified(b, console.Verified{OK: true, Seq: 42, Size: 42, Root: digest, Install: "abc", Checkpoint: 40}, o)
		}},
		{"damaged", func(b *bytes.Buffer, o show.Options) error {
			return show.Verified(b, console.Verified{BadSeq: 5, Message: "ledger file x is damaged at 5"}, o)
		}},
	}
	for _, v := range views {
		t.Run(v.name, func(t *testing.T) {
			var all bytes.Buffer
			for _, f := range show.Formats {
				var b bytes.Buffer
				if err := v.write(&b, show.Options{Format: f}); err != nil {
					t.Fatal(err)
				}
				printable(t, f, b.String())
				switch f {
				case show.JSON:
					versioned(t, b.Bytes())
					continue
				case show.YAML:
					if !strings.Contains(b.String(), "apiVersion: "+show.APIVersion) {
						t.Errorf("no version in %s", b.String())
					}
					continue
				default:
				}
				all.WriteString("== " + string(f) + "\n" + b.String())
			}
			golden(t, filepath.Join("testdata", v.name+".golden"), all.Bytes())
		})
	}
}

// printable fails when anything in the text could act on a terminal.
func printable(t *testing.T, f show.Format, s string) {
	t.Helper()
	for i, r := range s {
		if r != '\n' && (unicode.IsControl(r) || f != show.JSON && f != show.YAML && !unicode.IsGraphic(r)) {
			t.Errorf("%s: %q at %d in %q", f, r, i, s)
			return
		}
	}
}

func versioned(t *testing.T, b []byte) {
	t.Helper()
	var head struct{ APIVersion, Kind string }
	if err := json.Unmarshal(b, &head); err != nil || head.APIVersion != show.APIVersion || head.Kind == "" {
		t.Errorf("%v in %s", err, b)
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got), -update writes it:\n%s", path, d)
	}
}

func TestColour(t *testing.T) {
	var plain, coloured bytes.Buffer
	o := show.Options{Format: show.Tables}
	if err := show.Status(&plain, status(), o); err != nil {
		t.Fatal(err)
	}
	o.Colour = true
	if err := show.Status(&coloured, status(), o); err != nil {
		t.Fatal(err)
	}
	stripped := coloured.String()
	for _, code := range []string{"\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if stripped == coloured.String() || stripped != plain.String() {
		t.Error("colour changes more than colours")
	}
}

func TestEmpty(t *testing.T) {
	var out, talk bytes.Buffer
	if err := show.Objects(&out, listOf[console.Object](), show.Options{Format: show.Tables, Talk: &talk}); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 0 || talk.String() != "No objects match.\n" {
		t.Errorf("out %q, talk %q", out.String(), talk.String())
	}
}

func FuzzClean(f *testing.F) {
	f.Add(hostile)
	f.Add("plain")
	f.Fuzz(func(t *testing.T, s string) {
		c := show.Clean(s)
		for _, r := range c {
			if !unicode.IsGraphic(r) {
				t.Errorf("%q has %q left in %q", s, r, c)
			}
		}
		if show.Clean(c) != c {
			t.Errorf("%q is cleaned twice", s)
		}
	})
}
