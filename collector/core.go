package collector

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// The bounds on what one Step makes.
const (
	maxStepBytes   = 4 << 20
	maxStepRecords = 1000
	maxPageItems   = 500
	maxFindings    = 200
)

// The hub repeats what it asks for. Events are published again at most once per resendEvery, and when the same is
// still asked for after resendFor without any progress, everything is told in a new epoch.
const (
	resendEvery = time.Second
	resendFor   = time.Minute
)

// A collector whose epoch another takes over claims the next one. Two that run at the same time would do so without
// end, so each waits longer every time, from reclaimFirst to 1024 times that, until it was left alone for
// reclaimForget.
const (
	reclaimFirst  = 100 * time.Millisecond
	reclaimForget = 10 * time.Minute
)

// Position is an event's place in what a collector has published.
type Position struct {
	Epoch uint64 `json:"epoch"`
	N     uint64 `json:"n"`
}

// Compare orders positions as they were published.
func (p Position) Compare(o Position) int {
	return cmp.Or(cmp.Compare(p.Epoch, o.Epoch), cmp.Compare(p.N, o.N))
}

// Told is what the ledger was last told about an object.
type Told struct {
	Digest ledger.Digest `json:"digest"`
	At     Position      `json:"at"`               // the event that told it
	Unsure bool          `json:"unsure,omitempty"` // not known to be committed when its epoch ended
	Where  string        `json:"where,omitempty"`  // where in the site the object was
}

// Item is one signed event that waits to be published and recorded.
type Item struct {
	At      Position
	Subject string
	Record  ledger.Record
}

// Batch is what must become durable at once, before anything of it is published. Fields are applied in their order.
type Batch struct {
	// Reset forgets all of State but the epoch, and every item: the ledger takes none of them any more. State is
	// Partial from here on.
	Reset    bool
	Epoch    uint64 // the epoch that is claimed from here on, 0 for no change
	Append   []Item // to be published in this order, after all that was appended before
	Untell   []ledger.ObjectKey
	Tell     map[ledger.ObjectKey]Told
	Whole    bool      // State is no longer Partial
	Findings *Told     // what the ledger was told of the site's findings
	Trim     *Position // items up to and including this one are committed and can go
}

// IsZero reports whether there is nothing to make durable.
func (b Batch) IsZero() bool {
	return !b.Reset && b.Epoch == 0 && len(b.Append) == 0 && len(b.Tell) == 0 && len(b.Untell) == 0 &&
		!b.Whole && b.Findings == nil && b.Trim == nil
}

// State is what a collector remembers between processes.
type State struct {
	Epoch     uint64   // last claimed, 0 for never
	Trimmed   Position // committed by the hub's word
	Inventory map[ledger.ObjectKey]Told
	Findings  Told
	Oldest    Position // of the items that are kept, zero for none
	// Partial: the inventory was lost, and the ledger may hold objects that it does not list.
	Partial bool
}

// Apply changes the state as a batch says. Oldest stays: items are kept elsewhere.
func (s *State) Apply(b Batch) {
	if b.Reset {
		*s = State{Epoch: s.Epoch, Inventory: map[ledger.ObjectKey]Told{}, Partial: true}
	}
	if b.Epoch != 0 {
		s.Epoch = b.Epoch
	}
	for _, k := range b.Untell {
		delete(s.Inventory, k)
	}
	maps.Copy(s.Inventory, b.Tell)
	if b.Whole {
		s.Partial = false
	}
	if b.Findings != nil {
		s.Findings = *b.Findings
	}
	if b.Trim != nil {
		s.Trimmed = *b.Trim
	}
}

// Unknown names something of a site that cannot be read now. What was there stays as it was last told.
type Unknown struct {
	// Where is a file or directory; what is below it is meant too. "" means the whole site.
	Where string
	// Namespace and Name narrow it to objects that are called so; Name "" means all.
	Namespace, Name string
}

func (u Unknown) covers(k ledger.ObjectKey, where string) bool {
	if u.Where != "" && where != u.Where && !strings.HasPrefix(where, u.Where+"/") {
		return false
	}
	return u.Name == "" || u.Name == k.Name && u.Namespace == k.Namespace
}

// Report is what a site could not read. It replaces the one before.
type Report struct {
	Findings []ledger.SiteFinding
	Unknown  []Unknown
}

// Update is what a site says about itself. It is applied as a whole.
type Update struct {
	// Full: the site has been read completely, and Put holds every object of the kinds in Scope (all kinds if
	// empty) but those that Report says are unknown.
	Full  bool
	Scope []GroupKind
	Put   []*Object
	// Delete lists objects of which there is positive evidence that they are gone.
	Delete []ledger.ObjectKey
	Report *Report // nil if nothing changed
}

// Claim is the claim of an epoch that is first in the stream's order.
type Claim struct {
	Epoch    uint64
	Instance string
}

// ControlKind says what the hub asks for.
type ControlKind string

// The kinds of control.
const (
	// Trim: the events of the epoch up to and including N are committed, and all that will ever be recorded of older
	// epochs; the epoch is Instance's.
	Trim ControlKind = "trim"
	// Resend: the ledger wants the events of the epoch, which is Instance's, from N on once more.
	Resend ControlKind = "resend"
	// Reclaim: the ledger takes a claim of Epoch next.
	Reclaim ControlKind = "claim"
)

// Control is one message from the hub. It may be repeated.
type Control struct {
	Kind     ControlKind
	Epoch    uint64
	Instance string // "" where it does not matter
	N        uint64
}

// Input is what happened. Any of the fields may be set; they are taken in their order.
type Input struct {
	Known   *uint64 // the newest epoch on the stream, 0 for none; wanted once, before anything is claimed
	Claimed *Claim  // the answer to Effects.ReadBack
	Control *Control
	Update  *Update
	// Full: the outbox takes nothing more for now, and no event is made.
	Full bool
}

// Effects is what is to be done, in the order of the fields.
type Effects struct {
	// Persist must be durable before its items are published. If that fails, or the outcome is not known, the core
	// is out of step with the outbox: see Core.Restart.
	Persist Batch
	// Republish asks for everything in the outbox from this position on to be published again, each with a fresh
	// message id.
	Republish *Position
	// ReadBack, when not 0, asks who has this epoch, once its claim is published. The answer is Input.Claimed.
	ReadBack uint64
	// More: there is more to do; Step again with an empty Input when Persist is done.
	More bool
	// Waiting: changes wait for room in the outbox.
	Waiting bool
	// Superseded names, when not nil, the other collector of the cluster that had taken over, and from which the
	// core takes over again.
	Superseded *Claim
}

// Settings are what a core is told once.
type Settings struct {
	Cluster  ledger.ClusterName
	Instance string // names this process in event ids, where it may get a suffix
	Key      ed25519.PrivateKey
}

// Core decides which events to record. It compares what the site holds with what the ledger was told, so that a
// change that could not be told yet is told later. It is a step machine, not safe for concurrent use.
type Core struct {
	set Settings

	// What the site holds.
	want     map[ledger.ObjectKey]*Object
	refs     map[ledger.ObjectKey]int // how many objects refer to a Secret
	complete bool                     // the site was read completely at least once
	report   Report
	tooLarge map[ledger.ObjectKey]int

	// What the ledger was told.
	told         map[ledger.ObjectKey]Told
	toldFindings Told
	trimmed      Position
	oldest       Position // in the outbox, or before it; zero for none
	lost         bool     // State.Partial

	// The epoch.
	known     *uint64
	epoch     uint64
	next      uint64 // N of the next event; 0 until the epoch is claimed in the outbox
	claimed   bool   // read back: the epoch is ours
	dirty     map[ledger.ObjectKey]struct{}
	recheck   bool // findings may have changed
	sync      *syncing
	highest   uint64 // epoch that this core has claimed
	instance  string // Settings.Instance, or a name of its own where an epoch is claimed for the second time
	lives     int    // how often that was so
	overtaken struct {
		at    time.Time // the last time that another collector's epoch was answered with a claim
		times int
	}
	resend struct {
		want        Position
		first, last time.Time // when it was asked for, and when it was last answered
	}

	out   Effects // of the Step that runs
	bytes int     // appended by it
	now   time.Time
}

// syncing is a full list being told.
type syncing struct {
	scope []GroupKind // empty for all
	todo  []ledger.ObjectKey
	seen  map[ledger.ObjectKey]struct{}
	page  []ledger.SyncItem
}

func (s *syncing) covers(k ledger.ObjectKey) bool {
	return len(s.scope) == 0 || slices.Contains(s.scope, GroupKind{k.Group, k.Kind})
}

// NewCore returns a core that goes on from what an outbox remembers. It takes the state over.
func NewCore(set Settings, state State) *Core {
	c := &Core{
		set: set, instance: set.Instance, want: map[ledger.ObjectKey]*Object{}, refs: map[ledger.ObjectKey]int{}, tooLarge: map[ledger.ObjectKey]int{},
	}
	c.Restart(state)
	return c
}

// Restart puts what an outbox remembers in the place of what the core believes it does, and begins a new epoch. It
// is for an outbox whose last write failed or whose outcome is unknown. What the site holds is kept.
func (c *Core) Restart(state State) {
	if state.Inventory == nil {
		state.Inventory = map[ledger.ObjectKey]Told{}
	}
	c.told, c.toldFindings, c.trimmed, c.oldest = state.Inventory, state.Findings, state.Trimmed, state.Oldest
	c.epoch, c.next, c.claimed, c.sync = state.Epoch, 0, false, nil
	c.lost = state.Partial
	c.dirty = map[ledger.ObjectKey]struct{}{}
	c.recheck = true
	c.resend.want = Position{}
}

// Epoch returns the epoch that the core has claimed last, and whether it has read back that it is its own.
func (c *Core) Epoch() (epoch uint64, claimed bool) { return c.epoch, c.claimed }

// Idle reports whether everything that the site holds has been told.
func (c *Core) Idle() bool {
	return c.claimed && c.complete && c.sync == nil && len(c.dirty) == 0 && !c.recheck
}

// Step takes what happened and returns what to do. now is the time that events carry.
func (c *Core) Step(in Input, now time.Time) Effects {
	c.out, c.bytes, c.now = Effects{}, 0, now
	if in.Known != nil {
		c.onKnown(*in.Known)
	}
	if in.Claimed != nil {
		c.onClaimed(*in.Claimed)
	}
	if in.Control != nil {
		c.onControl(*in.Control)
	}
	if in.Update != nil {
		c.onUpdate(*in.Update)
	}
	if !in.Full {
		c.flush()
	} else if c.known != nil && !c.Idle() {
		c.out.Waiting = true
	}
	out := c.out
	c.out = Effects{}
	return out
}

func (c *Core) onKnown(epoch uint64) {
	c.known = &epoch
	if epoch > c.epoch && c.next == 0 {
		c.forget()
		c.epoch = epoch
	}
}

func (c *Core) onClaimed(claim Claim) {
	switch {
	case claim.Epoch != c.epoch || c.next == 0:
	case claim.Instance != c.instance:
		c.forget()
		c.leaveEpoch(claim.Epoch)
	case !c.claimed:
		c.claimed = true
		if c.complete {
			c.beginSync(nil)
		}
	}
}

// forget drops the inventory: the ledger may hold anything, so everything is told again.
func (c *Core) forget() {
	c.told, c.toldFindings = map[ledger.ObjectKey]Told{}, Told{}
	c.trimmed, c.oldest, c.lost, c.recheck = Position{}, Position{}, true, true
	c.out.Persist = Batch{Reset: true}
}

// leaveEpoch has the next flush claim last + 1.
func (c *Core) leaveEpoch(last uint64) {
	c.epoch, c.next, c.claimed, c.sync = last, 0, false, nil
	c.resend.want = Position{}
	clear(c.dirty)
}

func (c *Core) onControl(m Control) {
	if c.known == nil {
		return // nothing is claimed yet; the answer to the first claim will tell
	}
	if m.Kind != Reclaim && m.Instance != "" && m.Epoch == c.epoch {
		c.onClaimed(Claim{Epoch: m.Epoch, Instance: m.Instance})
	}
	if m.Kind == Trim && m.Epoch > c.epoch {
		c.onOvertaken(Claim{Epoch: m.Epoch, Instance: m.Instance})
		return
	}
	at := Position{m.Epoch, m.N}
	switch m.Kind {
	case Trim:
		if (m.Epoch < c.epoch || m.Epoch == c.epoch && m.N < c.next) && at.Compare(c.trimmed) > 0 {
			c.trimmed, c.resend.want = at, Position{}
			c.out.Persist.Trim = &at
			if at == (Position{c.epoch, c.next - 1}) {
				c.oldest = Position{}
			}
		}
	case Resend:
		last := m.Epoch
		if m.N == 0 && last > 0 {
			last--
		}
		c.onBehind(last, at)
	case Reclaim:
		if m.Epoch > 0 {
			c.onBehind(m.Epoch-1, Position{m.Epoch, 0})
		}
	}
}

// onOvertaken claims an epoch above that of another collector of the cluster, now or when the hub repeats itself.
func (c *Core) onOvertaken(by Claim) {
	o := &c.overtaken
	if c.now.Sub(o.at) > reclaimForget {
		o.times = 0
	}
	if o.times > 0 && c.now.Sub(o.at) < reclaimFirst<<min(o.times-1, 10) {
		return
	}
	o.at = c.now
	o.times++
	c.out.Superseded = &by
	c.forget()
	c.leaveEpoch(by.Epoch)
}

// onBehind answers a ledger whose last epoch for this cluster is last and that wants the event at want next. Where
// that event is still in the outbox it is published again with all that follow; else the hub lost what it called
// committed, or another collector took over, and everything is told in a new epoch.
func (c *Core) onBehind(last uint64, want Position) {
	if want == (Position{c.epoch, c.next}) {
		return // nothing is missing
	}
	made := want.Epoch < c.epoch || want.Epoch == c.epoch && want.N < c.next
	kept := c.oldest != (Position{}) && want.Compare(c.trimmed) > 0 &&
		(want.Compare(c.oldest) >= 0 || want == Position{c.trimmed.Epoch, c.trimmed.N + 1})
	if made && kept {
		r := &c.resend
		if r.want != want {
			r.want, r.first, r.last = want, c.now, c.now.Add(-resendEvery)
		}
		if c.now.Sub(r.first) < resendFor {
			if c.now.Sub(r.last) >= resendEvery {
				r.last = c.now
				c.out.Republish = &want
			}
			return
		}
	}
	c.forget()
	c.leaveEpoch(last)
}

func (c *Core) onUpdate(u Update) {
	if u.Full {
		c.replace(u)
	}
	for _, o := range u.Put {
		c.put(o)
	}
	for _, k := range u.Delete {
		c.drop(k)
	}
	if u.Report != nil {
		c.setReport(*u.Report)
	}
	if u.Full {
		first := !c.complete
		if len(u.Scope) == 0 {
			c.complete = true
		}
		if c.claimed && c.complete && c.sync == nil {
			if first {
				c.beginSync(nil)
			} else {
				c.beginSyncWithin(u.Scope)
			}
		}
	}
}

// replace drops what a full list does not hold.
func (c *Core) replace(u Update) {
	has := make(map[ledger.ObjectKey]struct{}, len(u.Put))
	for _, o := range u.Put {
		has[o.Key] = struct{}{}
	}
	for k := range c.want {
		if _, ok := has[k]; !ok && (len(u.Scope) == 0 || slices.Contains(u.Scope, GroupKind{k.Group, k.Kind})) {
			c.drop(k)
		}
	}
}

func (c *Core) put(o *Object) {
	old := c.want[o.Key]
	c.want[o.Key] = o
	c.mark(o.Key)
	if old != nil {
		c.refer(old.SecretRefs, -1)
	}
	c.refer(o.SecretRefs, +1)
}

func (c *Core) drop(k ledger.ObjectKey) {
	if old := c.want[k]; old != nil {
		c.refer(old.SecretRefs, -1)
		delete(c.want, k)
	}
	c.mark(k)
}

func (c *Core) refer(keys []ledger.ObjectKey, by int) {
	for _, k := range keys {
		if c.refs[k] += by; c.refs[k] == 0 {
			delete(c.refs, k)
		}
		c.mark(k)
	}
}

func (c *Core) mark(k ledger.ObjectKey) {
	if _, ok := c.tooLarge[k]; ok {
		delete(c.tooLarge, k)
		c.recheck = true
	}
	if c.claimed && c.complete {
		c.dirty[k] = struct{}{}
	}
}

func (c *Core) setReport(r Report) {
	if slices.Equal(r.Unknown, c.report.Unknown) {
		c.report = r
		c.recheck = true
		return
	}
	before := c.report.Unknown
	c.report, c.recheck = r, true
	for k, t := range c.told {
		if c.want[k] == nil && covered(before, k, t.Where) != covered(r.Unknown, k, t.Where) {
			c.mark(k)
		}
	}
}

func covered(unknown []Unknown, k ledger.ObjectKey, where string) bool {
	for _, u := range unknown {
		if u.covers(k, where) {
			return true
		}
	}
	return false
}

// present returns what the ledger should hold of an object: a version, or keep for one that cannot be read now and
// stays as it was told, or neither.
func (c *Core) present(k ledger.ObjectKey) (o *Object, keep bool) {
	if isSecretKey(k) && c.refs[k] == 0 {
		// A file that cannot be read may refer to it.
		_, ok := c.told[k]
		return nil, ok && len(c.report.Unknown) > 0
	}
	if o := c.want[k]; o != nil {
		return o, false
	}
	t, ok := c.told[k]
	return nil, ok && covered(c.report.Unknown, k, t.Where)
}

// flush makes the events that bring the ledger to what the site holds, as far as one Step may go.
func (c *Core) flush() {
	if c.known == nil {
		return
	}
	if c.next == 0 {
		c.claim()
	}
	if !c.claimed {
		return
	}
	c.flushFindings()
	if c.complete {
		if c.massDelete() {
			c.beginSyncWithin(nil)
		}
		if c.sync != nil {
			c.flushSync()
		} else {
			c.flushDirty()
		}
		c.flushFindings() // objects that were too large
	}
}

func (c *Core) claim() {
	for k, t := range c.told {
		if !t.Unsure && t.At.Compare(c.trimmed) > 0 {
			t.Unsure = true
			c.setTold(k, t)
		}
	}
	if c.toldFindings.At.Compare(c.trimmed) > 0 {
		c.toldFindings, c.recheck = Told{Unsure: true}, true
		c.out.Persist.Findings = &Told{Unsure: true}
	}
	c.epoch++
	if c.epoch <= c.highest {
		// The ledger was set back. What it still has of this epoch must not be taken for what is told now.
		c.lives++
		c.instance = fmt.Sprintf("%s.%d", c.set.Instance, c.lives)
	}
	c.highest = max(c.highest, c.epoch)
	c.out.Persist.Epoch = c.epoch
	c.append(ledger.SyncBegin, ledger.Event{}, ledger.SyncBeginData{})
	c.out.ReadBack = c.epoch
}

func (c *Core) beginSync(scope []GroupKind) {
	c.sync = &syncing{scope: scope, seen: map[ledger.ObjectKey]struct{}{}}
	add := func(k ledger.ObjectKey) {
		if c.sync.covers(k) {
			c.sync.todo = append(c.sync.todo, k)
		}
	}
	for k := range c.want {
		add(k)
	}
	for k := range c.told {
		if c.want[k] == nil {
			add(k)
		}
	}
	slices.SortFunc(c.sync.todo, ledger.ObjectKey.Compare)
	maps.DeleteFunc(c.dirty, func(k ledger.ObjectKey, _ struct{}) bool { return c.sync.covers(k) })
}

func (c *Core) beginSyncWithin(scope []GroupKind) {
	var data ledger.SyncBeginData
	for _, gk := range scope {
		data.Scope = append(data.Scope, gk.Group+"/"+gk.Kind)
	}
	c.append(ledger.SyncBegin, ledger.Event{}, data)
	c.beginSync(scope)
}

// massDelete reports whether the changes that wait remove more of the site than single deletes are trusted with.
// They are then told as a full list, which the ledger's readers withhold until an operator confirms it.
func (c *Core) massDelete() bool {
	gone, total := 0, 0
	for k := range c.dirty {
		if _, ok := c.told[k]; !ok || isSecretKey(k) {
			continue
		}
		if o, keep := c.present(k); o == nil && !keep {
			gone++
		}
	}
	if gone == 0 {
		return false
	}
	for k := range c.told {
		if !isSecretKey(k) {
			total++
		}
	}
	return gone == total || gone > 1 && gone*100 > total*massDeletePercent
}

// massDeletePercent is the share of a site's objects above which deletes are not sent one by one.
const massDeletePercent = 30

func (c *Core) room() bool {
	if c.bytes < maxStepBytes && len(c.out.Persist.Append) < maxStepRecords {
		return true
	}
	c.out.More = true
	return false
}

func (c *Core) flushDirty() {
	keys := slices.SortedFunc(maps.Keys(c.dirty), ledger.ObjectKey.Compare)
	var gone []ledger.ObjectKey
	for _, k := range keys {
		if o, keep := c.present(k); o == nil && !keep {
			gone = append(gone, k)
			continue
		}
		if !c.room() {
			return
		}
		c.tell(k)
		delete(c.dirty, k)
	}
	for _, k := range gone {
		if !c.room() {
			return
		}
		c.untell(k)
		delete(c.dirty, k)
	}
}

// flushSync goes on with a full list. Changes that arrive meanwhile are told within it.
func (c *Core) flushSync() {
	s := c.sync
	for len(s.todo) > 0 {
		if !c.room() {
			return
		}
		c.tellInSync(s.todo[0])
		s.todo = s.todo[1:]
	}
	for _, k := range slices.SortedFunc(maps.Keys(c.dirty), ledger.ObjectKey.Compare) {
		if !c.room() {
			return
		}
		delete(c.dirty, k)
		if !s.covers(k) {
			c.tellOrUntell(k)
			continue
		}
		if _, seen := s.seen[k]; seen {
			if o, keep := c.present(k); o == nil && !keep {
				c.flushPage()
				c.untell(k)
				delete(s.seen, k)
				continue
			}
		}
		c.tellInSync(k)
	}
	c.flushPage()
	if c.lost && len(c.report.Unknown) > 0 {
		return // the ledger may hold what cannot be read now; the list ends when all can be read
	}
	c.endSync()
}

func (c *Core) tellOrUntell(k ledger.ObjectKey) {
	if o, keep := c.present(k); o == nil && !keep {
		c.untell(k)
		return
	}
	c.tell(k)
}

// tellInSync lists an object by digest if the ledger is known to have this version, and puts it otherwise.
func (c *Core) tellInSync(k ledger.ObjectKey) {
	o, keep := c.present(k)
	t, ok := c.told[k]
	switch {
	case o == nil && !keep:
		return
	case keep || ok && t.Digest == o.Digest && !t.Unsure:
		if _, seen := c.sync.seen[k]; !seen {
			c.sync.page = append(c.sync.page, ledger.SyncItem{Object: k, Digest: t.Digest})
			if len(c.sync.page) == maxPageItems {
				c.flushPage()
			}
		}
		if o != nil {
			c.moved(k, o)
		}
	default:
		c.flushPage()
		c.tell(k)
	}
	c.sync.seen[k] = struct{}{}
}

func (c *Core) flushPage() {
	if c.sync != nil && len(c.sync.page) > 0 {
		c.append(ledger.SyncPage, ledger.Event{}, ledger.SyncPageData{Unchanged: c.sync.page})
		c.sync.page = nil
	}
}

func (c *Core) endSync() {
	var items []ledger.SyncItem
	for k, t := range c.told {
		if _, ok := c.sync.seen[k]; ok {
			items = append(items, ledger.SyncItem{Object: k, Digest: t.Digest})
		} else if c.sync.covers(k) {
			c.forgetOne(k)
		}
	}
	slices.SortFunc(items, func(a, b ledger.SyncItem) int { return a.Object.Compare(b.Object) })
	c.append(ledger.SyncEnd, ledger.Event{}, ledger.SyncEndData{Count: len(items), Inventory: ledger.InventoryDigest(items)})
	if len(c.sync.scope) == 0 && c.lost {
		c.lost, c.out.Persist.Whole = false, true
	}
	c.sync = nil
}

func (c *Core) tell(k ledger.ObjectKey) {
	o, keep := c.present(k)
	if keep {
		return
	}
	t, ok := c.told[k]
	if ok && t.Digest == o.Digest && !t.Unsure {
		c.moved(k, o)
		return
	}
	e := ledger.Event{
		Type: ledger.ObjectPut, Object: k, ObjectDigest: o.Digest, PreviousDigest: t.Digest,
		UID: o.Facts.UID, Generation: o.Facts.Generation, ResourceVersion: o.Facts.ResourceVersion,
		Actor: o.Actor, Data: o.Data,
	}
	at, err := c.appendEvent(e)
	if errors.Is(err, ledger.ErrTooLarge) {
		e.Type, e.Data = ledger.ObjectTooLarge, mustJSON(ledger.TooLargeData{Bytes: len(o.Data)})
		at, err = c.appendEvent(e)
		c.tooLarge[k] = len(o.Data)
		c.recheck = true
	}
	if err != nil {
		panic(fmt.Sprintf("event of %s: %v", k, err)) // names and attributes are bounded by Normaliser
	}
	c.setTold(k, Told{Digest: o.Digest, At: at, Where: o.Where})
}

// moved notes that an object is found elsewhere in the site, which is no event.
func (c *Core) moved(k ledger.ObjectKey, o *Object) {
	if t := c.told[k]; t.Where != o.Where {
		t.Where = o.Where
		c.setTold(k, t)
	}
}

func (c *Core) untell(k ledger.ObjectKey) {
	t, ok := c.told[k]
	if !ok {
		return
	}
	c.append(ledger.ObjectDelete, ledger.Event{Object: k, PreviousDigest: t.Digest}, nil)
	c.forgetOne(k)
}

func (c *Core) setTold(k ledger.ObjectKey, t Told) {
	c.told[k] = t
	if c.out.Persist.Tell == nil {
		c.out.Persist.Tell = map[ledger.ObjectKey]Told{}
	}
	c.out.Persist.Tell[k] = t
}

func (c *Core) forgetOne(k ledger.ObjectKey) {
	delete(c.told, k)
	delete(c.out.Persist.Tell, k)
	c.out.Persist.Untell = append(c.out.Persist.Untell, k)
}

func (c *Core) flushFindings() {
	if !c.recheck {
		return
	}
	c.recheck = false
	findings := slices.Clone(c.report.Findings)
	for k, n := range c.tooLarge {
		where := k.String()
		if o := c.want[k]; o != nil && o.Where != "" {
			where = o.Where
		}
		findings = append(findings, ledger.SiteFinding{
			Where:   where,
			Message: fmt.Sprintf("%s has %d bytes and does not fit an event of %d; split it", k, n, ledger.MaxEventBytes),
		})
	}
	data := ledger.FindingsData{Findings: boundFindings(findings)}
	digest := ledger.DigestOf(mustJSON(data))
	if digest == c.toldFindings.Digest || len(data.Findings) == 0 && c.toldFindings == (Told{}) && !c.lost {
		return
	}
	at := c.append(ledger.SiteFindings, ledger.Event{}, data)
	c.toldFindings = Told{Digest: digest, At: at}
	f := c.toldFindings
	c.out.Persist.Findings = &f
}

func boundFindings(in []ledger.SiteFinding) []ledger.SiteFinding {
	out := make([]ledger.SiteFinding, 0, len(in))
	for _, f := range in {
		out = append(out, ledger.SiteFinding{Where: cut(f.Where, 300), Message: cut(f.Message, 1000)})
	}
	slices.SortFunc(out, func(a, b ledger.SiteFinding) int {
		return cmp.Or(cmp.Compare(a.Where, b.Where), cmp.Compare(a.Message, b.Message))
	})
	out = slices.Compact(out)
	if n := len(out); n > maxFindings {
		out = append(out[:maxFindings:maxFindings], ledger.SiteFinding{Message: fmt.Sprintf("%d more findings", n-maxFindings)})
	}
	return out
}

func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// append makes an event that always fits.
func (c *Core) append(t ledger.Type, e ledger.Event, data any) Position {
	e.Type = t
	if data != nil {
		e.Data = mustJSON(data)
	}
	at, err := c.appendEvent(e)
	if err != nil {
		panic(fmt.Sprintf("event %s of %s: %v", t, c.set.Cluster, err)) // pages and findings are bounded
	}
	return at
}

func (c *Core) appendEvent(e ledger.Event) (Position, error) {
	e.ID = ledger.Origin{Cluster: c.set.Cluster, Epoch: c.epoch, Instance: c.instance, N: c.next}
	e.Source = "/clusters/" + string(c.set.Cluster) + "/collector"
	e.Subject = ledger.SyncSubject(c.set.Cluster)
	if e.Object != (ledger.ObjectKey{}) {
		e.Subject = e.Object.Subject()
	}
	e.Time = c.now
	b, err := e.Encode()
	if err != nil {
		return Position{}, err
	}
	at := Position{c.epoch, c.next}
	if c.oldest == (Position{}) {
		c.oldest = at
	}
	c.next++
	c.bytes += len(b)
	c.out.Persist.Append = append(c.out.Persist.Append, Item{At: at, Subject: e.Subject, Record: ledger.Sign(b, c.set.Key)})
	return at, nil
}

func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own types, of strings and numbers
	}
	return b
}
