package hub

import (
	"fmt"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

// rebuilt is a revision compiled again from the ledger.
type rebuilt struct {
	compiler *compile.Compiler
	kept     map[ledger.ObjectKey]*projector.Object
	snapshot *projector.Snapshot
}

// compileAt compiles a revision from the prefix that it was compiled from,
// with the last good versions and refusals that its candidate rests on.
func (h *Hub) compileAt(r *federation.Revision) (rebuilt, *projector.Projection, error) {
	var out rebuilt
	state, p := federation.NewState(), projector.NewProjection()
	out.kept = map[ledger.ObjectKey]*projector.Object{}
	out.compiler = compile.New(h.cfg.Settings.Compile)
	err := h.each(1, r.Event, func(seq ledger.Seq, e ledger.Event, rec ledger.Record) error {
		if err := state.Apply(seq, e, rec.Event); err != nil {
			return err
		}
		if seq > r.Seq {
			return nil
		}
		changes, err := p.Apply(seq, e)
		if err != nil {
			return err
		}
		for _, c := range changes {
			if c.After != nil && r.Kept[c.Key] == c.After.Digest && !c.After.Digest.IsZero() {
				out.kept[c.Key] = c.After
			}
		}
		out.compiler.Apply(changes)
		return nil
	})
	if err != nil {
		return out, nil, fmt.Errorf("compile r%d again: %w", r.Revision, err)
	}
	for k := range r.Kept {
		if out.kept[k] == nil {
			return out, nil, fmt.Errorf("compile r%d again: the version of %s that it served is not in the ledger; run chancery verify", r.Revision, k)
		}
	}
	if state.Settings != nil {
		out.compiler.SetSettings(state.Settings.Compile)
	}
	out.compiler.SetOverlay(compile.OverlayChange{LastGood: out.kept, Refused: state.Fleet(h.cfg.Fleet).Refused})
	out.snapshot = out.compiler.Compile().Snapshot
	return out, p, nil
}

// ensureShelved makes sure that edges can fetch a revision: from the shelf, or
// compiled again.
func (h *Hub) ensureShelved(r *federation.Revision) error {
	if _, err := h.cfg.Shelf.Get(r.Fingerprint); err == nil {
		return nil
	}
	again, _, err := h.compileAt(r)
	if err != nil {
		return err
	}
	if now := again.snapshot.Fingerprint(); now != r.Fingerprint {
		return fmt.Errorf("r%d is not on the shelf and this build compiles it to %s, not %s; run the build %s to bring it back",
			r.Revision, now.Short(), r.Fingerprint.Short(), r.Build)
	}
	return h.cfg.Shelf.Put(again.snapshot)
}
