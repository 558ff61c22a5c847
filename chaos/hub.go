package chaos

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

const fleetName = federation.DefaultFleet

var hubActor = ledger.Actor{Name: "chancery", Source: "hub"}

// hub is a decision-maker: the real fold and the real Next, and a model of what
// federation/hub does around them. It reads the acknowledged prefix of its
// process's ledger only.
type hub struct {
	p        *proc
	w        *world
	instance string
	fold     *fold
	progress map[ledger.ClusterName]ledger.Origin // the newest acknowledged event
	said     map[ledger.ClusterName]word

	author     *federation.Author
	claimed    bool // the term is recorded as this instance's
	fenced     bool // another has a newer term
	unrecorded []message
	wantN      uint64 // that the ledger must reach
	sending    bool
	retryAt    time.Duration
	rewinds    int
	openedAt   time.Duration
	renewedAt  time.Duration

	dirty     bool
	compiled  *federation.Compiled
	tastes    map[projector.Fingerprint]federation.Taste
	syncSince time.Duration
	edges     map[string]federation.SeenEdge
	servedGen uint64
	servedAt  time.Time
	headAgain time.Duration
	commands  []federation.Decision
}

// word is what a collector was last told of how far it is recorded.
type word struct {
	at ledger.Origin
	on time.Duration
}

// lead makes the process believe that it leads, as a lease would. It folds the
// ledger from the beginning.
func (p *proc) lead() {
	p.w.truth.leads++
	p.hub = &hub{
		p: p, w: p.w, instance: fmt.Sprintf("%s.%d", p.name, p.w.truth.leads), fold: newFold(p.w),
		progress: map[ledger.ClusterName]ledger.Origin{}, said: map[ledger.ClusterName]word{},
		tastes: map[projector.Fingerprint]federation.Taste{}, edges: map[string]federation.SeenEdge{}, dirty: true,
		openedAt: -time.Hour, renewedAt: -time.Hour,
	}
	p.w.note("%s leads", p.hub.instance)
}

// leads reports whether the hub has a term and knows of no newer.
func (h *hub) leads() bool { return h.claimed && !h.fenced }

func (h *hub) fleet() *federation.FleetState { return h.fold.state.Fleet(fleetName) }

// step is one turn of the decision-maker.
func (h *hub) step() {
	for h.fold.seq < h.p.acked {
		h.observe()
	}
	if h.fenced {
		return
	}
	h.p.demand()
	h.open()
	h.compile()
	h.decide()
	h.words()
	h.announceAgain()
}

// observe folds one event and does what it asks for.
func (h *hub) observe() {
	if h.fold.apply() {
		h.dirty = true
	}
	seq := h.fold.seq
	e, r := h.w.truth.events[seq-1], h.w.truth.records[seq-1]
	if !e.Type.IsDecision() {
		h.progress[e.ID.Cluster] = e.ID
		return
	}
	mine := h.author != nil && e.ID.Instance == h.instance && e.ID.Epoch == h.author.Term
	switch f := h.fleet(); {
	case e.Type == ledger.TermBegun && mine:
		h.claimed = true
		h.w.note("%s has term %d", h.instance, e.ID.Epoch)
	case e.Type == ledger.TermBegun && h.author != nil && e.ID.Epoch >= h.author.Term:
		h.fenced, h.unrecorded = true, nil
		h.w.note("%s is fenced by %s", h.instance, e.ID.Instance)
	case f.HeadSeq == seq:
		h.announce(r, seq)
	}
	if mine && e.Type != ledger.StreamBegun && e.ID.N+1 >= h.wantN {
		h.unrecorded = nil
	}
}

// announce tells the edges of a head.
func (h *hub) announce(r ledger.Record, seq ledger.Seq) {
	for _, e := range h.w.edges {
		e.hear("head", func() { e.offer(r, seq) })
	}
}

// announceAgain tells the head to those who may have missed it.
func (h *hub) announceAgain() {
	if f := h.fleet(); f.HeadSeq > 0 && h.w.now >= h.headAgain {
		h.headAgain = h.w.now + h.w.between(2*time.Second, 6*time.Second)
		h.announce(h.w.truth.records[f.HeadSeq-1], f.HeadSeq)
	}
}

// open begins an incarnation of the stream that has not begun, on the largest
// size that a quorum holds, and renews a stream that lost messages. Every
// replica must have turned to the incarnation first, so that none records
// anything of an older one afterwards.
func (h *hub) open() {
	p := h.p
	inc := p.session
	lost, begun := p.lost, p.disk.admission.Incarnation() == inc
	all := true
	for i, o := range h.w.procs {
		if o == p {
			continue
		}
		r, ok := p.peers[i]
		all = all && ok && o.up && r.session == inc && o.session == inc
		lost = lost || r.session == inc && r.lost
		begun = begun || r.session == inc && r.begun
	}
	if lost && h.w.now-h.renewedAt > time.Second {
		h.renewedAt = h.w.now
		h.w.send("renew", func() { h.w.stream.renew(inc) })
		return
	}
	if lost || begun || !all || h.w.now-h.openedAt < 3*time.Second {
		return
	}
	h.openedAt = h.w.now
	size, root := h.w.base()
	a := federation.Author{Term: h.fold.state.Term, Instance: h.instance, Previous: maps.Clone(h.fold.state.Previous)}
	e, b, err := a.Encode(federation.Decision{
		Scope: ledger.InstallScope, Name: "stream-begin", Actor: hubActor,
		Body: ledger.StreamBegunData{Incarnation: inc, BaseSize: size, BaseRoot: root},
	}, h.fold.seq, h.w.wall())
	if err != nil {
		panic(err)
	}
	h.w.note("%s opens %s on %d", h.instance, inc, size)
	m := message{record: ledger.Sign(b, h.w.hubKey), subject: e.Subject, id: fmt.Sprintf("stream-begin/%s/%d", inc, size)}
	h.w.publish(h.p.name, []message{m}, func(error) {})
}

// base returns the largest size that a quorum of the replicas holds, and the
// root there.
func (w *world) base() (ledger.Seq, ledger.Digest) {
	var most ledger.Seq
	for _, p := range w.procs {
		most = max(most, p.disk.Size())
	}
	for size := most; ; size-- {
		count := map[ledger.Digest]int{}
		for _, p := range w.procs {
			if p.disk.Size() >= size {
				root := p.disk.root(size)
				if count[root]++; count[root] >= w.majority() {
					return size, root
				}
			}
		}
	}
}

// firstSyncLimit bounds how long the first compile waits for a site's first
// complete list.
const firstSyncLimit = 30 * time.Second

func (h *hub) compile() {
	if !h.dirty {
		return
	}
	waiting := false
	for _, s := range h.fold.objects.Sites() {
		waiting = waiting || s.Syncing && s.Synced == 0
	}
	if !waiting {
		h.syncSince = 0
	} else if h.syncSince == 0 {
		h.syncSince = h.w.now
	}
	if waiting && h.w.now-h.syncSince < firstSyncLimit {
		return
	}
	res := h.fold.compile()
	h.dirty = false
	fp := res.Snapshot.Fingerprint()
	h.compiled = &federation.Compiled{
		Seq: h.fold.seq, Fingerprint: fp, Kept: res.Kept, Routes: res.Routes, Listeners: res.Snapshot.Len(projector.Listeners),
		GoneListeners: h.gone(res.Snapshot),
	}
	h.w.shelf.put(res.Snapshot)
	if _, ok := h.tastes[fp]; !ok {
		h.p.then(h.w.between(5*time.Millisecond, 200*time.Millisecond), "taste", func() {
			t := federation.Taste{Taster: "model", OK: !h.w.refuses(fp, 0)}
			if !t.OK {
				t.Message = "the taster refuses it"
			}
			if len(h.tastes) > 64 {
				clear(h.tastes)
				h.dirty = true // has the newest tasted again if it was among them
			}
			h.tastes[fp] = t
		})
	}
}

// refuses says whether a taster (0) or an Envoy (1) refuses a snapshot, which
// depends on nothing else.
func (w *world) refuses(fp projector.Fingerprint, who int) bool {
	rate, ok := w.plan.rate[FaultRefuse]
	return ok && float64(fp[who]) < rate*256
}

func (h *hub) gone(s *projector.Snapshot) []string {
	n := h.fleet().Newest()
	if n == nil || n.Fingerprint == s.Fingerprint() {
		return nil
	}
	var gone []string
	for _, name := range h.w.shelf.listeners[n.Fingerprint] {
		if _, ok := s.Get(projector.Listeners, name); !ok {
			gone = append(gone, name)
		}
	}
	return gone
}

// decide records what is due, in a term of its own.
func (h *hub) decide() {
	if h.sending {
		return
	}
	if len(h.unrecorded) > 0 {
		if h.w.now >= h.retryAt {
			h.send()
		}
		return
	}
	if st := h.fold.state; st.Incarnation == "" || st.Incarnation != h.p.session || h.p.lost {
		return
	}
	previous := maps.Clone(h.fold.state.Previous)
	if !h.claimed {
		a := &federation.Author{Term: h.fold.state.Term + 1, Instance: h.instance, Previous: previous}
		h.author = a
		h.record([]federation.Decision{{
			Scope: ledger.InstallScope, Name: "term", Actor: hubActor,
			Body: ledger.TermBegunData{Term: a.Term, Instance: a.Instance, Previous: h.fold.state.TermDigest},
		}})
		return
	}
	h.author.Previous = previous // of what is recorded: what was sent may have been passed over
	if ds := h.due(); len(ds) > 0 {
		h.record(ds)
	}
}

func (h *hub) due() []federation.Decision {
	st := h.fold.state
	if st.Settings == nil {
		return []federation.Decision{{Scope: ledger.InstallScope, Name: federation.SettingsDecision, Body: federation.DefaultSettings(), Actor: hubActor}}
	}
	var ds []federation.Decision
	for _, s := range h.w.sites {
		if _, ok := st.Sites[s.cluster]; !ok {
			ds = append(ds, federation.Decision{Scope: ledger.InstallScope, Name: "site-added", Actor: hubActor, Body: ledger.SiteAddedData{
				Cluster: s.cluster, Key: public(key(string(s.cluster))), Site: "dir:" + string(s.cluster),
			}})
		}
	}
	if len(ds) > 0 {
		return ds
	}
	if len(h.commands) > 0 {
		d := h.commands[0]
		h.commands = h.commands[1:]
		return []federation.Decision{d}
	}
	return federation.Next(st, h.fleet(), federation.Inputs{
		Build: "chaos", Compiled: h.compiled, Tastes: h.tastes, Answers: h.answers(), Now: h.w.wall(),
	})
}

// answers sums up what the edges say of the head.
func (h *hub) answers() federation.Answers {
	now := h.w.wall()
	a := federation.Tally(h.fleet().Head, h.edges, now)
	switch {
	case a.Envoys == 0 || a.Served < a.Envoys:
		h.servedGen = 0
	case h.servedGen != a.Generation:
		h.servedGen, h.servedAt = a.Generation, now
	}
	a.ServedAt = h.servedAt
	return a
}

func (h *hub) record(ds []federation.Decision) {
	for _, d := range ds {
		e, b, err := h.author.Encode(d, h.fold.seq, h.w.wall())
		if err != nil {
			panic(err)
		}
		h.unrecorded = append(h.unrecorded, message{
			record: ledger.Sign(b, h.w.hubKey), subject: e.Subject, id: "decision/" + e.ID.String(),
		})
	}
	h.wantN = h.author.NextN
	h.send()
}

// send publishes what is not recorded. After an error it is published again
// under the same ids; when the stream took it and it is not recorded seconds
// later, under new ones, for the stream may have lost it.
func (h *hub) send() {
	h.sending = true
	batch := slices.Clone(h.unrecorded)
	for i := range batch {
		if h.rewinds > 0 {
			batch[i].id += fmt.Sprintf("/%d", h.rewinds)
		}
	}
	life, me := h.p.life, h
	h.w.publish(h.p.name, batch, func(err error) {
		if h.p.life != life || h.p.hub != me {
			return
		}
		h.sending = false
		if err != nil {
			h.retryAt = h.w.now + 250*time.Millisecond
			return
		}
		h.retryAt = h.w.now + 3*time.Second
		h.rewinds++
	})
}

// words tells collectors how far they are recorded.
func (h *hub) words() {
	for _, s := range h.w.sites {
		at, ok := h.progress[s.cluster]
		was := h.said[s.cluster]
		if !ok || was.at == at && h.w.now-was.on < time.Second {
			continue
		}
		h.said[s.cluster] = word{at, h.w.now}
		c := collector.Control{Kind: collector.Trim, Epoch: at.Epoch, Instance: at.Instance, N: at.N}
		s.hear("trim", c)
	}
}

// operate is the operator, and whoever grants the lease.
func (w *world) operate() {
	var leader *hub
	for _, p := range w.procs {
		if p.up && p.hub != nil && !p.hub.fenced {
			leader = p.hub
		}
	}
	if leader == nil {
		if p := w.procs[w.rng.IntN(len(w.procs))]; p.up {
			p.lead()
		}
	} else if leader.leads() && len(leader.commands) == 0 {
		leader.commands = w.commands(leader)
	}
	w.after(w.between(300*time.Millisecond, 2*time.Second), "operator", w.operate)
}

// commands returns what the operator asks of a decision-maker now.
func (w *world) commands(h *hub) (out []federation.Decision) {
	f, who := h.fleet(), ledger.Actor{Name: "operator", Source: "operator"}
	add := func(scope, name string, body any) {
		out = append(out, federation.Decision{Scope: scope, Name: name, Body: body, Actor: who})
	}
	for _, s := range h.fold.objects.Sites() {
		if s.Withheld != nil && (w.calm || w.rng.IntN(3) == 0) {
			add(ledger.InstallScope, projector.ConfirmDecision, projector.Confirm{Cluster: s.Cluster, Seq: s.Withheld.Seq})
		}
	}
	if h.compiled != nil && h.fold.state.Shrunk(f, *h.compiled) != nil && (w.calm || w.rng.IntN(3) == 0) {
		add(string(fleetName), federation.ConsentDecision, federation.Consent{Fleet: fleetName, Fingerprint: h.compiled.Fingerprint})
	}
	if len(f.Holds) > 0 && (w.calm || w.rng.IntN(6) == 0) {
		add(string(fleetName), federation.ReleaseDecision, federation.Release{Fleet: fleetName, ID: f.Holds[0].ID})
	} else if r := f.PreviousGood(); r != nil && len(f.Holds) == 0 && !w.calm && w.rng.IntN(40) == 0 {
		add(string(fleetName), federation.HoldDecision, federation.Hold{
			ID: f.NextHold(), Kind: federation.Pin, Fleet: fleetName, Revision: r.Revision, Fingerprint: r.Fingerprint, From: f.Head.Revision,
		})
	}
	return out
}

// shelf is where edges fetch snapshots. It knows what listeners each has; the
// content does not matter here.
type shelf struct {
	listeners map[projector.Fingerprint][]string
}

func newShelf() *shelf { return &shelf{listeners: map[projector.Fingerprint][]string{}} }

func (s *shelf) put(snapshot *projector.Snapshot) {
	fp := snapshot.Fingerprint()
	if _, ok := s.listeners[fp]; ok {
		return
	}
	names := []string{}
	for r := range snapshot.All(projector.Listeners) {
		names = append(names, r.Name)
	}
	s.listeners[fp] = names
}
