package federation

import (
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// EdgeStatus is what an edge server says of itself: on every change, and once
// a second. It travels over core NATS; the newest replaces the one before.
type EdgeStatus struct {
	Edge        string                `json:"edge"`
	Fleet       ledger.FleetName      `json:"fleet"`
	Ring        string                `json:"ring"`
	Generation  uint64                `json:"generation"` // that it offers to its Envoys
	Revision    uint64                `json:"revision"`
	Fingerprint projector.Fingerprint `json:"fingerprint"`
	Build       string                `json:"build,omitempty"`
	Envoys      []EnvoyStatus         `json:"envoys,omitempty"`
	// Problems are what the live plane could not answer, and the like.
	Problems []string `json:"problems,omitempty"`
}

// EnvoyStatus is the newest verdict of one connected Envoy.
type EnvoyStatus struct {
	Node       string                 `json:"node"`
	Kind       projector.VerdictKind  `json:"kind,omitempty"` // "" while it has not answered
	Generation uint64                 `json:"generation"`     // that the verdict is about
	Type       projector.ResourceType `json:"type,omitempty"` // of a refusal
	Resources  []string               `json:"resources,omitempty"`
	Message    string                 `json:"message,omitempty"`
}

// SeenEdge is an edge's status and when it came.
type SeenEdge struct {
	EdgeStatus
	At time.Time
}

// EdgeSilence is how long an edge may say nothing before it counts as offline.
const EdgeSilence = 10 * time.Second

// Online reports whether the edge has spoken lately.
func (e SeenEdge) Online(now time.Time) bool { return now.Sub(e.At) < EdgeSilence }

// Tally sums up what the Envoys of the fleet's online edges say of a head.
// ServedAt is left to the caller, who knows when the sum was last another.
func Tally(h projector.Head, edges map[string]SeenEdge, now time.Time) Answers {
	a := Answers{Generation: h.Generation}
	for _, e := range edges {
		if e.Fleet != h.Fleet || !e.Online(now) {
			continue
		}
		for _, n := range e.Envoys {
			a.Envoys++
			if n.Generation != h.Generation {
				continue
			}
			switch n.Kind {
			case projector.Served:
				a.Served++
			case projector.Nacked:
				if a.Nack == nil || n.Node < a.Nack.Node {
					a.Nack = &projector.Verdict{
						Fleet: h.Fleet, Edge: e.Edge, Node: n.Node, Kind: n.Kind, Generation: h.Generation,
						Fingerprint: h.Fingerprint, Type: n.Type, Resources: n.Resources, Message: n.Message,
					}
				}
			case projector.Acked: // taken and not proved yet: no answer
			}
		}
	}
	return a
}
