package e2e_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// witness follows the history over the API for as long as it answers, and keeps
// what it was told is recorded.
type witness struct {
	mu   sync.Mutex
	seen map[uint64]console.Event // guarded by mu
}

// follow follows the running serve until ctx ends or the API is gone.
func (w *witness) follow(ctx context.Context, s *System) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		if c, err := s.Client(); err == nil {
			// The error says that serve was killed, which is the point.
			_ = c.FollowHistory(ctx, url.Values{}, func(e console.Event) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.seen[e.Seq] = e
				return nil
			})
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// heads returns the heads that a ledger records, in order.
func heads(t *testing.T, r Record) []projector.Head {
	t.Helper()
	var out []projector.Head
	for _, e := range r.Events {
		if e.Type != ledger.DecisionType(projector.HeadDecision) {
			continue
		}
		d, err := ledger.DecodeDecision(e.Data)
		must(t, err)
		var h projector.Head
		must(t, json.Unmarshal(d.Body, &h))
		out = append(out, h)
	}
	return out
}

// extends fails the test if the ledger does not begin with all that it held
// before.
func extends(t *testing.T, before, now Record) {
	t.Helper()
	if len(now.Entries) < len(before.Entries) {
		t.Errorf("the ledger had %d records and has %d", len(before.Entries), len(now.Entries))
	}
	for i := range min(len(before.Entries), len(now.Entries)) {
		if !bytes.Equal(before.Entries[i].Record.Leaf(), now.Entries[i].Record.Leaf()) {
			t.Fatalf("record %d of the ledger became another", i+1)
		}
	}
}

// edgeGeneration returns the generation that the edge would begin with.
func (s *System) edgeGeneration() uint64 {
	s.TB.Helper()
	b, err := os.ReadFile(filepath.Join(s.Data, "edge", "heads.json"))
	if os.IsNotExist(err) {
		return 0
	}
	must(s.TB, err)
	var file struct {
		Current projector.SignedHead `json:"current"`
	}
	must(s.TB, json.Unmarshal(b, &file))
	authority, err := pki.Open(filepath.Join(s.Data, "pki"))
	must(s.TB, err)
	h, err := projector.OpenHead(file.Current.Record, file.Current.Seq, authority.DecisionKey().Public().(ed25519.PublicKey))
	must(s.TB, err)
	return h.Head.Generation
}

func TestKillUnderLoad(t *testing.T) {
	t.Parallel()
	c := newChurn(t, newSeed(t))
	c.begin()
	pid := c.EnvoyPID()
	load := c.StartLoad(50, 2, c.steady...)
	count := c.StartLoad(100, 1, c.counter)
	w := &witness{seen: map[uint64]console.Event{}}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { w.follow(ctx, c.System) })
	defer following.Wait()
	defer cancel()

	var before Record
	generation := uint64(0)
	kills := Count(10, 100)
	for k := range kills {
		// A random number of changes, some of them unseen by the serve that is
		// about to die, which may be about to start.
		wait := time.NewTimer(time.Duration(c.rng.IntN(3000)) * time.Millisecond)
		for running := true; running; {
			c.change()
			pause := time.NewTimer(time.Duration(c.rng.IntN(150)) * time.Millisecond)
			select {
			case <-pause.C:
			case <-wait.C:
				running = false
			}
		}
		c.Kill()

		now := c.Ledger()
		extends(t, before, now)
		before = now
		if g := c.edgeGeneration(); g < generation {
			t.Errorf("kill %d: the edge kept generation %d and has %d", k, generation, g)
		} else {
			generation = g
		}
		c.Start()
	}
	c.Ready()
	c.settle()
	c.InSync()
	if got := c.EnvoyPID(); got != pid || !alive(pid) {
		t.Errorf("the Envoy was %d and is %d: it was not adopted", pid, got)
	}
	load.Stop()
	served := neverBack(t, count, c.counter)
	count.Stop()
	cancel()
	following.Wait()
	c.Stop()

	final := c.Ledger()
	extends(t, before, final)
	for seq, e := range w.seen {
		if seq > uint64(len(final.Events)) || final.Events[seq-1].ID.String() != e.ID {
			t.Errorf("the API told that seq %d is %s; it is not in the ledger", seq, e.ID)
		}
	}
	have := recorded(final)
	for n := range served {
		if !have[n] {
			t.Errorf("version %d of the counter was served and is not in the ledger", n)
		}
	}
	last := uint64(0)
	for _, h := range heads(t, final) {
		if h.Generation <= last {
			t.Errorf("the ledger records generation %d after %d", h.Generation, last)
		}
		last = h.Generation
	}
	if last == 0 || len(w.seen) == 0 || len(served) == 0 {
		t.Errorf("heads %d, events seen %d, versions served %d: nothing was compared", last, len(w.seen), len(served))
	}
	if s := federationState(t, final); s.Fleet(federation.DefaultFleet).Head.Generation != last {
		t.Errorf("the fold of the ledger has generation %d, its newest head is %d", s.Fleet(federation.DefaultFleet).Head.Generation, last)
	}
	t.Logf("kill -9: %d, ledger: %d events, seen over the API before: %d, versions of the counter: %d written, %d served", kills, len(final.Events), len(w.seen), c.count, len(served))
}

// federationState folds the decisions of a ledger.
func federationState(t *testing.T, r Record) *federation.State {
	t.Helper()
	s := federation.NewState()
	for i, e := range r.Events {
		must(t, s.Apply(ledger.Seq(i+1), e, r.Entries[i].Record.Event))
	}
	return s
}

// alive reports whether a process runs.
func alive(pid int) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(b, ')')
	return i >= 0 && i+2 < len(b) && b[i+2] != 'Z'
}
