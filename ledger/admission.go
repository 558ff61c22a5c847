package ledger

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// StreamBegunData opens an incarnation of the stream. What the ledger holds
// below Base was recorded from earlier incarnations.
type StreamBegunData struct {
	Incarnation string `json:"incarnation"`
	BaseSize    Seq    `json:"basesize"`
	BaseRoot    Digest `json:"baseroot"`
}

// DecodeStreamBegun reads what a StreamBegun event says.
func DecodeStreamBegun(e Event) (StreamBegunData, error) {
	var d StreamBegunData
	err := decodeBody(e.Data, &d)
	return d, err
}

// SiteAddedData admits a cluster: from here on events of the cluster signed by
// the key are recorded.
type SiteAddedData struct {
	Cluster ClusterName       `json:"cluster"`
	Key     ed25519.PublicKey `json:"key"`
	Site    string            `json:"site"` // "dir:examples/demo/east", for people
}

// Outcome says what becomes of an event that came off the stream.
type Outcome int

// The outcomes of admission.
const (
	// Append: the event is the next one of its origin.
	Append Outcome = iota
	// Skip: the ledger has it already, or a newer epoch has begun.
	Skip
	// Gap: an earlier event of the same epoch is missing. The collector has to
	// publish again from Verdict.Want on.
	Gap
	// Refuse: it is not who it says, or not well formed. Nothing will make it
	// acceptable.
	Refuse
)

// String returns the outcome's name.
func (o Outcome) String() string {
	return [...]string{"append", "skip", "gap", "refuse"}[o]
}

// Admitted is the answer to one record.
type Admitted struct {
	Outcome Outcome
	Event   Event  // decoded, unless it could not be
	Reason  string // why not appended
	// WantEpoch and WantN say, on a Gap or a refused claim, which event of the
	// cluster would be appended next; with WantN 0 that is a claim.
	WantEpoch, WantN uint64
	// ByOther is set on a skipped claim of an epoch that another instance has.
	ByOther bool
	// Halt is set on a StreamBegun that the ledger cannot follow: it is shorter
	// or longer than the base, or has another root there. Nothing after it may be
	// consumed before that is mended.
	Halt bool
}

// Admission decides which records are appended. It is a fold of the ledger:
// the same prefix gives the same answers on every replica. The zero value is
// not usable; see NewAdmission. It is not safe for concurrent use.
type Admission struct {
	hub   ed25519.PublicKey // root of trust: signs decisions
	state admissionState
}

type admissionState struct {
	Incarnation string                       `json:"incarnation,omitempty"`
	TermDigest  Digest                       `json:"termdigest,omitzero"` // of the event that claimed the term
	Hub         originState                  `json:"hub"`                 // its epochs are the terms
	Sites       map[ClusterName]*originState `json:"sites,omitempty"`
}

// originState is how far the events of one origin are recorded.
type originState struct {
	Key      ed25519.PublicKey `json:"key,omitempty"`
	Epoch    uint64            `json:"epoch"`
	Instance string            `json:"instance,omitempty"`
	NextN    uint64            `json:"nextn"`
}

// NewAdmission returns the admission of an empty ledger whose decisions are
// signed with hub's key.
func NewAdmission(hub ed25519.PublicKey) *Admission {
	return &Admission{hub: hub, state: admissionState{Sites: map[ClusterName]*originState{}}}
}

// Clone returns an independent copy, to go back to when a commit fails.
func (a *Admission) Clone() *Admission {
	c := &Admission{hub: a.hub, state: a.state}
	c.state.Sites = maps.Clone(a.state.Sites)
	for name, s := range c.state.Sites {
		s := *s
		c.state.Sites[name] = &s
	}
	return c
}

// Save returns the state as JSON, to be stored in the transaction that appends
// the records it reflects.
func (a *Admission) Save() ([]byte, error) { return json.Marshal(a.state) }

// Load replaces the state by one that Save returned.
func (a *Admission) Load(b []byte) error {
	s := admissionState{}
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("admission state: %w", err)
	}
	if s.Sites == nil {
		s.Sites = map[ClusterName]*originState{}
	}
	a.state = s
	return nil
}

// Incarnation returns the stream incarnation that the newest StreamBegun
// opened.
func (a *Admission) Incarnation() string { return a.state.Incarnation }

// Progress is how far a cluster's events are recorded.
type Progress struct {
	Epoch    uint64 `json:"epoch"`
	Instance string `json:"instance,omitempty"`
	NextN    uint64 `json:"nextn"` // the event that would be appended next
}

// Progress returns how far the cluster's events are recorded, and whether the
// cluster is known.
func (a *Admission) Progress(c ClusterName) (Progress, bool) {
	s, ok := a.state.Sites[c]
	if !ok {
		return Progress{}, false
	}
	return Progress{Epoch: s.Epoch, Instance: s.Instance, NextN: s.NextN}, true
}

// Clusters returns the clusters that are known, sorted.
func (a *Admission) Clusters() []ClusterName {
	return slices.Sorted(maps.Keys(a.state.Sites))
}

// Term returns how far decisions are recorded; its Epoch is the term.
func (a *Admission) Term() Progress {
	h := a.state.Hub
	return Progress{Epoch: h.Epoch, Instance: h.Instance, NextN: h.NextN}
}

// Key returns the key of a cluster's collector, nil when there is none.
func (a *Admission) Key(c ClusterName) ed25519.PublicKey {
	if s, ok := a.state.Sites[c]; ok {
		return s.Key
	}
	return nil
}

// Admit says what becomes of a record that came off the stream on the given
// subject, and takes an appended one into account. size and root are the
// ledger's before it.
func (a *Admission) Admit(r Record, subject string, size Seq, root func() (Digest, error)) (Admitted, error) {
	in := Incoming{Record: r, Subject: subject}
	in.Prepare(a)
	return a.admit(&in, size, root)
}

// keyOf returns the key that an event must be signed with, nil when there is
// none.
func (a *Admission) keyOf(e Event) ed25519.PublicKey {
	if e.Type.IsDecision() {
		return a.hub
	}
	return a.Key(e.ID.Cluster)
}

// admit admits a prepared record.
func (a *Admission) admit(in *Incoming, size Seq, root func() (Digest, error)) (Admitted, error) {
	r, subject, e := in.Record, in.Subject, in.prepared.event
	if in.prepared.err != nil {
		return Admitted{Outcome: Refuse, Reason: in.prepared.err.Error()}, nil //nolint:nilerr // a bad record is an answer, not a failure
	}
	refuse := func(format string, args ...any) (Admitted, error) {
		return Admitted{Outcome: Refuse, Event: e, Reason: fmt.Sprintf(format, args...)}, nil
	}
	if len(r.Event) > MaxEventBytes {
		return refuse("event of %d bytes, at most %d", len(r.Event), MaxEventBytes)
	}
	if e.Subject != subject {
		return refuse("published on %s, says %s", subject, e.Subject)
	}
	if e.Type.IsDecision() {
		return a.admitDecision(e, in, size, root)
	}
	return a.admitCollected(e, in)
}

func (a *Admission) admitDecision(e Event, in *Incoming, size Seq, root func() (Digest, error)) (Admitted, error) {
	refuse := func(format string, args ...any) (Admitted, error) {
		return Admitted{Outcome: Refuse, Event: e, Reason: fmt.Sprintf(format, args...)}, nil
	}
	if e.ID.Cluster != InstallScope {
		return refuse("a decision of cluster %s", e.ID.Cluster)
	}
	if !in.signedBy(a.hub) {
		return refuse("decision not signed by the hub")
	}
	if e.Type == StreamBegun {
		return a.admitStream(e, size, root)
	}
	if a.state.Incarnation == "" {
		return refuse("a decision before the stream began")
	}
	var site SiteAddedData
	if e.Type == SiteAdded {
		if err := decodeBody(e.Data, &site); err != nil {
			return refuse("site-added: %v", err)
		}
		if err := site.Cluster.Validate(); err != nil {
			return refuse("site-added: %v", err)
		}
		if len(site.Key) != ed25519.PublicKeySize {
			return refuse("site-added: key of %d bytes, want %d", len(site.Key), ed25519.PublicKeySize)
		}
	}
	if e.Type == TermBegun {
		var t TermBegunData
		if err := decodeBody(e.Data, &t); err != nil || t.Term != e.ID.Epoch || t.Instance != e.ID.Instance {
			return refuse("term-begun does not claim the term of its id")
		}
		if t.Term > a.state.Hub.Epoch && t.Previous != a.state.TermDigest {
			return Admitted{Outcome: Skip, Event: e, Reason: fmt.Sprintf("term %d does not follow term %d, which is recorded", t.Term, a.state.Hub.Epoch)}, nil
		}
	}
	out := a.state.Hub.advance(e, TermBegun)
	if out.Outcome == Append && e.Type == TermBegun {
		a.state.TermDigest = DigestOf(in.Record.Event)
	}
	if out.Outcome == Append && e.Type == SiteAdded {
		s := a.state.Sites[site.Cluster]
		if s == nil {
			s = &originState{}
			a.state.Sites[site.Cluster] = s
		}
		s.Key = site.Key
	}
	return out, nil
}

func (a *Admission) admitStream(e Event, size Seq, root func() (Digest, error)) (Admitted, error) {
	d, err := DecodeStreamBegun(e)
	if err != nil {
		return Admitted{Outcome: Refuse, Event: e, Reason: "stream-begin: " + err.Error()}, nil //nolint:nilerr // a bad record is an answer, not a failure
	}
	if d.Incarnation == "" {
		return Admitted{Outcome: Refuse, Event: e, Reason: "stream-begin without an incarnation"}, nil
	}
	if d.Incarnation == a.state.Incarnation {
		return Admitted{Outcome: Skip, Event: e, Reason: "this incarnation has begun"}, nil
	}
	if d.BaseSize != size {
		return Admitted{Outcome: Gap, Halt: true, Event: e, Reason: fmt.Sprintf("stream begins at size %d, the ledger has %d", d.BaseSize, size)}, nil
	}
	have, err := root()
	if err != nil {
		return Admitted{}, fmt.Errorf("root at %d: %w", size, err)
	}
	if have != d.BaseRoot {
		return Admitted{Outcome: Refuse, Halt: true, Event: e, Reason: fmt.Sprintf("stream begins on root %s, the ledger has %s at size %d", d.BaseRoot.Short(), have.Short(), size)}, nil
	}
	a.state.Incarnation = d.Incarnation
	return Admitted{Outcome: Append, Event: e}, nil
}

func (a *Admission) admitCollected(e Event, in *Incoming) (Admitted, error) {
	refuse := func(format string, args ...any) (Admitted, error) {
		return Admitted{Outcome: Refuse, Event: e, Reason: fmt.Sprintf(format, args...)}, nil
	}
	s, ok := a.state.Sites[e.ID.Cluster]
	if !ok {
		return refuse("cluster %s is not known", e.ID.Cluster)
	}
	if !in.signedBy(s.Key) {
		return refuse("not signed by the collector of %s", e.ID.Cluster)
	}
	switch e.Type {
	case ObjectPut, ObjectDelete, ObjectTooLarge:
		if e.Object.Cluster != e.ID.Cluster || e.Subject != e.Object.Subject() {
			return refuse("%s speaks for %s", e.ID, e.Object)
		}
	case SyncBegin, SyncPage, SyncEnd, SiteFindings:
		if e.Subject != SyncSubject(e.ID.Cluster) {
			return refuse("%s on %s", e.Type, e.Subject)
		}
	default:
		return refuse("unknown type %s", e.Type)
	}
	return s.advance(e, SyncBegin), nil
}

// advance places an event in the sequence of its origin, in which events of
// type claim with number 0 open epochs.
func (s *originState) advance(e Event, claim Type) Admitted {
	answer := func(o Outcome, format string, args ...any) Admitted {
		out := Admitted{Outcome: o, Event: e, Reason: fmt.Sprintf(format, args...), WantEpoch: s.Epoch, WantN: s.NextN}
		if o == Refuse || s.Epoch == 0 || o == Gap && e.ID.Epoch > s.Epoch {
			out.WantEpoch, out.WantN = s.Epoch+1, 0
		}
		return out
	}
	if e.ID.N == 0 {
		switch {
		case e.Type != claim:
			return answer(Refuse, "epoch %d claimed by %s", e.ID.Epoch, e.Type)
		case e.ID.Epoch <= s.Epoch:
			out := answer(Skip, "epoch %d is %s's", s.Epoch, s.Instance)
			out.ByOther = e.ID.Instance != s.Instance
			return out
		case e.ID.Epoch > s.Epoch+1 && claim != TermBegun: // a hub may know of terms that its ledger lost
			return answer(Refuse, "claims epoch %d, the last is %d", e.ID.Epoch, s.Epoch)
		}
		s.Epoch, s.Instance, s.NextN = e.ID.Epoch, e.ID.Instance, 1
		return Admitted{Outcome: Append, Event: e}
	}
	switch {
	case e.ID.Epoch > s.Epoch:
		return answer(Gap, "epoch %d was never claimed", e.ID.Epoch)
	case e.ID.Epoch < s.Epoch || e.ID.Instance != s.Instance:
		return answer(Skip, "epoch %d is %s's", s.Epoch, s.Instance)
	case e.ID.N < s.NextN:
		return answer(Skip, "recorded already")
	case e.ID.N > s.NextN:
		return answer(Gap, "event %d of epoch %d is missing", s.NextN, s.Epoch)
	}
	s.NextN++
	return Admitted{Outcome: Append, Event: e}
}
