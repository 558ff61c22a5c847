package federation

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Revision is a candidate with what became of it.
type Revision struct {
	Candidate
	At       time.Time
	Event    ledger.Seq // of the candidate decision
	Tasted   *Taste
	Headed   bool
	Served   bool
	Promoted bool
	Nacked   *Verdict
}

// ActiveHold is a hold that has not ended.
type ActiveHold struct {
	Hold
	Seq    ledger.Seq
	At     time.Time
	By     ledger.Actor
	Reason string
}

// FleetState is the fold of one fleet's decisions.
type FleetState struct {
	Name      ledger.FleetName
	Revisions []*Revision // by number, from r1
	Head      projector.Head
	HeadSeq   ledger.Seq // 0: none yet
	HeadAt    time.Time
	// Served and Promoted are the newest generations recorded as such.
	Served, Promoted uint64
	// LastGood is the newest promoted revision, 0 for none.
	LastGood uint64
	Holds    []*ActiveHold
	holds    int // ever made
	Refused  map[ledger.ObjectKey]projector.Refusal
	Consents map[projector.Fingerprint]bool
}

// Newest returns the newest revision, nil when there is none.
func (f *FleetState) Newest() *Revision {
	if len(f.Revisions) == 0 {
		return nil
	}
	return f.Revisions[len(f.Revisions)-1]
}

// Revision returns rN, nil when there is none.
func (f *FleetState) Revision(n uint64) *Revision {
	if n == 0 || n > uint64(len(f.Revisions)) {
		return nil
	}
	return f.Revisions[n-1]
}

// Pinned returns the pin in force, nil when there is none. The newest wins.
func (f *FleetState) Pinned() *ActiveHold {
	for _, h := range slices.Backward(f.Holds) {
		if h.Kind == Pin {
			return h
		}
	}
	return nil
}

// NextHold returns the id of the next hold.
func (f *FleetState) NextHold() string { return fmt.Sprintf("h%d", f.holds+1) }

// PreviousGood returns the newest revision before the head's that was served
// and differs from what the head serves, nil when there is none.
func (f *FleetState) PreviousGood() *Revision {
	for n := f.Head.Revision; n > 1; n-- {
		r := f.Revision(n - 1)
		if r.Served && r.Nacked == nil && r.Fingerprint != f.Head.Fingerprint {
			return r
		}
	}
	return nil
}

// State is the fold of all decisions of an install. It is not safe for
// concurrent use.
type State struct {
	Seq         ledger.Seq
	Term        uint64
	TermDigest  ledger.Digest // of the event that claimed it
	Sites       map[ledger.ClusterName]ledger.SiteAddedData
	Settings    *Settings
	Fleets      map[ledger.FleetName]*FleetState
	Previous    map[string]ledger.Digest // of the newest accepted decision, by scope
	Incarnation string
	// Confirmed is the newest seq at which an operator let a removal through.
	Confirmed ledger.Seq
	// Ignored counts decisions that do not continue what is recorded.
	Ignored int
}

// NewState returns the fold of an empty ledger.
func NewState() *State {
	return &State{
		Sites: map[ledger.ClusterName]ledger.SiteAddedData{}, Fleets: map[ledger.FleetName]*FleetState{},
		Previous: map[string]ledger.Digest{},
	}
}

// Fleet returns the fold of a fleet's decisions, an empty one at first.
func (s *State) Fleet(name ledger.FleetName) *FleetState {
	f := s.Fleets[name]
	if f == nil {
		f = &FleetState{Name: name, Refused: map[ledger.ObjectKey]projector.Refusal{}, Consents: map[projector.Fingerprint]bool{}}
		s.Fleets[name] = f
	}
	return f
}

// FleetNames returns the names of all fleets that have decisions, in order.
func (s *State) FleetNames() []ledger.FleetName { return slices.Sorted(maps.Keys(s.Fleets)) }

// Apply folds one event of the ledger; raw is its bytes. Events that are not
// decisions only move Seq. A decision of an older term, or one that does not
// follow the last decision on its scope, is ignored.
func (s *State) Apply(seq ledger.Seq, e ledger.Event, raw []byte) error {
	if seq != s.Seq+1 {
		return fmt.Errorf("apply event %d to a state at %d", seq, s.Seq)
	}
	s.Seq = seq
	if !e.Type.IsDecision() {
		return nil
	}
	d, err := ledger.DecodeDecision(e.Data)
	if err != nil {
		return fmt.Errorf("event %d: %w", seq, err)
	}
	digest := ledger.DigestOf(raw)
	if e.Type == ledger.TermBegun {
		var t ledger.TermBegunData
		if err := json.Unmarshal(d.Body, &t); err != nil {
			return fmt.Errorf("event %d: term: %w", seq, err)
		}
		if t.Term <= s.Term || t.Previous != s.TermDigest {
			s.Ignored++
			return nil
		}
		s.Term, s.TermDigest = t.Term, digest
		s.Previous[ledger.InstallScope] = digest
		return nil
	}
	scope := scopeOf(e.Subject)
	if e.Type != ledger.StreamBegun && (d.Term != s.Term || d.Previous != s.Previous[scope]) {
		s.Ignored++
		return nil
	}
	if err := s.decide(seq, e, d); err != nil {
		return fmt.Errorf("event %d: %s: %w", seq, e.Type.Decision(), err)
	}
	s.Previous[scope] = digest
	return nil
}

// scopeOf returns the last token of a decision's subject; names of fleets need
// no encoding there.
func scopeOf(subject string) string { return subject[strings.LastIndexByte(subject, '.')+1:] }

func (s *State) decide(seq ledger.Seq, e ledger.Event, d ledger.Decision) error {
	switch e.Type.Decision() {
	case "stream-begin":
		return body(d, func(b ledger.StreamBegunData) { s.Incarnation = b.Incarnation })
	case "site-added":
		return body(d, func(b ledger.SiteAddedData) { s.Sites[b.Cluster] = b })
	case SettingsDecision:
		return body(d, func(b Settings) { s.Settings = &b })
	case projector.ConfirmDecision:
		s.Confirmed = seq
	case ConsentDecision:
		return body(d, func(b Consent) { s.Fleet(b.Fleet).Consents[b.Fingerprint] = true })
	case CandidateDecision:
		return body(d, func(b Candidate) { s.Fleet(b.Fleet).candidate(seq, e.Time, b) })
	case TasteDecision:
		return body(d, func(b Taste) { s.Fleet(b.Fleet).taste(b) })
	case projector.HeadDecision:
		return body(d, func(b projector.Head) { s.Fleet(b.Fleet).head(seq, e.Time, b) })
	case VerdictDecision:
		return body(d, func(b Verdict) { s.Fleet(b.Fleet).verdict(b) })
	case HoldDecision:
		return body(d, func(b Hold) {
			f := s.Fleet(b.Fleet)
			f.holds++
			f.Holds = append(f.Holds, &ActiveHold{Hold: b, Seq: seq, At: e.Time, By: e.Actor, Reason: d.Reason})
		})
	case ReleaseDecision:
		return body(d, func(b Release) {
			f := s.Fleet(b.Fleet)
			f.Holds = slices.DeleteFunc(f.Holds, func(h *ActiveHold) bool { return h.ID == b.ID })
		})
	}
	return nil
}

func body[T any](d ledger.Decision, use func(T)) error {
	var b T
	if err := json.Unmarshal(d.Body, &b); err != nil {
		return err
	}
	use(b)
	return nil
}

func (f *FleetState) candidate(seq ledger.Seq, at time.Time, c Candidate) {
	if c.Revision != uint64(len(f.Revisions))+1 {
		return // revisions have no holes
	}
	f.Revisions = append(f.Revisions, &Revision{Candidate: c, At: at, Event: seq})
}

func (f *FleetState) taste(t Taste) {
	if r := f.Revision(t.Revision); r != nil && r.Fingerprint == t.Fingerprint {
		r.Tasted = &t
		for k, refusal := range t.Refused {
			f.Refused[k] = refusal
		}
	}
}

func (f *FleetState) head(seq ledger.Seq, at time.Time, h projector.Head) {
	if h.Generation <= f.Head.Generation {
		return // heads only move forward
	}
	f.Head, f.HeadSeq, f.HeadAt = h, seq, at
	if r := f.Revision(h.Revision); r != nil {
		r.Headed = true
	}
}

func (f *FleetState) verdict(v Verdict) {
	r := f.Revision(v.Revision)
	if r == nil || r.Fingerprint != v.Fingerprint {
		return
	}
	switch v.Result {
	case ResultNacked:
		r.Nacked = &v
	case ResultServed:
		r.Served = true
		f.Served = max(f.Served, v.Generation)
	case ResultPromoted:
		r.Served, r.Promoted = true, true
		f.Served, f.Promoted = max(f.Served, v.Generation), max(f.Promoted, v.Generation)
		f.LastGood = max(f.LastGood, v.Revision)
	}
}
