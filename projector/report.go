package projector

import (
	"github.com/chancery-dev/chancery/ledger"
)

// State is what became of an object in a compile.
type State string

// The states of an object.
const (
	Accepted State = "accepted" // it is in the snapshot, as far as it has an effect
	Rejected State = "rejected" // it is not; its last good version is, if it had one
	Held     State = "held"     // a hold serves another version of it
	Ignored  State = "ignored"  // not for us: another ambassador_id or ingress class
)

// Severity of a finding.
type Severity string

// The severities.
const (
	Error   Severity = "error"   // the object, or the named part of it, is not served
	Warning Severity = "warning" // it is served, but probably not as meant
	Info    Severity = "info"    // worth knowing, such as a field without effect
)

// Code identifies a kind of finding, "CHYnnnn". The table is in findings.go.
type Code string

// Finding is one thing that the compiler has to say about an object. The
// message names the remedy.
type Finding struct {
	Code     Code              `json:"code"`
	Severity Severity          `json:"severity"`
	Path     string            `json:"path,omitempty"` // "spec.prefix"
	Message  string            `json:"message"`
	Other    *ledger.ObjectKey `json:"other,omitempty"` // the other object, if there is one
}

// ObjectReport is what the compiler made of one object.
type ObjectReport struct {
	Object   ledger.ObjectKey `json:"object"`
	State    State            `json:"state"`
	Digest   ledger.Digest    `json:"digest"`            // of the source version
	Serving  ledger.Digest    `json:"serving,omitempty"` // of the version compiled, if another
	Findings []Finding        `json:"findings,omitempty"`
}

// Settings are what the operator configured that changes a compile. They are
// recorded whole as a decision.
type Settings struct {
	// AmbassadorID selects the resources: those whose ambassador_id names it.
	AmbassadorID string `json:"ambassadorID"`
	// Namespace is Emissary's own: where names without a namespace resolve.
	Namespace string `json:"namespace"`
	// BindAddress is what listeners bind to, "0.0.0.0" by default.
	BindAddress string `json:"bindAddress"`
	// AllowLua lets Lua from resources run.
	AllowLua bool `json:"allowLua,omitempty"`
	// ClusterDomain ends the DNS names of Services, "cluster.local".
	ClusterDomain string `json:"clusterDomain"`
}

// DefaultSettings returns Emissary's defaults.
func DefaultSettings() Settings {
	return Settings{AmbassadorID: "default", Namespace: "default", BindAddress: "0.0.0.0", ClusterDomain: "cluster.local"}
}

// Overlay is what is compiled in place of the source: the fold of holds, last
// good versions and taste rejections. A nil map is empty.
type Overlay struct {
	// Held replaces an object by another version; a nil Object removes it.
	Held map[ledger.ObjectKey]*Object
	// LastGood is what a rejected object is served as.
	LastGood map[ledger.ObjectKey]*Object
	// Refused marks versions that an Envoy refused, with what it said.
	Refused map[ledger.ObjectKey]Refusal
}

// Refusal is an Envoy's refusal of one version of an object.
type Refusal struct {
	Digest  ledger.Digest `json:"digest"`
	Message string        `json:"message"`
}

// Result is one compile.
type Result struct {
	Snapshot *Snapshot
	// Kept names the version that is served of every rejected object that had
	// a last good one.
	Kept map[ledger.ObjectKey]ledger.Digest
	// Routes counts the routes in the snapshot, sentinels not included.
	Routes int
}
