package hub_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/ledgertest"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/shelf"
)

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// world is what outlives a hub: the ledger, the stream into it, the shelf.
type world struct {
	t     *testing.T
	store *boltstore.Store
	shelf *shelf.Shelf

	mu      sync.Mutex // guards what follows
	stream  ledgertest.Stream
	n       uint64                 // of the next event of east
	items   []ledger.SyncItem      // what east holds
	doubt   int                    // publishes that are stored but not acknowledged
	status  federation.EdgeStatus  // what the edge says
	running *hub.Hub               // that the edge talks to
	heads   []projector.SignedHead // announced
	gate    chan struct{}          // publishes wait until it is closed, unless nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, stream: ledgertest.Stream{Incarnation: "one"}}
	dir := t.TempDir()
	var err error
	if w.store, err = boltstore.Open(filepath.Join(dir, "ledger.db"), boltstore.Options{Hub: ledgertest.Public("hub"), Install: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.store.Close() })
	if w.shelf, err = shelf.Open(filepath.Join(dir, "shelf.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.shelf.Close() })
	if err := w.append(ledgertest.NewHub().StreamBegun("one", 0, ledger.DigestOf(nil))); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) append(ms ...ledger.Incoming) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.store.Append(context.Background(), w.stream.Next(ms...))
	return err
}

// PublishDecisions makes a world the hub's stream.
func (w *world) PublishDecisions(_ context.Context, ds []hub.Published) error {
	if w.gate != nil {
		<-w.gate
	}
	var ms []ledger.Incoming
	for _, d := range ds {
		ms = append(ms, ledger.Incoming{Record: d.Record, Subject: d.Subject})
	}
	if err := w.append(ms...); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.doubt > 0 {
		w.doubt--
		return errors.New("the answer was lost")
	}
	return nil
}

type shelved struct{ *shelf.Shelf }

func (s shelved) Put(snapshot *projector.Snapshot) error {
	return s.Shelf.Put(snapshot, shelf.Provenance{})
}

// taster refuses every snapshot with a route to what it hates.
type taster struct{ hates string }

func (taster) Version() string { return "test" }

func (tt taster) Taste(_ context.Context, s *projector.Snapshot) (*hub.Refusal, error) {
	for r := range s.All(projector.Routes) {
		if strings.Contains(string(r.Bytes), tt.hates) {
			return &hub.Refusal{Type: projector.Routes, Resources: []string{r.Name}, Message: "no " + tt.hates}, nil
		}
	}
	return nil, nil
}

func (tt taster) Culprits(ctx context.Context, n int, build func([]int) (*projector.Snapshot, error)) ([]int, error) {
	var bad, good []int
	for i := range n {
		s, err := build(append(slices.Clone(good), i))
		if err != nil {
			return nil, err
		}
		if r, _ := tt.Taste(ctx, s); r != nil {
			bad = append(bad, i)
		} else {
			good = append(good, i)
		}
	}
	return bad, nil
}

// start runs a hub until the returned function is called.
func (w *world) start(instance string, t hub.Taster) (*hub.Hub, func()) {
	w.t.Helper()
	settings := federation.DefaultSettings()
	settings.Rollout.Soak = 0
	h := hub.New(hub.Config{
		Instance: instance, Build: "test", Key: ledgertest.Key("hub"), Fleet: federation.DefaultFleet, Settings: settings,
		Sites:  []ledger.SiteAddedData{{Cluster: "east", Key: ledgertest.Public("east"), Site: "dir:east"}},
		Ledger: w.store, Publisher: w, Shelf: shelved{w.shelf}, Taster: t,
		Logger:      slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Incarnation: func() string { return "one" }, Announce: w.announced,
	})
	w.mu.Lock()
	w.running = h
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("hub: %v", err)
		}
	}
}

// announced is the edge: its one Envoy serves every head at once.
func (w *world) announced(s projector.SignedHead) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heads = append(w.heads, s)
	w.status = federation.EdgeStatus{
		Edge: "edge", Fleet: s.Head.Fleet, Ring: s.Head.Ring, Generation: s.Head.Generation, Revision: s.Head.Revision, Fingerprint: s.Head.Fingerprint,
		Envoys: []federation.EnvoyStatus{{Node: "envoy", Kind: projector.Served, Generation: s.Head.Generation}},
	}
	w.running.Status(w.status)
}

// wait waits until the hub has got somewhere; the edge repeats itself.
func (w *world) wait(h *hub.Hub, what string, done func(hub.Inside) bool) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		updated := w.store.Updated()
		ok, seen := false, ""
		if err := h.Inspect(ctx, func(i hub.Inside) {
			ok = done(i)
			seen = fmt.Sprintf("head r%d g%d, newest r%d, last good r%d, term %d", i.Fleet.Head.Revision, i.Fleet.Head.Generation, len(i.Fleet.Revisions), i.Fleet.LastGood, i.State.Term)
		}); err != nil {
			w.t.Fatalf("wait for %s: %v; %s", what, err, seen)
		}
		if ok {
			return
		}
		select {
		case <-updated:
		case <-time.After(20 * time.Millisecond):
			w.mu.Lock()
			if w.status.Edge != "" {
				h.Status(w.status)
			}
			w.mu.Unlock()
		case <-ctx.Done():
			w.t.Fatalf("waited for %s; %s", what, seen)
		}
	}
}

func good(r uint64) func(hub.Inside) bool {
	return func(i hub.Inside) bool { return i.Fleet.LastGood == r && i.Fleet.Head.Revision == r }
}

// event tells something as east's collector.
func (w *world) event(e ledger.Event) {
	w.t.Helper()
	w.mu.Lock()
	e.ID = ledger.Origin{Cluster: "east", Epoch: 1, Instance: "a", N: w.n}
	w.n++
	w.mu.Unlock()
	e.Source, e.Time = "/collector/east", time.Now().UTC()
	b, err := e.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.append(ledger.Incoming{Record: ledger.Sign(b, ledgertest.Key("east")), Subject: e.Subject}); err != nil {
		w.t.Fatal(err)
	}
}

func key(kind, name string) ledger.ObjectKey {
	return ledger.ObjectKey{Cluster: "east", Group: "getambassador.io", Kind: kind, Namespace: "default", Name: name}
}

func (w *world) put(kind, name, spec string) {
	k := key(kind, name)
	data := []byte(`{"apiVersion":"getambassador.io/v3alpha1","kind":"` + kind + `","metadata":{"name":"` + name + `","namespace":"default"},"spec":` + spec + `}`)
	w.items = append(slices.DeleteFunc(w.items, func(it ledger.SyncItem) bool { return it.Object == k }), ledger.SyncItem{Object: k, Digest: ledger.DigestOf(data)})
	w.event(ledger.Event{Type: ledger.ObjectPut, Subject: k.Subject(), Object: k, ObjectDigest: ledger.DigestOf(data), Data: data})
}

func (w *world) mapping(name, prefix string) {
	w.put("Mapping", name, `{"hostname":"*","prefix":"`+prefix+`","service":"127.0.0.1:9000"}`)
}

// sync tells a first full list: a way in and one Mapping.
func (w *world) sync(h *hub.Hub) {
	w.t.Helper()
	w.wait(h, "the site", func(i hub.Inside) bool { return len(i.State.Sites) == 1 })
	w.event(ledger.Event{Type: ledger.SyncBegin, Subject: ledger.SyncSubject("east"), Data: json.RawMessage(`{}`)})
	w.put("Listener", "http", `{"port":8080,"protocol":"HTTP","securityModel":"XFP","hostBinding":{"namespace":{"from":"ALL"}}}`)
	w.put("Host", "all", `{"hostname":"*","requestPolicy":{"insecure":{"action":"Route"}}}`)
	w.mapping("web", "/web/")
	slices.SortFunc(w.items, func(a, b ledger.SyncItem) int { return a.Object.Compare(b.Object) })
	data, err := json.Marshal(ledger.SyncEndData{Count: len(w.items), Inventory: ledger.InventoryDigest(w.items)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.event(ledger.Event{Type: ledger.SyncEnd, Subject: ledger.SyncSubject("east"), Data: data})
}

// decisions counts the recorded decisions of a name.
func (w *world) decisions(name string) int {
	w.t.Helper()
	n := 0
	for seq := ledger.Seq(1); seq <= w.store.Size(); seq++ {
		entries, err := w.store.Read(seq, 1)
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := ledger.DecodeEvent(entries[0].Record.Event)
		if err != nil {
			w.t.Fatal(err)
		}
		if e.Type.Decision() == name {
			n++
		}
	}
	return n
}

func TestAChangeBecomesServed(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", nil)
	defer stop()
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	w.mapping("web", "/new/")
	w.wait(h, "r2 to be good", good(2))
	if n := w.decisions("head"); n != 2 {
		t.Errorf("%d heads recorded, want 2", n)
	}
	if _, err := w.shelf.Get(w.heads[1].Head.Fingerprint); err != nil {
		t.Errorf("the head's snapshot is not on the shelf: %v", err)
	}
}

func TestAnUnacknowledgedPublishIsRecordedOnce(t *testing.T) {
	w := newWorld(t)
	w.doubt = 5
	h, stop := w.start("a", nil)
	defer stop()
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	for name, want := range map[string]int{"term": 1, "settings": 1, "site-added": 1, "candidate": 1, "head": 1} {
		if n := w.decisions(name); n != want {
			t.Errorf("%s is recorded %d times, want %d", name, n, want)
		}
	}
}

func TestARestartKeepsTheLastGoodVersion(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", nil)
	w.sync(h)
	w.mapping("other", "/other/")
	w.wait(h, "a good revision", func(i hub.Inside) bool {
		return i.Fleet.LastGood > 0 && i.Fleet.LastGood == i.Fleet.Head.Revision && i.Projection.Len() == 4
	})
	var served ledger.Digest
	w.wait(h, "the object", func(i hub.Inside) bool { served = i.Projection.Get(key("Mapping", "web")).Digest; return true })
	stop()
	w.put("Mapping", "web", `{"hostname":"*","prefix":7,"service":"x"}`)
	h, stop = w.start("b", nil)
	defer stop()
	w.wait(h, "the last good version", func(i hub.Inside) bool {
		r, ok := i.Compiler.Report(key("Mapping", "web"))
		return ok && r.State == projector.Rejected && r.Serving == served && i.State.Term == 2
	})
	w.mapping("third", "/third/")
	w.wait(h, "others to go on", func(i hub.Inside) bool {
		n := i.Fleet.Newest()
		return n.Headed && n.Kept[key("Mapping", "web")] == served && n.Routes == 3
	})
}

func TestARefusedCandidateIsTracedToItsObject(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", taster{hates: "/poison/"})
	defer stop()
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	w.mapping("fine", "/fine/")
	w.mapping("bad", "/poison/")
	w.mapping("also-fine", "/also-fine/")
	w.wait(h, "the culprit to be named and the others served", func(i hub.Inside) bool {
		bad, _ := i.Compiler.Report(key("Mapping", "bad"))
		fine, _ := i.Compiler.Report(key("Mapping", "also-fine"))
		n := i.Fleet.Newest()
		return bad.State == projector.Rejected && fine.State == projector.Accepted && n.Headed && n.Routes == 3 && n.Fingerprint == i.Fleet.Head.Fingerprint
	})
	// Its mending is an object like any other.
	w.mapping("bad", "/cured/")
	w.wait(h, "the cured object to be served", func(i hub.Inside) bool {
		r, _ := i.Compiler.Report(key("Mapping", "bad"))
		return r.State == projector.Accepted && i.Fleet.Newest().Headed && i.Fleet.Newest().Routes == 4
	})
}

func TestAPinIsServedAlsoFromALostShelf(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", nil)
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	w.mapping("web", "/new/")
	w.wait(h, "r2 to be good", good(2))
	first := w.heads[0].Head.Fingerprint
	if _, err := w.shelf.Prune(func(f projector.Fingerprint) bool { return f != first }); err != nil {
		t.Fatal(err)
	}
	a, err := h.Do(t.Context(), hub.Request{Actor: ledger.Actor{Name: "alice", Source: "operator"}, Reason: "bad", Pin: &hub.PinRequest{}})
	if err != nil || a.Revision != 1 || a.From != 2 {
		t.Fatalf("pin: %+v, %v", a, err)
	}
	w.wait(h, "the pin to be served", func(i hub.Inside) bool {
		return i.Fleet.Head.Fingerprint == first && i.Fleet.Served == i.Fleet.Head.Generation
	})
	if _, err := w.shelf.Get(first); err != nil {
		t.Errorf("the pinned snapshot is not on the shelf: %v", err)
	}
	// The pin outlives the hub, and what comes meanwhile waits.
	stop()
	h, stop = w.start("b", nil)
	defer stop()
	w.mapping("web", "/newer/")
	w.wait(h, "r3", func(i hub.Inside) bool { return len(i.Fleet.Revisions) == 3 && i.Fleet.Newest().Tasted != nil })
	w.wait(h, "the pin to stay", func(i hub.Inside) bool { return i.Fleet.Head.Fingerprint == first })
	if _, err := h.Do(t.Context(), hub.Request{Release: &hub.ReleaseRequest{ID: "h7"}}); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("the release of a hold that is not there: %v", err)
	}
	if _, err := h.Do(t.Context(), hub.Request{Pin: &hub.PinRequest{Revision: 1}}); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("the same pin twice: %v", err)
	}
	// Of two pins the newer is served; with one released the other holds.
	b, err := h.Do(t.Context(), hub.Request{Pin: &hub.PinRequest{Revision: 2}})
	if err != nil {
		t.Fatal(err)
	}
	w.wait(h, "the second pin", func(i hub.Inside) bool { return i.Fleet.Head.Revision == 2 })
	r, err := h.Do(t.Context(), hub.Request{Release: &hub.ReleaseRequest{ID: a.Hold}})
	if want := "h1 released; fleet default stays pinned to r2 by h2"; err != nil || r.Message != want {
		t.Errorf("got %q, %v, want %q", r.Message, err, want)
	}
	if _, err := h.Do(t.Context(), hub.Request{Release: &hub.ReleaseRequest{ID: b.Hold}}); err != nil {
		t.Fatal(err)
	}
	w.wait(h, "r3 to be good", good(3))
}

func TestANewerTermFencesAHub(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", nil)
	defer stop()
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	second, stopSecond := w.start("b", nil)
	defer stopSecond()
	w.wait(second, "its term", func(i hub.Inside) bool { return i.State.Term == 2 && i.Deciding })
	w.wait(h, "to be fenced", func(i hub.Inside) bool { return i.Fenced && !i.Deciding })
	w.mapping("web", "/new/")
	w.wait(second, "r2 to be good", good(2))
	if _, err := h.Do(t.Context(), hub.Request{Pin: &hub.PinRequest{}}); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("a fenced hub takes a command: %v", err)
	}
	if n := w.decisions("candidate"); n != 2 {
		t.Errorf("%d candidates recorded, want 2", n)
	}
}

// TestALedgerThatIsRebuiltIsDecidedOn has the hub begin before the history of
// others is back: their terms are no competitors.
func TestALedgerThatIsRebuiltIsDecidedOn(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", nil)
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	stop()
	h, stop = w.start("b", nil)
	w.wait(h, "its term", func(i hub.Inside) bool { return i.State.Term == 2 })
	stop()
	var history []ledger.Incoming
	for seq := ledger.Seq(1); seq <= w.store.Size(); seq++ {
		entries, err := w.store.Read(seq, 1)
		if err != nil {
			t.Fatal(err)
		}
		e, err := ledger.DecodeEvent(entries[0].Record.Event)
		if err != nil {
			t.Fatal(err)
		}
		history = append(history, ledger.Incoming{Record: entries[0].Record, Subject: e.Subject})
	}
	again := newWorld(t) // has the stream-begin of the same incarnation
	again.items, again.n, again.gate = w.items, w.n, make(chan struct{})
	h, stop = again.start("c", nil)
	defer stop()
	again.wait(h, "a claim that is on its way", func(i hub.Inside) bool { return i.Unsent > 0 })
	for _, m := range history[1:] {
		if err := again.append(m); err != nil {
			t.Fatal(err)
		}
	}
	close(again.gate)
	again.mapping("web", "/rebuilt/")
	again.wait(h, "what is new to be served", func(i hub.Inside) bool {
		n := i.Fleet.Newest()
		return i.State.Term == 3 && i.Deciding && len(i.Fleet.Revisions) == 2 && n.Promoted
	})
}

func TestAShrunkSnapshotWaitsForConsent(t *testing.T) {
	w := newWorld(t)
	h, stop := w.start("a", nil)
	defer stop()
	w.sync(h)
	w.wait(h, "r1 to be good", good(1))
	gone := key("Listener", "http")
	w.event(ledger.Event{Type: ledger.ObjectDelete, Subject: gone.Subject(), Object: gone})
	w.wait(h, "the snapshot to be withheld", func(i hub.Inside) bool { return i.Shrink != nil && len(i.Shrink.GoneListeners) == 1 })
	w.wait(h, "the head to stay", func(i hub.Inside) bool { return i.Fleet.Head.Revision == 1 && len(i.Fleet.Revisions) == 1 })
	if _, err := h.Do(t.Context(), hub.Request{Confirm: &hub.ConfirmRequest{}}); err != nil {
		t.Fatal(err)
	}
	w.wait(h, "r2", func(i hub.Inside) bool { return i.Fleet.Head.Revision == 2 && i.Shrink == nil })
	if _, err := h.Do(t.Context(), hub.Request{Confirm: &hub.ConfirmRequest{}}); !errors.Is(err, hub.ErrRefused) {
		t.Errorf("a second consent: %v", err)
	}
}
