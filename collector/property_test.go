package collector_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/collector/collectortest"
	"github.com/chancery-dev/chancery/ledger"
)

// memorySite is a site in memory, whose objects can become unreadable. Every object is in a file of its own.
type memorySite struct {
	mu      sync.Mutex
	objects map[string]string // name → prefix
	broken  map[string]bool
	change  chan struct{}
}

func newMemorySite() *memorySite {
	return &memorySite{objects: map[string]string{}, broken: map[string]bool{}, change: make(chan struct{}, 1)}
}

func (s *memorySite) edit(f func()) {
	s.mu.Lock()
	f()
	s.mu.Unlock()
	select {
	case s.change <- struct{}{}:
	default:
	}
}

// run is the site of one collector, which does not remember what an earlier one has read.
type run struct{ *memorySite }

func (r run) Run(ctx context.Context, emit func(collector.Update)) error {
	told := map[string]string{}
	first := true
	for {
		u := collector.Update{Full: first, Report: &collector.Report{}}
		first = false
		r.mu.Lock()
		for name, prefix := range r.objects {
			if r.broken[name] {
				u.Report.Unknown = append(u.Report.Unknown, collector.Unknown{Where: name})
				u.Report.Findings = append(u.Report.Findings, ledger.SiteFinding{Where: name, Message: "is broken"})
			} else if old, ok := told[name]; !ok || old != prefix {
				told[name] = prefix
				u.Put = append(u.Put, object(name, prefix))
			}
		}
		for name := range told {
			if _, ok := r.objects[name]; !ok {
				delete(told, name)
				u.Delete = append(u.Delete, object(name, "").Key)
			}
		}
		r.mu.Unlock()
		emit(u)
		select {
		case <-ctx.Done():
			return nil
		case <-r.change:
		}
	}
}

func object(name, prefix string) *collector.Object {
	o, err := collectortest.Normaliser().Normalise(collectortest.Mapping(name, prefix), name, "")
	if err != nil {
		panic(err)
	}
	return o
}

// TestLedgerEqualsSite: after any sequence of edits, crashes, failing writes and failing publishes the fold of what
// the ledger took equals what the site holds, and the inventory of the collector equals both.
func TestLedgerEqualsSite(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		site := newMemorySite()
		rig := collectortest.NewRig(quietTB{t, rt}, func() collector.Site { return run{site} })
		defer rig.Stop()
		rig.Start()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f", "g"}).Draw(rt, "name")
			switch rapid.SampledFrom([]string{
				"put", "put", "put", "put", "delete", "break", "mend", "crash", "lose outbox", "lose stream", "down", "up",
				"writes fail", "publishes fail", "mute", "claim", "resend", "stranger",
			}).Draw(rt, "step") {
			case "put":
				prefix := fmt.Sprintf("/%d", rapid.IntRange(0, 5).Draw(rt, "prefix"))
				site.edit(func() { site.objects[name] = prefix; delete(site.broken, name) })
			case "delete":
				site.edit(func() { delete(site.objects, name); delete(site.broken, name) })
			case "break":
				site.edit(func() {
					if _, ok := site.objects[name]; ok {
						site.broken[name] = true
					}
				})
			case "mend":
				site.edit(func() { delete(site.broken, name) })
			case "crash":
				rig.Restart()
			case "lose outbox":
				rig.Stop()
				rig.Outbox.Lose()
				rig.Start()
			case "lose stream":
				rig.Hub.LoseStream()
			case "down":
				rig.Hub.SetDown(true)
			case "up":
				rig.Hub.SetDown(false)
			case "writes fail":
				faults := rapid.SliceOfN(rapid.SampledFrom([]collectortest.WriteFault{
					collectortest.WriteWorks, collectortest.WriteFails, collectortest.WriteUntold,
				}), 1, 4).Draw(rt, "write faults")
				rig.Outbox.SetFault(func(n int) collectortest.WriteFault {
					if n < len(faults) {
						return faults[n]
					}
					return collectortest.WriteWorks
				})
			case "publishes fail":
				faults := rapid.SliceOfN(rapid.SampledFrom([]collectortest.Fault{
					collectortest.None, collectortest.Refused, collectortest.Unknown, collectortest.Torn, collectortest.Lost,
				}), 1, 4).Draw(rt, "publish faults")
				rig.Hub.SetFault(func(n int) collectortest.Fault {
					if n < len(faults) {
						return faults[n]
					}
					return collectortest.None
				})
			case "mute":
				rig.Hub.SetMute(true)
			case "stranger": // another collector claims the next epoch and goes away
				epoch, err := rig.Hub.NewestEpoch(context.Background(), collectortest.Cluster)
				if err != nil {
					continue // the stream is down for it too
				}
				e := ledger.Event{
					ID:   ledger.Origin{Cluster: collectortest.Cluster, Epoch: epoch + 1, Instance: "stranger"},
					Type: ledger.SyncBegin, Source: "/stranger", Subject: ledger.SyncSubject(collectortest.Cluster), Data: []byte("{}"),
				}
				b, err := e.Encode()
				if err != nil {
					rt.Fatal(err)
				}
				_ = rig.Hub.Publish(context.Background(), []collector.Message{{ // a fault may lose it
					Subject: e.Subject, Record: ledger.Sign(b, collectortest.Key()), ID: e.ID.String(),
				}})
			case "claim":
				rig.Hub.Ask(collector.Control{Kind: collector.Reclaim, Epoch: rapid.Uint64Range(0, 6).Draw(rt, "epoch")})
			case "resend":
				rig.Hub.Ask(collector.Control{
					Kind: collector.Resend, Epoch: rapid.Uint64Range(0, 6).Draw(rt, "epoch"), N: rapid.Uint64Range(0, 9).Draw(rt, "n"),
				})
			}
		}
		rig.Outbox.SetFault(nil)
		rig.Hub.SetFault(nil)
		rig.Hub.SetDown(false)
		rig.Hub.SetMute(false)
		site.edit(func() { clear(site.broken); site.objects["last"] = "/last" })
		site.mu.Lock()
		want := maps.Clone(site.objects)
		site.mu.Unlock()
		// What was lost on the way is missed when something else is published; what is withheld waits for a word.
		n := 0
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		for {
			step, stop := context.WithTimeout(ctx, 2*time.Second)
			err := rig.Hub.Wait(step, collectortest.All(collectortest.Mappings(want), collectortest.Findings(0, ""), func(f *collectortest.Fold) error {
				if f.Problem != "" || f.Syncs == 0 {
					return errors.New("no believed list: " + f.Problem)
				}
				return nil
			}))
			stop()
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				rt.Fatal(err)
			}
			rig.Hub.Confirm()
			n++
			prefix := fmt.Sprintf("/last%d", n)
			want["last"] = prefix
			site.edit(func() { site.objects["last"] = prefix })
		}
	})
}

// quietTB has a rig's failures fail the property, and its clean-up run with the test.
type quietTB struct {
	*testing.T
	rt *rapid.T
}

func (q quietTB) Fatal(args ...any)            { q.rt.Fatal(args...) }
func (q quietTB) Errorf(f string, args ...any) { q.rt.Errorf(f, args...) }
func (q quietTB) Helper()                      {}
