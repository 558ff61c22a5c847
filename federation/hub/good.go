package hub

import (
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

// goodVersions keeps the last good version of every object: the one in the
// newest promoted revision. It is owned by the hub's goroutine.
type goodVersions struct {
	objects map[ledger.ObjectKey]*projector.Object // as of the newest promoted revision

	touched  map[ledger.ObjectKey]struct{}          // changed since the newest compile
	pending  map[ledger.ObjectKey]*projector.Object // compiled, not in a candidate yet; nil: gone
	waiting  []goodDelta                            // of candidates that are not promoted yet, oldest first
	observed map[uint64]time.Time                   // by revision: when its first change was observed
}

type goodDelta struct {
	revision uint64
	objects  map[ledger.ObjectKey]*projector.Object
}

func newGoodVersions() *goodVersions {
	return &goodVersions{
		objects: map[ledger.ObjectKey]*projector.Object{}, touched: map[ledger.ObjectKey]struct{}{},
		pending: map[ledger.ObjectKey]*projector.Object{}, observed: map[uint64]time.Time{},
	}
}

// restore takes over what a compile of the newest promoted revision accepted;
// kept are the versions that it served of what it rejected.
func (g *goodVersions) restore(c *compile.Compiler, p *projector.Projection, kept map[ledger.ObjectKey]*projector.Object) {
	for _, k := range p.Keys() {
		if r, ok := c.Report(k); ok && r.State == projector.Accepted {
			g.objects[k] = p.Get(k)
		}
	}
	for k, o := range kept {
		g.objects[k] = o
	}
}

func (g *goodVersions) touch(changes []projector.Change) {
	for _, c := range changes {
		g.touched[c.Key] = struct{}{}
	}
}

// capture notes what a compile made of the objects that changed.
func (g *goodVersions) capture(c *compile.Compiler, p *projector.Projection) {
	for k := range g.touched {
		o := p.Get(k)
		if o == nil {
			g.pending[k] = nil
			continue
		}
		if r, ok := c.Report(k); ok && r.State == projector.Accepted {
			g.pending[k] = o
		}
	}
	clear(g.touched)
}

// maxWaiting bounds the candidates that wait for promotion; what older ones
// changed is added to the next.
const maxWaiting = 256

// candidate says that what was captured became a revision.
func (g *goodVersions) candidate(revision uint64, observed time.Time) {
	d := goodDelta{revision: revision, objects: g.pending}
	g.pending = map[ledger.ObjectKey]*projector.Object{}
	if len(g.waiting) == maxWaiting {
		older := g.waiting[0]
		g.waiting = g.waiting[1:]
		for k, o := range older.objects {
			if _, ok := g.waiting[0].objects[k]; !ok {
				g.waiting[0].objects[k] = o
			}
		}
	}
	g.waiting = append(g.waiting, d)
	if !observed.IsZero() {
		g.observed[revision] = observed
	}
	for r := range g.observed {
		if r+maxWaiting < revision {
			delete(g.observed, r)
		}
	}
}

// promote makes what the revisions up to this one serve the last good versions,
// and returns which changed; nil: none is left.
func (g *goodVersions) promote(revision uint64) map[ledger.ObjectKey]*projector.Object {
	changed := map[ledger.ObjectKey]*projector.Object{}
	for len(g.waiting) > 0 && g.waiting[0].revision <= revision {
		for k, o := range g.waiting[0].objects {
			if o == nil {
				delete(g.objects, k)
			} else {
				g.objects[k] = o
			}
			changed[k] = o
		}
		g.waiting = g.waiting[1:]
	}
	return changed
}

// unproven returns the objects that changed since the newest promoted revision.
func (g *goodVersions) unproven() map[ledger.ObjectKey]struct{} {
	out := map[ledger.ObjectKey]struct{}{}
	for _, d := range g.waiting {
		for k := range d.objects {
			out[k] = struct{}{}
		}
	}
	for k := range g.pending {
		out[k] = struct{}{}
	}
	return out
}
