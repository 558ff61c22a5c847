package collectortest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/chancery-dev/chancery/ledger"
)

// Fold is what the ledger holds of one cluster: the objects, by the rules of DESIGN, "Collector". Its zero value is
// not usable; see NewFold.
type Fold struct {
	Objects  map[ledger.ObjectKey]Version
	Findings []ledger.SiteFinding
	Withheld []ledger.ObjectKey // that the newest sync would have removed
	Syncs    int                // completed and believed
	Problem  string             // why the newest sync was not believed

	seen  map[ledger.ObjectKey]ledger.Digest // nil outside a sync
	scope []string
}

// Version is one version of an object.
type Version struct {
	Digest ledger.Digest
	Data   json.RawMessage // nil for one that was too large
	Event  ledger.Event
}

// NewFold returns the fold of no event.
func NewFold() *Fold { return &Fold{Objects: map[ledger.ObjectKey]Version{}} }

// Clone returns an independent copy.
func (f *Fold) Clone() *Fold {
	c := *f
	c.Objects, c.seen = maps.Clone(f.Objects), maps.Clone(f.seen)
	return &c
}

// Apply folds one event of the cluster.
func (f *Fold) Apply(e ledger.Event) {
	switch e.Type {
	case ledger.ObjectPut, ledger.ObjectTooLarge:
		v := Version{Digest: e.ObjectDigest, Data: e.Data, Event: e}
		if e.Type == ledger.ObjectTooLarge {
			v.Data = nil
		}
		f.Objects[e.Object] = v
		if f.seen != nil {
			f.seen[e.Object] = e.ObjectDigest
		}
		f.Withheld = slices.DeleteFunc(f.Withheld, func(k ledger.ObjectKey) bool { return k == e.Object })
	case ledger.ObjectDelete:
		delete(f.Objects, e.Object)
		delete(f.seen, e.Object)
	case ledger.SyncBegin:
		var d ledger.SyncBeginData
		mustDecode(e, &d)
		f.seen, f.scope = map[ledger.ObjectKey]ledger.Digest{}, d.Scope
	case ledger.SyncPage:
		var d ledger.SyncPageData
		mustDecode(e, &d)
		for _, it := range d.Unchanged {
			f.seen[it.Object] = it.Digest
		}
	case ledger.SyncEnd:
		var d ledger.SyncEndData
		mustDecode(e, &d)
		f.endSync(d)
	case ledger.SiteFindings:
		var d ledger.FindingsData
		mustDecode(e, &d)
		f.Findings = d.Findings
	case ledger.StreamBegun, ledger.TermBegun, ledger.SiteAdded:
		// Decisions, which are no cluster's.
	}
}

func mustDecode(e ledger.Event, v any) {
	if err := json.Unmarshal(e.Data, v); err != nil {
		panic(fmt.Sprintf("event %s: %v", e.ID, err))
	}
}

func (f *Fold) endSync(d ledger.SyncEndData) {
	items := make([]ledger.SyncItem, 0, len(f.seen))
	for k, digest := range f.seen {
		items = append(items, ledger.SyncItem{Object: k, Digest: digest})
	}
	slices.SortFunc(items, func(a, b ledger.SyncItem) int { return a.Object.Compare(b.Object) })
	f.Problem = ""
	switch {
	case f.seen == nil:
		f.Problem = "sync-end without sync-begin"
		return
	case len(items) != d.Count || ledger.InventoryDigest(items) != d.Inventory:
		f.Problem = fmt.Sprintf("sync-end says %d objects, %d were listed", d.Count, len(items))
	}
	for _, it := range items {
		if f.Objects[it.Object].Digest != it.Digest {
			f.Problem = fmt.Sprintf("%s is listed as unchanged in a version that is not recorded", it.Object)
		}
	}
	var gone []ledger.ObjectKey
	of := 0
	for k := range f.Objects {
		if len(f.scope) > 0 && !slices.Contains(f.scope, k.Group+"/"+k.Kind) {
			continue
		}
		of++
		if _, ok := f.seen[k]; !ok {
			gone = append(gone, k)
		}
	}
	seen := len(f.seen)
	f.seen, f.scope = nil, nil
	if f.Problem != "" {
		return
	}
	f.Syncs++
	slices.SortFunc(gone, ledger.ObjectKey.Compare)
	f.Withheld = nil
	if len(gone) > 0 && (seen == 0 || len(gone)*100 > 30*of) {
		f.Withheld = gone
		return
	}
	for _, k := range gone {
		delete(f.Objects, k)
	}
}

// Confirm lets what is withheld go.
func (f *Fold) Confirm() {
	for _, k := range f.Withheld {
		delete(f.Objects, k)
	}
	f.Withheld = nil
}
