package chaos

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

// proc is a process of the hub: a ledger replica that follows the stream, and
// perhaps the decision-maker.
type proc struct {
	w    *world
	name string
	disk *store // outlives the process

	// What the process holds in memory; all of it is gone with it.
	life     int
	up       bool
	asleep   time.Duration // until then it does nothing
	session  string        // incarnation that it follows
	next     uint64        // stream sequence to read, 0 to look where
	lost     bool          // the session found the stream to be another than it read
	checked  time.Duration
	peers    map[int]report
	reported report
	acked    ledger.Seq // a quorum is known to have recorded as much
	gaps     map[ledger.ClusterName]gap
	hub      *hub

	// The checker's audit of the replica.
	audit    *fold
	audited  int        // candidates
	diverged ledger.Seq // first position at which an acknowledged record is another
}

// report is what replicas tell each other.
type report struct {
	n       int
	size    ledger.Seq
	root    ledger.Digest
	session string
	begun   bool // its ledger has the session's incarnation
	lost    bool
	at      time.Duration
}

// gap is what a cluster has to publish next, as far as this replica knows.
type gap struct {
	epoch, n   uint64
	until, say time.Duration
}

func newProc(w *world, i int) *proc {
	return &proc{w: w, name: fmt.Sprintf("hub-%d", i), disk: newStore(w), audit: newFold(w)}
}

func (w *world) majority() int { return len(w.procs)/2 + 1 }

func (p *proc) index() int { return slices.Index(p.w.procs, p) }

func (p *proc) begin() {
	p.start()
	if p.index() == 0 {
		p.lead()
	}
}

func (p *proc) start() {
	p.life++
	p.up = true
	p.session, p.next, p.lost, p.checked = "", 0, false, 0
	p.peers, p.reported, p.acked, p.gaps, p.hub = map[int]report{}, report{}, 0, map[ledger.ClusterName]gap{}, nil
	p.audit.restart()
	p.w.note("%s starts with %d records", p.name, p.disk.Size())
	p.tickSoon()
}

func (p *proc) crash() {
	if !p.up {
		return
	}
	p.w.stats.Crashes++
	p.w.note("%s stops", p.name)
	p.up, p.hub = false, nil
	p.life++
	life := p.life
	p.w.after(p.w.between(10*time.Millisecond, 3*time.Second), "start "+p.name, func() {
		if p.life == life {
			p.start()
		}
	})
}

func (p *proc) then(d time.Duration, what string, do func()) {
	life := p.life
	p.w.after(d, what+" "+p.name, func() {
		if p.life == life {
			do()
		}
	})
}

// hear delivers something over the network to whatever process of the replica
// is there then.
func (p *proc) hear(what string, do func()) {
	p.w.send(what+" "+p.name, func() {
		if p.up {
			do()
		}
	})
}

func (p *proc) tickSoon() {
	d := p.w.between(5*time.Millisecond, 60*time.Millisecond)
	if p.asleep > p.w.now {
		d += p.asleep - p.w.now
	}
	p.then(d, "tick", func() {
		p.tick()
		if p.up {
			p.tickSoon()
		}
	})
}

// tick is one turn of everything that the process does.
func (p *proc) tick() {
	p.follow()
	if !p.up {
		return
	}
	p.tally()
	p.tell()
	p.auditSome(4)
	if p.hub != nil {
		p.hub.step()
	}
}

// checkEvery is how often a follower compares the stream with what it read.
const checkEvery = 2 * time.Second

// follow carries the stream into the ledger, as natsstream.Follower does.
func (p *proc) follow() {
	st, d := p.w.stream, p.disk
	if p.session != st.incarnation {
		p.session, p.next, p.lost = st.incarnation, 0, false
	}
	if p.lost {
		return // until the stream is renewed
	}
	known := d.cursor.Incarnation == st.incarnation && d.admission.Incarnation() == st.incarnation
	if !known && d.cursor.Incarnation == st.incarnation && st.last() < d.cursor.StreamSeq {
		p.next = 0 // it was set back before it began; what is in it is read anew
	}
	if known && (p.next == 0 || p.w.now-p.checked >= checkEvery) {
		p.checked = p.w.now
		at, there := st.get(d.cursor.StreamSeq)
		if st.last() < d.cursor.StreamSeq || st.first > d.cursor.StreamSeq+1 || there && ledger.DigestOf(at.record.Event) != d.cursor.Last {
			p.lost = true
			p.w.note("%s: stream %s is not what was consumed", p.name, st.incarnation)
			return
		}
		p.next = d.cursor.StreamSeq + 1
	}
	if p.next < st.first {
		p.next = st.first
	}
	n := min(1+p.w.rng.IntN(40), int(st.last()+1)-int(p.next))
	if n <= 0 {
		return
	}
	batch := make([]ledger.Incoming, n)
	for i := range batch {
		m := st.messages[p.next-st.first+uint64(i)]
		batch[i] = ledger.Incoming{Record: m.record, Subject: m.subject, Incarnation: st.incarnation, StreamSeq: p.next + uint64(i)}
	}
	p.take(batch)
}

// take commits a batch and acts on what became of it.
func (p *proc) take(batch []ledger.Incoming) {
	d := p.disk
	before := d.Size()
	in, err := ledger.Take(d.admission, d.cursor, before, d, batch)
	if err != nil {
		p.w.violate(Broken, "%s: take: %v", p.name, err)
		return
	}
	if p.w.hit(FaultCrash) {
		p.crash() // right before the commit
		return
	}
	told := true
	if p.w.hit(FaultDisk) {
		told = false
		p.next = 0 // read back where the store is
		if p.w.rng.IntN(2) == 0 {
			return // not committed
		}
	}
	d.commit(in)
	p.w.truth.compare(p, before)
	if p.w.hit(FaultCrash) {
		p.crash() // right after the commit
		return
	}
	if told {
		p.next += uint64(len(in.Results))
		p.committed(in.Results)
	}
	if n := len(in.Results); n > 0 && in.Results[n-1].Halt {
		p.halted(in.Results[n-1])
	} else if n < len(batch) {
		p.next = 0
	}
}

// committed remembers what the collectors have to publish again.
func (p *proc) committed(results []ledger.Result) {
	for _, r := range results {
		if r.Outcome == ledger.Append && r.Event.Type == ledger.StreamBegun {
			for _, c := range p.disk.admission.Clusters() {
				at, _ := p.disk.admission.Progress(c)
				p.ask(c, max(at.Epoch, 1), at.NextN)
			}
			continue
		}
		id := r.Event.ID
		if id.Cluster == "" || id.Cluster == ledger.InstallScope || r.WantEpoch == 0 {
			continue
		}
		switch {
		case r.Outcome == ledger.Gap, r.Outcome == ledger.Refuse:
			p.ask(id.Cluster, r.WantEpoch, r.WantN)
		case r.Outcome == ledger.Skip && id.N == 0 && r.ByOther:
			p.ask(id.Cluster, r.WantEpoch+1, 0)
		}
	}
}

// How long a demand on a collector is repeated, and how often.
const (
	askFor   = 15 * time.Second
	askEvery = time.Second
)

func (p *proc) ask(c ledger.ClusterName, epoch, n uint64) {
	g := p.gaps[c]
	if g.epoch != epoch || g.n != n {
		g = gap{epoch: epoch, n: n}
	}
	g.until = p.w.now + askFor
	p.gaps[c] = g
}

// demand sends collectors what they have to publish again, until the ledger has
// it.
func (p *proc) demand() {
	for _, s := range p.w.sites {
		g, ok := p.gaps[s.cluster]
		if !ok || g.say > p.w.now {
			continue
		}
		at, _ := p.disk.admission.Progress(s.cluster)
		if at.Epoch > g.epoch || at.Epoch == g.epoch && at.NextN > g.n || p.w.now > g.until {
			delete(p.gaps, s.cluster)
			continue
		}
		g.say = p.w.now + askEvery
		p.gaps[s.cluster] = g
		c := collector.Control{Kind: collector.Resend, Epoch: g.epoch, Instance: at.Instance, N: g.n}
		if g.n == 0 {
			c = collector.Control{Kind: collector.Reclaim, Epoch: g.epoch}
		}
		s.hear(string(c.Kind), c)
	}
}

// halted deals with a StreamBegun that the ledger cannot follow.
func (p *proc) halted(r ledger.Result) {
	d, err := ledger.DecodeStreamBegun(r.Event)
	if err != nil {
		p.w.violate(Broken, "%s: %v", p.name, err)
		return
	}
	p.next = 0
	before := p.disk.Size()
	if d.BaseSize < before {
		err := p.disk.setAside(p.w, d.BaseSize, d.BaseRoot)
		if err == nil {
			p.w.stats.SetAside++
			p.w.note("%s sets %d records aside after %d", p.name, before-d.BaseSize, d.BaseSize)
			p.w.truth.compare(p, d.BaseSize)
			p.w.truth.quorum()
			return
		}
		if !errors.Is(err, ledger.ErrOtherRoot) {
			p.w.violate(Broken, "%s: set aside: %v", p.name, err)
			return
		}
	}
	// The other must have the incarnation: what one has beyond the base before
	// that is given up, and two that have it would acknowledge it again.
	for _, o := range p.w.procs {
		if o != p && o.up && o.disk.admission.Incarnation() == d.Incarnation && o.disk.root(d.BaseSize) == d.BaseRoot {
			p.w.stats.SetAside++
			p.disk.adopt(o.disk)
			p.w.note("%s takes over the %d records of %s for its own %d", p.name, o.disk.Size(), o.name, before)
			p.w.truth.compare(p, 0)
			p.w.truth.quorum()
			return
		}
	}
}

// tell reports to the other replicas what this one has.
func (p *proc) tell() {
	d := p.disk
	r := report{
		n: p.reported.n, size: d.Size(), session: p.session, begun: d.admission.Incarnation() == p.session, lost: p.lost, at: p.reported.at,
	}
	if r.size == p.reported.size {
		r.root = p.reported.root
	}
	if r == p.reported && p.w.now-p.reported.at < 500*time.Millisecond {
		return
	}
	r.n++
	r.root, r.at = d.root(r.size), p.w.now
	p.reported = r
	from := p.index()
	for i, o := range p.w.procs {
		if i != from {
			o.hear("report", func() {
				if r.n > o.peers[from].n || r.at > o.peers[from].at {
					o.peers[from] = r
				}
			})
		}
	}
}

// tally counts what a quorum has recorded.
func (p *proc) tally() {
	size := p.disk.Size()
	held := []ledger.Seq{size}
	for i := range p.w.procs {
		r, ok := p.peers[i]
		if !ok || r.size > size {
			continue
		}
		if p.disk.root(r.size) == r.root {
			held = append(held, r.size)
			continue
		}
		if r.session == p.session && r.begun && p.disk.admission.Incarnation() == p.session && !p.lost {
			p.lost = true
			p.w.note("%s has another root than hub-%d at %d", p.name, i, r.size)
		}
	}
	slices.SortFunc(held, func(a, b ledger.Seq) int { return int(b) - int(a) })
	if q := p.w.majority(); len(held) >= q && held[q-1] > p.acked {
		p.acked = held[q-1]
		p.w.truth.acknowledge(p, p.acked)
	}
}

// secondLeader makes another process lead, or the one that does sleep.
func (w *world) secondLeader() {
	p := w.procs[w.rng.IntN(len(w.procs))]
	switch {
	case !p.up:
	case p.hub != nil && w.rng.IntN(2) == 0:
		p.asleep = w.now + w.between(time.Second, 20*time.Second)
		w.note("%s sleeps until %s", p.name, p.asleep)
	default:
		p.lead()
	}
}

func (p *proc) unsettled() string {
	if !p.up || p.disk.Size() != p.w.truth.acked || p.lost {
		return fmt.Sprintf("%s has %d records, %d are acknowledged", p.name, p.disk.Size(), p.w.truth.acked)
	}
	if p.audited < len(p.w.truth.candidates) {
		return p.name + " is not audited"
	}
	return ""
}
