package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// site is a directory with its collector: the real Normaliser and Core, and
// models of what collector.Run and a watcher do around them.
type site struct {
	w       *world
	cluster ledger.ClusterName
	norm    collector.Normaliser

	// The directory. Files outlive every process.
	files      map[string]map[string]any // by slot
	unreadable map[string]bool

	disk *outbox

	// The process. All below is gone with it.
	life     int // rises with each start and stop
	up       bool
	instance string
	core     *collector.Core
	shown    map[string]ledger.Digest // what the watcher has told, by slot
	keys     map[string]ledger.ObjectKey
	report   collector.Report
	broken   bool // the outbox is to be read back
	cursor   collector.Position
	moved    int // how often the cursor was moved by others than publishing
	rewinds  int
	readBack uint64
	busy     bool // a publish or a question is under way
}

func newSite(w *world, cluster ledger.ClusterName) (*site, error) {
	digestKey, err := collector.SecretDigestKey(key(string(cluster)), cluster)
	if err != nil {
		return nil, fmt.Errorf("chaos: %w", err)
	}
	s := &site{
		w: w, cluster: cluster, norm: collector.Normaliser{Cluster: cluster, DigestKey: digestKey},
		files: map[string]map[string]any{}, unreadable: map[string]bool{}, disk: newOutbox(w),
	}
	for _, slot := range slots {
		if slot == "listener" || slot == "host" || w.rng.IntN(3) > 0 {
			s.files[slot] = w.object(cluster, slot)
		}
	}
	return s, nil
}

func (s *site) begin() {
	s.start()
	s.w.after(s.w.between(0, time.Second), "edit "+string(s.cluster), s.edit)
}

// edit is people at work on the directory.
func (s *site) edit() {
	if s.w.calm {
		return
	}
	r := s.w.rng
	switch n := r.IntN(100); {
	case n < 70:
		slot := slots[r.IntN(len(slots))]
		s.files[slot] = s.w.object(s.cluster, slot)
	case n < 88:
		delete(s.files, slots[r.IntN(len(slots))])
	case n < 90: // most of it, or all
		keep := r.IntN(3)
		for _, slot := range slots {
			if r.IntN(3) >= keep {
				delete(s.files, slot)
			}
		}
		s.w.note("%s loses most of its files", s.cluster)
	default: // a restored checkout
		for range 4 {
			slot := slots[r.IntN(len(slots))]
			s.files[slot] = s.w.object(s.cluster, slot)
		}
	}
	clear(s.unreadable)
	if s.w.hit(FaultUnreadable) {
		s.unreadable[slots[r.IntN(len(slots))]] = true
	}
	s.look(false)
	s.w.after(s.w.between(20*time.Millisecond, 900*time.Millisecond), "edit "+string(s.cluster), s.edit)
}

// mend makes everything readable and whole, at the end.
func (s *site) mend() {
	clear(s.unreadable)
	for _, slot := range []string{"listener", "host"} {
		if s.files[slot] == nil {
			s.files[slot] = s.w.object(s.cluster, slot)
		}
	}
	s.look(false)
}

// start starts the process on what its disk holds.
func (s *site) start() {
	s.life++
	s.up, s.instance = true, fmt.Sprintf("%s.%d", s.cluster, s.life)
	s.core = collector.NewCore(collector.Settings{Cluster: s.cluster, Instance: s.instance, Key: key(string(s.cluster))}, s.disk.load())
	s.shown, s.keys, s.report, s.broken = map[string]ledger.Digest{}, map[string]ledger.ObjectKey{}, collector.Report{}, false
	s.cursor, s.moved, s.rewinds, s.readBack, s.busy = collector.Position{}, 0, 0, 0, false
	s.w.note("%s starts, epoch %d, %d items", s.instance, s.disk.state.Epoch, len(s.disk.items))
	s.then(time.Millisecond, "ask epoch", s.askEpoch)
	s.look(true)
	s.rescan()
}

// crash stops the process where it is.
func (s *site) crash(why string) {
	if !s.up {
		return
	}
	s.w.stats.Crashes++
	s.w.note("%s stops: %s", s.instance, why)
	s.up = false
	s.life++
	s.core = nil
	life := s.life
	s.w.after(s.w.between(time.Millisecond, 3*time.Second), "start "+string(s.cluster), func() {
		if s.life == life {
			s.start()
		}
	})
}

// then schedules something that this process does if it is still there.
func (s *site) then(d time.Duration, what string, do func()) {
	life := s.life
	s.w.after(d, what+" "+string(s.cluster), func() {
		if s.life == life {
			do()
		}
	})
}

// hear delivers a word of the hub to whatever process of the site is there
// then.
func (s *site) hear(what string, c collector.Control) {
	listen := func() {
		if s.up && !s.broken {
			s.step(collector.Input{Control: &c})
		}
	}
	what += " " + string(s.cluster)
	if s.w.hit(FaultStale) {
		s.w.stats.Late++
		s.w.after(s.w.between(5*time.Second, 90*time.Second), what, listen)
		return
	}
	s.w.send(what, listen)
}

// look has the watcher read the directory, a moment later.
func (s *site) look(full bool) {
	if s.up {
		s.then(s.w.between(time.Millisecond, 40*time.Millisecond), "look", func() { s.tell(full) })
	}
}

// rescan reads everything now and then.
func (s *site) rescan() {
	s.then(s.w.between(5*time.Second, 40*time.Second), "rescan", func() {
		s.tell(true)
		s.rescan()
	})
}

func (s *site) path(slot string) string { return "config/" + slot + ".yaml" }

// read returns what the watcher finds: every object that can be read, and what
// cannot.
func (s *site) read() (objects map[string]*collector.Object, report collector.Report) {
	objects = map[string]*collector.Object{}
	for _, slot := range slots {
		file := s.files[slot]
		switch {
		case file == nil:
		case s.unreadable[slot]:
			report.Unknown = append(report.Unknown, collector.Unknown{Where: s.path(slot)})
			report.Findings = append(report.Findings, ledger.SiteFinding{Where: s.path(slot), Message: "cannot be read"})
		default:
			o, err := s.norm.Normalise(file, s.path(slot), "")
			if err != nil {
				panic(fmt.Sprintf("%s: %v", slot, err))
			}
			objects[slot] = o
		}
	}
	return objects, report
}

// tell gives the core what changed, or everything.
func (s *site) tell(full bool) {
	objects, report := s.read()
	u := collector.Update{Full: full}
	if full && s.w.rng.IntN(3) == 0 && len(s.shown) > 0 {
		u.Scope = []collector.GroupKind{{Group: "getambassador.io", Kind: "Mapping"}}
	}
	for _, slot := range slots {
		o, shown := objects[slot], s.shown[slot]
		if o != nil && (full && (len(u.Scope) == 0 || strings.HasPrefix(slot, "mapping")) || o.Digest != shown) {
			u.Put = append(u.Put, o)
			s.shown[slot], s.keys[slot] = o.Digest, o.Key
		}
		if o == nil && !shown.IsZero() && s.files[slot] == nil {
			if !full {
				u.Delete = append(u.Delete, s.keys[slot])
			}
			if !full || len(u.Scope) == 0 || strings.HasPrefix(slot, "mapping") {
				delete(s.shown, slot)
			}
		}
	}
	if full || !slices.Equal(report.Unknown, s.report.Unknown) {
		s.report, u.Report = report, &report
	}
	s.step(collector.Input{Update: &u})
}

// maxItems is how many items the outbox takes.
const maxItems = 250

// step runs the core and does what it asks for, as the loop of collector.Run.
func (s *site) step(in collector.Input) {
	for {
		in.Full = len(s.disk.items) >= maxItems || s.broken
		out := s.core.Step(in, s.w.wall())
		if s.broken {
			return
		}
		if !out.Persist.IsZero() {
			if err := s.disk.apply(out.Persist); err != nil {
				s.broken = true
				s.w.note("%s: %v", s.instance, err)
				s.then(s.w.between(50*time.Millisecond, time.Second), "reload", s.reload)
				return
			}
			if s.w.hit(FaultCrash) {
				s.crash("right after a write")
				return
			}
		}
		if out.ReadBack != 0 {
			s.readBack = out.ReadBack
		}
		if out.Persist.Reset {
			s.cursor = collector.Position{}
			s.moved++
		}
		if out.Republish != nil {
			s.cursor = *out.Republish
			s.moved++
			s.rewinds++
		}
		s.pump()
		if !out.More {
			return
		}
		in = collector.Input{}
	}
}

func (s *site) reload() {
	s.core.Restart(s.disk.load())
	s.cursor = collector.Position{}
	s.moved++
	s.broken = false
	s.step(collector.Input{})
}

// askEpoch asks the stream for the newest epoch that anyone claimed, until it
// answers.
func (s *site) askEpoch() {
	if s.w.hit(FaultLoss) {
		s.then(s.w.between(50*time.Millisecond, time.Second), "ask epoch", s.askEpoch)
		return
	}
	var newest uint64
	for m := range slices.Values(s.w.stream.messages) {
		if m.subject == ledger.SyncSubject(s.cluster) {
			if e, err := ledger.DecodeEvent(m.record.Event); err == nil {
				newest = e.ID.Epoch
			}
		}
	}
	s.then(s.w.latency(), "epoch", func() { s.step(collector.Input{Known: &newest}) })
}

// pump publishes what is in the outbox, as the publisher of collector.Run.
func (s *site) pump() {
	if !s.up || s.busy || s.broken {
		return
	}
	items := s.disk.read(s.cursor, 1+s.w.rng.IntN(20))
	if len(items) == 0 {
		return
	}
	s.busy = true
	ms := make([]message, len(items))
	for i, it := range items {
		id := fmt.Sprintf("%s/%d/%d/%x", s.cluster, it.At.Epoch, it.At.N, it.Record.Signature[:8])
		if s.rewinds > 0 {
			id += fmt.Sprintf("/%s.%d", s.instance, s.rewinds)
		}
		ms[i] = message{record: it.Record, subject: it.Subject, id: id}
	}
	moved, life := s.moved, s.life
	s.w.publish(string(s.cluster), ms, func(err error) {
		if s.life != life {
			return
		}
		if err != nil {
			s.then(s.w.between(50*time.Millisecond, time.Second), "retry", func() {
				s.busy = false
				s.pump()
			})
			return
		}
		s.published(items[len(items)-1].At, moved)
	})
}

func (s *site) published(last collector.Position, moved int) {
	if s.w.opt.Bug == BugTrim {
		s.disk.trim(last) // the bug: the stream is not the record
	}
	if s.moved == moved {
		s.cursor = collector.Position{Epoch: last.Epoch, N: last.N + 1}
	}
	if s.readBack != 0 && last.Compare(collector.Position{Epoch: s.readBack}) >= 0 {
		epoch := s.readBack
		s.readBack = 0
		s.askWhose(epoch)
		return
	}
	s.busy = false
	s.pump()
}

// askWhose reads back who has an epoch, until the stream answers.
func (s *site) askWhose(epoch uint64) {
	if s.w.hit(FaultLoss) {
		s.then(s.w.between(50*time.Millisecond, time.Second), "ask whose", func() { s.askWhose(epoch) })
		return
	}
	var claim *collector.Claim
	for m := range slices.Values(s.w.stream.messages) {
		if m.subject != ledger.SyncSubject(s.cluster) {
			continue
		}
		e, err := ledger.DecodeEvent(m.record.Event)
		if err == nil && e.ID.N == 0 && e.Type == ledger.SyncBegin && e.ID.Epoch == epoch {
			claim = &collector.Claim{Epoch: epoch, Instance: e.ID.Instance}
			break
		}
	}
	s.then(s.w.latency(), "whose", func() {
		s.busy = false
		if claim != nil {
			s.step(collector.Input{Claimed: claim})
		}
		if s.core != nil {
			s.pump()
		}
	})
}

// want returns what the ledger should hold of the site once everything was
// told.
func (s *site) want() map[ledger.ObjectKey]ledger.Digest {
	objects, _ := s.read()
	referred := map[ledger.ObjectKey]bool{}
	for _, o := range objects {
		for _, k := range o.SecretRefs {
			referred[k] = true
		}
	}
	out := map[ledger.ObjectKey]ledger.Digest{}
	for _, o := range objects {
		if o.Key.Kind != "Secret" || referred[o.Key] {
			out[o.Key] = o.Digest
		}
	}
	return out
}

// unsettled says in what the recorded objects differ from the directory.
func (s *site) unsettled() string {
	if !s.up || !s.core.Idle() {
		return fmt.Sprintf("the collector of %s is not idle", s.cluster)
	}
	have := map[ledger.ObjectKey]ledger.Digest{}
	for _, k := range s.w.truth.objects.Keys() {
		if k.Cluster == s.cluster {
			have[k] = s.w.truth.objects.Get(k).Digest
		}
	}
	want := s.want()
	if maps.Equal(have, want) {
		return ""
	}
	var diff []string
	for _, k := range slices.SortedFunc(maps.Keys(want), ledger.ObjectKey.Compare) {
		if have[k] != want[k] {
			diff = append(diff, fmt.Sprintf("%s is %s, want %s", k, have[k].Short(), want[k].Short()))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(have), ledger.ObjectKey.Compare) {
		if _, ok := want[k]; !ok {
			diff = append(diff, fmt.Sprintf("%s is recorded and gone", k))
		}
	}
	return fmt.Sprintf("the ledger does not hold what %s does: %s", s.cluster, strings.Join(diff, "; "))
}
