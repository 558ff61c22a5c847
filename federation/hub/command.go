package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// ErrRefused marks a command that cannot be carried out as things are.
var ErrRefused = errors.New("refused")

// Request is what an operator asks for. Exactly one field beside Actor and
// Reason is set.
type Request struct {
	Actor  ledger.Actor
	Reason string

	Pin     *PinRequest
	Release *ReleaseRequest
	Confirm *ConfirmRequest
}

// PinRequest asks to serve an older revision.
type PinRequest struct {
	Revision uint64 // 0: the previous one that was served and differs
}

// ReleaseRequest asks to end a hold.
type ReleaseRequest struct {
	ID string
}

// ConfirmRequest lets withheld changes through: of one cluster, or the shrunk
// snapshot when Cluster is "".
type ConfirmRequest struct {
	Cluster ledger.ClusterName
}

// Answer says what a command did.
type Answer struct {
	Seq      ledger.Seq `json:"seq"` // of the decision that was recorded
	Hold     string     `json:"hold,omitempty"`
	Revision uint64     `json:"revision,omitempty"` // that is pinned
	From     uint64     `json:"from,omitempty"`     // that was served before
	Message  string     `json:"message"`
}

type command struct {
	request Request
	reply   chan reply
}

type reply struct {
	answer Answer
	err    error
}

// waiter is a command whose decision is on its way into the ledger.
type waiter struct {
	decision federation.Decision
	answer   Answer
	reply    chan reply
	sent     bool
	n        uint64 // of the decision, once sent
}

// maxWaiters bounds the commands under way.
const maxWaiters = 64

// Do carries out an operator's command: it returns when the decision is in the
// ledger. An error that wraps ErrRefused says why it cannot be done.
func (h *Hub) Do(ctx context.Context, r Request) (Answer, error) {
	c := command{request: r, reply: make(chan reply, 1)}
	select {
	case h.commands <- c:
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("the hub does not answer: %w", ctx.Err())
	}
	select {
	case got := <-c.reply:
		return got.answer, got.err
	case <-ctx.Done():
		return Answer{}, fmt.Errorf("the decision is not confirmed yet; it may still be recorded, see chancery history: %w", ctx.Err())
	}
}

func (h *Hub) take(c command) {
	w, err := h.prepare(c.request)
	switch {
	case err != nil:
	case h.fenced:
		err = fmt.Errorf("another hub decides (term %d): %w", h.state.Term, ErrRefused)
	case len(h.waiters) == maxWaiters:
		err = fmt.Errorf("%d commands are under way; try again: %w", maxWaiters, ErrRefused)
	}
	if err != nil {
		c.reply <- reply{err: err}
		return
	}
	w.reply = c.reply
	w.decision.Actor, w.decision.Reason = c.request.Actor, c.request.Reason
	h.waiters = append(h.waiters, w)
}

func (h *Hub) prepare(r Request) (waiter, error) {
	f := h.state.Fleet(h.cfg.Fleet)
	switch {
	case r.Pin != nil:
		return h.preparePin(f, *r.Pin)
	case r.Release != nil:
		for _, hold := range f.Holds {
			if hold.ID == r.Release.ID {
				return waiter{
					decision: federation.Decision{Scope: string(f.Name), Name: federation.ReleaseDecision, Body: federation.Release{Fleet: f.Name, ID: hold.ID}},
					answer:   Answer{Hold: hold.ID, Message: fmt.Sprintf("%s released; fleet %s %s", hold.ID, f.Name, afterRelease(f, hold.ID))},
				}, nil
			}
		}
		return waiter{}, fmt.Errorf("fleet %s has no hold %q; see chancery hold ls: %w", f.Name, r.Release.ID, ErrRefused)
	case r.Confirm != nil:
		return h.prepareConfirm(f, *r.Confirm)
	}
	return waiter{}, fmt.Errorf("empty command: %w", ErrRefused)
}

// afterRelease says what a fleet does without the hold.
func afterRelease(f *federation.FleetState, id string) string {
	for _, hold := range slices.Backward(f.Holds) {
		if hold.Kind == federation.Pin && hold.ID != id {
			return fmt.Sprintf("stays pinned to r%d by %s", hold.Revision, hold.ID)
		}
	}
	return "follows its source again"
}

func (h *Hub) preparePin(f *federation.FleetState, p PinRequest) (waiter, error) {
	if f.HeadSeq == 0 {
		return waiter{}, fmt.Errorf("fleet %s serves nothing yet: %w", f.Name, ErrRefused)
	}
	target := f.PreviousGood()
	if p.Revision > 0 {
		target = f.Revision(p.Revision)
		switch {
		case target == nil:
			return waiter{}, fmt.Errorf("fleet %s has no revision r%d; see chancery history: %w", f.Name, p.Revision, ErrRefused)
		case !target.Served:
			return waiter{}, fmt.Errorf("r%d of fleet %s was never served; choose one that was: %w", p.Revision, f.Name, ErrRefused)
		}
		// Pinning what is served keeps what comes next from it; once is enough.
		if pin := f.Pinned(); pin != nil && pin.Revision == target.Revision {
			return waiter{}, fmt.Errorf("fleet %s is pinned to r%d already, by %s: %w", f.Name, pin.Revision, pin.ID, ErrRefused)
		}
	}
	if target == nil {
		return waiter{}, fmt.Errorf("fleet %s has no earlier revision that was served and differs from r%d: %w", f.Name, f.Head.Revision, ErrRefused)
	}
	if err := h.ensureShelved(target); err != nil {
		return waiter{}, fmt.Errorf("%w: %w", err, ErrRefused)
	}
	hold := federation.Hold{
		ID: f.NextHold(), Kind: federation.Pin, Fleet: f.Name, Revision: target.Revision,
		Fingerprint: target.Fingerprint, From: f.Head.Revision,
	}
	for _, w := range h.waiters {
		if other, ok := w.decision.Body.(federation.Hold); ok && other.ID == hold.ID {
			return waiter{}, fmt.Errorf("another rollback of fleet %s is being recorded; look at chancery status and try again: %w", f.Name, ErrRefused)
		}
	}
	return waiter{
		decision: federation.Decision{Scope: string(f.Name), Name: federation.HoldDecision, Body: hold},
		answer: Answer{
			Hold: hold.ID, Revision: hold.Revision, From: hold.From,
			Message: fmt.Sprintf("fleet %s is pinned to r%d (was r%d) by %s until it is released", f.Name, hold.Revision, hold.From, hold.ID),
		},
	}, nil
}

func (h *Hub) prepareConfirm(f *federation.FleetState, c ConfirmRequest) (waiter, error) {
	if c.Cluster != "" {
		var known []string
		for _, s := range h.projection.Sites() {
			known = append(known, string(s.Cluster))
			if s.Cluster != c.Cluster {
				continue
			}
			if s.Withheld == nil {
				return waiter{}, fmt.Errorf("nothing of cluster %s is withheld: %w", c.Cluster, ErrRefused)
			}
			return waiter{
				decision: federation.Decision{Scope: ledger.InstallScope, Name: projector.ConfirmDecision, Body: projector.Confirm{Cluster: c.Cluster, Seq: s.Withheld.Seq}},
				answer:   Answer{Message: fmt.Sprintf("the removal of %d objects of cluster %s goes through", len(s.Withheld.Objects), c.Cluster)},
			}, nil
		}
		return waiter{}, fmt.Errorf("no cluster %q; known: %s: %w", c.Cluster, strings.Join(known, ", "), ErrRefused)
	}
	shrink := h.shrink(f)
	if shrink == nil {
		return waiter{}, fmt.Errorf("no snapshot of fleet %s is withheld: %w", f.Name, ErrRefused)
	}
	return waiter{
		decision: federation.Decision{Scope: string(f.Name), Name: federation.ConsentDecision, Body: federation.Consent{Fleet: f.Name, Fingerprint: shrink.Fingerprint}},
		answer:   Answer{Message: fmt.Sprintf("the snapshot with %d routes instead of %d goes through", shrink.Routes, shrink.RoutesBefore)},
	}, nil
}

func (h *Hub) shrink(f *federation.FleetState) *federation.Shrink {
	if h.compiled == nil {
		return nil
	}
	return h.state.Shrunk(f, *h.compiled)
}

// Inside is what the hub knows, lent to an Inspect call.
type Inside struct {
	State      *federation.State
	Fleet      *federation.FleetState
	Projection *projector.Projection
	Compiler   Reports
	Shrink     *federation.Shrink
	Edges      map[string]federation.SeenEdge
	Answers    federation.Answers
	Deciding   bool // this hub holds the term
	Fenced     bool
	Unsent     int // decisions that the stream has not acknowledged
	Now        time.Time
}

// Reports is what a compiler says of objects and resources.
type Reports interface {
	Report(ledger.ObjectKey) (projector.ObjectReport, bool)
	Sources(projector.ResourceType, string) []ledger.ObjectKey
}

func (h *Hub) inside(now time.Time) Inside {
	f := h.state.Fleet(h.cfg.Fleet)
	return Inside{
		State: h.state, Fleet: f, Projection: h.projection, Compiler: h.compiler, Shrink: h.shrink(f),
		Edges: h.edges, Answers: h.answers(now), Deciding: h.author != nil && !h.fenced, Fenced: h.fenced,
		Unsent: len(h.unsent), Now: now,
	}
}

// Inspect calls look on the hub's goroutine. look must be quick, keep nothing
// but copies and change nothing.
func (h *Hub) Inspect(ctx context.Context, look func(Inside)) error {
	done := make(chan struct{})
	select {
	case h.inspect <- func(in Inside) { look(in); close(done) }:
	case <-ctx.Done():
		return fmt.Errorf("the hub does not answer: %w", ctx.Err())
	}
	<-done
	return nil
}
