package console

import (
	"encoding/json"
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Word is a state of an edge or a fleet, for people and metrics alike.
type Word string

// The words of status.
const (
	Serving  Word = "Serving"  // proved to serve what it should
	Applying Word = "Applying" // has it, or gets it; not proved yet
	Behind   Word = "Behind"   // should have it by now
	Rejected Word = "Rejected" // an Envoy refused it
	Held     Word = "Held"     // proved to serve what a hold says
	Offline  Word = "Offline"  // not heard of lately
)

// Patience is how old a head may get before an edge that does not serve it
// counts as behind.
const Patience = 30 * time.Second

// Status is how an install is.
type Status struct {
	Fleet   string    `json:"fleet"`
	Install string    `json:"install"`
	Now     time.Time `json:"now"` // by the hub's clock; ages are against it
	// Sentence sums it all up for people.
	Sentence string `json:"sentence"`
	State    Word   `json:"state"`
	InSync   bool   `json:"inSync" doc:"every connected Envoy was proved to serve the head"`
	Seq      uint64 `json:"seq" doc:"of the newest event that is folded"`
	Term     uint64 `json:"term"`
	Deciding bool   `json:"deciding" doc:"this hub makes the decisions"`

	Head     *Head          `json:"head,omitempty"`
	Newest   uint64         `json:"newest,omitempty" doc:"revision"`
	LastGood uint64         `json:"lastGood,omitempty" doc:"revision that was served and soaked"`
	Envoys   int            `json:"envoys" doc:"connected"`
	Served   int            `json:"served" doc:"of the Envoys, that serve the head"`
	Sites    []Site         `json:"sites"`
	Edges    []Edge         `json:"edges"`
	Holds    []Hold         `json:"holds"`
	Withheld []Withheld     `json:"withheld"`
	Objects  map[string]int `json:"objects" doc:"counts by state"`
	Errors   int            `json:"errors" doc:"findings of severity error"`
	Warnings int            `json:"warnings" doc:"findings of severity warning"`
	Notes    []string       `json:"notes" doc:"what else an operator should know"`
}

// Head is what a fleet should serve.
type Head struct {
	Ring        string    `json:"ring"`
	Generation  uint64    `json:"generation"`
	Revision    uint64    `json:"revision"`
	Fingerprint string    `json:"fingerprint"`
	Why         string    `json:"why"`
	Seq         uint64    `json:"seq"`
	At          time.Time `json:"at"`
}

// Site is a source of objects.
type Site struct {
	Cluster string    `json:"cluster"`
	Source  string    `json:"source,omitempty" doc:"as it was added, dir:PATH"`
	Objects int       `json:"objects"`
	Epoch   uint64    `json:"epoch"`
	Synced  uint64    `json:"synced,omitempty" doc:"seq of the newest complete list"`
	Syncing bool      `json:"syncing,omitempty"`
	Last    time.Time `json:"last,omitzero" doc:"time of the newest event"`
	Problem string    `json:"problem,omitempty"`
	// Findings are about what could not be read.
	Findings []SiteFinding `json:"findings,omitempty"`
}

// SiteFinding is something that a collector could not read.
type SiteFinding struct {
	Where   string `json:"where"`
	Message string `json:"message"`
}

// Edge is an edge server with its Envoys.
type Edge struct {
	Name        string    `json:"name"`
	Fleet       string    `json:"fleet"`
	Ring        string    `json:"ring"`
	State       Word      `json:"state"`
	Revision    uint64    `json:"revision"`
	Generation  uint64    `json:"generation"`
	Fingerprint string    `json:"fingerprint"`
	Build       string    `json:"build,omitempty"`
	Seen        time.Time `json:"seen"`
	Envoys      []Envoy   `json:"envoys,omitempty"`
	Problems    []string  `json:"problems,omitempty"`
	Note        string    `json:"note,omitempty"`
}

// Envoy is one connected Envoy.
type Envoy struct {
	Node       string   `json:"node"`
	Answer     string   `json:"answer,omitempty" doc:"acked, nacked, served"`
	Generation uint64   `json:"generation,omitempty" doc:"that the answer is about"`
	Type       string   `json:"type,omitempty" doc:"of the refused resources"`
	Resources  []string `json:"resources,omitempty"`
	Message    string   `json:"message,omitempty"`
}

// Hold says that what is served differs from the source.
type Hold struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind"`
	Fleet       string    `json:"fleet"`
	Revision    uint64    `json:"revision"`
	Fingerprint string    `json:"fingerprint"`
	From        uint64    `json:"from" doc:"revision that was served when it was made"`
	Seq         uint64    `json:"seq"`
	At          time.Time `json:"at"`
	By          string    `json:"by"`
	BySource    string    `json:"bySource,omitempty"`
	Reason      string    `json:"reason,omitempty"`
}

// Withheld is a removal that waits for `chancery confirm`: of a cluster's
// objects, or, without cluster, of a fleet's routes.
type Withheld struct {
	Cluster       string   `json:"cluster,omitempty"`
	Seq           uint64   `json:"seq"`
	Count         int      `json:"count" doc:"objects, or routes"`
	Of            int      `json:"of"`
	Objects       []string `json:"objects,omitempty" doc:"the first 100"`
	GoneListeners []string `json:"goneListeners,omitempty"`
	Message       string   `json:"message"`
}

// Object is an object with what the compiler made of it.
type Object struct {
	Cluster   string    `json:"cluster"`
	Group     string    `json:"group"`
	Kind      string    `json:"kind"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Key       string    `json:"key"`
	State     string    `json:"state" enum:"accepted,rejected,held,ignored,unknown"`
	Digest    string    `json:"digest"`
	Serving   string    `json:"serving,omitempty" doc:"digest of the version that is compiled, if another"`
	Seq       uint64    `json:"seq" doc:"of the event that recorded this version"`
	At        time.Time `json:"at"`
	By        string    `json:"by,omitempty"`
	BySource  string    `json:"bySource,omitempty"`
	Findings  []Finding `json:"findings,omitempty"`
	// Canonical is the object itself, of one object only. Of a Secret it has
	// public facts and no data.
	Canonical json.RawMessage `json:"canonical,omitempty"`
	// TooLarge is the size in bytes of an object that did not fit an event.
	TooLarge int `json:"tooLarge,omitempty"`
}

// Finding is one thing that is to say about an object.
type Finding struct {
	Code     string `json:"code"`
	Severity string `json:"severity" enum:"error,warning,info"`
	Object   string `json:"object,omitempty"`
	Path     string `json:"path,omitempty"`
	Message  string `json:"message"`
	Other    string `json:"other,omitempty"`
	Title    string `json:"title,omitempty" doc:"what this code is about"`
	Remedy   string `json:"remedy,omitempty"`
}

// Event is one entry of the ledger, without its body.
type Event struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Cluster string    `json:"cluster" doc:"_install for decisions"`
	Type    string    `json:"type" doc:"put, delete, sync-begin, …, or a decision's name"`
	Object  string    `json:"object,omitempty"`
	Scope   string    `json:"scope,omitempty" doc:"fleet of a decision"`
	By      string    `json:"by,omitempty"`
	// BySource says how By is known.
	BySource string `json:"bySource,omitempty"`
	Digest   string `json:"digest,omitempty" doc:"of the object"`
	Summary  string `json:"summary,omitempty"`
	Reason   string `json:"reason,omitempty" doc:"what the operator gave as reason"`
	ID       string `json:"id"`
}

// Revision is a candidate with what became of it.
type Revision struct {
	Revision    uint64            `json:"revision"`
	Fleet       string            `json:"fleet"`
	Seq         uint64            `json:"seq" doc:"of the prefix that it was compiled from"`
	Event       uint64            `json:"event" doc:"seq of the candidate decision"`
	At          time.Time         `json:"at"`
	Fingerprint string            `json:"fingerprint"`
	Build       string            `json:"build"`
	Routes      int               `json:"routes"`
	Listeners   int               `json:"listeners"`
	State       string            `json:"state" enum:"waiting,refused,ready,headed,served,good"`
	Head        bool              `json:"head,omitempty" doc:"it is what should be served now"`
	Taster      string            `json:"taster,omitempty"`
	Message     string            `json:"message,omitempty" doc:"why it was refused"`
	Kept        map[string]string `json:"kept,omitempty" doc:"last good versions served in place of rejected objects"`
}

// Resource is one resource of a snapshot.
type Resource struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Bytes   int      `json:"bytes"`
	Sources []string `json:"sources,omitempty" doc:"objects that it comes from"`
	// Body is Envoy's JSON, or a need, of one resource only.
	Body json.RawMessage `json:"body,omitempty"`
}

// Plan says what a pin would change.
type Plan struct {
	Fleet           string    `json:"fleet"`
	From            uint64    `json:"from"`
	FromFingerprint string    `json:"fromFingerprint"`
	To              uint64    `json:"to"`
	ToFingerprint   string    `json:"toFingerprint"`
	ToAt            time.Time `json:"toAt"`
	Changes         []Change  `json:"changes" doc:"objects that changed in between"`
	// Resources counts what differs, by type, where both snapshots are kept.
	Resources []ResourceDiff `json:"resources,omitempty"`
	Notes     []string       `json:"notes,omitempty"`
}

// Change is an object that changed between two revisions.
type Change struct {
	Object string    `json:"object"`
	What   string    `json:"what" enum:"put,deleted"`
	Seq    uint64    `json:"seq"`
	At     time.Time `json:"at"`
	By     string    `json:"by,omitempty"`
}

// ResourceDiff is how two snapshots differ in one type.
type ResourceDiff struct {
	Type    string   `json:"type"`
	Added   []string `json:"added,omitempty"`
	Changed []string `json:"changed,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Answer says what a command did.
type Answer struct {
	Seq      uint64 `json:"seq" doc:"of the decision that was recorded"`
	Hold     string `json:"hold,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	From     uint64 `json:"from,omitempty"`
	Message  string `json:"message"`
}

// Verified is the outcome of verifying the ledger.
type Verified struct {
	OK      bool   `json:"ok"`
	Seq     uint64 `json:"seq" doc:"up to which it was verified"`
	Size    uint64 `json:"size"`
	Root    string `json:"root,omitempty"`
	Install string `json:"install,omitempty"`
	// Checkpoint is the size of the newest signed checkpoint.
	Checkpoint uint64 `json:"checkpoint,omitempty"`
	BadSeq     uint64 `json:"badSeq,omitempty" doc:"first damaged position, 0 if it is not about one"`
	Message    string `json:"message,omitempty"`
}

// Progress is how far a verification has come.
type Progress struct {
	Seq  uint64 `json:"seq"`
	Size uint64 `json:"size"`
}

// List is the answer of every operation that returns several things.
type List[T any] struct {
	Items []T `json:"items"`
	// Seq is the ledger position that the answer is about.
	Seq uint64    `json:"seq"`
	Now time.Time `json:"now"`
	// More says that there is more than Items, because of a limit.
	More bool `json:"more,omitempty"`
}

func findingOf(f projector.Finding, object *ledger.ObjectKey) Finding {
	out := Finding{Code: string(f.Code), Severity: string(f.Severity), Path: f.Path, Message: f.Message}
	if object != nil {
		out.Object = object.String()
	}
	if f.Other != nil {
		out.Other = f.Other.String()
	}
	for _, info := range projector.Codes {
		if info.Code == f.Code {
			out.Title, out.Remedy = info.Title, info.Remedy
		}
	}
	return out
}
