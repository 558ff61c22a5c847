package compile

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/emissary"
	"github.com/chancery-dev/chancery/projector/ir"
)

// slot is what is known of one object: its source and what the overlay says.
type slot struct {
	source  *projector.Object
	held    *projector.Object
	isHeld  bool // held counts, nil removes the object
	refused projector.Refusal
}

func (s slot) empty() bool {
	return s.source == nil && !s.isHeld && s.refused.Digest.IsZero()
}

func sameObject(a, b *projector.Object) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Digest == b.Digest && a.FirstSeq == b.FirstSeq && a.TooLarge == b.TooLarge
}

func sameSlot(a, b slot) bool {
	return sameObject(a.source, b.source) && sameObject(a.held, b.held) && a.isHeld == b.isHeld && a.refused == b.refused
}

// OverlayChange changes entries of the overlay; what it does not mention
// stays.
type OverlayChange struct {
	// Hold serves another version of an object; a nil Object serves none.
	Hold map[ledger.ObjectKey]*projector.Object
	// Unhold ends holds.
	Unhold []ledger.ObjectKey
	// LastGood sets last good versions; a nil Object forgets one.
	LastGood map[ledger.ObjectKey]*projector.Object
	// Refused sets refusals; one without a digest forgets.
	Refused map[ledger.ObjectKey]projector.Refusal
}

// Compiler compiles one fleet's configuration and keeps it up to date. It is
// not safe for concurrent use.
type Compiler struct {
	g     *graph
	slots map[ledger.ObjectKey]slot
	t     tables
	x     indexes

	snapshot *projector.Snapshot
	changed  map[resourceKey]struct{} // resources since the last Compile
	reports  map[ledger.ObjectKey]struct{}
	kept     map[stateKey]keptVersion
	pieces   map[named]*pieces
	routes   int // in all virtual hosts

	// fault makes the reading of an object panic, in tests of containment.
	fault func(*projector.Object)
}

type keptVersion struct {
	object ledger.ObjectKey
	digest ledger.Digest
}

// New returns a compiler without objects.
func New(settings projector.Settings) *Compiler {
	c := &Compiler{
		g: &graph{}, slots: map[ledger.ObjectKey]slot{}, snapshot: projector.EmptySnapshot(),
		changed: map[resourceKey]struct{}{}, reports: map[ledger.ObjectKey]struct{}{}, kept: map[stateKey]keptVersion{}, pieces: map[named]*pieces{},
	}
	c.makeTables()
	c.makeRules()
	c.SetSettings(settings)
	return c
}

// SetSettings changes what every object is compiled under.
func (c *Compiler) SetSettings(s projector.Settings) {
	d := projector.DefaultSettings()
	s.AmbassadorID = cmp.Or(s.AmbassadorID, d.AmbassadorID)
	s.Namespace = cmp.Or(s.Namespace, d.Namespace)
	s.BindAddress = cmp.Or(s.BindAddress, d.BindAddress)
	s.ClusterDomain = cmp.Or(s.ClusterDomain, d.ClusterDomain)
	c.t.settings.set(struct{}{}, s)
}

// Apply takes changes of the projection. Compile brings the snapshot up to
// date.
func (c *Compiler) Apply(changes []projector.Change) {
	for _, ch := range changes {
		s := c.slots[ch.Key]
		s.source = ch.After
		c.setSlot(ch.Key, s)
	}
}

// SetOverlay takes changes of the overlay.
func (c *Compiler) SetOverlay(o OverlayChange) {
	for k, held := range o.Hold {
		s := c.slots[k]
		s.held, s.isHeld = held, true
		c.setSlot(k, s)
	}
	for _, k := range o.Unhold {
		s := c.slots[k]
		s.held, s.isHeld = nil, false
		c.setSlot(k, s)
	}
	for k, r := range o.Refused {
		s := c.slots[k]
		if s.refused = r; r.Digest.IsZero() {
			s.refused = projector.Refusal{}
		}
		c.setSlot(k, s)
	}
	for k, good := range o.LastGood {
		if good == nil {
			c.t.lastGood.remove(k)
		} else {
			c.t.lastGood.set(k, good)
		}
	}
}

func (c *Compiler) setSlot(k ledger.ObjectKey, s slot) {
	if s.empty() {
		delete(c.slots, k)
		c.t.slots.remove(k)
		return
	}
	c.slots[k] = s
	c.t.slots.set(k, s)
}

// Compile brings everything up to date and returns the result. Its cost is
// that of what changed since the last time.
func (c *Compiler) Compile() projector.Result {
	c.g.update()
	updates := make([]projector.Update, 0, len(c.changed))
	for k := range c.changed {
		u := projector.Update{Type: k.Type, Name: k.Name}
		if r, ok := c.t.resources.get(k); ok {
			u.Resource = &r
		}
		updates = append(updates, u)
	}
	// Walking and clearing a map cost what it once held: after a large compile it is made anew.
	if len(c.changed) > 256 {
		c.changed = map[resourceKey]struct{}{}
	}
	clear(c.changed)
	slices.SortFunc(updates, func(a, b projector.Update) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name))
	})
	c.snapshot = c.snapshot.With(updates)
	kept := make(map[ledger.ObjectKey]ledger.Digest, len(c.kept))
	for _, v := range c.kept {
		kept[v.object] = v.digest
	}
	return projector.Result{Snapshot: c.snapshot, Kept: kept, Routes: c.routes}
}

// Changed returns the objects whose reports may have changed since it was last
// called, in order.
func (c *Compiler) Changed() []ledger.ObjectKey {
	keys := slices.SortedFunc(maps.Keys(c.reports), ledger.ObjectKey.Compare)
	clear(c.reports)
	return keys
}

// Report returns what the last Compile made of an object. It is not ok for an
// object that the compiler does not know.
func (c *Compiler) Report(k ledger.ObjectKey) (projector.ObjectReport, bool) {
	s, ok := c.slots[k]
	if !ok {
		return projector.ObjectReport{}, false
	}
	r := projector.ObjectReport{Object: k, State: projector.Accepted}
	if s.source != nil {
		r.Digest = s.source.Digest
	}
	ignored := false
	for _, e := range c.x.statesOf.bucket(k) {
		switch st := e.value; st.State {
		case projector.Rejected:
			r.State = projector.Rejected
			if !st.Serving.IsZero() {
				r.Serving = st.Serving
			}
		case projector.Held:
			if r.State != projector.Rejected {
				r.State = projector.Held
			}
			r.Serving = st.Serving
		case projector.Ignored:
			ignored = true
		case projector.Accepted: // as the report begins
		}
	}
	if ignored && r.State == projector.Accepted {
		r.State = projector.Ignored
	}
	for _, e := range c.x.findingsOf.bucket(k) {
		r.Findings = append(r.Findings, e.value...)
	}
	slices.SortStableFunc(r.Findings, func(a, b projector.Finding) int {
		c := cmp.Or(strings.Compare(string(a.Code), string(b.Code)), strings.Compare(a.Path, b.Path), strings.Compare(a.Message, b.Message))
		if c == 0 && a.Other != nil && b.Other != nil {
			c = a.Other.Compare(*b.Other)
		}
		return c
	})
	r.Findings = slices.CompactFunc(r.Findings, deep[projector.Finding])
	return r, true
}

// Reports yields the report on every object, in order.
func (c *Compiler) Reports() iter.Seq[projector.ObjectReport] {
	return func(yield func(projector.ObjectReport) bool) {
		for _, k := range slices.SortedFunc(maps.Keys(c.slots), ledger.ObjectKey.Compare) {
			r, _ := c.Report(k)
			if !yield(r) {
				return
			}
		}
	}
}

// Evaluations counts the rules run since the compiler was made: the measure of
// how much a change cost.
func (c *Compiler) Evaluations() int { return c.g.runs }

// Full compiles objects from nothing: what an incremental compile must equal,
// and what compiling offline is.
func Full(settings projector.Settings, objects iter.Seq[*projector.Object], overlay projector.Overlay) (projector.Result, *Compiler) {
	c := New(settings)
	for o := range objects {
		s := c.slots[o.Key]
		s.source = o
		c.setSlot(o.Key, s)
	}
	c.SetOverlay(OverlayChange{Hold: overlay.Held, LastGood: overlay.LastGood, Refused: overlay.Refused})
	return c.Compile(), c
}

// Objects makes projector objects of canonical documents, numbered in order,
// for compiling offline.
func Objects(keys []ledger.ObjectKey, raws [][]byte) []*projector.Object {
	out := make([]*projector.Object, len(keys))
	for i, k := range keys {
		seq := ledger.Seq(i + 1)
		out[i] = &projector.Object{Key: k, Raw: raws[i], Digest: ledger.DigestOf(raws[i]), Seq: seq, FirstSeq: seq}
	}
	return out
}

// world is what the resources of one cluster look up, recorded as it is read.
type world struct {
	c       *Compiler
	cluster ledger.ClusterName
}

var _ emissary.World = world{}

func (w world) Settings() projector.Settings {
	s, _ := w.c.t.settings.get(struct{}{})
	return s
}

func (w world) Cluster() string { return string(w.cluster) }

var defaultModule = emissary.DefaultModule()

func (w world) MappingDefaults() *emissary.MappingDefaults {
	if d, ok := w.c.t.mappingDefaults.get(w.cluster); ok {
		return d
	}
	return &defaultModule.Mappings
}

func (w world) Resolver(name string) (string, bool) {
	if es := w.c.x.resolversNamed.bucket(named{w.cluster, name}); len(es) > 0 {
		return es[0].value.Key.Kind, true
	}
	kind, ok := emissary.BuiltinResolvers[name]
	return kind, ok
}

func (w world) Context(name string) (*emissary.Context, bool) {
	es := w.c.x.contextsNamed.bucket(named{w.cluster, name})
	if len(es) == 0 {
		return nil, false
	}
	return es[0].value, true
}

func (w world) Service(namespace, name string) (*emissary.Service, bool) {
	return w.c.t.services.get(placed{w.cluster, namespace, name})
}

func (w world) Secret(namespace, name string) (*emissary.Secret, bool) {
	return w.c.t.secrets.get(placed{w.cluster, namespace, name})
}

func (w world) Selectors() []map[string]string {
	s, _ := w.c.t.selectors.get(w.cluster)
	return s
}

func (w world) RateLimitDomain() string {
	r, _ := w.c.t.rateLimits.get(w.cluster)
	return r.domain
}

func deep[T any](a, b T) bool { return reflect.DeepEqual(a, b) }

// Sources returns the objects that a resource comes from, in order, to find
// which of them makes Envoy refuse it.
func (c *Compiler) Sources(t projector.ResourceType, name string) []ledger.ObjectKey {
	keys := map[ledger.ObjectKey]struct{}{}
	add := func(k ledger.ObjectKey) {
		if _, ok := c.slots[k]; ok {
			keys[k] = struct{}{}
		}
	}
	switch t {
	case projector.Routes:
		for _, e := range c.x.vhostsOfTable.bucket(name) {
			for _, k := range e.value.hosts {
				add(k.Object)
			}
			for _, name := range e.value.groups {
				g, ok := c.t.groups.get(name)
				if !ok {
					continue
				}
				for _, m := range g.Members {
					add(m.Object)
				}
			}
		}
	case projector.Listeners:
		for b, row := range c.t.bounds.rows {
			if !row.has || b.Name() != name {
				continue
			}
			for _, l := range row.value.listeners {
				add(l.Key.Object)
				for _, e := range c.x.modules.bucket(l.Key.Object.Cluster) {
					add(e.key.Object)
				}
				for _, e := range c.x.auths.bucket(l.Key.Object.Cluster) {
					add(e.key.Object)
				}
				for _, e := range c.x.limiters.bucket(l.Key.Object.Cluster) {
					add(e.key.Object)
				}
			}
			for _, e := range c.x.chainsOfBound.bucket(b) {
				add(e.value.host.Key.Object)
			}
		}
	case projector.Upstreams:
		for _, e := range c.x.upstreamUses.bucket(name) {
			for _, k := range e.value.by {
				add(k.Object)
			}
		}
	case projector.EndpointNeeds:
		for _, e := range c.x.endpointUses.bucket(name) {
			for _, k := range c.Sources(projector.Upstreams, e.key.user) {
				add(k)
			}
		}
	case projector.SecretNeeds:
		for _, e := range c.x.secretUses.bucket(name) {
			if e.value.by != (emissary.UnitKey{}) {
				add(e.value.by.Object)
				continue
			}
			for _, k := range c.Sources(projector.Upstreams, e.key.user) {
				add(k)
			}
		}
	}
	return slices.SortedFunc(maps.Keys(keys), ledger.ObjectKey.Compare)
}

// contained turns a panic in a rule into a finding on the objects behind it.
func contained(recovered any) projector.Finding {
	return projector.Finding{
		Code: projector.CodeInternal, Severity: projector.Error,
		Message: fmt.Sprintf("the compiler failed on this object (%v); it is not served: please report it with the object", recovered),
	}
}

// secretUse is a need for a secret and who has it.
type secretUse struct {
	ref ir.SecretRef
	by  emissary.UnitKey // zero for an upstream's
}
