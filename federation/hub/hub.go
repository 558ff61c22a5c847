package hub

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/compile"
)

// Ledger is the record that the hub follows.
type Ledger interface {
	Size() ledger.Seq
	// Read returns at most limit records from position from on, in order.
	Read(from ledger.Seq, limit int) ([]ledger.Entry, error)
	// Updated returns a channel that is closed when the ledger grows.
	Updated() <-chan struct{}
}

// Publisher puts decisions into the stream, in order, and all or none where one
// of them says WithNext. An error leaves open which of them are there.
type Publisher interface {
	PublishDecisions(ctx context.Context, ds []Published) error
}

// Published is one encoded and signed decision.
type Published struct {
	Record   ledger.Record
	Subject  string
	WithNext bool // as in federation.Decision
}

// Taster tells what a resident Envoy makes of a snapshot.
type Taster interface {
	// Version names the Envoy.
	Version() string
	// Taste returns nil when the Envoy takes the snapshot, else what it refused.
	// An error means that it could not be asked.
	Taste(ctx context.Context, s *projector.Snapshot) (*Refusal, error)
	// Culprits returns those of n changes without which the others are taken;
	// build makes the snapshot with only the given ones.
	Culprits(ctx context.Context, n int, build func(included []int) (*projector.Snapshot, error)) ([]int, error)
}

// Refusal is what an Envoy refused.
type Refusal struct {
	Type      projector.ResourceType
	Resources []string // names in the refused response, empty when not known
	Message   string
}

// Shelf keeps snapshots for edges to fetch.
type Shelf interface {
	Put(s *projector.Snapshot) error
	Get(f projector.Fingerprint) (*projector.Snapshot, error)
	// Prune drops the snapshots that are not to be kept and returns how many.
	Prune(keep func(projector.Fingerprint) bool) (int, error)
}

// Config is what a hub needs. All fields but Taster are required.
type Config struct {
	Instance  string // names this process in ids; unique for each start
	Build     string // version of the compiler, recorded with candidates
	Key       ed25519.PrivateKey
	Fleet     ledger.FleetName
	Settings  federation.Settings
	Sites     []ledger.SiteAddedData
	Ledger    Ledger
	Publisher Publisher
	Shelf     Shelf
	Taster    Taster // nil: the first ring is the first taste
	// Announce is called with each head that is recorded, in order. It must
	// not block.
	Announce func(projector.SignedHead)
	// SeenTerm is the newest term of a head that an edge is known to have. A hub
	// that lost its ledger begins above it, or edges would not take its heads.
	SeenTerm uint64
	// Incarnation returns the incarnation of the stream that is consumed, and
	// "" while there is none.
	Incarnation func() string
	Logger      *slog.Logger
	Metrics     *Metrics
}

// Hub runs the decision-maker of an install. Use New.
type Hub struct {
	cfg Config
	log *slog.Logger

	// Owned by the goroutine of Run.
	state      *federation.State
	projection *projector.Projection
	compiler   *compile.Compiler
	author     *federation.Author
	awaiting   uint64      // the N that the ledger must reach before the next decision, 0 for none
	unsent     []Published // not acknowledged by the stream yet
	records    uint64      // how often decisions were put into unsent
	sending    uint64      // what records was when the publish under way began
	publishing bool
	retryAt    time.Time
	dirty      bool // changed since the newest compile
	compiled   *federation.Compiled
	snapshot   *projector.Snapshot // of compiled
	observed   time.Time           // of the first change since the newest candidate
	ours       bool                // the author's term is in the ledger
	fenced     bool                // another hub decides
	good       *goodVersions
	refused    map[ledger.ObjectKey]projector.Refusal // as the compiler has them
	tastes     map[projector.Fingerprint]federation.Taste
	tasting    projector.Fingerprint
	tasteAfter time.Time // not before: a snapshot could not be stored
	unpruned   int       // candidates since the shelf was pruned
	edges      map[string]federation.SeenEdge
	servedAt   time.Time
	servedGen  uint64
	announced  uint64
	syncSince  time.Time
	waiters    []waiter
	extra      []federation.Decision // due before the rollout's
	background sync.WaitGroup        // of tastes and searches

	commands chan command
	inspect  chan func(Inside)
	statuses chan federation.EdgeStatus
	tasted   chan tasteDone
	sent     chan error
}

type tasteDone struct {
	fingerprint projector.Fingerprint
	taste       federation.Taste
	refusal     *Refusal
	searched    bool // for culprits
	err         error
}

// New returns a hub.
func New(cfg Config) *Hub {
	h := &Hub{
		cfg: cfg, log: cfg.Logger,
		tastes:   map[projector.Fingerprint]federation.Taste{},
		edges:    map[string]federation.SeenEdge{},
		commands: make(chan command),
		inspect:  make(chan func(Inside)),
		statuses: make(chan federation.EdgeStatus, 256),
		tasted:   make(chan tasteDone, 1),
		sent:     make(chan error, 1),
	}
	return h
}

// Status takes what an edge says of itself. It drops the status when the hub
// is far behind; the edge says it again.
func (h *Hub) Status(s federation.EdgeStatus) {
	select {
	case h.statuses <- s:
	default:
	}
}

// readBatch bounds how many records are folded before the hub looks up.
const readBatch = 2000

// Run folds the ledger and decides until ctx ends. It returns an error when it
// cannot go on.
func (h *Hub) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := h.open(); err != nil {
		return err
	}
	for {
		updated := h.cfg.Ledger.Updated()
		more, err := h.fold()
		if err != nil {
			return err
		}
		now := time.Now()
		h.compile(ctx, now)
		if err := h.decide(ctx, now); err != nil {
			return err
		}
		if more {
			continue
		}
		timer := time.NewTimer(h.wake(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			h.drain()
			return nil
		case <-updated:
		case s := <-h.statuses:
			h.takeStatus(s)
		case c := <-h.commands:
			h.take(c)
		case look := <-h.inspect:
			look(h.inside(now))
		case t := <-h.tasted:
			h.takeTaste(ctx, t)
		case err := <-h.sent:
			h.takeSent(err)
		case <-timer.C:
		}
		timer.Stop()
	}
}

// drain waits for what Run started.
func (h *Hub) drain() {
	if h.publishing {
		if err := <-h.sent; err != nil {
			h.log.Info("the last decisions are not acknowledged; they may be recorded or not", slog.Any("err", err))
		}
	}
	h.background.Wait()
	for _, w := range h.waiters {
		w.reply <- reply{err: errors.New("the hub is stopping; the decision may have been recorded, see chancery history")}
	}
}

// wake returns how long Run may sleep when nothing happens.
func (h *Hub) wake(now time.Time) time.Duration {
	d := time.Second
	f := h.state.Fleet(h.cfg.Fleet)
	if due := f.SoakDue(h.state, h.answers(now)); !due.IsZero() {
		d = min(d, due.Sub(now))
	}
	if len(h.unsent) > 0 && !h.publishing {
		d = min(d, h.retryAt.Sub(now))
	}
	return max(d, time.Millisecond)
}

// open folds what the ledger holds, and brings compiler and last good versions
// to where they were.
func (h *Hub) open() error {
	size := h.cfg.Ledger.Size()
	state := federation.NewState()
	if err := h.each(1, size, func(seq ledger.Seq, e ledger.Event, r ledger.Record) error {
		return state.Apply(seq, e, r.Event)
	}); err != nil {
		return err
	}
	h.state = state
	settings := h.settings()
	f := state.Fleet(h.cfg.Fleet)
	h.good = newGoodVersions()
	var at ledger.Seq
	if r := f.Revision(f.LastGood); r != nil {
		at = r.Seq
		c, p, err := h.compileAt(r)
		if err != nil {
			return err
		}
		h.compiler, h.projection = c.compiler, p
		h.good.restore(c.compiler, p, c.kept)
		if now := c.snapshot.Fingerprint(); now != r.Fingerprint {
			h.log.Info("this build compiles the last good revision to other bytes", slog.Uint64("revision", r.Revision), slog.String("recorded", r.Fingerprint.Short()), slog.String("now", now.Short()))
		}
	} else {
		h.compiler, h.projection = compile.New(settings.Compile), projector.NewProjection()
	}
	h.compiler.SetSettings(settings.Compile)
	h.refused = map[ledger.ObjectKey]projector.Refusal{}
	h.setOverlay(f, h.good.objects)
	if err := h.each(at+1, size, func(seq ledger.Seq, e ledger.Event, _ ledger.Record) error {
		return h.project(seq, e)
	}); err != nil {
		return err
	}
	h.dirty = true
	h.announced = 0
	return nil
}

// each decodes the records from..to of the ledger.
func (h *Hub) each(from, to ledger.Seq, f func(ledger.Seq, ledger.Event, ledger.Record) error) error {
	for from <= to {
		entries, err := h.cfg.Ledger.Read(from, int(min(to-from+1, readBatch)))
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return fmt.Errorf("ledger has %d records, record %d cannot be read; run chancery verify", to, from)
		}
		for _, r := range entries {
			e, err := ledger.DecodeEvent(r.Record.Event)
			if err != nil {
				return fmt.Errorf("event %d: %w", r.Seq, err)
			}
			if err := f(r.Seq, e, r.Record); err != nil {
				return err
			}
		}
		from += ledger.Seq(len(entries))
	}
	return nil
}

// fold takes in what was recorded since the last call, at most readBatch
// records, and reports whether there is more.
func (h *Hub) fold() (bool, error) {
	size := h.cfg.Ledger.Size()
	to := min(size, h.state.Seq+readBatch)
	err := h.each(h.state.Seq+1, to, func(seq ledger.Seq, e ledger.Event, r ledger.Record) error {
		if err := h.state.Apply(seq, e, r.Event); err != nil {
			return err
		}
		if err := h.project(seq, e); err != nil {
			return err
		}
		h.observe(seq, e, r)
		return nil
	})
	return to < size, err
}

func (h *Hub) project(seq ledger.Seq, e ledger.Event) error {
	changes, err := h.projection.Apply(seq, e)
	if err != nil {
		return err
	}
	if len(changes) > 0 {
		h.compiler.Apply(changes)
		h.good.touch(changes)
		h.dirty = true
		if h.observed.IsZero() {
			h.observed = e.Time
		}
	}
	return nil
}

// observe does what a newly recorded event asks for.
func (h *Hub) observe(seq ledger.Seq, e ledger.Event, r ledger.Record) {
	h.cfg.Metrics.event(e)
	if !e.Type.IsDecision() {
		return
	}
	f := h.state.Fleet(h.cfg.Fleet)
	switch e.Type.Decision() {
	case "stream-begin":
		// What was on its way may be lost with the old stream: begin a new term.
		h.author, h.awaiting, h.unsent = nil, 0, nil
		for i := range h.waiters {
			h.waiters[i].sent = false
		}
	case "term":
		switch {
		case h.author == nil:
		case e.ID.Instance == h.cfg.Instance && e.ID.Epoch == h.author.Term:
			h.ours = true
		case !h.ours:
			// A claim from before this hub's, which is in vain then: claim again. A
			// ledger that is rebuilt from the stream tells of all that ever were.
			h.author, h.awaiting, h.unsent = nil, 0, nil
		default:
			h.log.Warn("another hub has begun a newer term; this one follows now", slog.Uint64("term", e.ID.Epoch), slog.String("instance", e.ID.Instance))
			h.fenced, h.author, h.awaiting, h.unsent = true, nil, 0, nil
			h.failWaiters(errors.New("another hub decides now; send the command there"))
		}
	case projector.HeadDecision:
		head, err := projector.OpenHead(r, seq, h.cfg.Key.Public().(ed25519.PublicKey))
		if err != nil {
			h.log.Error("recorded head cannot be opened", slog.Uint64("seq", uint64(seq)), slog.Any("err", err))
			return
		}
		if head.Head.Generation == f.Head.Generation && f.HeadSeq == seq {
			h.announce(head)
		}
	case federation.VerdictDecision:
		h.blame(f)
		h.setOverlay(f, h.good.promote(f.LastGood))
	case federation.TasteDecision:
		h.setOverlay(f, nil)
	case federation.SettingsDecision:
		if h.state.Settings != nil { // else the fold passed the decision over
			h.compiler.SetSettings(h.state.Settings.Compile)
			h.dirty = true
		}
	case projector.ConfirmDecision, federation.ConsentDecision, federation.ReleaseDecision, federation.HoldDecision:
		// The next step looks at them.
	}
	if h.author != nil && e.ID.Epoch == h.author.Term && e.ID.Instance == h.cfg.Instance && e.Type != ledger.StreamBegun {
		h.recorded(seq, e)
	}
}

// setOverlay tells the compiler of changed last good versions, and of refusals
// that it does not have.
func (h *Hub) setOverlay(f *federation.FleetState, good map[ledger.ObjectKey]*projector.Object) {
	change := compile.OverlayChange{LastGood: good, Refused: map[ledger.ObjectKey]projector.Refusal{}}
	for k, r := range f.Refused {
		if h.refused[k] != r {
			change.Refused[k], h.refused[k] = r, r
		}
	}
	if len(change.LastGood)+len(change.Refused) > 0 {
		h.compiler.SetOverlay(change)
		h.dirty = true
	}
}

func (h *Hub) announce(head projector.SignedHead) {
	if head.Head.Generation <= h.announced {
		return
	}
	h.announced = head.Head.Generation
	h.cfg.Announce(head)
	h.log.Info("head", slog.String("fleet", string(head.Head.Fleet)), slog.Uint64("revision", head.Head.Revision), slog.Uint64("generation", head.Head.Generation), slog.String("why", head.Head.Why), slog.String("fingerprint", head.Head.Fingerprint.Short()))
}

// firstSyncLimit bounds how long the first compile waits for a site's first
// complete list.
const firstSyncLimit = 30 * time.Second

// compile brings the compiled snapshot up to date and starts its taste.
func (h *Hub) compile(ctx context.Context, now time.Time) {
	if h.dirty && !h.firstSync(now) && !h.nothingYet() {
		started := time.Now()
		res := h.compiler.Compile()
		h.cfg.Metrics.compiled(time.Since(started), res)
		h.dirty = false
		h.snapshot = res.Snapshot
		h.compiled = &federation.Compiled{
			Seq: h.projection.Seq(), Fingerprint: res.Snapshot.Fingerprint(), Kept: res.Kept,
			Routes: res.Routes, Listeners: res.Snapshot.Len(projector.Listeners),
		}
		h.compiled.GoneListeners = h.goneListeners(res.Snapshot)
		h.good.capture(h.compiler, h.projection)
	}
	if h.compiled == nil || !h.tasting.IsZero() || now.Before(h.tasteAfter) {
		return
	}
	fp := h.compiled.Fingerprint
	f := h.state.Fleet(h.cfg.Fleet)
	if _, ok := h.tastes[fp]; ok {
		return
	}
	if n := f.Newest(); n != nil && n.Fingerprint == fp && n.Tasted != nil {
		if _, err := h.cfg.Shelf.Get(fp); err == nil {
			return
		}
	}
	h.tasting = fp
	var keep map[projector.Fingerprint]bool
	if h.unpruned++; h.unpruned >= pruneEvery {
		h.unpruned, keep = 0, h.kept(f)
	}
	snapshot := h.snapshot
	h.background.Go(func() { h.taste(ctx, snapshot, keep) })
}

// How many revisions stay on the shelf, and after how many new ones it is
// pruned. An older one is compiled again when it is wanted.
const (
	keptRevisions = 256
	pruneEvery    = 64
)

// kept returns the snapshots that stay on the shelf: those of the newest
// revisions, of the head, of the last good revision and of pins.
func (h *Hub) kept(f *federation.FleetState) map[projector.Fingerprint]bool {
	keep := map[projector.Fingerprint]bool{f.Head.Fingerprint: true, h.compiled.Fingerprint: true}
	for _, r := range f.Revisions[max(0, len(f.Revisions)-keptRevisions):] {
		keep[r.Fingerprint] = true
	}
	if r := f.Revision(f.LastGood); r != nil {
		keep[r.Fingerprint] = true
	}
	for _, hold := range f.Holds {
		keep[hold.Fingerprint] = true
	}
	return keep
}

// nothingYet reports whether there is nothing to serve and never was: an empty
// snapshot is not made.
func (h *Hub) nothingYet() bool {
	return h.projection.Len() == 0 && h.state.Fleet(h.cfg.Fleet).Newest() == nil
}

// firstSync reports whether a site has not completed its first list: what it
// would compile to is not what the site holds.
func (h *Hub) firstSync(now time.Time) bool {
	synced := 0
	for _, s := range h.projection.Sites() {
		if s.Synced > 0 {
			synced++
		}
	}
	waiting := synced < len(h.state.Sites)
	if !waiting {
		h.syncSince = time.Time{}
		return false
	}
	if h.syncSince.IsZero() {
		h.syncSince = now
	}
	return now.Sub(h.syncSince) < firstSyncLimit
}

func (h *Hub) goneListeners(s *projector.Snapshot) []string {
	n := h.state.Fleet(h.cfg.Fleet).Newest()
	if n == nil || n.Fingerprint == s.Fingerprint() {
		return nil
	}
	before, err := h.cfg.Shelf.Get(n.Fingerprint)
	if err != nil {
		return nil // rebuilt shelves hold only what is compiled anew
	}
	var gone []string
	for r := range before.All(projector.Listeners) {
		if _, ok := s.Get(projector.Listeners, r.Name); !ok {
			gone = append(gone, r.Name)
		}
	}
	slices.Sort(gone)
	return gone
}

// tasteLimit bounds one taste; an Envoy at its limits takes seconds for
// 10,000 routes.
const tasteLimit = 60 * time.Second

// taste stores a snapshot and has it tasted. With keep it prunes the shelf
// afterwards.
func (h *Hub) taste(ctx context.Context, s *projector.Snapshot, keep map[projector.Fingerprint]bool) {
	out := tasteDone{fingerprint: s.Fingerprint(), taste: federation.Taste{OK: true}}
	stored := make(chan error, 1)
	begin := time.Now()
	go func() { stored <- h.cfg.Shelf.Put(s) }()
	if h.cfg.Taster != nil {
		out.taste.Taster = h.cfg.Taster.Version()
		limited, cancel := context.WithTimeout(ctx, tasteLimit)
		refusal, err := h.cfg.Taster.Taste(limited, s)
		cancel()
		switch {
		case err != nil:
			// Unknown is not a refusal: the first ring tastes, and the record says so.
			h.log.WarnContext(ctx, "taster cannot be asked; the first ring is the first taste", slog.Any("err", err))
			out.taste.Taster = ""
			out.taste.Message = "the taster could not be asked: " + err.Error()
		case refusal != nil:
			out.taste.OK, out.taste.Message, out.refusal = false, refusal.Message, refusal
		}
	}
	tasted := time.Now()
	out.err = <-stored
	h.log.DebugContext(ctx, "taste", slog.String("fingerprint", out.fingerprint.Short()), slog.Duration("tasted_after", tasted.Sub(begin)), slog.Duration("stored_after", time.Since(begin)))
	h.tasted <- out
	if keep != nil {
		keep[s.Fingerprint()] = true
		if n, err := h.cfg.Shelf.Prune(func(f projector.Fingerprint) bool { return keep[f] }); err != nil {
			h.log.WarnContext(ctx, "old snapshots stay on the shelf", slog.Any("err", err))
		} else {
			h.log.DebugContext(ctx, "shelf pruned", slog.Int("dropped", n))
		}
	}
}

func (h *Hub) takeTaste(ctx context.Context, t tasteDone) {
	h.tasting = projector.Fingerprint{}
	if t.err != nil {
		h.tasteAfter = time.Now().Add(publishRetry)
		h.log.ErrorContext(ctx, "snapshot cannot be stored; it is tried again", slog.String("fingerprint", t.fingerprint.Short()), slog.Any("err", t.err))
		return
	}
	if !t.taste.OK && !t.searched {
		h.log.WarnContext(ctx, "an Envoy refused a candidate", slog.String("fingerprint", t.fingerprint.Short()), slog.String("message", t.taste.Message))
		if h.compiled != nil && h.compiled.Fingerprint == t.fingerprint {
			h.tasting = t.fingerprint
			keys, _ := h.suspects(*t.refusal)
			scratch := h.scratch()
			h.background.Go(func() { h.search(ctx, t, keys, scratch) })
			return
		}
	}
	h.tastes[t.fingerprint] = t.taste
	for fp := range h.tastes { // bounded: only those that may still be asked for
		if len(h.tastes) <= 16 {
			break
		}
		if fp != t.fingerprint && (h.compiled == nil || fp != h.compiled.Fingerprint) {
			delete(h.tastes, fp)
		}
	}
}

func (h *Hub) takeStatus(s federation.EdgeStatus) {
	now := time.Now()
	h.edges[s.Edge] = federation.SeenEdge{EdgeStatus: s, At: now}
	for name, e := range h.edges {
		if now.Sub(e.At) > forgetEdge {
			delete(h.edges, name)
		}
	}
}

// forgetEdge is how long a silent edge is shown as offline.
const forgetEdge = 24 * time.Hour

// answers sums up what the edges say of the head and keeps since when all of
// them serve it.
func (h *Hub) answers(now time.Time) federation.Answers {
	f := h.state.Fleet(h.cfg.Fleet)
	a := federation.Tally(f.Head, h.edges, now)
	all := a.Envoys > 0 && a.Served == a.Envoys
	switch {
	case !all:
		h.servedGen = 0
	case h.servedGen != a.Generation:
		h.servedGen, h.servedAt = a.Generation, now
		if at, ok := h.good.observed[f.Head.Revision]; ok {
			h.cfg.Metrics.propagated(now.Sub(at))
		}
	}
	a.ServedAt = h.servedAt
	return a
}

// decide records what is due.
func (h *Hub) decide(ctx context.Context, now time.Time) error {
	if h.publishing {
		return nil // an acknowledgement is about what is on its way, and that only
	}
	if len(h.unsent) > 0 {
		h.send(ctx, now)
		return nil
	}
	if h.awaiting > 0 {
		return nil
	}
	if h.cfg.Incarnation() == "" || h.state.Incarnation != h.cfg.Incarnation() {
		return nil // the stream has not begun for this ledger
	}
	if h.fenced {
		return nil
	}
	if h.author == nil {
		return h.claim(ctx, now)
	}
	if ds := h.due(now); len(ds) > 0 {
		return h.record(ctx, now, ds)
	}
	return nil
}

func (h *Hub) claim(ctx context.Context, now time.Time) error {
	a := &federation.Author{
		Term: max(h.state.Term, h.cfg.SeenTerm) + 1, Instance: h.cfg.Instance, Previous: maps.Clone(h.state.Previous),
	}
	h.author, h.ours = a, false
	return h.record(ctx, now, []federation.Decision{{
		Scope: ledger.InstallScope, Name: "term", Actor: hubActor,
		Body: ledger.TermBegunData{Term: a.Term, Instance: a.Instance, Previous: h.state.TermDigest},
	}})
}

var hubActor = ledger.Actor{Name: "chancery", Source: "hub"}

// due returns the decisions to record now: the operator's settings and sites
// first, then commands, then the rollout.
func (h *Hub) due(now time.Time) []federation.Decision {
	if h.state.Settings == nil || h.state.Settings.Digest() != h.cfg.Settings.Digest() {
		return []federation.Decision{{Scope: ledger.InstallScope, Name: federation.SettingsDecision, Body: h.cfg.Settings, Actor: hubActor}}
	}
	var ds []federation.Decision
	for _, site := range h.cfg.Sites {
		if have, ok := h.state.Sites[site.Cluster]; !ok || !have.Key.Equal(site.Key) || have.Site != site.Site {
			ds = append(ds, federation.Decision{Scope: ledger.InstallScope, Name: "site-added", Body: site, Actor: hubActor})
		}
	}
	if len(ds) > 0 {
		return ds
	}
	for i := range h.waiters {
		if w := &h.waiters[i]; !w.sent {
			w.sent, w.n = true, h.author.NextN
			return []federation.Decision{w.decision}
		}
	}
	f := h.state.Fleet(h.cfg.Fleet)
	in := federation.Inputs{Build: h.cfg.Build, Compiled: h.compiled, Tastes: h.tastes, Answers: h.answers(now), Now: now}
	if len(h.extra) > 0 {
		ds, h.extra = h.extra, nil
		return ds
	}
	return federation.Next(h.state, f, in)
}

// record encodes, signs and publishes decisions.
func (h *Hub) record(ctx context.Context, now time.Time, ds []federation.Decision) error {
	for _, d := range ds {
		e, b, err := h.author.Encode(d, h.state.Seq, now)
		if err != nil {
			return err
		}
		h.unsent = append(h.unsent, Published{Record: ledger.Sign(b, h.cfg.Key), Subject: e.Subject, WithNext: d.WithNext})
		if d.Name == federation.CandidateDecision {
			h.good.candidate(d.Body.(federation.Candidate).Revision, h.observed)
			h.observed = time.Time{}
		}
	}
	h.records++
	h.awaiting = h.author.NextN
	h.retryAt = now
	h.send(ctx, now)
	return nil
}

// send publishes what is not acknowledged yet.
func (h *Hub) send(ctx context.Context, now time.Time) {
	if h.publishing || now.Before(h.retryAt) {
		return
	}
	h.publishing, h.sending = true, h.records
	batch := slices.Clone(h.unsent)
	go func() { h.sent <- h.cfg.Publisher.PublishDecisions(ctx, batch) }()
}

// publishRetry is how long the hub waits before it publishes again what the
// stream did not acknowledge.
const publishRetry = 250 * time.Millisecond

func (h *Hub) takeSent(err error) {
	h.publishing = false
	if h.sending != h.records {
		return // the ledger was quicker than the stream's answer, and more was decided since: that is still to be sent
	}
	if err == nil {
		h.unsent = nil
		return
	}
	h.log.Warn("decisions are not acknowledged; they are published again", slog.Int("count", len(h.unsent)), slog.Any("err", err))
	h.retryAt = time.Now().Add(publishRetry)
}

// recorded notes that one of this hub's own decisions is in the ledger.
func (h *Hub) recorded(seq ledger.Seq, e ledger.Event) {
	if e.ID.N+1 >= h.awaiting {
		h.awaiting, h.unsent = 0, nil
		h.author.Previous = maps.Clone(h.state.Previous)
	}
	keep := h.waiters[:0]
	for _, w := range h.waiters {
		if w.sent && w.n == e.ID.N {
			w.answer.Seq = seq
			w.reply <- reply{answer: w.answer}
			continue
		}
		keep = append(keep, w)
	}
	h.waiters = keep
}

func (h *Hub) failWaiters(err error) {
	for _, w := range h.waiters {
		w.reply <- reply{err: err}
	}
	h.waiters = nil
}
