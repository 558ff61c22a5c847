package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// command runs a command that has to succeed and returns its stdout.
func (s *System) command(args ...string) string {
	s.TB.Helper()
	out, talk, code := s.Run(args...)
	if code != 0 {
		s.TB.Fatalf("chancery %q ended with %d:\n%s%s", args, code, out, talk)
	}
	return out
}

func TestRollbackUnderLoad(t *testing.T) {
	t.Parallel()
	p := startPair(t)
	p.good("changed")
	v1, v2, v3 := p.changed, expecting(p.changed, "v2"), expecting(p.changed, "steady")
	load := p.StartLoad(100, 2, p.steady, expecting(p.changed, "v1", "v2", "steady"))
	for range Count(2, 20) {
		p.changeTo("v2")
		p.Served(v2)
		p.good("changed")

		p.command("rollback", "--pin", "--yes", "--reason", "e2e")
		p.Served(v1)
		st := p.InSync()
		if len(st.Holds) != 1 || !strings.Contains(st.Sentence, "hold") {
			t.Fatalf("after a rollback: holds %+v, %q", st.Holds, st.Sentence)
		}
		if out := p.command("hold", "ls"); !strings.Contains(out, st.Holds[0].ID) {
			t.Errorf("hold ls does not show %s:\n%s", st.Holds[0].ID, out)
		}

		// What changes now is recorded and not served, also by the serve after this.
		p.changeTo("steady")
		p.Eventually("the change is recorded", func() error { return p.recordedAs("changed", "steady:8080") })
		p.Kill()
		p.Start()
		p.Ready()
		begin := load.Sent()
		load.More(100)
		for _, o := range load.outcomesFrom(begin) {
			if o.Route == p.changed.Name && o.Backend != "v1" {
				t.Errorf("at %s %q answered, while the fleet was pinned to v1", o.At, o.Backend)
			}
		}

		p.command("hold", "release", st.Holds[0].ID)
		p.Served(v3)
		p.changeTo("v1")
		p.Served(v1)
		p.good("changed")
	}
	load.Stop()

	history := p.command("history", "-o", "json", "--cluster", "_install")
	for _, word := range []string{`"hold"`, `"release"`, `"e2e"`} {
		if !strings.Contains(history, word) {
			t.Errorf("history does not show %s", word)
		}
	}
	p.command("verify")
	if _, talk, code := p.Run("hold", "release", "h99"); code != 5 {
		t.Errorf("the release of a hold that does not exist ended with %d, want 5 (refused): %s", code, talk)
	}
}

// recordedAs says whether the recorded Mapping holds the text.
func (s *System) recordedAs(mapping, text string) error {
	o, err := s.Object("east", "Mapping", mapping)
	if err == nil && !strings.Contains(string(o.Canonical), text) {
		return fmt.Errorf("recorded is %s", o.Canonical)
	}
	return err
}

// outcomesFrom returns the outcomes from the n-th on.
func (l *Load) outcomesFrom(n int) []Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.outcomes[n:])
}

func TestMassDelete(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "east", "west")
	east := Route{Name: "east", Host: "east.example.com", Path: "/", Expect: []string{"east"}}
	west := Route{Name: "west", Host: "west.example.com", Path: "/", Expect: []string{"west"}}
	for _, r := range []Route{east, west} {
		objects := []string{Listeners(), Host(r.Name, r.Host, ""), Service(r.Name, s.Backend(r.Name)), Mapping(r.Name, r.Host, "/", r.Name+":8080")}
		for i := range 20 {
			objects = append(objects, Mapping(fmt.Sprintf("more-%d", i), r.Host, fmt.Sprintf("/more-%d/", i), r.Name+":8080"))
		}
		for i, o := range objects {
			s.Write(r.Name, fmt.Sprintf("o%d.yaml", i), o)
		}
	}
	s.Start()
	s.Ready()
	s.Served(east)
	s.Served(west)
	before := s.InSync()
	load := s.StartLoad(100, 2, east, west)
	load.More(50)

	files, err := os.ReadDir(s.SitePath("east", ""))
	must(t, err)
	for _, f := range files {
		must(t, os.RemoveAll(filepath.Join(s.SitePath("east", ""), f.Name())))
	}
	s.Eventually("the removal is withheld", func() error {
		st, err := s.Status()
		if err != nil {
			return err
		}
		if len(st.Withheld) == 0 {
			return errors.New("nothing is withheld")
		}
		if w := st.Withheld[0]; w.Cluster != "east" || !strings.Contains(w.Message, "confirm") {
			t.Errorf("withheld is %+v, want of east, with the way out", w)
		}
		return nil
	})
	// Also after a restart, and for a while.
	s.Kill()
	s.Start()
	s.Ready()
	load.More(300)
	st := s.InSync()
	if len(st.Withheld) == 0 || st.Head.Revision != before.Head.Revision {
		t.Errorf("withheld: %+v, head r%d, want r%d as before", st.Withheld, st.Head.Revision, before.Head.Revision)
	}
	text := s.command("status")
	if !strings.Contains(text, "confirm") {
		t.Errorf("status does not name the way out:\n%s", text)
	}
	load.Stop()

	load = s.StartLoad(100, 2, west)
	load.More(50)
	s.command("confirm", "--cluster", "east")
	// The snapshot without them has lost half of its routes: that is asked too.
	s.Eventually("east's routes are gone", func() error {
		st, err := s.Status()
		if err != nil {
			return err
		}
		for _, w := range st.Withheld {
			if w.Cluster == "" {
				s.command("confirm")
			}
		}
		if o := s.Get(east); o.Status != 404 {
			return fmt.Errorf("%s; withheld %+v", o.answer(), st.Withheld)
		}
		return nil
	})
	load.More(50)
	load.Stop()
	var out struct{ Items []json.RawMessage }
	must(t, json.Unmarshal([]byte(s.command("get", "Mapping", "--cluster", "east", "-A", "-o", "json")), &out))
	if len(out.Items) != 0 {
		t.Errorf("%d Mappings of east are left", len(out.Items))
	}
}
