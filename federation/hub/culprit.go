package hub

import (
	"context"
	"maps"
	"slices"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

// scratch is a compiler of its own for a search beside the hub's goroutine.
type scratch struct {
	compiler *compile.Compiler
	overlay  projector.Overlay
	objects  map[ledger.ObjectKey]*projector.Object // current versions of suspects
}

// scratch returns a copy of what was compiled last. It costs a full compile,
// which the caller of search pays elsewhere.
func (h *Hub) scratch() *scratch {
	s := &scratch{compiler: compile.New(h.settings().Compile), objects: map[ledger.ObjectKey]*projector.Object{}}
	var all []projector.Change
	for _, k := range h.projection.Keys() {
		o := h.projection.Get(k)
		s.objects[k] = o
		all = append(all, projector.Change{Key: k, After: o})
	}
	s.compiler.Apply(all)
	s.overlay = projector.Overlay{LastGood: maps.Clone(h.overlay.LastGood), Refused: maps.Clone(h.overlay.Refused)}
	return s
}

func (h *Hub) settings() federation.Settings {
	if h.state.Settings != nil {
		return *h.state.Settings
	}
	return h.cfg.Settings
}

// suspects returns the objects that can be behind a refusal: those that
// changed since the last good revision, narrowed to those behind the refused
// resources where these are known.
func (h *Hub) suspects(r Refusal) (keys []ledger.ObjectKey, narrowed bool) {
	unproven := h.good.unproven()
	if len(unproven) == 0 { // after a restart
		for _, k := range h.projection.Keys() {
			if o := h.good.objects[k]; o == nil || o.Digest != h.projection.Get(k).Digest {
				unproven[k] = struct{}{}
			}
		}
	}
	narrow := map[ledger.ObjectKey]struct{}{}
	for _, name := range r.Resources {
		for _, k := range h.compiler.Sources(r.Type, name) {
			if _, ok := unproven[k]; ok {
				narrow[k] = struct{}{}
			}
		}
	}
	if len(narrow) > 0 {
		unproven = narrow
	}
	return slices.SortedFunc(maps.Keys(unproven), ledger.ObjectKey.Compare), len(narrow) > 0
}

// maxTastes bounds the tastes of one search.
const maxTastes = 64

// search finds the versions without which the Envoy takes the snapshot, by
// bisection over the suspects, and sends the completed taste back.
func (h *Hub) search(ctx context.Context, t tasteDone, suspects []ledger.ObjectKey, s *scratch) {
	t.searched = true
	t.taste.Refused = map[ledger.ObjectKey]projector.Refusal{}
	tastes := 0
	// refusedWithout tastes the configuration in which these suspects are as they
	// were before.
	refusedWithout := func(back []ledger.ObjectKey) bool {
		if tastes == maxTastes || ctx.Err() != nil {
			return true
		}
		tastes++
		o := projector.Overlay{LastGood: s.overlay.LastGood, Refused: maps.Clone(s.overlay.Refused)}
		if o.Refused == nil {
			o.Refused = map[ledger.ObjectKey]projector.Refusal{}
		}
		for _, k := range back {
			if obj := s.objects[k]; obj != nil {
				o.Refused[k] = projector.Refusal{Digest: obj.Digest, Message: "suspected"}
			}
		}
		s.compiler.SetOverlay(o)
		limited, cancel := context.WithTimeout(ctx, tasteLimit)
		defer cancel()
		r, err := h.cfg.Taster.Taste(limited, s.compiler.Compile().Snapshot)
		return err != nil || r != nil
	}
	for _, k := range minimal(suspects, refusedWithout) {
		if obj := s.objects[k]; obj != nil {
			t.taste.Refused[k] = projector.Refusal{Digest: obj.Digest, Message: t.taste.Message}
		}
	}
	h.tasted <- t
}

// minimal returns a smallest set, by halving, of suspects that must go back so
// that refused no longer holds; none when it holds even without all of them.
func minimal(suspects []ledger.ObjectKey, refusedWithout func([]ledger.ObjectKey) bool) []ledger.ObjectKey {
	if len(suspects) == 0 || refusedWithout(suspects) {
		return nil
	}
	// Invariant: with need ∪ rest back, it is taken.
	var need []ledger.ObjectKey
	rest := suspects
	for len(rest) > 0 {
		// The shortest prefix of rest that must be back beside need.
		lo, hi := 0, len(rest) // taken with hi, refused below lo
		if !refusedWithout(need) {
			return need
		}
		for lo+1 < hi {
			mid := (lo + hi) / 2
			if refusedWithout(slices.Concat(need, rest[:mid])) {
				lo = mid
			} else {
				hi = mid
			}
		}
		need = append(need, rest[hi-1])
		rest = rest[:hi-1]
	}
	return need
}

// blame records which objects are behind a refusal of the newest revision by an
// Envoy of the fleet that the taster did not foresee.
func (h *Hub) blame(f *federation.FleetState) {
	n := f.Newest()
	if h.author == nil || n == nil || n.Nacked == nil || f.Head.Revision != n.Candidate.Revision || n.Tasted == nil || len(n.Tasted.Refused) > 0 {
		return
	}
	if h.compiled == nil || h.compiled.Fingerprint != n.Fingerprint {
		return // a newer compile is under way; it gets its own verdict
	}
	keys, narrowed := h.suspects(Refusal{Type: n.Nacked.Type, Resources: n.Nacked.Resources})
	if !narrowed && len(keys) != 1 {
		h.log.Warn("an Envoy refused the head, and no single object explains it", "revision", n.Candidate.Revision, "message", n.Nacked.Message)
		return
	}
	refused := map[ledger.ObjectKey]projector.Refusal{}
	for _, k := range keys {
		if o := h.projection.Get(k); o != nil {
			refused[k] = projector.Refusal{Digest: o.Digest, Message: n.Nacked.Message}
		}
	}
	h.extra = append(h.extra, federation.Decision{
		Scope: string(f.Name), Name: federation.TasteDecision, Actor: hubActor,
		Body: federation.Taste{
			Fleet: f.Name, Revision: n.Candidate.Revision, Fingerprint: n.Fingerprint,
			Taster: n.Nacked.Node, Message: n.Nacked.Message, Refused: refused,
		},
	})
}
