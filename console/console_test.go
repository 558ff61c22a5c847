package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/projector"
)

func get[T any](t *testing.T, c *console.Client, path string) T {
	t.Helper()
	var out T
	if err := c.Get(t.Context(), path, nil, &out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return out
}

// TestStory walks through a life: a first snapshot, a bad object, a rollback,
// its release, a mass delete and its confirmation.
func TestStory(t *testing.T) {
	in := start(t)
	c := in.client(pki.Operator)
	ctx := t.Context()
	s := in.waitStatus(func(s console.Status) bool { return s.Sites[0].Syncing })
	if s.Head != nil || !strings.HasPrefix(s.Sentence, "Nothing is served yet") {
		t.Errorf("before the first list is complete: head %v, %q", s.Head, s.Sentence)
	}
	in.tell(in.east.gateway()...)
	s = in.served(1)
	if s.State != console.Serving || s.Served != 1 || s.Objects["accepted"] != 5 || !strings.Contains(s.Sentence, "1 of 1 Envoys serve r1") || !strings.HasSuffix(s.Sentence, ": in sync.") {
		t.Errorf("first snapshot: %+v", s)
	}

	t.Run("objects", func(t *testing.T) {
		l := get[console.List[console.Object]](t, c, "/v1/objects?kind=mappings&namespace=default")
		if len(l.Items) != 1 || l.Items[0].Key != "east:Mapping.getambassador.io/default/web" || l.Items[0].State != "accepted" || l.Items[0].By != "alice" {
			t.Errorf("objects: %+v", l.Items)
		}
		one := get[console.Object](t, c, "/v1/objects/east/Mapping.getambassador.io/default/web")
		if !strings.Contains(string(one.Canonical), `"prefix":"/web/"`) {
			t.Errorf("canonical %s", one.Canonical)
		}
		secret := get[console.Object](t, c, "/v1/objects/east/Secret/default/tls")
		if text := string(secret.Canonical); strings.Contains(text, "c2VjcmV0") || !strings.Contains(text, "facts") {
			t.Errorf("a Secret is shown as %s", text)
		}
		err := c.Get(ctx, "/v1/objects/east/Mapping/default/no%2Fne", nil, &one)
		if !errors.Is(err, console.ErrNotFound) || !strings.Contains(err.Error(), "chancery get objects") {
			t.Errorf("an object that is not there: %v", err)
		}
	})

	t.Run("resources", func(t *testing.T) {
		l := get[console.List[console.Resource]](t, c, "/v1/resources?type=routes")
		if len(l.Items) != 1 || len(l.Items[0].Body) > 0 || len(l.Items[0].Sources) == 0 {
			t.Fatalf("routes: %+v", l.Items)
		}
		q := url.Values{"type": {"routes"}, "name": {l.Items[0].Name}}
		if err := c.Get(ctx, "/v1/resources", q, &l); err != nil {
			t.Fatal(err)
		}
		if len(l.Items) != 1 || !json.Valid(l.Items[0].Body) || !strings.Contains(string(l.Items[0].Body), "/web/") {
			t.Errorf("one route table: %+v", l.Items)
		}
	})

	t.Run("bad object", func(t *testing.T) {
		in.tell(in.east.put(v3, "Mapping", "broken", map[string]any{"spec": map[string]any{"hostname": "*", "prefix": 7, "service": "web"}}))
		s := in.waitStatus(func(s console.Status) bool { return s.Objects["rejected"] == 1 })
		if s.Errors == 0 || !strings.Contains(s.Sentence, "1 object rejected") {
			t.Errorf("status with a bad object: %q, %d errors", s.Sentence, s.Errors)
		}
		l := get[console.List[console.Finding]](t, c, "/v1/findings")
		if len(l.Items) == 0 || l.Items[0].Severity != "error" || !strings.HasSuffix(l.Items[0].Object, "/broken") || l.Items[0].Remedy == "" {
			t.Errorf("findings: %+v", l.Items)
		}
	})

	t.Run("rollback", func(t *testing.T) {
		in.tell(in.east.mapping("web", "other"), in.east.mapping("api", "web"))
		s := in.waitStatus(func(s console.Status) bool {
			return s.Newest >= 2 && s.Head.Revision == s.Newest && s.InSync && s.LastGood == s.Newest
		})
		from := s.Newest
		p, err := c.Plan(ctx, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		var changed []string
		for _, ch := range p.Changes {
			changed = append(changed, ch.What+" "+ch.Object)
		}
		want := []string{
			"put east:Mapping.getambassador.io/default/api", "put east:Mapping.getambassador.io/default/broken", "put east:Mapping.getambassador.io/default/web",
		}
		if d := cmp.Diff(want, changed); d != "" || p.From != from || p.To != 1 || len(p.Resources) == 0 {
			t.Errorf("plan %+v (-want +got):\n%s", p, d)
		}
		a, err := c.Pin(ctx, console.PinCommand{Revision: p.To, Reason: "5xx"})
		if err != nil {
			t.Fatal(err)
		}
		if a.Hold != "h1" || a.Revision != 1 || a.From != from || a.Seq == 0 {
			t.Errorf("answer %+v", a)
		}
		s = in.waitStatus(func(s console.Status) bool { return s.Head.Revision == 1 && s.InSync })
		if s.State != console.Held || !strings.Contains(s.Sentence, "in sync, 1 hold") || len(s.Holds) != 1 || s.Holds[0].Reason != "5xx" || s.Holds[0].By != "tester" || s.Holds[0].BySource != "operator" {
			t.Errorf("pinned: %q %+v", s.Sentence, s.Holds)
		}
		if _, err := c.Release(ctx, "h9", console.ReleaseCommand{}); !errors.Is(err, console.ErrRefused) {
			t.Errorf("release of a hold that is not there: %v", err)
		}
		if _, err := c.Release(ctx, "h1", console.ReleaseCommand{Reason: "fixed"}); err != nil {
			t.Fatal(err)
		}
		if s = in.served(from); s.State != console.Serving || len(s.Holds) != 0 {
			t.Errorf("released: %+v", s)
		}
		if _, err := c.Plan(ctx, "", 99); !errors.Is(err, console.ErrRefused) || !strings.Contains(err.Error(), "get revisions") {
			t.Errorf("plan for a revision that is not there: %v", err)
		}
		r := get[console.Revision](t, c, "/v1/revisions/1")
		if r.State != "good" || r.Head {
			t.Errorf("r1: %+v", r)
		}
	})

	t.Run("confirm", func(t *testing.T) {
		if _, err := c.Confirm(ctx, console.ConfirmCommand{Cluster: "east"}); !errors.Is(err, console.ErrRefused) {
			t.Errorf("confirm with nothing withheld: %v", err)
		}
		if err := c.Get(ctx, "/v1/objects", url.Values{"fleet": {"other"}}, &struct{}{}); !errors.Is(err, console.ErrNotFound) {
			t.Errorf("objects of another fleet: %v", err)
		}
		if _, err := c.Confirm(ctx, console.ConfirmCommand{Fleet: "other"}); !errors.Is(err, console.ErrNotFound) {
			t.Errorf("another fleet: %v", err)
		}
		before := in.waitStatus(func(console.Status) bool { return true })
		empty := &site{cluster: "east", n: in.east.n}
		in.tell(empty.sign(ledger.Event{Type: ledger.SyncBegin, Subject: ledger.SyncSubject("east"), Data: json.RawMessage(`{}`)}), empty.end())
		s := in.waitStatus(func(s console.Status) bool { return len(s.Withheld) == 1 })
		if w := s.Withheld[0]; w.Cluster != "east" || w.Count != before.Sites[0].Objects || !strings.Contains(w.Message, "chancery confirm --cluster east") {
			t.Errorf("withheld: %+v", w)
		}
		if _, err := c.Confirm(ctx, console.ConfirmCommand{Cluster: "east"}); err != nil {
			t.Fatal(err)
		}
		in.waitStatus(func(s console.Status) bool {
			return s.Sites[0].Objects == 0 && len(s.Withheld) == 0 && s.Newest > before.Newest && s.Head.Revision == s.Newest
		})
	})

	t.Run("history", func(t *testing.T) {
		l, err := c.History(ctx, url.Values{"object": {"mapping/web"}})
		if err != nil {
			t.Fatal(err)
		}
		if len(l.Items) != 2 || l.Items[0].Seq < l.Items[1].Seq || l.Items[0].By != "alice" || l.Items[0].BySource != "file" {
			t.Errorf("history of an object: %+v", l.Items)
		}
		if l, err = c.History(ctx, url.Values{"type": {"hold"}}); err != nil {
			t.Fatal(err)
		}
		if len(l.Items) != 1 || l.Items[0].Reason != "5xx" || l.Items[0].Scope != "default" || !strings.HasPrefix(l.Items[0].Summary, "h1: pin of fleet default to r1") {
			t.Errorf("history of holds: %+v", l.Items)
		}
		if l, err = c.History(ctx, url.Values{"limit": {"3"}}); err != nil || len(l.Items) != 3 || !l.More {
			t.Errorf("the newest three: %+v, %v", l, err)
		}
		if l, err = c.History(ctx, url.Values{"limit": {"1000"}}); err != nil || l.More || len(l.Items) != int(l.Seq) {
			t.Errorf("everything: %d of %d, %v", len(l.Items), l.Seq, err)
		}
		for _, e := range l.Items {
			if strings.HasPrefix(e.Summary, "unreadable") || e.Type == "" || strings.Contains(e.Type, ".") {
				t.Errorf("event %d: %+v", e.Seq, e)
			}
		}
		if _, err = c.History(ctx, url.Values{"object": {"a/"}}); !errors.Is(err, console.ErrInvalid) {
			t.Errorf("an object without a name: %v", err)
		}
		if _, err = c.History(ctx, url.Values{"sine": {"1h"}}); !errors.Is(err, console.ErrInvalid) {
			t.Errorf("an unknown parameter: %v", err)
		}
	})

	t.Run("verify", func(t *testing.T) {
		var last console.Progress
		v, err := c.Verify(ctx, func(p console.Progress) { last = p })
		if err != nil {
			t.Fatal(err)
		}
		root, err := in.store.Root(ledger.Seq(v.Size))
		if err != nil {
			t.Fatal(err)
		}
		if !v.OK || v.Size == 0 || last.Seq != v.Size || v.Root != root.String() || v.Install != "test" {
			t.Errorf("verified %+v, last progress %+v", v, last)
		}
	})
}

// TestWatch follows the history.
func TestWatch(t *testing.T) {
	in := start(t)
	in.tell(in.east.gateway()...)
	in.served(1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := errors.New("done")
	var seen []string
	err := in.client(pki.Operator).FollowHistory(ctx, url.Values{"type": {"put"}, "limit": {"1"}}, func(e console.Event) error {
		seen = append(seen, e.Object)
		switch len(seen) {
		case 1:
			return in.append(in.east.mapping("later", "web"))
		case 2:
			return done
		}
		return nil
	})
	want := []string{"east:Mapping.getambassador.io/default/web", "east:Mapping.getambassador.io/default/later"}
	if d := cmp.Diff(want, seen); d != "" || !errors.Is(err, done) {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

// TestContent fetches a snapshot as an edge does.
func TestContent(t *testing.T) {
	in := start(t)
	c := in.client(pki.Edge)
	var signed projector.SignedHead
	if err := c.Get(t.Context(), "/v1/head", nil, &signed); !errors.Is(err, console.ErrNotFound) {
		t.Errorf("head before there is one: %v", err)
	}
	in.tell(in.east.gateway()...)
	in.served(1)
	signed = get[projector.SignedHead](t, c, "/v1/head")
	head, err := projector.OpenHead(signed.Record, signed.Seq, in.key())
	if err != nil {
		t.Fatal(err)
	}
	fp := head.Head.Fingerprint
	manifest := get[raw](t, c, "/v1/snapshots/"+fp.String()+"/manifest")
	s, err := projector.Assemble(manifest, fp, func(d ledger.Digest) (*projector.Chunk, error) {
		var b []byte
		if err := c.Get(t.Context(), "/v1/chunks/"+d.String(), nil, &b); err != nil {
			return nil, err
		}
		return projector.DecodeChunk(b, d)
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.Len(projector.Listeners) != 1 {
		t.Errorf("%d listeners, want 1", s.Len(projector.Listeners))
	}
	var b []byte
	if err := c.Get(t.Context(), "/v1/chunks/"+ledger.DigestOf([]byte("x")).String(), nil, &b); !errors.Is(err, console.ErrNotFound) {
		t.Errorf("a chunk that is not there: %v", err)
	}
	if err := c.Get(t.Context(), "/v1/chunks/sha256:zz", nil, &b); !errors.Is(err, console.ErrInvalid) {
		t.Errorf("a chunk without a digest: %v", err)
	}
	if err := in.client(pki.Operator).Get(t.Context(), "/v1/checkpoint", nil, &b); !errors.Is(err, console.ErrNotFound) {
		t.Errorf("checkpoint before there is one: %v", err)
	}
	size := in.store.Size()
	root, err := in.store.Root(size)
	if err != nil {
		t.Fatal(err)
	}
	cp := ledger.Checkpoint{Origin: ledger.CheckpointOrigin("test"), Size: size, Root: root}
	note, err := ledger.SignCheckpoint(cp, ledgertest.Key("hub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := in.store.SaveCheckpoint(note); err != nil {
		t.Fatal(err)
	}
	if err := in.client(pki.Operator).Get(t.Context(), "/v1/checkpoint", nil, &b); err != nil {
		t.Fatal(err)
	}
	if got, err := ledger.OpenCheckpoint(b, cp.Origin, in.key()); err != nil || got != cp {
		t.Errorf("checkpoint %+v, %v; want %+v", got, err, cp)
	}
}

// raw is an answer that is not JSON.
type raw = []byte

// TestRoles asks everything as everybody.
func TestRoles(t *testing.T) {
	in := start(t)
	in.tell(in.east.gateway()...)
	fp := in.served(1).Head.Fingerprint
	content := map[string]bool{"GET /v1/head": true, "GET /v1/snapshots/" + fp + "/manifest": true}
	requests := []string{
		"GET /v1/head", "GET /v1/snapshots/" + fp + "/manifest", "GET /v1/status", "GET /v1/objects", "GET /v1/history", "GET /v1/resources",
		"GET /v1/holds", "POST /v1/holds", "POST /v1/holds/h1/release", "POST /v1/confirm", "POST /v1/verify", "GET /v1/checkpoint",
		"GET /v1/plan", "GET /openapi.json", "GET /openapi.yaml", "GET /nothing", "GET /v1/snapshots/../status", "GET /v1/chunks/..%2Fstatus",
	}
	for _, role := range pki.Roles {
		web := in.web(role)
		for _, r := range requests {
			method, path, _ := strings.Cut(r, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, in.url+path, strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := web.Do(req)
			if err != nil {
				t.Fatalf("%s as %s: %v", r, role, err)
			}
			b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			allowed := role == pki.Operator || (role == pki.Edge || role == pki.Hub) && content[r]
			switch {
			case allowed && resp.StatusCode == http.StatusForbidden:
				t.Errorf("%s as %s is forbidden", r, role)
			case !allowed && resp.StatusCode < 300:
				t.Errorf("%s as %s: %d %.200s", r, role, resp.StatusCode, b)
			case resp.StatusCode == http.StatusForbidden && (resp.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(b), "chancery pki issue")):
				t.Errorf("%s as %s: the problem names no remedy: %s", r, role, b)
			}
		}
	}
	// Without TLS there is nobody.
	w := httptest.NewRecorder()
	console.New(console.Config{Hub: in.hub, Ledger: in.store, Shelf: in.shelf}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/status", nil))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("without TLS: %d", w.Code)
	}
}

// TestOpenAPI reads the document of the API.
func TestOpenAPI(t *testing.T) {
	in := start(t)
	doc := get[struct {
		OpenAPI string                    `json:"openapi"`
		Paths   map[string]map[string]any `json:"paths"`
	}](t, in.client(pki.Operator), "/openapi.json")
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) < 15 || doc.Paths["/v1/status"]["get"] == nil || doc.Paths["/v1/history"]["get"] == nil {
		t.Errorf("OpenAPI %q with %d paths", doc.OpenAPI, len(doc.Paths))
	}
}

// TestBounds sends too much.
func TestBounds(t *testing.T) {
	in := start(t)
	c := in.client(pki.Operator)
	_, err := c.Pin(t.Context(), console.PinCommand{Reason: strings.Repeat("x", 100<<10)})
	if err == nil || errors.Is(err, console.ErrRefused) {
		t.Errorf("a body of 100 KiB: %v", err)
	}
	if _, err = c.Pin(t.Context(), console.PinCommand{Reason: strings.Repeat("x", 2000)}); !errors.Is(err, console.ErrInvalid) {
		t.Errorf("a reason of 2000 characters: %v", err)
	}
	if _, err = c.Pin(t.Context(), console.PinCommand{}); !errors.Is(err, console.ErrRefused) {
		t.Errorf("a pin with nothing served: %v", err)
	}
}

// TestWords gives each state of an edge its word.
func TestWords(t *testing.T) {
	in := start(t)
	in.tell(in.east.gateway()...)
	s := in.served(1)
	base := serves(projector.Head{Fleet: federation.DefaultFleet, Ring: "default", Generation: s.Head.Generation, Revision: 1})
	nacked, applying := base, base
	nacked.Envoys = []federation.EnvoyStatus{{Node: "envoy-1", Kind: projector.Nacked, Generation: s.Head.Generation, Type: projector.Routes, Resources: []string{"x"}, Message: "no"}}
	applying.Envoys = []federation.EnvoyStatus{{Node: "envoy-1"}}
	for _, c := range []struct {
		status federation.EdgeStatus
		want   console.Word
	}{{applying, console.Applying}, {base, console.Serving}, {nacked, console.Rejected}} {
		in.say(c.status)
		s := in.waitStatus(func(s console.Status) bool { return len(s.Edges) == 1 && s.Edges[0].State == c.want })
		if s.State != c.want {
			t.Errorf("the fleet is %s, want %s", s.State, c.want)
		}
	}
}

func TestProbes(t *testing.T) {
	checks := []console.Check{{Name: "hub", Detail: "at 7"}, {Name: "snapshot", Err: errors.New("none yet")}}
	h := console.Probes(func() []console.Check { return checks })
	for _, c := range []struct {
		path string
		code int
		body string
	}{
		{"/livez", 200, "ok\n"},
		{"/readyz", 503, "FAIL snapshot: none yet\n"},
		{"/readyz?verbose", 503, "ok   hub: at 7\nFAIL snapshot: none yet\n"},
		{"/other", 404, "404 page not found\n"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, c.path, nil))
		if got := fmt.Sprintf("%d %s", w.Code, w.Body); got != fmt.Sprintf("%d %s", c.code, c.body) {
			t.Errorf("%s: %q", c.path, got)
		}
	}
	checks = checks[:1]
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/readyz", nil))
	if w.Code != 200 {
		t.Errorf("ready: %d", w.Code)
	}
}
