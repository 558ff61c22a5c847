package projector

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"

	"github.com/chancery-dev/chancery/ledger"
)

// HeadDecision is the name of the decision with a Head body.
const HeadDecision = "head"

// Head says which snapshot a ring serves. It only moves forward: a rollback is
// a new generation.
type Head struct {
	Fleet       ledger.FleetName `json:"fleet"`
	Ring        string           `json:"ring"`
	Generation  uint64           `json:"generation"`
	Revision    uint64           `json:"revision"` // rN of the candidate
	Fingerprint Fingerprint      `json:"fingerprint"`
	// Why is "rollout", "pin", "release" or "nack".
	Why string `json:"why"`
}

// SignedHead is a head with the decision that made it, as it reaches an edge
// by any road.
type SignedHead struct {
	Head   Head          `json:"-"`
	Term   uint64        `json:"-"`
	Record ledger.Record `json:"record"`
	Seq    ledger.Seq    `json:"seq"` // of the decision in the ledger
}

// OpenHead verifies the decision with the hub's key and decodes it.
func OpenHead(r ledger.Record, seq ledger.Seq, hub ed25519.PublicKey) (SignedHead, error) {
	if !r.Verify(hub) {
		return SignedHead{}, fmt.Errorf("head at seq %d is not signed by the hub", seq)
	}
	e, err := ledger.DecodeEvent(r.Event)
	if err != nil {
		return SignedHead{}, fmt.Errorf("head at seq %d: %w", seq, err)
	}
	if e.Type != ledger.DecisionType(HeadDecision) {
		return SignedHead{}, fmt.Errorf("seq %d is a %s, not a head", seq, e.Type)
	}
	d, err := ledger.DecodeDecision(e.Data)
	if err != nil {
		return SignedHead{}, fmt.Errorf("head at seq %d: %w", seq, err)
	}
	h := SignedHead{Term: d.Term, Record: r, Seq: seq}
	if err := json.Unmarshal(d.Body, &h.Head); err != nil {
		return SignedHead{}, fmt.Errorf("head at seq %d: %w", seq, err)
	}
	return h, nil
}

// Newer reports whether h may replace o on an edge: its (term, generation) is
// greater. A hub that lost a part of its ledger begins a term above any that
// edges have seen, and so is followed although its generations are lower.
func (h SignedHead) Newer(o SignedHead) bool {
	if h.Term != o.Term {
		return h.Term > o.Term
	}
	return h.Head.Generation > o.Head.Generation
}

// VerdictKind is what an Envoy, or the edge for it, had to say of a snapshot.
type VerdictKind string

// The kinds of verdict.
const (
	Acked  VerdictKind = "acked"  // it parsed every response
	Nacked VerdictKind = "nacked" // it refused one
	Served VerdictKind = "served" // acked, sentinels answer, nothing warming
)

// Verdict is one Envoy's answer to a snapshot.
type Verdict struct {
	Fleet       ledger.FleetName `json:"fleet"`
	Edge        string           `json:"edge"`
	Node        string           `json:"node"`
	Kind        VerdictKind      `json:"kind"`
	Generation  uint64           `json:"generation"`
	Fingerprint Fingerprint      `json:"fingerprint"`
	// Type, Resources and Message say what was refused and why.
	Type      ResourceType `json:"type,omitempty"`
	Resources []string     `json:"resources,omitempty"`
	Message   string       `json:"message,omitempty"`
}
