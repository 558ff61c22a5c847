package chaos

import (
	"fmt"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds"
)

// edge is an edge server with one Envoy: the real rule for heads, and a model
// of what xds.Edge does around it.
type edge struct {
	w    *world
	name string
	disk projector.SignedHead // the last known good one; outlives the process
	high projector.SignedHead // what the checker saw it serve last

	life     int
	up       bool
	serving  projector.SignedHead
	pending  *projector.SignedHead
	fetching bool
	proved   projector.VerdictKind // of what is served, "" while unknown
}

func newEdge(w *world, i int) *edge { return &edge{w: w, name: fmt.Sprintf("edge-%d", i)} }

func (e *edge) begin() {
	e.start()
}

func (e *edge) start() {
	e.life++
	e.up = true
	e.serving, e.pending, e.fetching, e.proved = projector.SignedHead{}, nil, false, ""
	if e.disk.Head.Generation > 0 {
		e.serve(e.disk)
	}
	e.talk()
}

func (e *edge) crash() {
	if !e.up {
		return
	}
	e.w.stats.Crashes++
	e.w.note("%s stops at generation %d", e.name, e.serving.Head.Generation)
	e.up = false
	e.life++
	life := e.life
	e.w.after(e.w.between(time.Millisecond, 5*time.Second), "start "+e.name, func() {
		if e.life == life {
			e.start()
		}
	})
}

func (e *edge) then(d time.Duration, what string, do func()) {
	life := e.life
	e.w.after(d, what+" "+e.name, func() {
		if e.life == life {
			do()
		}
	})
}

// hear delivers something over the network. A message may outlive the process
// that it was sent to and reach the next.
func (e *edge) hear(what string, do func()) {
	e.w.send(what+" "+e.name, func() {
		if e.up {
			do()
		}
	})
}

// applies is the edge's rule: the real one, unless a bug is planted.
func (e *edge) applies(current, offered projector.SignedHead) bool {
	switch {
	case e.w.opt.Bug == BugEdge:
		return offered.Head.Fingerprint != current.Head.Fingerprint
	case e.w.opt.Bug == BugDeaf && e == e.w.edges[0]:
		return false
	}
	return xds.Applies(current, offered, fleetName, federation.DefaultRing)
}

// offer takes a head, by whatever road it came.
func (e *edge) offer(r ledger.Record, seq ledger.Seq) {
	h, err := projector.OpenHead(r, seq, public(e.w.hubKey))
	if err != nil {
		e.w.violate(Broken, "%s: %v", e.name, err)
		return
	}
	if !e.applies(e.serving, h) || e.pending != nil && !e.applies(*e.pending, h) {
		return
	}
	e.pending = &h
	e.fetch()
}

// fetch gets what the pending head names, and applies it if it is still newer
// then.
func (e *edge) fetch() {
	if e.fetching || e.pending == nil {
		return
	}
	h := *e.pending
	e.pending, e.fetching = nil, true
	failed := e.w.hit(FaultLoss)
	e.then(e.w.latency(), "fetched", func() {
		e.fetching = false
		if _, there := e.w.shelf.listeners[h.Head.Fingerprint]; there && !failed && e.applies(e.serving, h) {
			e.apply(h)
		}
		if e.up {
			e.fetch()
		}
	})
}

// apply puts a head on disk and then into service. An edge whose disk fails
// stops.
func (e *edge) apply(h projector.SignedHead) {
	if e.w.hit(FaultDisk) {
		if e.w.rng.IntN(2) == 0 {
			e.disk = h
		}
		e.crash()
		return
	}
	e.disk = h
	if e.w.hit(FaultCrash) {
		e.crash()
		return
	}
	e.serve(h)
}

func (e *edge) serve(h projector.SignedHead) {
	e.w.stats.Served++
	e.w.note("%s serves generation %d of term %d, %s", e.name, h.Head.Generation, h.Term, h.Head.Fingerprint.Short())
	e.w.truth.serve(e, e.high, h)
	e.high, e.serving, e.proved = h, h, ""
	e.then(e.w.between(time.Millisecond, 100*time.Millisecond), "envoy", func() {
		if e.serving.Head.Generation != h.Head.Generation {
			return
		}
		e.proved = projector.Served
		if e.w.refuses(h.Head.Fingerprint, 1) {
			e.proved = projector.Nacked
		}
		e.status()
	})
}

// talk says how it is going, and passes the head on to another edge, about once
// a second.
func (e *edge) talk() {
	e.then(e.w.between(500*time.Millisecond, 1500*time.Millisecond), "talk", func() {
		e.status()
		if o := e.w.edges[e.w.rng.IntN(len(e.w.edges))]; o != e && e.serving.Head.Generation > 0 {
			r, seq := e.serving.Record, e.serving.Seq
			o.hear("gossip", func() { o.offer(r, seq) })
		}
		e.talk()
	})
}

func (e *edge) status() {
	h := e.serving.Head
	s := federation.EdgeStatus{
		Edge: e.name, Fleet: fleetName, Ring: federation.DefaultRing, Generation: h.Generation, Revision: h.Revision, Fingerprint: h.Fingerprint,
		Envoys: []federation.EnvoyStatus{{Node: e.name + "-envoy", Kind: e.proved, Generation: h.Generation, Message: "model"}},
	}
	for _, p := range e.w.procs {
		p.hear("status", func() {
			if p.hub != nil {
				p.hub.edges[s.Edge] = federation.SeenEdge{EdgeStatus: s, At: e.w.wall()}
			}
		})
	}
}

func (e *edge) unsettled() string {
	f := e.w.truth.state.Fleet(fleetName)
	if !e.up || e.serving.Head.Generation != f.Head.Generation || e.serving.Head.Fingerprint != f.Head.Fingerprint {
		return fmt.Sprintf("%s serves generation %d, the head is %d", e.name, e.serving.Head.Generation, f.Head.Generation)
	}
	return ""
}
