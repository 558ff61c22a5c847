package hub

import (
	"context"
	"errors"
	"log/slog"
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
	objects  map[ledger.ObjectKey]*projector.Object // current versions
	refused  map[ledger.ObjectKey]projector.Refusal
}

// scratch returns a copy of what was compiled last. Its first compile is a full
// one, which search pays beside the hub's goroutine.
func (h *Hub) scratch() *scratch {
	s := &scratch{
		compiler: compile.New(h.settings().Compile), objects: map[ledger.ObjectKey]*projector.Object{},
		refused: maps.Clone(h.refused),
	}
	var all []projector.Change
	for _, k := range h.projection.Keys() {
		o := h.projection.Get(k)
		s.objects[k] = o
		all = append(all, projector.Change{Key: k, After: o})
	}
	s.compiler.Apply(all)
	s.compiler.SetOverlay(compile.OverlayChange{LastGood: maps.Clone(h.good.objects), Refused: s.refused})
	return s
}

// without compiles with the suspects in back, by index, refused besides what is
// refused anyway.
func (s *scratch) without(suspects []ledger.ObjectKey, back map[int]bool) *projector.Snapshot {
	change := compile.OverlayChange{Refused: map[ledger.ObjectKey]projector.Refusal{}}
	for i, k := range suspects {
		change.Refused[k] = s.refused[k]
		if o := s.objects[k]; o != nil && back[i] {
			change.Refused[k] = projector.Refusal{Digest: o.Digest, Message: "suspected"}
		}
	}
	s.compiler.SetOverlay(change)
	return s.compiler.Compile().Snapshot
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

// search finds the versions without which the Envoy takes the snapshot, and
// sends the completed taste back.
func (h *Hub) search(ctx context.Context, t tasteDone, suspects []ledger.ObjectKey, s *scratch) {
	t.searched = true
	found, err := h.cfg.Taster.Culprits(ctx, len(suspects), func(included []int) (*projector.Snapshot, error) {
		back := make(map[int]bool, len(suspects))
		for i := range suspects {
			back[i] = true
		}
		for _, i := range included {
			delete(back, i)
		}
		return s.without(suspects, back), nil
	})
	if err == nil && len(found) == 0 {
		err = errors.New("compiled once more for the search, it was taken")
	}
	if err != nil {
		h.log.WarnContext(ctx, "what an Envoy refuses could not be traced to single objects", slog.String("fingerprint", t.fingerprint.Short()), slog.Int("found", len(found)), slog.Any("err", err))
	}
	t.taste.Refused = map[ledger.ObjectKey]projector.Refusal{}
	for _, i := range found {
		if o := s.objects[suspects[i]]; o != nil {
			t.taste.Refused[suspects[i]] = projector.Refusal{Digest: o.Digest, Message: t.taste.Message}
		}
	}
	h.tasted <- t
}

// blame records which objects are behind a refusal of the newest revision by an
// Envoy of the fleet that the taster did not foresee.
func (h *Hub) blame(f *federation.FleetState) {
	n := f.Newest()
	if h.author == nil || n == nil || n.Nacked == nil || f.Head.Revision != n.Revision || n.Tasted == nil || len(n.Tasted.Refused) > 0 {
		return
	}
	if h.compiled == nil || h.compiled.Fingerprint != n.Fingerprint {
		return // a newer compile is under way; it gets its own verdict
	}
	keys, narrowed := h.suspects(Refusal{Type: n.Nacked.Type, Resources: n.Nacked.Resources})
	if !narrowed && len(keys) != 1 {
		h.log.Warn("an Envoy refused the head, and no single object explains it", slog.Uint64("revision", n.Revision), slog.String("message", n.Nacked.Message))
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
			Fleet: f.Name, Revision: n.Revision, Fingerprint: n.Fingerprint,
			Taster: n.Nacked.Node, Message: n.Nacked.Message, Refused: refused,
		},
	})
}
