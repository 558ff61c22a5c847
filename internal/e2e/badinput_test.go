package e2e_test

import (
	"os"
	"strings"
	"testing"

	"github.com/chancery-dev/chancery/console"
)

// TestBadInput breaks one thing at a time: the rest is served, its last good
// version is served, and what is wrong is said of the object or the file, with
// the remedy.
func TestBadInput(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	cert, key, serial := p.roots.Issue(t, "tls.example.com", 1e15)
	p.Write("east", "tls.yaml", Documents(Host("tls", "tls.example.com", "tls-tls"), TLSSecret("tls-tls", cert, key),
		Mapping("tls", "tls.example.com", "/", "steady:8080")))
	secure := Route{Name: "tls", Host: "tls.example.com", Path: "/", TLS: true, Expect: []string{"steady"}}
	p.Served(secure)
	p.Write("east", "vanishing.yaml", Mapping("vanishing", "changed.example.com", "/v/", "v1:8080"))
	vanishing := Route{Name: "vanishing", Host: "changed.example.com", Path: "/v/", Expect: []string{"v1"}}
	p.Served(vanishing)
	p.good("changed", "tls", "vanishing")

	load := p.StartLoad(100, 2, p.steady, p.changed, secure, freshly(secure))
	checked := func(what string, f func(t *testing.T)) {
		// Not a subtest of its own: the steps follow each other on one system.
		begin := load.Sent()
		f(t)
		load.More(50)
		t.Logf("%s: %d requests", what, load.Sent()-begin)
		// What was broken is mended.
		p.changeTo("v1")
		p.Eventually("nothing is wrong any more", func() error { return p.noErrors() })
	}

	checked("unparsable YAML", func(t *testing.T) {
		p.Write("east", "changed.yaml", "kind: Mapping\nspec: {prefix: [\n")
		f := p.SiteProblem("east", "changed.yaml")
		if f.Message == "" {
			t.Errorf("the finding about changed.yaml has no message")
		}
		// Others go on changing.
		p.Write("east", "other.yaml", Mapping("other", "steady.example.com", "/other/", "v2:8080"))
		p.Served(Route{Name: "other", Host: "steady.example.com", Path: "/other/", Expect: []string{"v2"}})
	})
	checked("unparsable YAML in one document of a file", func(t *testing.T) {
		p.Write("east", "changed.yaml", Documents("a: [\n", Mapping("changed", "changed.example.com", "/x/", "v1:8080")))
		p.SiteProblem("east", "changed.yaml")
	})
	checked("an unknown kind", func(t *testing.T) {
		p.Write("east", "unknown.yaml", "apiVersion: getambassador.io/v3alpha1\nkind: Mapp\nmetadata: {name: typo, namespace: default}\nspec: {}\n")
		f := p.SiteProblem("east", "unknown.yaml")
		if !strings.Contains(f.Message, "Mapp") {
			t.Errorf("the finding does not name the kind: %q", f.Message)
		}
		p.Remove("east", "unknown.yaml")
	})
	checked("a Mapping with a wrong field", func(t *testing.T) {
		p.Write("east", "changed.yaml", Mapping("changed", "changed.example.com", "/x/", "v2:8080", "timeout_ms: soon"))
		f := p.Finding("Mapping", "changed", "timeout_ms")
		if f.Remedy == "" {
			t.Errorf("the finding has no remedy: %+v", f)
		}
		o, err := p.Object("east", "Mapping", "changed")
		must(t, err)
		if o.State != "rejected" {
			t.Errorf("the Mapping is %s, want rejected", o.State)
		}
	})
	checked("a Service that does not exist", func(t *testing.T) {
		p.Write("east", "nowhere.yaml", Mapping("nowhere", "changed.example.com", "/nowhere/", "nothing-here:8080"))
		f := p.Finding("Mapping", "nowhere", "nothing-here")
		t.Logf("said of it: %s %s (%s)", f.Code, f.Message, f.Remedy)
		p.Remove("east", "nowhere.yaml")
		p.Gone(Route{Name: "nowhere", Host: "changed.example.com", Path: "/nowhere/"})
	})
	checked("a Secret without a key", func(t *testing.T) {
		p.Write("east", "tls.yaml", Documents(Host("tls", "tls.example.com", "tls-tls"), strings.ReplaceAll(TLSSecret("tls-tls", cert, key), "tls.key:", "other:"),
			Mapping("tls", "tls.example.com", "/", "steady:8080")))
		f := p.Finding("tls-tls", "tls.key")
		t.Logf("said of it: %s %s (%s)", f.Code, f.Message, f.Remedy)
		if got, err := p.Shown("tls.example.com"); got != serial {
			t.Errorf("tls.example.com is shown the certificate %d, want the last good one, %d: %v", got, serial, err)
		}
		load.More(100)
		p.Write("east", "tls.yaml", Documents(Host("tls", "tls.example.com", "tls-tls"), TLSSecret("tls-tls", cert, key),
			Mapping("tls", "tls.example.com", "/", "steady:8080")))
	})
	checked("a file that vanishes while it is read", func(t *testing.T) {
		// Written and removed over and over: sometimes it is gone between the look
		// at the directory and the read.
		path := p.SitePath("east", "flicker.yaml")
		text := Mapping("flicker", "changed.example.com", "/flicker/", "v2:8080")
		for range Count(100, 2000) {
			must(t, os.WriteFile(path, []byte(text), 0o600))
			must(t, os.Remove(path))
		}
		p.Write("east", "flicker.yaml", text)
		flicker := Route{Name: "flicker", Host: "changed.example.com", Path: "/flicker/", Expect: []string{"v2"}}
		p.Served(flicker)
		p.Remove("east", "flicker.yaml")
		p.Gone(flicker)
	})
	checked("a link to a file that vanishes", func(t *testing.T) {
		// A link that points nowhere can be seen and not read: unknown, not gone.
		must(t, os.Remove(p.SitePath("east", "vanishing.yaml")))
		must(t, os.Symlink(p.SitePath("east", ".nowhere"), p.SitePath("east", "vanishing.yaml")))
		p.SiteProblem("east", "vanishing.yaml")
		p.Served(vanishing)
		p.Remove("east", "vanishing.yaml")
		p.Gone(vanishing)
	})
	load.Stop()
}

// good waits until the served versions of Mappings count as good.
func (s *System) good(mappings ...string) {
	s.TB.Helper()
	for _, m := range mappings {
		s.InSyncWith(m)
	}
	s.Eventually("the served revision counts as good", func() error {
		st, err := s.Status()
		if err == nil && (st.Head == nil || st.LastGood != st.Head.Revision) {
			return errNotGood
		}
		return err
	})
}

// SiteProblem waits until the API says of a file of a site what is wrong.
func (s *System) SiteProblem(site, file string) console.SiteFinding {
	s.TB.Helper()
	var found console.SiteFinding
	s.Eventually(file+" has a finding", func() error {
		st, err := s.Status()
		if err != nil {
			return err
		}
		for _, in := range st.Sites {
			for _, f := range in.Findings {
				if in.Cluster == site && strings.Contains(f.Where, file) {
					found = f
					return nil
				}
			}
		}
		return errNoFinding
	})
	s.TB.Logf("said of it: %s: %s", found.Where, found.Message)
	return found
}
