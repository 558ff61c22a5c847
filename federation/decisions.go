package federation

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Names of the decisions of this package; the event's type is
// ledger.DecisionType of the name.
const (
	SettingsDecision  = "settings"
	CandidateDecision = "candidate"
	TasteDecision     = "taste"
	VerdictDecision   = "verdict"
	HoldDecision      = "hold"
	ReleaseDecision   = "release"
	// ConsentDecision lets a shrunk snapshot through.
	ConsentDecision = "consent"
)

// Settings is the body of a settings decision: what changes a compile or a
// rollout, whole.
type Settings struct {
	Compile projector.Settings `json:"compile"`
	Rollout RolloutSettings    `json:"rollout"`
}

// RolloutSettings are what the operator configured that changes a rollout.
type RolloutSettings struct {
	// Soak is how long a head must have been served before it counts as
	// promoted.
	Soak time.Duration `json:"soak"`
}

// DefaultSettings returns Emissary's compile settings and a soak of 2 s.
func DefaultSettings() Settings {
	return Settings{Compile: projector.DefaultSettings(), Rollout: RolloutSettings{Soak: 2 * time.Second}}
}

// Digest returns the digest by which a candidate names its settings.
func (s Settings) Digest() ledger.Digest {
	b, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("settings do not encode: %v", err)) // plain values only
	}
	return ledger.DigestOf(b)
}

// Candidate says that this snapshot is what the fleet should serve from the
// basis on. It makes a revision.
type Candidate struct {
	Fleet       ledger.FleetName      `json:"fleet"`
	Revision    uint64                `json:"revision"`
	Seq         ledger.Seq            `json:"seq"` // compiled from this prefix
	Build       string                `json:"build"`
	Settings    ledger.Digest         `json:"settings"`
	Base        projector.Fingerprint `json:"base"` // of the candidate before, zero for the first
	Fingerprint projector.Fingerprint `json:"fingerprint"`
	Routes      int                   `json:"routes"`
	Listeners   int                   `json:"listeners"`
	// Kept names the last good version that is served of each rejected object.
	Kept map[ledger.ObjectKey]ledger.Digest `json:"kept,omitempty"`
}

// Taste says what a resident Envoy made of a candidate.
type Taste struct {
	Fleet       ledger.FleetName      `json:"fleet"`
	Revision    uint64                `json:"revision"`
	Fingerprint projector.Fingerprint `json:"fingerprint"`
	// Taster is the Envoy's version, "" when there was none: the first ring is
	// the first taste then.
	Taster  string `json:"taster,omitempty"`
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"`
	// Refused names the versions that were found to be at fault.
	Refused map[ledger.ObjectKey]projector.Refusal `json:"refused,omitempty"`
}

// Verdict sums up what the edges of a ring answered to a head.
type Verdict struct {
	Fleet       ledger.FleetName      `json:"fleet"`
	Ring        string                `json:"ring"`
	Generation  uint64                `json:"generation"`
	Revision    uint64                `json:"revision"`
	Fingerprint projector.Fingerprint `json:"fingerprint"`
	Result      VerdictResult         `json:"result"`
	Envoys      int                   `json:"envoys"` // that answered so
	// Edge, Node, Type, Resources and Message are of the first refusal.
	Edge      string                 `json:"edge,omitempty"`
	Node      string                 `json:"node,omitempty"`
	Type      projector.ResourceType `json:"type,omitempty"`
	Resources []string               `json:"resources,omitempty"`
	Message   string                 `json:"message,omitempty"`
}

// VerdictResult is the outcome of a head on a ring.
type VerdictResult string

// The results.
const (
	ResultServed   VerdictResult = "served"   // proved by every Envoy that is connected
	ResultPromoted VerdictResult = "promoted" // served, and soaked
	ResultNacked   VerdictResult = "nacked"
)

// HoldKind is the kind of a hold.
type HoldKind string

// The kinds of hold that this version records.
const (
	// Pin keeps a fleet on a revision.
	Pin HoldKind = "pin"
)

// Hold says that what is served differs from the source.
type Hold struct {
	ID          string                `json:"id"` // "h1", by fleet
	Kind        HoldKind              `json:"kind"`
	Fleet       ledger.FleetName      `json:"fleet"`
	Revision    uint64                `json:"revision"`
	Fingerprint projector.Fingerprint `json:"fingerprint"`
	From        uint64                `json:"from"` // the revision that was served when it was made
}

// Release ends a hold.
type Release struct {
	Fleet ledger.FleetName `json:"fleet"`
	ID    string           `json:"id"`
}

// Consent lets the shrunk snapshot with this fingerprint through.
type Consent struct {
	Fleet       ledger.FleetName      `json:"fleet"`
	Fingerprint projector.Fingerprint `json:"fingerprint"`
}

// Decision is a decision to record.
type Decision struct {
	Scope  string // a fleet's name or ledger.InstallScope
	Name   string
	Body   any
	Actor  ledger.Actor
	Reason string
	// WithNext says that this decision must not be recorded without the one
	// after it: who takes over would not know that it is still due.
	WithNext bool
}

// Author numbers and signs nothing, but knows what a decision event must say:
// the term, its place in it, and the decision before it on its scope.
type Author struct {
	Install  string
	Term     uint64
	Instance string
	NextN    uint64
	Previous map[string]ledger.Digest // by scope; of event bytes
}

// Encode returns the event of a decision and advances the author.
func (a *Author) Encode(d Decision, basis ledger.Seq, now time.Time) (ledger.Event, []byte, error) {
	body, err := json.Marshal(d.Body)
	if err != nil {
		return ledger.Event{}, nil, fmt.Errorf("decision %s: %w", d.Name, err)
	}
	data, err := json.Marshal(ledger.Decision{
		Term: a.Term, Previous: a.Previous[d.Scope], Basis: basis, Reason: d.Reason, Body: body,
	})
	if err != nil {
		return ledger.Event{}, nil, fmt.Errorf("decision %s: %w", d.Name, err)
	}
	e := ledger.Event{
		ID:      ledger.Origin{Cluster: ledger.InstallScope, Epoch: a.Term, Instance: a.Instance, N: a.NextN},
		Source:  "/hub/" + a.Instance,
		Type:    ledger.DecisionType(d.Name),
		Subject: ledger.DecisionSubject(d.Scope),
		Time:    now, Actor: d.Actor, Data: data,
	}
	b, err := e.Encode()
	if err != nil {
		return ledger.Event{}, nil, err
	}
	if e.Type != ledger.StreamBegun {
		a.NextN++
	}
	a.Previous[d.Scope] = ledger.DigestOf(b)
	return e, b, nil
}
