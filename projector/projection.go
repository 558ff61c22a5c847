package projector

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// Object is one version of an object as it was recorded.
type Object struct {
	Key             ledger.ObjectKey
	Digest          ledger.Digest // of Raw
	UID             string
	Generation      int64
	ResourceVersion string
	Raw             json.RawMessage // canonical JSON, never changed
	Seq             ledger.Seq      // the event that put this version
	FirstSeq        ledger.Seq      // the event that first put the object, since it last was absent
	Actor           ledger.Actor
	Time            time.Time // the event's
	TooLarge        int       // bytes of an object that did not fit an event; Raw is nil then
}

// Change is what one event, or a sync, did to one object. Before is nil for a
// new object, After for a deleted one.
type Change struct {
	Key           ledger.ObjectKey
	Before, After *Object
}

// MassDelete bounds what a sync may remove without an operator's word: more
// than this percentage of a cluster's objects is withheld.
const MassDelete = 30

// Withheld is a removal that a sync asked for and that waits for `chancery
// confirm`.
type Withheld struct {
	Cluster ledger.ClusterName `json:"cluster"`
	Seq     ledger.Seq         `json:"seq"` // the sync-end that asked
	Objects []ledger.ObjectKey `json:"objects"`
	Of      int                `json:"of"` // how many objects the cluster had
}

// SiteState is what the fold knows of one cluster.
type SiteState struct {
	Cluster  ledger.ClusterName
	Epoch    uint64
	Objects  int
	Syncing  bool       // between sync-begin and sync-end
	Synced   ledger.Seq // the newest complete sync, 0 for none
	Withheld *Withheld
	Findings []ledger.SiteFinding
	// Problem says why the newest sync was not believed, "" if it was.
	Problem string
	Last    time.Time // of the newest event
}

// Projection is all objects as of a seq: the fold of the ledger's object and
// sync events. It is not safe for concurrent use; objects it returns are
// immutable and may be kept.
type Projection struct {
	seq     ledger.Seq
	objects map[ledger.ObjectKey]*Object
	sites   map[ledger.ClusterName]*site
}

type site struct {
	SiteState
	keys  map[ledger.ObjectKey]struct{}
	seen  map[ledger.ObjectKey]ledger.Digest // listed by the sync in progress
	scope map[string]bool                    // "group/Kind"; nil for all
}

// NewProjection returns the projection of an empty ledger.
func NewProjection() *Projection {
	return &Projection{objects: map[ledger.ObjectKey]*Object{}, sites: map[ledger.ClusterName]*site{}}
}

// Clone returns an independent projection of the same prefix.
func (p *Projection) Clone() *Projection {
	c := &Projection{seq: p.seq, objects: maps.Clone(p.objects), sites: make(map[ledger.ClusterName]*site, len(p.sites))}
	for name, s := range p.sites {
		s := *s
		s.keys, s.seen, s.scope = maps.Clone(s.keys), maps.Clone(s.seen), maps.Clone(s.scope)
		c.sites[name] = &s
	}
	return c
}

// Seq returns the seq of the newest event applied.
func (p *Projection) Seq() ledger.Seq { return p.seq }

// Len returns the number of objects.
func (p *Projection) Len() int { return len(p.objects) }

// Get returns an object, nil when there is none.
func (p *Projection) Get(k ledger.ObjectKey) *Object { return p.objects[k] }

// Keys returns all keys in order.
func (p *Projection) Keys() []ledger.ObjectKey {
	return slices.SortedFunc(maps.Keys(p.objects), ledger.ObjectKey.Compare)
}

// Sites returns the state of every cluster, by name.
func (p *Projection) Sites() []SiteState {
	out := make([]SiteState, 0, len(p.sites))
	for _, name := range slices.Sorted(maps.Keys(p.sites)) {
		out = append(out, p.sites[name].SiteState)
	}
	return out
}

// Apply folds one event and returns what it changed, in key order. Events that
// are not about objects or syncs change nothing; seq must be the next one.
func (p *Projection) Apply(seq ledger.Seq, e ledger.Event) ([]Change, error) {
	if seq != p.seq+1 {
		return nil, fmt.Errorf("apply event %d to a projection at %d", seq, p.seq)
	}
	p.seq = seq
	if e.Type.IsDecision() {
		return p.applyConfirm(e)
	}
	s := p.sites[e.ID.Cluster]
	if s == nil {
		s = &site{keys: map[ledger.ObjectKey]struct{}{}}
		s.Cluster = e.ID.Cluster
		p.sites[e.ID.Cluster] = s
	}
	s.Last, s.Epoch = e.Time, e.ID.Epoch
	switch e.Type {
	case ledger.ObjectPut:
		return p.put(s, seq, e, e.Data, 0), nil
	case ledger.ObjectTooLarge:
		var d ledger.TooLargeData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return nil, fmt.Errorf("event %d: %w", seq, err)
		}
		return p.put(s, seq, e, nil, d.Bytes), nil
	case ledger.ObjectDelete:
		before := p.objects[e.Object]
		if before == nil || before.UID != "" && e.UID != "" && before.UID != e.UID {
			return nil, nil // a delete of an older object of the same name
		}
		p.remove(s, e.Object)
		return []Change{{Key: e.Object, Before: before}}, nil
	case ledger.SyncBegin:
		var d ledger.SyncBeginData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return nil, fmt.Errorf("event %d: %w", seq, err)
		}
		s.Syncing, s.Problem, s.seen, s.scope = true, "", map[ledger.ObjectKey]ledger.Digest{}, nil
		if len(d.Scope) > 0 {
			s.scope = map[string]bool{}
			for _, k := range d.Scope {
				s.scope[k] = true
			}
		}
	case ledger.SyncPage:
		var d ledger.SyncPageData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return nil, fmt.Errorf("event %d: %w", seq, err)
		}
		for _, it := range d.Unchanged {
			if s.Syncing && it.Object.Cluster == s.Cluster {
				s.seen[it.Object] = it.Digest
			}
		}
	case ledger.SyncEnd:
		return p.endSync(s, seq, e)
	case ledger.SiteFindings:
		var d ledger.FindingsData
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return nil, fmt.Errorf("event %d: %w", seq, err)
		}
		s.Findings = d.Findings
	case ledger.StreamBegun, ledger.TermBegun, ledger.SiteAdded:
		// Decisions, which came to their end above.
	}
	return nil, nil
}

func (p *Projection) put(s *site, seq ledger.Seq, e ledger.Event, raw json.RawMessage, tooLarge int) []Change {
	before := p.objects[e.Object]
	after := &Object{
		Key: e.Object, Digest: e.ObjectDigest, UID: e.UID, Generation: e.Generation,
		ResourceVersion: e.ResourceVersion, Raw: raw, Seq: seq, FirstSeq: seq,
		Actor: e.Actor, Time: e.Time, TooLarge: tooLarge,
	}
	if before != nil && before.UID == after.UID {
		after.FirstSeq = before.FirstSeq
	}
	p.objects[e.Object] = after
	s.keys[e.Object] = struct{}{}
	s.Objects = len(s.keys)
	if s.Syncing {
		s.seen[e.Object] = e.ObjectDigest
	}
	if s.Withheld != nil {
		s.Withheld = s.Withheld.without(e.Object)
	}
	if before != nil && before.Digest == after.Digest && before.UID == after.UID {
		return nil
	}
	return []Change{{Key: e.Object, Before: before, After: after}}
}

func (w *Withheld) without(k ledger.ObjectKey) *Withheld {
	if !slices.Contains(w.Objects, k) {
		return w
	}
	c := *w
	c.Objects = slices.DeleteFunc(slices.Clone(w.Objects), func(o ledger.ObjectKey) bool { return o == k })
	if len(c.Objects) == 0 {
		return nil
	}
	return &c
}

func (p *Projection) remove(s *site, k ledger.ObjectKey) {
	delete(p.objects, k)
	delete(s.keys, k)
	s.Objects = len(s.keys)
	if s.Syncing {
		delete(s.seen, k)
	}
	if s.Withheld != nil {
		s.Withheld = s.Withheld.without(k)
	}
}

// endSync believes a completed list, or says why not. Only a believed list
// removes what it does not hold.
func (p *Projection) endSync(s *site, seq ledger.Seq, e ledger.Event) ([]Change, error) {
	var d ledger.SyncEndData
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return nil, fmt.Errorf("event %d: %w", seq, err)
	}
	if !s.Syncing {
		return nil, nil
	}
	s.Syncing = false
	seen, scope := s.seen, s.scope
	s.seen, s.scope = nil, nil

	items := make([]ledger.SyncItem, 0, len(seen))
	for k, digest := range seen {
		items = append(items, ledger.SyncItem{Object: k, Digest: digest})
	}
	slices.SortFunc(items, func(a, b ledger.SyncItem) int { return a.Object.Compare(b.Object) })
	if len(items) != d.Count || ledger.InventoryDigest(items) != d.Inventory {
		s.Problem = fmt.Sprintf("the sync that ended at event %d says %d objects, %d were recorded; nothing is removed until a sync agrees", seq, d.Count, len(items))
		return nil, nil
	}
	for _, it := range items {
		if o := p.objects[it.Object]; o == nil || o.Digest != it.Digest {
			s.Problem = fmt.Sprintf("the sync that ended at event %d lists %s as unchanged in a version that is not recorded; nothing is removed until a sync agrees", seq, it.Object)
			return nil, nil
		}
	}
	s.Synced = seq
	var gone []ledger.ObjectKey
	of := 0
	for k := range s.keys {
		if scope != nil && !scope[k.Group+"/"+k.Kind] {
			continue
		}
		of++
		if _, ok := seen[k]; !ok {
			gone = append(gone, k)
		}
	}
	slices.SortFunc(gone, ledger.ObjectKey.Compare)
	if scope == nil {
		s.Withheld = nil
	}
	if len(gone) > 0 && (len(seen) == 0 || len(gone)*100 > MassDelete*of) {
		s.Withheld = &Withheld{Cluster: s.Cluster, Seq: seq, Objects: gone, Of: of}
		return nil, nil
	}
	return p.removeAll(s, gone), nil
}

func (p *Projection) removeAll(s *site, gone []ledger.ObjectKey) []Change {
	changes := make([]Change, 0, len(gone))
	for _, k := range gone {
		before := p.objects[k]
		if before == nil {
			continue
		}
		p.remove(s, k)
		changes = append(changes, Change{Key: k, Before: before})
	}
	return changes
}

// Confirm is the body of the decision that lets a withheld removal through.
type Confirm struct {
	Cluster ledger.ClusterName `json:"cluster"`
	Seq     ledger.Seq         `json:"seq"` // of the Withheld that the operator saw
}

// ConfirmDecision is the name of the decision with a Confirm body.
const ConfirmDecision = "confirm"

func (p *Projection) applyConfirm(e ledger.Event) ([]Change, error) {
	if e.Type != ledger.DecisionType(ConfirmDecision) {
		return nil, nil
	}
	d, err := ledger.DecodeDecision(e.Data)
	if err != nil {
		return nil, err
	}
	var c Confirm
	if err := json.Unmarshal(d.Body, &c); err != nil {
		return nil, fmt.Errorf("confirm: %w", err)
	}
	s := p.sites[c.Cluster]
	if s == nil || s.Withheld == nil || s.Withheld.Seq != c.Seq {
		return nil, nil // what the operator saw is no longer what is withheld
	}
	gone := s.Withheld.Objects
	s.Withheld = nil
	return p.removeAll(s, gone), nil
}
