package chaos

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// truth is what the checker knows: the acknowledged prefix, which only grows,
// and its folds.
type truth struct {
	w          *world
	acked      ledger.Seq
	events     []ledger.Event
	records    []ledger.Record
	leaves     []ledger.Digest
	recorded   map[ledger.Digest]ledger.Seq     // by digest of the event's bytes
	pending    map[ledger.Digest]collector.Item // left their outbox and are not in the prefix
	claims     map[claim]string                 // instance that the epoch is recorded as
	state      *federation.State
	objects    *projector.Projection
	candidates []candidate
	heads      map[uint64]head // accepted, by generation
	leads      int             // how often a process began to lead
}

// claim is an epoch of a cluster.
type claim struct {
	cluster ledger.ClusterName
	epoch   uint64
}

// candidate is an accepted candidate decision.
type candidate struct {
	revision    uint64
	seq         ledger.Seq // that was compiled
	fingerprint projector.Fingerprint
}

// head is an accepted head decision.
type head struct {
	seq    ledger.Seq
	term   uint64
	record ledger.Record
}

func newTruth(w *world) *truth {
	return &truth{
		w: w, recorded: map[ledger.Digest]ledger.Seq{}, pending: map[ledger.Digest]collector.Item{}, claims: map[claim]string{},
		state: federation.NewState(), objects: projector.NewProjection(), heads: map[uint64]head{},
	}
}

// acknowledge takes into account that a process knows a quorum to have
// recorded its first size records.
func (t *truth) acknowledge(p *proc, size ledger.Seq) {
	if size <= t.acked {
		return
	}
	from := t.acked
	for seq := t.acked + 1; seq <= size; seq++ {
		if err := t.add(seq, p.disk.leaves[seq-1]); err != nil {
			t.w.violate(Broken, "acknowledged record %d: %v", seq, err)
			return
		}
	}
	for _, o := range t.w.procs {
		t.compare(o, from)
	}
	t.quorum()
}

func (t *truth) add(seq ledger.Seq, leaf []byte) error {
	r, err := ledger.ParseLeaf(leaf)
	if err != nil {
		return err
	}
	e, err := ledger.DecodeEvent(r.Event)
	if err != nil {
		return err
	}
	d := ledger.DigestOf(r.Event)
	t.acked = seq
	t.events, t.records, t.leaves = append(t.events, e), append(t.records, r), append(t.leaves, ledger.DigestOf(leaf))
	t.recorded[d] = seq
	delete(t.pending, d)
	if e.Type == ledger.SyncBegin && e.ID.N == 0 {
		t.claims[claim{e.ID.Cluster, e.ID.Epoch}] = e.ID.Instance
	}
	t.w.stats.Events++
	if err := t.state.Apply(seq, e, r.Event); err != nil {
		return err
	}
	if _, err := t.objects.Apply(seq, e); err != nil {
		return err
	}
	f := t.state.Fleet(federation.DefaultFleet)
	if n := f.Newest(); n != nil && n.Event == seq {
		t.candidates = append(t.candidates, candidate{n.Revision, n.Seq, n.Fingerprint})
		t.w.stats.Candidates++
	}
	if f.HeadSeq == seq {
		t.heads[f.Head.Generation] = head{seq: seq, term: t.state.Term, record: r}
		t.w.stats.Heads++
	}
	t.w.stats.Terms = t.state.Term
	return nil
}

// compare checks I1 on a replica: what is acknowledged and what it has from
// position from+1 on are the same. A minority may differ for a while: in what
// it has beyond the base on which the stream began anew, until it reads that;
// and where the stream was set back to an older copy, so that two replicas may
// have read different things from it, until that is mended.
func (t *truth) compare(p *proc, from ledger.Seq) {
	if p.diverged > from {
		p.diverged = 0
	}
	to := min(t.acked, p.disk.Size())
	for seq := from + 1; seq <= to && p.diverged == 0; seq++ {
		if ledger.DigestOf(p.disk.leaves[seq-1]) != t.leaves[seq-1] {
			p.diverged = seq
			t.w.note("%s has another record than the acknowledged one at %d", p.name, seq)
			if !t.w.stream.regressed && p.disk.admission.Incarnation() == t.state.Incarnation {
				t.w.violate(I1, "acknowledged event %s at %d is another in the ledger of %s", t.events[seq-1].ID, seq, p.name)
			}
		}
	}
}

// quorum checks I1: a quorum of the ledgers holds what is acknowledged.
func (t *truth) quorum() {
	n := 0
	for _, p := range t.w.procs {
		if p.disk.Size() >= t.acked && p.diverged == 0 {
			n++
		}
	}
	if n < t.w.majority() {
		t.w.violate(I1, "%d events are acknowledged, %d of %d ledgers hold them", t.acked, n, len(t.w.procs))
	}
}

// released notes that an item left its outbox as recorded. It is not missed if
// its epoch is recorded as another instance's: nothing of it ever will be.
func (t *truth) released(it collector.Item) {
	d := ledger.DigestOf(it.Record.Event)
	if t.recorded[d] > 0 {
		return
	}
	e, err := ledger.DecodeEvent(it.Record.Event)
	if err != nil {
		t.w.violate(Broken, "item %v: %v", it.At, err)
		return
	}
	if who, ok := t.claims[claim{e.ID.Cluster, e.ID.Epoch}]; !ok || who == e.ID.Instance {
		t.pending[d] = it
	}
}

// sweep checks I1: what left an outbox before it was acknowledged is at least
// on its way.
func (t *truth) sweep() {
	if len(t.pending) == 0 {
		return
	}
	there := map[ledger.Digest]bool{}
	for _, m := range t.w.stream.messages {
		there[ledger.DigestOf(m.record.Event)] = true
	}
	for _, p := range t.w.procs {
		for _, leaf := range p.disk.leaves[min(int(t.acked), len(p.disk.leaves)):] {
			if r, err := ledger.ParseLeaf(leaf); err == nil {
				there[ledger.DigestOf(r.Event)] = true
			}
		}
	}
	var lost []collector.Item
	for d, it := range t.pending {
		if !there[d] {
			lost = append(lost, it)
		}
	}
	if len(lost) == 0 {
		return
	}
	slices.SortFunc(lost, func(a, b collector.Item) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Subject, b.Subject), bytes.Compare(a.Record.Event, b.Record.Event))
	})
	t.w.violate(I1, "event %d of epoch %d on %s left its outbox and is neither in a ledger nor in the stream; %d such", lost[0].At.N, lost[0].At.Epoch, lost[0].Subject, len(lost))
}

// serve checks I3 on what an edge puts into service.
func (t *truth) serve(e *edge, was, is projector.SignedHead) {
	h, ok := t.heads[is.Head.Generation]
	switch {
	case was.Head.Generation > 0 && (is.Term < was.Term || is.Head.Generation < was.Head.Generation):
		t.w.violate(I3, "%s goes back from term %d generation %d to term %d generation %d", e.name, was.Term, was.Head.Generation, is.Term, is.Head.Generation)
	case !is.Record.Verify(public(t.w.hubKey)):
		t.w.violate(I3, "%s serves generation %d, which the hub did not sign", e.name, is.Head.Generation)
	case !ok || h.term != is.Term || string(h.record.Event) != string(is.Record.Event):
		t.w.violate(I3, "%s serves generation %d of term %d, which is not recorded so", e.name, is.Head.Generation, is.Term)
	}
}

// unsettled says what was decided and is not in force.
func (t *truth) unsettled() string {
	f := t.state.Fleet(federation.DefaultFleet)
	n := f.Newest()
	if n == nil || n.Tasted == nil {
		return "the newest compile is no candidate, or was not tasted"
	}
	var leader *hub
	for _, p := range t.w.procs {
		if h := p.hub; h != nil && h.leads() {
			leader = h
		}
	}
	switch {
	case leader == nil:
		return "nobody leads"
	case leader.fold.seq != t.acked || len(leader.unrecorded) > 0 || leader.compiled == nil || leader.dirty:
		return leader.instance + " has not folded everything"
	case leader.compiled.Fingerprint != n.Fingerprint:
		return fmt.Sprintf("%s compiles %s, the newest candidate is %s", leader.instance, leader.compiled.Fingerprint.Short(), n.Fingerprint.Short())
	case len(f.Holds) > 0:
		return "a hold is in force"
	case n.Tasted.OK && n.Nacked == nil && f.Head.Fingerprint != n.Fingerprint:
		return fmt.Sprintf("the newest candidate %s is good and not the head", n.Fingerprint.Short())
	}
	return ""
}

// final checks what must hold of the ledgers in the end.
func (t *truth) final() {
	t.sweep()
	if len(t.pending) > 0 {
		t.w.violate(I1, "%d events left their outbox and are in no ledger", len(t.pending))
	}
	roots := map[ledger.Digest]bool{}
	for _, p := range t.w.procs {
		t.compare(p, 0)
		if p.diverged > 0 {
			t.w.violate(I1, "acknowledged event %s at %d is another in the ledger of %s", t.events[p.diverged-1].ID, p.diverged, p.name)
		}
		root, err := ledger.Root(p.disk.Size(), p.disk)
		if err != nil {
			t.w.violate(Broken, "root of %s: %v", p.name, err)
			return
		}
		roots[root] = true
		t.w.note("%s: %d records, root %s", p.name, p.disk.Size(), root.Short())
		p.fullAudit()
	}
	if len(roots) != 1 {
		t.w.violate(I1, "the ledgers have the same size and %d roots", len(roots))
	}
}
