package federation

import (
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Compiled is the newest compile for a fleet.
type Compiled struct {
	Seq         ledger.Seq
	Fingerprint projector.Fingerprint
	Kept        map[ledger.ObjectKey]ledger.Digest
	Routes      int
	Listeners   int
	// GoneListeners names the listeners that the newest candidate has and this
	// compile does not.
	GoneListeners []string
}

// Answers are what the Envoys of a ring said of the head, as far as the shell
// knows.
type Answers struct {
	Generation uint64 // that they are about
	Envoys     int    // connected
	Served     int
	ServedAt   time.Time          // since when all of them serve it
	Nack       *projector.Verdict // the first refusal
}

// Inputs are what the shell has learned since the fold.
type Inputs struct {
	Build    string
	Compiled *Compiled
	// Tastes are by fingerprint.
	Tastes  map[projector.Fingerprint]Taste
	Answers Answers
	Now     time.Time
}

// Shrink is a snapshot that is withheld because it lost too much.
type Shrink struct {
	Fingerprint   projector.Fingerprint `json:"fingerprint"`
	Seq           ledger.Seq            `json:"seq"`
	Routes        int                   `json:"routes"`
	RoutesBefore  int                   `json:"routesBefore"`
	GoneListeners []string              `json:"goneListeners,omitempty"`
}

// What a snapshot may lose without consent.
const (
	maxShrinkPercent = 30
	minShrinkRoutes  = 10
)

// Shrunk says whether the compile lost so much against the newest candidate
// that it waits for `chancery confirm`, and what.
func (s *State) Shrunk(f *FleetState, c Compiled) *Shrink {
	n := f.Newest()
	if n == nil || n.Fingerprint == c.Fingerprint || f.Consents[c.Fingerprint] || s.Confirmed > n.Seq && c.Seq >= s.Confirmed {
		return nil
	}
	lost := n.Routes - c.Routes
	if len(c.GoneListeners) == 0 && (lost < minShrinkRoutes || lost*100 <= maxShrinkPercent*n.Routes) {
		return nil
	}
	return &Shrink{Fingerprint: c.Fingerprint, Seq: c.Seq, Routes: c.Routes, RoutesBefore: n.Routes, GoneListeners: c.GoneListeners}
}

// Next returns the decisions to record now, in order. They are all of one
// fleet; when they are in the ledger, Next is asked again. Nothing to record
// gives none.
func Next(s *State, f *FleetState, in Inputs) []Decision {
	var out []Decision
	add := func(name string, body any) {
		out = append(out, Decision{Scope: string(f.Name), Name: name, Body: body, Actor: ledger.Actor{Name: "chancery", Source: "hub"}})
	}

	if v := nacked(f, in); v != nil {
		add(VerdictDecision, *v)
		if good := f.Revision(f.LastGood); good != nil && good.Fingerprint != f.Head.Fingerprint {
			out[0].WithNext = true
			add(projector.HeadDecision, f.next(good, "nack"))
		}
		return out
	}
	if v := f.proved(s, in); v != nil {
		add(VerdictDecision, *v)
	}

	newest := f.Newest()
	if c := in.Compiled; c != nil && (newest == nil || newest.Fingerprint != c.Fingerprint) && s.Shrunk(f, *c) == nil {
		cand := Candidate{
			Fleet: f.Name, Revision: uint64(len(f.Revisions)) + 1, Seq: c.Seq, Build: in.Build,
			Fingerprint: c.Fingerprint, Routes: c.Routes, Listeners: c.Listeners, Kept: c.Kept,
		}
		if s.Settings != nil {
			cand.Settings = s.Settings.Digest()
		}
		if newest != nil {
			cand.Base = newest.Fingerprint
		}
		add(CandidateDecision, cand)
		newest = &Revision{Candidate: cand}
	}
	if newest == nil {
		return out
	}
	tasted := newest.Tasted
	if t, ok := in.Tastes[newest.Fingerprint]; ok && tasted == nil {
		t.Fleet, t.Revision, t.Fingerprint = f.Name, newest.Revision, newest.Fingerprint
		add(TasteDecision, t)
		tasted = &t
	}
	if h := f.desired(newest, tasted); h != nil {
		add(projector.HeadDecision, *h)
	}
	return out
}

// desired returns the head to record, nil when the present one stays.
func (f *FleetState) desired(newest *Revision, tasted *Taste) *projector.Head {
	if pin := f.Pinned(); pin != nil {
		r := f.Revision(pin.Revision)
		if r == nil || r.Fingerprint == f.Head.Fingerprint {
			return nil
		}
		h := f.next(r, "pin")
		return &h
	}
	if tasted == nil || !tasted.OK || newest.Nacked != nil || newest.Fingerprint == f.Head.Fingerprint {
		return nil
	}
	why := "rollout"
	if f.HeadSeq > 0 && newest.Headed {
		why = "release"
	}
	h := f.next(newest, why)
	return &h
}

func (f *FleetState) next(r *Revision, why string) projector.Head {
	return projector.Head{
		Fleet: f.Name, Ring: DefaultRing, Generation: f.Head.Generation + 1,
		Revision: r.Revision, Fingerprint: r.Fingerprint, Why: why,
	}
}

// DefaultRing is the ring of a fleet that names none.
const DefaultRing = "default"

// DefaultFleet is the fleet of an install that names none.
const DefaultFleet ledger.FleetName = "default"

func nacked(f *FleetState, in Inputs) *Verdict {
	n := in.Answers.Nack
	if f.HeadSeq == 0 || n == nil || in.Answers.Generation != f.Head.Generation || n.Fingerprint != f.Head.Fingerprint {
		return nil
	}
	r := f.Revision(f.Head.Revision)
	if r == nil || r.Nacked != nil {
		return nil
	}
	v := f.verdictOf(ResultNacked)
	v.Envoys, v.Edge, v.Node = 1, n.Edge, n.Node
	v.Type, v.Resources, v.Message = n.Type, n.Resources, n.Message
	return &v
}

// proved returns the served or promoted verdict that is due.
func (f *FleetState) proved(s *State, in Inputs) *Verdict {
	a := in.Answers
	if !f.proven(a) {
		return nil
	}
	soaked := in.Now.Sub(a.ServedAt) >= s.soak()
	var v Verdict
	switch {
	case soaked && f.Promoted < f.Head.Generation:
		v = f.verdictOf(ResultPromoted)
	case f.Served < f.Head.Generation:
		v = f.verdictOf(ResultServed)
	default:
		return nil
	}
	v.Envoys = a.Served
	return &v
}

// SoakDue returns when the head's soak ends, given since when it is served;
// the zero time when nothing is due.
func (f *FleetState) SoakDue(s *State, a Answers) time.Time {
	if !f.proven(a) || f.Promoted >= f.Head.Generation {
		return time.Time{}
	}
	return a.ServedAt.Add(s.soak())
}

// proven reports whether every connected Envoy was proved to serve the head.
func (f *FleetState) proven(a Answers) bool {
	return f.HeadSeq > 0 && a.Generation == f.Head.Generation && a.Envoys > 0 && a.Served >= a.Envoys && a.Nack == nil
}

func (s *State) soak() time.Duration {
	if s.Settings == nil {
		return DefaultSettings().Rollout.Soak
	}
	return s.Settings.Rollout.Soak
}

func (f *FleetState) verdictOf(result VerdictResult) Verdict {
	return Verdict{
		Fleet: f.Name, Ring: f.Head.Ring, Generation: f.Head.Generation, Revision: f.Head.Revision,
		Fingerprint: f.Head.Fingerprint, Result: result,
	}
}
