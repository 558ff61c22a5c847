package collectortest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// Cluster is the name of the cluster that tests collect.
const Cluster ledger.ClusterName = "east"

// Key returns the key of the collector that tests run.
func Key() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

// Normaliser returns the normaliser of that collector.
func Normaliser() collector.Normaliser {
	key, err := collector.SecretDigestKey(Key(), Cluster)
	if err != nil {
		panic(err)
	}
	return collector.Normaliser{Cluster: Cluster, DigestKey: key}
}

// Rig is a collector between a site and a Hub.
type Rig struct {
	T      testing.TB
	Hub    *Hub
	Outbox *Outbox
	Site   func() collector.Site

	starts int
	stop   context.CancelFunc
	ended  chan error
}

// NewRig returns a rig with an outbox in memory. Nothing runs before Start.
func NewRig(t testing.TB, site func() collector.Site) *Rig {
	t.Helper()
	hub, err := NewHub(Cluster, Key().Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	r := &Rig{T: t, Hub: hub, Outbox: NewOutbox(nil, 1<<30), Site: site}
	t.Cleanup(r.Stop)
	return r
}

var instances atomic.Int64

// Start runs a new collector.
func (r *Rig) Start() {
	r.T.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.starts++
	r.stop, r.ended = cancel, make(chan error, 1)
	cfg := collector.Config{
		Cluster: Cluster, Key: Key(), Instance: fmt.Sprintf("i%d", instances.Add(1)), Site: r.Site(),
		Outbox: r.Outbox, Stream: r.Hub, Control: r.Hub.Control(),
	}
	ended := r.ended
	go func() { ended <- collector.Run(ctx, cfg) }()
}

// Stop ends the collector and waits for it. It is a crash: nothing is handed over but the outbox.
func (r *Rig) Stop() {
	r.T.Helper()
	if r.stop == nil {
		return
	}
	r.stop()
	if err := <-r.ended; err != nil {
		r.T.Errorf("collector: %v", err)
	}
	r.stop = nil
}

// Restart is Stop and Start.
func (r *Rig) Restart() {
	r.T.Helper()
	r.Stop()
	r.Start()
}

// Wait fails the test when the ledger is not as wanted in time.
func (r *Rig) Wait(wanted func(*Fold) error) {
	r.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := r.Hub.Wait(ctx, wanted); err != nil {
		r.T.Fatal(err)
	}
}

// Source is what a site's test can do to what the site looks at.
type Source interface {
	// Put creates or replaces objects. Each call is one change, as far as the source can.
	Put(objects ...map[string]any)
	// Delete removes objects.
	Delete(objects ...map[string]any)
	// Break makes what holds the object unreadable, without saying that the object is gone.
	Break(object map[string]any)
	// Restore ends Break, with the object as it is given.
	Restore(object map[string]any)
	// Site returns a new site that looks at the source.
	Site() collector.Site
}

// Mapping returns a Mapping with the given prefix.
func Mapping(name, prefix string) map[string]any {
	return map[string]any{
		"apiVersion": "getambassador.io/v3alpha1", "kind": "Mapping",
		"metadata": map[string]any{"name": name, "namespace": "default"},
		"spec":     map[string]any{"hostname": "*", "prefix": prefix, "service": "echo"},
	}
}

// Mappings returns a check that the ledger has exactly these Mappings, by name and prefix.
func Mappings(want map[string]string) func(*Fold) error {
	return func(f *Fold) error {
		got := map[string]string{}
		for k, v := range f.Objects {
			if k.Kind == "Mapping" {
				_, rest, _ := strings.Cut(string(v.Data), `"prefix":"`)
				got[k.Name], _, _ = strings.Cut(rest, `"`)
			}
		}
		if len(got) != len(want) {
			return fmt.Errorf("mappings are %v, want %v (problem %q)", got, want, f.Problem)
		}
		for name, prefix := range want {
			if got[name] != prefix {
				return fmt.Errorf("mappings are %v, want %v (problem %q)", got, want, f.Problem)
			}
		}
		return nil
	}
}

// All joins checks.
func All(checks ...func(*Fold) error) func(*Fold) error {
	return func(f *Fold) error {
		for _, c := range checks {
			if err := c(f); err != nil {
				return err
			}
		}
		return nil
	}
}

// Findings returns a check on the number of findings, and that one of them holds the text.
func Findings(n int, text string) func(*Fold) error {
	return func(f *Fold) error {
		ok := n == 0
		for _, x := range f.Findings {
			ok = ok || strings.Contains(x.Where+": "+x.Message, text)
		}
		if len(f.Findings) != n || !ok {
			return fmt.Errorf("findings are %v, want %d with %q", f.Findings, n, text)
		}
		return nil
	}
}

// Syncs returns a check on the number of believed full lists.
func Syncs(n int) func(*Fold) error {
	return func(f *Fold) error {
		if f.Syncs < n || f.Problem != "" {
			return fmt.Errorf("%d syncs, want %d (problem %q)", f.Syncs, n, f.Problem)
		}
		return nil
	}
}

func six() (objects []map[string]any, want map[string]string) {
	want = map[string]string{}
	for i := range 6 {
		name := fmt.Sprintf("m%d", i)
		objects = append(objects, Mapping(name, "/"+name))
		want[name] = "/" + name
	}
	return objects, want
}

// TestSite runs the suite that every kind of site passes. source returns a new, empty source.
func TestSite(t *testing.T, source func(t *testing.T) Source) {
	start := func(t *testing.T, objects ...map[string]any) (*Rig, Source) {
		s := source(t)
		s.Put(objects...)
		r := NewRig(t, s.Site)
		r.Start()
		return r, s
	}
	run := func(name string, f func(t *testing.T)) { t.Run(name, f) }

	run("the first list is complete", func(t *testing.T) {
		objects, want := six()
		r, _ := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1), Findings(0, "")))
		if e := r.Hub.Events()[0]; e.Type != ledger.SyncBegin || e.ID.N != 0 || e.ID.Epoch != 1 {
			t.Errorf("the first event is %s %s, want the claim of epoch 1", e.Type, e.ID)
		}
	})
	run("a change is a put that names what it replaces", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		before := r.Hub.Fold()
		s.Put(Mapping("m2", "/other"))
		want["m2"] = "/other"
		r.Wait(Mappings(want))
		events := r.Hub.Events()
		last := events[len(events)-1]
		if last.Type != ledger.ObjectPut || last.PreviousDigest != before.Objects[last.Object].Digest {
			t.Errorf("last event is %s with previous digest %s", last.Type, last.PreviousDigest.Short())
		}
	})
	run("a new object is a put", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		s.Put(Mapping("new", "/new"))
		want["new"] = "/new"
		r.Wait(Mappings(want))
	})
	run("a deletion is a delete", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		s.Delete(objects[3])
		delete(want, "m3")
		r.Wait(Mappings(want))
		events := r.Hub.Events()
		if last := events[len(events)-1]; last.Type != ledger.ObjectDelete || last.Object.Name != "m3" {
			t.Errorf("last event is %s of %s", last.Type, last.Object)
		}
	})
	run("a restart lists what has not changed by digest", func(t *testing.T) {
		objects, want := six()
		r, _ := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		r.waitTrimmed()
		n := len(r.Hub.Events())
		r.Restart()
		r.Wait(All(Mappings(want), Syncs(2)))
		for _, e := range r.Hub.Events()[n:] {
			if e.Type == ledger.ObjectPut {
				t.Errorf("%s was put again", e.Object)
			}
		}
	})
	run("what changed while nobody looked is found", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		r.Stop()
		s.Delete(objects[0])
		s.Put(Mapping("m1", "/changed"), Mapping("new", "/new"))
		r.Start()
		delete(want, "m0")
		want["m1"], want["new"] = "/changed", "/new"
		r.Wait(All(Mappings(want), Syncs(2)))
	})
	run("what cannot be read stays", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		s.Break(objects[1])
		r.Wait(All(Mappings(want), Findings(1, "")))
		s.Put(Mapping("m2", "/other"))
		want["m2"] = "/other"
		r.Wait(All(Mappings(want), Findings(1, "")))
		s.Restore(Mapping("m1", "/restored"))
		want["m1"] = "/restored"
		r.Wait(All(Mappings(want), Findings(0, "")))
	})
	run("what cannot be read at the start stays", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		r.Stop()
		s.Break(objects[1])
		s.Delete(objects[5])
		r.Start()
		delete(want, "m5")
		r.Wait(All(Mappings(want), Findings(1, ""), Syncs(2)))
		s.Restore(Mapping("m1", "/restored"))
		want["m1"] = "/restored"
		r.Wait(All(Mappings(want), Findings(0, "")))
	})
	run("what cannot be read stays when the outbox is lost", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		r.Stop()
		r.Outbox.Lose()
		s.Break(objects[1])
		r.Start()
		s.Put(Mapping("m2", "/other"))
		want["m2"] = "/other"
		r.Wait(All(Mappings(want), Findings(1, "")))
		s.Restore(objects[1])
		r.Wait(All(Mappings(want), Findings(0, ""), Syncs(2)))
	})
	run("a mass delete is a list, and is withheld", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		s.Delete(objects[:4]...)
		r.Wait(All(Mappings(want), Syncs(2), func(f *Fold) error {
			if len(f.Withheld) != 4 {
				return fmt.Errorf("%v withheld, want 4", f.Withheld)
			}
			return nil
		}))
		r.Hub.Confirm()
		r.Wait(Mappings(map[string]string{"m4": "/m4", "m5": "/m5"}))
	})
	run("an empty site is withheld at a restart", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		r.Stop()
		s.Delete(objects...)
		r.Start()
		r.Wait(All(Mappings(want), Syncs(2), func(f *Fold) error {
			if len(f.Withheld) != 6 {
				return fmt.Errorf("%v withheld, want 6", f.Withheld)
			}
			return nil
		}))
	})
	run("only secrets that are referred to, and only facts", func(t *testing.T) {
		const body = "bm90LWEta2V5LWJ1dC1zZWNyZXQ=" // base64 of not-a-key-but-secret
		secret := func(name string) map[string]any {
			return map[string]any{
				"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
				"metadata": map[string]any{"name": name, "namespace": "default", "annotations": map[string]any{"x": body}},
				"data":     map[string]any{"tls.crt": body},
			}
		}
		host := map[string]any{
			"apiVersion": "getambassador.io/v3alpha1", "kind": "Host",
			"metadata": map[string]any{"name": "h", "namespace": "default"},
			"spec":     map[string]any{"hostname": "h.example", "tlsSecret": map[string]any{"name": "used"}},
		}
		secrets := func(names ...string) func(*Fold) error {
			return func(f *Fold) error {
				var got []string
				for k, v := range f.Objects {
					if k.Kind == "Secret" {
						got = append(got, k.Name)
						if !strings.Contains(string(v.Data), "tls.key is missing") {
							return fmt.Errorf("the facts of %s do not say what is missing: %s", k.Name, v.Data)
						}
					}
				}
				slices.Sort(got)
				if !slices.Equal(got, names) {
					return fmt.Errorf("secrets are %v, want %v", got, names)
				}
				return nil
			}
		}
		objects, want := six()
		r, s := start(t, append(objects, secret("used"), secret("unused"), host)...)
		r.Wait(All(Mappings(want), Syncs(1), secrets("used")))
		host["spec"] = map[string]any{"hostname": "h.example", "tlsSecret": map[string]any{"name": "unused"}}
		s.Put(host)
		r.Wait(secrets("unused"))
		for _, e := range r.Hub.Events() {
			if strings.Contains(string(e.Data), body) || strings.Contains(string(e.Data), "not-a-key-but-secret") {
				t.Errorf("%s tells what is in a secret: %s", e.ID, e.Data)
			}
		}
	})
	run("while the stream is away events gather", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		r.Hub.SetDown(true)
		for i := range 3 {
			s.Put(Mapping("m2", fmt.Sprintf("/v%d", i)))
		}
		s.Put(Mapping("new", "/new"))
		r.Hub.SetDown(false)
		want["m2"], want["new"] = "/v2", "/new"
		r.Wait(Mappings(want))
	})
	run("the instance of an object does not change by what changes by itself", func(t *testing.T) {
		objects, want := six()
		r, s := start(t, objects...)
		r.Wait(All(Mappings(want), Syncs(1)))
		n := len(r.Hub.Events())
		m := Mapping("m2", "/m2")
		m["status"] = map[string]any{"state": "Running"}
		s.Put(m)
		s.Put(Mapping("m3", "/after"))
		want["m3"] = "/after"
		r.Wait(Mappings(want))
		if got := r.Hub.Events()[n:]; len(got) != 1 {
			t.Errorf("%d events, want 1", len(got))
		}
	})
}

// waitTrimmed waits until the hub's word has emptied the outbox.
func (r *Rig) waitTrimmed() {
	r.T.Helper()
	r.Wait(func(*Fold) error {
		if used, _ := r.Outbox.Size(); used > 0 {
			return fmt.Errorf("%d bytes in the outbox", used)
		}
		return nil
	})
}
