package projector_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

func objectKey(cluster, name string) ledger.ObjectKey {
	return ledger.ObjectKey{Cluster: ledger.ClusterName(cluster), Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: name}
}

// log is a ledger in the making, and the projection that follows it.
type log struct {
	t       testing.TB
	p       *projector.Projection
	events  []ledger.Event
	changes [][]projector.Change
}

func newLog(t testing.TB) *log { return &log{t: t, p: projector.NewProjection()} }

func (l *log) add(e ledger.Event) []projector.Change {
	l.t.Helper()
	e.Time = time.Unix(int64(len(l.events)), 0)
	l.events = append(l.events, e)
	changes, err := l.p.Apply(ledger.Seq(len(l.events)), e)
	if err != nil {
		l.t.Fatal(err)
	}
	l.changes = append(l.changes, changes)
	return changes
}

func data(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func event(typ ledger.Type, cluster string, v any) ledger.Event {
	return ledger.Event{ID: ledger.Origin{Cluster: ledger.ClusterName(cluster), Epoch: 1, Instance: "i"}, Type: typ, Data: data(v)}
}

func put(cluster, name, uid, body string) ledger.Event {
	e := event(ledger.ObjectPut, cluster, body)
	e.Object, e.UID, e.ObjectDigest = objectKey(cluster, name), uid, ledger.DigestOf(e.Data)
	return e
}

func del(cluster, name, uid string) ledger.Event {
	e := event(ledger.ObjectDelete, cluster, nil)
	e.Object, e.UID = objectKey(cluster, name), uid
	return e
}

// sync lists objects as unchanged, all that the projection has of the cluster
// and that keep names.
func (l *log) sync(cluster string, keep func(name string) bool) []projector.Change {
	l.t.Helper()
	l.add(event(ledger.SyncBegin, cluster, ledger.SyncBeginData{}))
	var items []ledger.SyncItem
	for _, k := range l.p.Keys() {
		if k.Cluster == ledger.ClusterName(cluster) && keep(k.Name) {
			items = append(items, ledger.SyncItem{Object: k, Digest: l.p.Get(k).Digest})
		}
	}
	l.add(event(ledger.SyncPage, cluster, ledger.SyncPageData{Unchanged: items}))
	return l.add(event(ledger.SyncEnd, cluster, ledger.SyncEndData{Count: len(items), Inventory: ledger.InventoryDigest(items)}))
}

func (l *log) names() string {
	var out []string
	for _, k := range l.p.Keys() {
		out = append(out, string(k.Cluster)+"/"+k.Name)
	}
	return strings.Join(out, " ")
}

func (l *log) want(names string) {
	l.t.Helper()
	if got := l.names(); got != names {
		l.t.Errorf("objects %q, want %q", got, names)
	}
}

func TestPutAndDelete(t *testing.T) {
	l := newLog(t)
	l.add(put("east", "a", "u1", "1"))
	l.add(put("east", "a", "u1", "2"))
	o := l.p.Get(objectKey("east", "a"))
	if o.FirstSeq != 1 || o.Seq != 2 {
		t.Errorf("first seen at %d, this version at %d, want 1 and 2", o.FirstSeq, o.Seq)
	}
	if changes := l.add(put("east", "a", "u1", "2")); len(changes) != 0 {
		t.Errorf("an equal version changes %v", changes)
	}
	l.add(del("east", "a", "u0"))
	l.want("east/a") // the delete was of an older object of the name
	l.add(put("east", "a", "u2", "2"))
	if o := l.p.Get(objectKey("east", "a")); o.FirstSeq != 5 {
		t.Errorf("another object of the name is first seen at %d, want 5", o.FirstSeq)
	}
	if changes := l.add(del("east", "a", "u2")); len(changes) != 1 || changes[0].After != nil {
		t.Errorf("the delete changes %v", changes)
	}
	l.want("")
}

// TestSyncRemovesOnPositiveEvidence removes what a believed list lacks, and
// nothing else.
func TestSyncRemovesOnPositiveEvidence(t *testing.T) {
	fill := func() *log {
		l := newLog(t)
		for i := range 10 {
			l.add(put("east", fmt.Sprintf("m%d", i), "u", "1"))
		}
		l.add(put("west", "w", "u", "1"))
		return l
	}
	t.Run("few", func(t *testing.T) {
		l := fill()
		changes := l.sync("east", func(name string) bool { return name > "m2" })
		if len(changes) != 3 {
			t.Errorf("%d changes, want 3", len(changes))
		}
		l.want("east/m3 east/m4 east/m5 east/m6 east/m7 east/m8 east/m9 west/w")
	})
	t.Run("many are withheld until confirmed", func(t *testing.T) {
		l := fill()
		if changes := l.sync("east", func(name string) bool { return name > "m3" }); len(changes) != 0 || l.p.Len() != 11 {
			t.Errorf("40 %% are gone, and %v changes", changes)
		}
		w := l.p.Sites()[0].Withheld
		if w == nil || len(w.Objects) != 4 || w.Of != 10 {
			t.Fatalf("withheld is %+v", w)
		}
		l.add(put("east", "m0", "u", "2")) // it is there after all
		confirm := func(seq ledger.Seq) {
			l.add(event(ledger.DecisionType(projector.ConfirmDecision), "_install", ledger.Decision{Body: data(projector.Confirm{Cluster: "east", Seq: seq})}))
		}
		confirm(w.Seq - 1)
		if l.p.Len() != 11 {
			t.Error("the confirmation of something else removes")
		}
		confirm(w.Seq)
		l.want("east/m0 east/m4 east/m5 east/m6 east/m7 east/m8 east/m9 west/w")
		if l.p.Sites()[0].Withheld != nil {
			t.Error("something is still withheld")
		}
	})
	t.Run("an empty list", func(t *testing.T) {
		l := newLog(t)
		l.add(put("east", "a", "u", "1"))
		l.sync("east", func(string) bool { return false })
		l.want("east/a")
	})
	t.Run("a wrong count", func(t *testing.T) {
		l := fill()
		l.add(event(ledger.SyncBegin, "east", ledger.SyncBeginData{}))
		l.add(event(ledger.SyncEnd, "east", ledger.SyncEndData{Count: 9}))
		if l.p.Len() != 11 || l.p.Sites()[0].Problem == "" {
			t.Errorf("%d objects, problem %q", l.p.Len(), l.p.Sites()[0].Problem)
		}
	})
	t.Run("an unknown version", func(t *testing.T) {
		l := fill()
		items := []ledger.SyncItem{{Object: objectKey("east", "m0"), Digest: ledger.DigestOf([]byte("never seen"))}}
		l.add(event(ledger.SyncBegin, "east", ledger.SyncBeginData{}))
		l.add(event(ledger.SyncPage, "east", ledger.SyncPageData{Unchanged: items}))
		l.add(event(ledger.SyncEnd, "east", ledger.SyncEndData{Count: 1, Inventory: ledger.InventoryDigest(items)}))
		if l.p.Len() != 11 || l.p.Sites()[0].Problem == "" {
			t.Errorf("%d objects, problem %q", l.p.Len(), l.p.Sites()[0].Problem)
		}
	})
	t.Run("out of scope", func(t *testing.T) {
		l := fill()
		l.add(event(ledger.SyncBegin, "east", ledger.SyncBeginData{Scope: []string{"getambassador.io/Host"}}))
		l.add(event(ledger.SyncEnd, "east", ledger.SyncEndData{Inventory: ledger.InventoryDigest(nil)}))
		if l.p.Len() != 11 {
			t.Error("a list of Hosts removes Mappings")
		}
	})
	t.Run("a disconnect", func(t *testing.T) {
		l := fill()
		l.add(event(ledger.SyncBegin, "east", ledger.SyncBeginData{}))
		l.add(event(ledger.SyncBegin, "east", ledger.SyncBeginData{})) // the collector began anew
		if l.p.Len() != 11 {
			t.Error("a list that never ended removes")
		}
	})
}

func TestApplyWantsTheNextSeq(t *testing.T) {
	p := projector.NewProjection()
	for _, seq := range []ledger.Seq{0, 2} {
		if _, err := p.Apply(seq, put("east", "a", "u", "1")); err == nil {
			t.Errorf("event %d is taken first", seq)
		}
	}
	if p.Seq() != 0 || p.Len() != 0 {
		t.Error("a refused event left something")
	}
}

// TestChangesAreTheProjection folds random events: the changes that Apply
// returns, applied to a map, give the projection; a replay and a clone in the
// middle give the same; and what one cluster does never touches another.
func TestChangesAreTheProjection(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := newLog(t)
		mirror := map[ledger.ObjectKey]*projector.Object{}
		var clone *projector.Projection
		var cloned int
		for range rapid.IntRange(1, 40).Draw(rt, "events") {
			cluster := rapid.SampledFrom([]string{"east", "west"}).Draw(rt, "cluster")
			name := fmt.Sprintf("m%d", rapid.IntRange(0, 5).Draw(rt, "name"))
			uid := rapid.SampledFrom([]string{"u1", "u2"}).Draw(rt, "uid")
			from := len(l.changes)
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0, 1, 2:
				l.add(put(cluster, name, uid, rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "body")))
			case 3:
				l.add(del(cluster, name, uid))
			case 4:
				gone := rapid.SampledFrom([]string{"m0", "m3", "none"}).Draw(rt, "gone")
				l.sync(cluster, func(n string) bool { return n != gone })
			case 5:
				clone, cloned = l.p.Clone(), len(l.events)
			}
			for _, changes := range l.changes[from:] {
				for _, ch := range changes {
					if mirror[ch.Key] != ch.Before {
						rt.Fatalf("%s was %v, the change says %v", ch.Key, mirror[ch.Key], ch.Before)
					}
					if mirror[ch.Key] = ch.After; ch.After == nil {
						delete(mirror, ch.Key)
					}
					if string(ch.Key.Cluster) != cluster {
						rt.Fatalf("an event of %s changes %s", cluster, ch.Key)
					}
				}
			}
			// An equal put is no change, but it is what the projection holds.
			for k, o := range mirror {
				if now := l.p.Get(k); now != nil && now.Digest == o.Digest && now.UID == o.UID {
					mirror[k] = now
				}
			}
			if got := slices.SortedFunc(maps.Keys(mirror), ledger.ObjectKey.Compare); !slices.Equal(got, l.p.Keys()) {
				rt.Fatalf("changes give %v, the projection has %v", got, l.p.Keys())
			}
			objects := map[string]int{}
			for k := range mirror {
				objects[string(k.Cluster)]++
			}
			for _, s := range l.p.Sites() {
				if s.Objects != objects[string(s.Cluster)] {
					rt.Fatalf("site %s says %d objects, it has %d", s.Cluster, s.Objects, objects[string(s.Cluster)])
				}
			}
		}
		same := func(what string, p *projector.Projection) {
			for _, k := range l.p.Keys() {
				if diff := cmp.Diff(l.p.Get(k), p.Get(k)); diff != "" {
					rt.Fatalf("%s:\n%s", what, diff)
				}
			}
			if !slices.Equal(l.p.Keys(), p.Keys()) || !cmp.Equal(l.p.Sites(), p.Sites()) {
				rt.Fatalf("%s is not the same", what)
			}
		}
		replayed := projector.NewProjection()
		for i, e := range l.events {
			if _, err := replayed.Apply(ledger.Seq(i+1), e); err != nil {
				rt.Fatal(err)
			}
		}
		same("a replay", replayed)
		if clone != nil {
			for i, e := range l.events[cloned:] {
				if _, err := clone.Apply(ledger.Seq(cloned+i+1), e); err != nil {
					rt.Fatal(err)
				}
			}
			same("a clone", clone)
		}
	})
}
