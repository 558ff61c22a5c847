// Package collectortest holds what tests of collectors share: Hub, a stream with a ledger behind it in memory, whose
// admission is the real one, and TestSite, the suite that every kind of site passes.
package collectortest

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// Fault is what a Hub does with one publish.
type Fault int

// The faults of a publish.
const (
	None Fault = iota
	// Refused: nothing is stored, and the caller is told.
	Refused
	// Unknown: everything is stored, and the caller is told that it may not be.
	Unknown
	// Torn: the first half is stored, and the caller is told that it may not be.
	Torn
	// Lost: the caller is told that all is stored, and nothing is.
	Lost
)

// Hub is a stream and a ledger in memory. It is a collector.Stream, and answers on Control as the hub does. It is
// safe for concurrent use.
type Hub struct {
	cluster ledger.ClusterName
	control chan collector.Control

	mu        sync.Mutex
	changed   chan struct{} // guarded by mu; closed and replaced on every change
	admission *ledger.Admission
	fold      *Fold
	events    []ledger.Event  // appended, in order
	stream    []stored        // every message that was stored
	ids       map[string]bool // message ids that the stream knows
	down      bool            // nothing can be published
	mute      bool            // the hub says nothing
	fault     func(int) Fault // of the n-th publish; nil for none
	publishes int
	onPublish func(time.Time, []collector.Message)
}

type stored struct {
	subject string
	record  ledger.Record
}

// NewHub returns a hub that knows the cluster by its collector's key.
func NewHub(cluster ledger.ClusterName, key ed25519.PublicKey) (*Hub, error) {
	hubKey := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	h := &Hub{
		cluster: cluster, control: make(chan collector.Control, 16), changed: make(chan struct{}),
		admission: ledger.NewAdmission(hubKey.Public().(ed25519.PublicKey)), fold: NewFold(), ids: map[string]bool{},
	}
	empty, err := ledger.Root(0, nil)
	if err != nil {
		return nil, err
	}
	for n, d := range []struct {
		kind ledger.Type
		body any
	}{
		{ledger.StreamBegun, ledger.StreamBegunData{Incarnation: "test", BaseRoot: empty}},
		{ledger.TermBegun, ledger.TermBegunData{Term: 1, Instance: "hub"}},
		{ledger.SiteAdded, ledger.SiteAddedData{Cluster: cluster, Key: key, Site: "test"}},
	} {
		body, err := json.Marshal(d.body)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(ledger.Decision{Term: 1, Body: body})
		if err != nil {
			return nil, err
		}
		e := ledger.Event{
			ID:   ledger.Origin{Cluster: ledger.InstallScope, Epoch: 1, Instance: "hub", N: uint64(max(n-1, 0))},
			Type: d.kind, Source: "/hub", Subject: ledger.DecisionSubject(ledger.InstallScope), Time: time.Unix(0, 0), Data: data,
		}
		b, err := e.Encode()
		if err != nil {
			return nil, err
		}
		out, err := h.admission.Admit(ledger.Sign(b, hubKey), e.Subject, 0, func() (ledger.Digest, error) { return empty, nil })
		if err != nil {
			return nil, err
		}
		if out.Outcome != ledger.Append {
			return nil, fmt.Errorf("%s: %s: %s", d.kind, out.Outcome, out.Reason)
		}
	}
	return h, nil
}

// Control returns the hub's messages to the collector.
func (h *Hub) Control() <-chan collector.Control { return h.control }

// SetDown makes the stream refuse everything, or take it again.
func (h *Hub) SetDown(down bool) { h.set(func() { h.down = down }) }

// SetMute stops the hub's messages, or lets them go on.
func (h *Hub) SetMute(mute bool) { h.set(func() { h.mute = mute }) }

// SetFault sets what becomes of the n-th publish from now on, counted from 0.
func (h *Hub) SetFault(f func(n int) Fault) { h.set(func() { h.fault, h.publishes = f, 0 }) }

// OnPublish sets what is called at the beginning of every publish.
func (h *Hub) OnPublish(f func(time.Time, []collector.Message)) { h.set(func() { h.onPublish = f }) }

// LoseStream empties the stream, as after its store was deleted. The ledger keeps what it has.
func (h *Hub) LoseStream() { h.set(func() { h.stream, h.ids = nil, map[string]bool{} }) }

func (h *Hub) set(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

var errDown = errors.New("stream is down")

// Publish stores the messages that the stream does not know, and has the ledger take them.
func (h *Hub) Publish(_ context.Context, messages []collector.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.onPublish != nil {
		h.onPublish(time.Now(), messages)
	}
	if h.down {
		return errDown
	}
	fault := None
	if h.fault != nil {
		fault = h.fault(h.publishes)
		h.publishes++
	}
	switch fault {
	case Refused:
		return fmt.Errorf("fault: %w", errDown)
	case Lost:
		return nil
	case Torn:
		messages = messages[:len(messages)/2]
	case None, Unknown:
	}
	for _, m := range messages {
		if !h.ids[m.ID] {
			h.ids[m.ID] = true
			h.stream = append(h.stream, stored{m.Subject, m.Record})
			h.take(m)
		}
	}
	h.say()
	close(h.changed)
	h.changed = make(chan struct{})
	if fault != None {
		return errors.New("fault: outcome unknown")
	}
	return nil
}

// take has the ledger admit one message.
func (h *Hub) take(m collector.Message) {
	out, err := h.admission.Admit(m.Record, m.Subject, 0, nil)
	if err != nil {
		panic(err)
	}
	e := out.Event
	switch out.Outcome {
	case ledger.Append:
		h.events = append(h.events, e)
		h.fold.Apply(e)
	case ledger.Gap:
		p, _ := h.admission.Progress(h.cluster)
		h.send(collector.Control{Kind: collector.Resend, Epoch: p.Epoch, Instance: p.Instance, N: p.NextN})
	case ledger.Skip, ledger.Refuse:
		p, _ := h.admission.Progress(h.cluster)
		if e.ID.N == 0 && e.Type == ledger.SyncBegin && (e.ID.Epoch != p.Epoch || e.ID.Instance != p.Instance) && e.ID.Instance != "" {
			h.send(collector.Control{Kind: collector.Reclaim, Epoch: p.Epoch + 1})
		}
	}
}

// say tells how far the ledger is.
func (h *Hub) say() {
	if p, ok := h.admission.Progress(h.cluster); ok && p.NextN > 0 {
		h.send(collector.Control{Kind: collector.Trim, Epoch: p.Epoch, Instance: p.Instance, N: p.NextN - 1})
	}
}

func (h *Hub) send(m collector.Control) {
	if h.mute {
		return
	}
	for {
		select {
		case h.control <- m:
			return
		default:
		}
		select {
		case <-h.control: // the oldest is lost; what matters of it is said again
		default:
		}
	}
}

// Ask sends a message to the collector.
func (h *Hub) Ask(m collector.Control) { h.control <- m }

// NewestEpoch returns the newest epoch on the stream.
func (h *Hub) NewestEpoch(context.Context, ledger.ClusterName) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return 0, errDown
	}
	var newest uint64
	for e := range h.claims {
		newest = max(newest, e.ID.Epoch)
	}
	return newest, nil
}

// FirstClaim returns the first claim of an epoch on the stream.
func (h *Hub) FirstClaim(_ context.Context, _ ledger.ClusterName, epoch uint64) (collector.Claim, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return collector.Claim{}, false, errDown
	}
	for e := range h.claims {
		if e.ID.Epoch == epoch {
			return collector.Claim{Epoch: epoch, Instance: e.ID.Instance}, true, nil
		}
	}
	return collector.Claim{}, false, nil
}

func (h *Hub) claims(yield func(ledger.Event) bool) {
	for _, m := range h.stream {
		e, err := ledger.DecodeEvent(m.record.Event)
		if err == nil && e.ID.N == 0 && e.Type == ledger.SyncBegin && !yield(e) {
			return
		}
	}
}

// Events returns what the ledger has appended.
func (h *Hub) Events() []ledger.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events)
}

// Wait waits until the fold of the ledger is as wanted. The error says what it is like when ctx ends. While it
// waits the hub repeats itself.
func (h *Hub) Wait(ctx context.Context, wanted func(*Fold) error) error {
	for {
		h.mu.Lock()
		err := wanted(h.fold)
		changed := h.changed
		h.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-changed:
		case <-time.After(50 * time.Millisecond):
			h.mu.Lock()
			h.say()
			h.mu.Unlock()
		}
	}
}

// Fold returns a copy of the fold of what the ledger has appended.
func (h *Hub) Fold() *Fold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fold.Clone()
}

// Confirm lets through what is withheld.
func (h *Hub) Confirm() { h.set(h.fold.Confirm) }
