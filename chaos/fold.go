package chaos

import (
	"fmt"
	"slices"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

// fold is the fold of a prefix of the ledger: decisions, objects, last good
// versions, and the compiler that follows them.
type fold struct {
	w        *world
	seq      ledger.Seq
	state    *federation.State
	objects  *projector.Projection
	compiler *compile.Compiler
	settings projector.Settings

	// Last good versions: of each object the one in the newest promoted
	// revision. history has an object's versions since then.
	good    map[ledger.ObjectKey]*projector.Object
	goodRev uint64
	history map[ledger.ObjectKey][]version
	refused int
}

// version is what an object was from an event on; nil: absent.
type version struct {
	seq    ledger.Seq
	object *projector.Object
}

func newFold(w *world) *fold {
	f := &fold{
		w: w, state: federation.NewState(), objects: projector.NewProjection(), settings: federation.DefaultSettings().Compile,
		good: map[ledger.ObjectKey]*projector.Object{}, history: map[ledger.ObjectKey][]version{},
	}
	f.compiler = compile.New(f.settings)
	return f
}

// apply folds the next acknowledged event and reports whether the compile may
// have changed.
func (f *fold) apply() (changed bool) {
	e, r := f.w.truth.events[f.seq], f.w.truth.records[f.seq]
	f.seq++
	if err := f.state.Apply(f.seq, e, r.Event); err != nil {
		panic(err)
	}
	changes, err := f.objects.Apply(f.seq, e)
	if err != nil {
		panic(err)
	}
	for _, c := range changes {
		f.history[c.Key] = append(f.history[c.Key], version{f.seq, c.After})
	}
	if len(changes) > 0 {
		f.compiler.Apply(changes)
		changed = true
	}
	fleet := f.state.Fleet(federation.DefaultFleet)
	switch e.Type.Decision() {
	case federation.SettingsDecision:
		if f.state.Settings == nil {
			break // the fold passed it over
		}
		f.settings = f.state.Settings.Compile
		f.compiler.SetSettings(f.settings)
		return true
	case federation.VerdictDecision:
		if fleet.LastGood > f.goodRev {
			f.promote(fleet.Revision(fleet.LastGood))
			return true
		}
	case federation.TasteDecision:
		if len(fleet.Refused) != f.refused {
			f.refused = len(fleet.Refused)
			f.compiler.SetOverlay(compile.OverlayChange{Refused: fleet.Refused})
			return true
		}
	}
	return changed
}

// promote makes the versions of a revision the last good ones.
func (f *fold) promote(r *federation.Revision) {
	f.goodRev = r.Revision
	change := map[ledger.ObjectKey]*projector.Object{}
	for k, versions := range f.history {
		i := len(versions) - 1
		for i >= 0 && versions[i].seq > r.Seq {
			i--
		}
		if i < 0 {
			continue // no older than the revision
		}
		f.history[k] = slices.Clone(versions[i:])
		if _, kept := r.Kept[k]; kept {
			continue
		}
		o := versions[i].object
		change[k] = o
		if o == nil {
			delete(f.good, k)
			if len(f.history[k]) == 1 {
				delete(f.history, k)
			}
		} else {
			f.good[k] = o
		}
	}
	f.compiler.SetOverlay(compile.OverlayChange{LastGood: change})
}

// compile compiles the prefix incrementally.
func (f *fold) compile() projector.Result { return f.planted(f.compiler.Compile()) }

// full compiles the prefix from nothing.
func (f *fold) full() projector.Result {
	overlay := projector.Overlay{LastGood: f.good, Refused: f.state.Fleet(federation.DefaultFleet).Refused}
	res, _ := compile.Full(f.settings, func(yield func(*projector.Object) bool) {
		for _, k := range f.objects.Keys() {
			if !yield(f.objects.Get(k)) {
				return
			}
		}
	}, overlay)
	return f.planted(res)
}

// planted is BugClock: the result depends on when it was made.
func (f *fold) planted(res projector.Result) projector.Result {
	if f.w.opt.Bug == BugClock {
		r := projector.NewResource("generated-at", []byte(f.w.now.Truncate(10*time.Second).String()))
		res.Snapshot = res.Snapshot.With([]projector.Update{{Type: projector.Routes, Name: r.Name, Resource: &r}})
	}
	return res
}

// restart drops the compiler, as a new process would, and makes one of the
// projection.
func (f *fold) restart() {
	f.compiler = compile.New(f.settings)
	var changes []projector.Change
	for _, k := range f.objects.Keys() {
		changes = append(changes, projector.Change{Key: k, After: f.objects.Get(k)})
	}
	f.compiler.SetOverlay(compile.OverlayChange{LastGood: f.good, Refused: f.state.Fleet(federation.DefaultFleet).Refused})
	f.compiler.Apply(changes)
}

// fullEvery is how often an audit compiles from nothing as well.
const fullEvery = 40

// auditSome checks I2 on a replica: it compiles the prefixes of up to n candidates
// that were accepted since, and must get their fingerprints.
func (p *proc) auditSome(n int) {
	for ; n > 0 && p.audited < len(p.w.truth.candidates); n-- {
		c := p.w.truth.candidates[p.audited]
		if c.seq > p.acked {
			return
		}
		p.audited++
		if c.seq < p.audit.seq {
			continue // of a decision-maker that was behind; its prefix was passed
		}
		for p.audit.seq < c.seq {
			p.audit.apply()
		}
		p.judge(c, p.audit.compile().Snapshot.Fingerprint(), "incrementally")
		if p.w.rng.IntN(fullEvery) == 0 {
			p.w.stats.Full++
			p.judge(c, p.audit.full().Snapshot.Fingerprint(), "from nothing")
		}
	}
}

// judge compares what a replica compiled with what was recorded.
func (p *proc) judge(c candidate, got projector.Fingerprint, how string) {
	p.w.stats.Compiles++
	if got != c.fingerprint {
		p.w.violate(I2, "r%d is %s compiled from seq %d; %s compiles %s there %s", c.revision, c.fingerprint.Short(), c.seq, p.name, got.Short(), how)
	}
}

// fullAudit checks I2 on a replica once more: it folds the whole ledger anew
// and compiles the prefix of the newest candidate from nothing.
func (p *proc) fullAudit() {
	all := p.w.truth.candidates
	if len(all) == 0 {
		return
	}
	c := all[len(all)-1]
	f := newFold(p.w)
	for f.seq < c.seq {
		f.apply()
	}
	p.w.stats.Full++
	p.judge(c, f.full().Snapshot.Fingerprint(), "from nothing, folded anew")
	p.judge(c, f.compile().Snapshot.Fingerprint(), fmt.Sprintf("in one go, folded anew to %d", f.seq))
}
