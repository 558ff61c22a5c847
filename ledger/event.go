package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxEventBytes bounds the encoded event. A larger object becomes an event of
// type ObjectTooLarge.
const MaxEventBytes = 900 << 10

// Type is the CloudEvents type of an event. The last part is the version of
// its encoding; a reader of every version is kept for ever.
type Type string

// The types of events. Those below "decision" are made by the decision-maker,
// all others by the collector of a cluster.
const (
	ObjectPut      Type = "dev.chancery.object.put.v1"
	ObjectDelete   Type = "dev.chancery.object.delete.v1"
	ObjectTooLarge Type = "dev.chancery.object.toolarge.v1"
	SyncBegin      Type = "dev.chancery.sync.begin.v1"
	SyncPage       Type = "dev.chancery.sync.page.v1"
	SyncEnd        Type = "dev.chancery.sync.end.v1"
	SiteFindings   Type = "dev.chancery.site.findings.v1"

	decisionPrefix      = "dev.chancery.decision."
	StreamBegun    Type = decisionPrefix + "stream-begin.v1"
	TermBegun      Type = decisionPrefix + "term.v1"
	SiteAdded      Type = decisionPrefix + "site-added.v1"
)

// DecisionType returns the event type of the decision with the given name, such
// as "candidate".
func DecisionType(name string) Type { return Type(decisionPrefix + name + ".v1") }

// IsDecision reports whether events of this type are decisions.
func (t Type) IsDecision() bool { return strings.HasPrefix(string(t), decisionPrefix) }

// Decision returns the decision's name, "" for other types.
func (t Type) Decision() string {
	name, ok := strings.CutPrefix(string(t), decisionPrefix)
	if !ok {
		return ""
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name = name[:i]
	}
	return name
}

// Origin is where an event was made and its number there; it is the event's id.
type Origin struct {
	Cluster  ClusterName // InstallScope for decisions
	Epoch    uint64      // the collector's epoch, or the term for decisions
	Instance string      // the process that claimed the epoch
	N        uint64      // 0 for the event that claims the epoch, then 1, 2, …
}

// String returns "cluster/epoch/instance/n".
func (o Origin) String() string {
	return string(o.Cluster) + "/" + strconv.FormatUint(o.Epoch, 10) + "/" + o.Instance + "/" + strconv.FormatUint(o.N, 10)
}

// MarshalText writes the form of String.
func (o Origin) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText reads the form of String.
func (o *Origin) UnmarshalText(b []byte) error {
	parts := strings.Split(string(b), "/")
	if len(parts) != 4 || parts[0] == "" || parts[2] == "" {
		return fmt.Errorf("event id %q: want cluster/epoch/instance/n", b)
	}
	epoch, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return fmt.Errorf("event id %q: epoch: %w", b, err)
	}
	n, err := strconv.ParseUint(parts[3], 10, 64)
	if err != nil {
		return fmt.Errorf("event id %q: number: %w", b, err)
	}
	*o = Origin{Cluster: ClusterName(parts[0]), Epoch: epoch, Instance: parts[2], N: n}
	return nil
}

// Actor says who made a change and how that is known.
type Actor struct {
	Name string // "" when unknown
	// Source is how the name is known: "webhook", "managed-fields", "gitops",
	// "file", "operator".
	Source string
}

// Event is one recorded fact: a CloudEvents 1.0 document. It is encoded once,
// by Encode; from then on the bytes are what is signed, hashed and stored.
type Event struct {
	ID      Origin
	Source  string // URI reference of the producer
	Type    Type
	Subject string // stream subject, which the event is also published on
	Time    time.Time

	// Object is the object that the event is about; zero for others.
	Object          ObjectKey
	UID             string
	Generation      int64
	ResourceVersion string
	ObjectDigest    Digest // of Data, for puts
	PreviousDigest  Digest // of the version that this one replaces, if known
	Actor           Actor
	Trace           string // W3C traceparent

	Data json.RawMessage
}

type wireEvent struct {
	SpecVersion     string          `json:"specversion"`
	ID              Origin          `json:"id"`
	Source          string          `json:"source"`
	Type            Type            `json:"type"`
	Subject         string          `json:"subject"`
	Time            string          `json:"time"`
	ContentType     string          `json:"datacontenttype"`
	Object          *ObjectKey      `json:"object,omitempty"`
	UID             string          `json:"uid,omitempty"`
	Generation      int64           `json:"generation,omitempty"`
	ResourceVersion string          `json:"resourceversion,omitempty"`
	ObjectDigest    string          `json:"objectdigest,omitempty"`
	PreviousDigest  string          `json:"previousdigest,omitempty"`
	Actor           string          `json:"actor,omitempty"`
	ActorSource     string          `json:"actorsource,omitempty"`
	Trace           string          `json:"traceparent,omitempty"`
	Data            json.RawMessage `json:"data,omitempty"`
}

// ErrTooLarge is returned by Encode for an event above MaxEventBytes.
var ErrTooLarge = errors.New("event too large")

// Encode returns the event's bytes. They must be kept: encoding the same event
// again is not how a record is reproduced.
func (e Event) Encode() ([]byte, error) {
	w := wireEvent{
		SpecVersion: "1.0", ID: e.ID, Source: e.Source, Type: e.Type, Subject: e.Subject,
		Time:        e.Time.UTC().Format(time.RFC3339Nano),
		ContentType: "application/json",
		UID:         e.UID, Generation: e.Generation, ResourceVersion: e.ResourceVersion,
		ObjectDigest: e.ObjectDigest.String(), PreviousDigest: e.PreviousDigest.String(),
		Actor: e.Actor.Name, ActorSource: e.Actor.Source, Trace: e.Trace, Data: e.Data,
	}
	if e.Object != (ObjectKey{}) {
		w.Object = &e.Object
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(w); err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	b := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(b) > MaxEventBytes {
		return nil, fmt.Errorf("encode event %s: %d bytes: %w (at most %d)", e.ID, len(b), ErrTooLarge, MaxEventBytes)
	}
	return b, nil
}

// DecodeEvent reads the bytes that Encode wrote. Data aliases b.
func DecodeEvent(b []byte) (Event, error) {
	var w wireEvent
	if err := json.Unmarshal(b, &w); err != nil {
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	if w.SpecVersion != "1.0" {
		return Event{}, fmt.Errorf("decode event %s: specversion %q, want 1.0", w.ID, w.SpecVersion)
	}
	if w.ID.Cluster == "" || w.Type == "" || w.Subject == "" {
		return Event{}, fmt.Errorf("decode event %s: id, type or subject is missing", w.ID)
	}
	at, err := time.Parse(time.RFC3339Nano, w.Time)
	if err != nil {
		return Event{}, fmt.Errorf("decode event %s: time: %w", w.ID, err)
	}
	if at = at.UTC(); at.Year() < 0 || at.Year() > 9999 {
		return Event{}, fmt.Errorf("decode event %s: time %s: year out of range", w.ID, w.Time)
	}
	e := Event{
		ID: w.ID, Source: w.Source, Type: w.Type, Subject: w.Subject, Time: at,
		UID: w.UID, Generation: w.Generation, ResourceVersion: w.ResourceVersion,
		Actor: Actor{Name: w.Actor, Source: w.ActorSource}, Trace: w.Trace, Data: w.Data,
	}
	if w.Object != nil {
		e.Object = *w.Object
	}
	if e.ObjectDigest, err = ParseDigest(w.ObjectDigest); err != nil {
		return Event{}, fmt.Errorf("decode event %s: %w", w.ID, err)
	}
	if e.PreviousDigest, err = ParseDigest(w.PreviousDigest); err != nil {
		return Event{}, fmt.Errorf("decode event %s: %w", w.ID, err)
	}
	return e, nil
}

// SyncBeginData opens a full list of what a site holds. The one of a new epoch
// also claims the epoch: its event has N 0.
type SyncBeginData struct {
	// Scope lists the "group/Kind" that the list covers; empty means all kinds.
	Scope []string `json:"scope,omitempty"`
}

// SyncPageData lists objects that have not changed since the site last put
// them, by digest.
type SyncPageData struct {
	Unchanged []SyncItem `json:"unchanged"`
}

// SyncItem is one object of a sync's inventory.
type SyncItem struct {
	Object ObjectKey `json:"object"`
	Digest Digest    `json:"digest"`
}

// SyncEndData closes a list: how many objects it holds and the InventoryDigest
// over all of them.
type SyncEndData struct {
	Count     int    `json:"count"`
	Inventory Digest `json:"inventory"`
}

// InventoryDigest returns the digest of an inventory, which must be sorted by
// object.
func InventoryDigest(items []SyncItem) Digest {
	var b bytes.Buffer
	for _, it := range items {
		b.WriteString(it.Object.String())
		b.WriteByte(' ')
		b.WriteString(it.Digest.String())
		b.WriteByte('\n')
	}
	return DigestOf(b.Bytes())
}

// TooLargeData stands for an object that does not fit an event.
type TooLargeData struct {
	Bytes int `json:"bytes"`
}

// FindingsData lists what a collector could not read, such as a file that does
// not parse. It replaces the site's earlier findings; empty means none.
type FindingsData struct {
	Findings []SiteFinding `json:"findings"`
}

// SiteFinding is one thing that a collector could not read.
type SiteFinding struct {
	Where   string `json:"where"`   // "web.yaml", document 2
	Message string `json:"message"` // what is wrong and what to do
}
