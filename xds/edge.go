package xds

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/xds/cache"
)

// Source is where an edge fetches what a head names: the hub, or a peer. What
// it answers is verified before use.
type Source interface {
	// Manifest returns the manifest of a snapshot (projector.Snapshot.Manifest).
	Manifest(ctx context.Context, fp projector.Fingerprint) ([]byte, error)
	// Chunk returns the encoding of a chunk (projector.Chunk.Encode).
	Chunk(ctx context.Context, d ledger.Digest) ([]byte, error)
}

// Applies reports whether an edge of the fleet and ring that serves current
// takes the offered head. Edges never go back: a rollback is a newer head that
// names an older snapshot. The hub vouches for heads by its signature, which
// is verified before (projector.OpenHead).
func Applies(current, offered projector.SignedHead, fleet ledger.FleetName, ring string) bool {
	return offered.Head.Fleet == fleet && offered.Head.Ring == ring && offered.Newer(current)
}

// EdgeOptions configure an edge.
type EdgeOptions struct {
	// Name is the edge's, for verdicts.
	Name  string
	Fleet ledger.FleetName
	Ring  string
	// Hub is the key that heads are signed with.
	Hub    ed25519.PublicKey
	Source Source
	Store  *Store
	// Prober proves what is served. Nil: nothing is proven, and there are no
	// verdicts of kind Served.
	Prober *Prober
	// OnVerdict is told of each verdict. It must not block.
	OnVerdict func(projector.Verdict)
	// Soak is how long a served snapshot must go unrefused before it is a last
	// known good one. Zero means DefaultSoak.
	Soak time.Duration
	// WarmLimit is the cache's.
	WarmLimit time.Duration
	// Metrics is where the edge's metrics are registered. Nil: nowhere.
	Metrics prometheus.Registerer
	// Log is the logger. Nil: slog.Default.
	Log *slog.Logger
}

// DefaultSoak is how long a snapshot is served before it is trusted.
const DefaultSoak = time.Minute

// The bounds of fetching: tries for each piece, with waits doubled from the
// first to the last, and pieces at once.
const (
	fetchTries     = 10
	fetchFirstWait = 20 * time.Millisecond
	fetchLastWait  = 5 * time.Second
	fetchesAtOnce  = 8
)

// liveSaves is how often the answers of the live plane are written to disk at
// most. Those of a crash in between come anew from their source.
const liveSaves = time.Second

// Edge serves one fleet and ring. Offer and Answer may be called from any
// goroutine; everything else happens in Run.
type Edge struct {
	opts  EdgeOptions
	cache *cache.Cache

	mu      sync.Mutex            // guards what follows
	pending *projector.SignedHead // the newest that waits
	flying  *projector.SignedHead // what is being fetched
	answers map[need]projector.Update
	unsaved bool

	wake     chan struct{}          // pending was set
	verdicts chan projector.Verdict // from the cache, bounded by maxVerdicts

	generation prometheus.Gauge
	fetched    *prometheus.CounterVec
	served     prometheus.Counter
}

type need struct {
	typ  projector.ResourceType
	name string
}

// maxVerdicts bounds the verdicts that wait for Run. More are dropped with a
// word in the log; a rollout that waits for one asks Nodes of the cache.
const maxVerdicts = 4096

// NewEdge returns an edge, which begins with what its store has: from then on
// its cache serves that.
func NewEdge(opts EdgeOptions) (*Edge, error) {
	switch {
	case opts.Store == nil:
		return nil, errors.New("edge: Store must be given")
	case len(opts.Hub) != ed25519.PublicKeySize:
		return nil, errors.New("edge: Hub must be an ed25519 key")
	case opts.Fleet.Validate() != nil:
		return nil, fmt.Errorf("edge: %w", opts.Fleet.Validate())
	}
	if opts.Soak == 0 {
		opts.Soak = DefaultSoak
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	registry := opts.Metrics
	if registry == nil {
		registry = prometheus.NewRegistry()
	}
	metrics, err := cache.NewMetrics(registry)
	if err != nil {
		return nil, fmt.Errorf("edge: %w", err)
	}
	e := &Edge{
		opts: opts, answers: map[need]projector.Update{},
		wake: make(chan struct{}, 1), verdicts: make(chan projector.Verdict, maxVerdicts),
		generation: prometheus.NewGauge(prometheus.GaugeOpts{Name: "chancery_edge_generation", Help: "Generation of the head that the edge serves."}),
		fetched:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_edge_fetches_total", Help: "Pieces of snapshots fetched, by outcome."}, []string{"outcome"}),
		served:     prometheus.NewCounter(prometheus.CounterOpts{Name: "chancery_edge_served_total", Help: "Heads that an Envoy was proven to serve."}),
	}
	for _, c := range []prometheus.Collector{e.generation, e.fetched, e.served} {
		if err := registry.Register(c); err != nil {
			return nil, fmt.Errorf("edge: %w", err)
		}
	}
	e.cache = cache.New(cache.Options{
		Edge: opts.Name, OnVerdict: e.take, WarmLimit: opts.WarmLimit, Metrics: metrics, Log: opts.Log,
		OnConnect: func(node string, fresh bool) {
			if fresh && opts.Prober != nil {
				opts.Prober.Forget(node)
			}
		},
	})
	return e, e.begin()
}

// begin serves what is on disk.
func (e *Edge) begin() error {
	answers, err := e.opts.Store.Live()
	if err != nil {
		return err
	}
	for _, name := range e.opts.Store.SetAside() {
		e.opts.Log.Error("a damaged file was set aside; its content is fetched anew", slog.String("file", name))
	}
	for _, u := range answers {
		e.answers[need{u.Type, u.Name}] = u
	}
	e.cache.Answer(answers...)
	h, snapshot, err := e.opts.Store.Load()
	switch {
	case errors.Is(err, ErrNothingStored):
		return nil
	case err != nil:
		return err
	case h.Head.Fleet != e.opts.Fleet || h.Head.Ring != e.opts.Ring:
		return fmt.Errorf("edge store: it is of fleet %s, ring %s, not of fleet %s, ring %s; use another directory",
			h.Head.Fleet, h.Head.Ring, e.opts.Fleet, e.opts.Ring)
	}
	e.cache.Offer(h, snapshot)
	e.generation.Set(float64(h.Head.Generation))
	e.opts.Log.Info("serving from disk", slog.String("fleet", string(h.Head.Fleet)), slog.Uint64("generation", h.Head.Generation), slog.String("fingerprint", snapshot.Fingerprint().Short()))
	return nil
}

// Cache returns what the server is to serve.
func (e *Edge) Cache() *cache.Cache { return e.cache }

// Head returns the head that is served, zero if none is.
func (e *Edge) Head() projector.SignedHead {
	if g, _ := e.cache.Current(); g != nil {
		return g.Head
	}
	return projector.SignedHead{}
}

// Offer takes a head, by whatever road it came. One that the hub did not sign
// is an error. One that is not newer than what is served or waits already, or
// is not for this edge, is passed over: it will have come twice, or by a
// slower road.
func (e *Edge) Offer(h projector.SignedHead) error {
	h, err := projector.OpenHead(h.Record, h.Seq, e.opts.Hub)
	if err != nil {
		return fmt.Errorf("edge %s: %w", e.opts.Name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !Applies(e.Head(), h, e.opts.Fleet, e.opts.Ring) || e.pending != nil && !h.Newer(*e.pending) ||
		e.flying != nil && !h.Newer(*e.flying) {
		return nil
	}
	e.pending = &h
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return nil
}

// Answer takes answers of the live plane, as cache.Cache.Answer does, serves
// them at once and has them saved.
func (e *Edge) Answer(updates ...projector.Update) {
	e.mu.Lock()
	for _, u := range updates {
		if u.Resource == nil {
			delete(e.answers, need{u.Type, u.Name})
		} else {
			e.answers[need{u.Type, u.Name}] = u
		}
	}
	e.unsaved = true
	e.mu.Unlock()
	e.cache.Answer(updates...)
}

// AnswerEndpoints is Answer for endpoints.
func (e *Edge) AnswerEndpoints(all ...ir.Endpoints) error {
	updates := make([]projector.Update, 0, len(all))
	for _, x := range all {
		r, err := envoy.Endpoints(x)
		if err != nil {
			return fmt.Errorf("edge %s: %w", e.opts.Name, err)
		}
		updates = append(updates, projector.Update{Type: projector.EndpointNeeds, Name: r.Name, Resource: &r})
	}
	e.Answer(updates...)
	return nil
}

// AnswerSecret is Answer for a secret of the use. The error never shows it.
func (e *Edge) AnswerSecret(s ir.Secret, use ir.SecretUse) error {
	r, err := envoy.Secret(s, use)
	if err != nil {
		return fmt.Errorf("edge %s: %w", e.opts.Name, err)
	}
	e.Answer(projector.Update{Type: projector.SecretNeeds, Name: r.Name, Resource: &r})
	return nil
}

// take hands a verdict of the cache to Run.
func (e *Edge) take(v projector.Verdict) {
	select {
	case e.verdicts <- v:
	default:
		e.opts.Log.Error("too many verdicts wait, one is dropped", slog.String("node", v.Node), slog.String("kind", string(v.Kind)), slog.Uint64("generation", v.Generation))
	}
}

// Run applies heads, proves and promotes until ctx ends. It fails if the disk
// does: an edge that cannot keep what it serves must not go on as if it could.
func (e *Edge) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return e.apply(ctx) })
	group.Go(func() error { return e.judge(ctx) })
	group.Go(func() error { return e.save(ctx) })
	return group.Wait()
}

// next takes the pending head.
func (e *Edge) next() (projector.SignedHead, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending == nil {
		return projector.SignedHead{}, false
	}
	e.flying, e.pending = e.pending, nil
	return *e.flying, true
}

func (e *Edge) waits() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending != nil
}

func (e *Edge) landed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flying = nil
}

// apply fetches and applies one head after the other. A newer one ends the
// fetching of an older.
func (e *Edge) apply(ctx context.Context) error {
	for {
		h, ok := e.next()
		if !ok {
			select {
			case <-e.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		err := e.one(ctx, h)
		e.landed()
		if err != nil {
			return err
		}
	}
}

func (e *Edge) one(ctx context.Context, h projector.SignedHead) error {
	fctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		snapshot *projector.Snapshot
		err      error
	}
	done := make(chan result, 1)
	begin := time.Now()
	go func() {
		s, err := e.fetch(fctx, h.Head.Fingerprint)
		done <- result{s, err}
	}()
	var r result
	for landed := false; !landed; {
		select {
		case r = <-done:
			landed = true
		case <-e.wake:
			if e.waits() { // a newer head; apply takes it next
				cancel()
			}
		}
	}
	if r.err != nil {
		if ctx.Err() == nil && fctx.Err() == nil {
			e.opts.Log.ErrorContext(ctx, "cannot fetch a snapshot, still serving the one before", slog.Uint64("generation", h.Head.Generation),
				slog.String("fingerprint", h.Head.Fingerprint.Short()), slog.Any("error", r.err))
		}
		return nil // it is offered again, or a newer one is
	}
	// Only here is it decided, for heads may have been applied since it came.
	if !Applies(e.Head(), h, e.opts.Fleet, e.opts.Ring) {
		return nil
	}
	fetched := time.Now()
	// On disk first: an edge that starts again never serves an older head than
	// its Envoys have seen.
	if err := e.opts.Store.Put(h, r.snapshot); err != nil {
		return err
	}
	stored := time.Now()
	e.cache.Offer(h, r.snapshot)
	e.opts.Log.DebugContext(ctx, "head applied", slog.Uint64("generation", h.Head.Generation), slog.Duration("fetch", fetched.Sub(begin)), slog.Duration("store", stored.Sub(fetched)), slog.Duration("offer", time.Since(stored)))
	e.generation.Set(float64(h.Head.Generation))
	e.opts.Log.InfoContext(ctx, "serving a new head", slog.String("fleet", string(h.Head.Fleet)), slog.Uint64("generation", h.Head.Generation),
		slog.String("fingerprint", h.Head.Fingerprint.Short()), slog.String("why", h.Head.Why))
	return nil
}

// fetch assembles a snapshot from what is in memory, on disk, and elsewhere.
func (e *Edge) fetch(ctx context.Context, fp projector.Fingerprint) (*projector.Snapshot, error) {
	chunks := map[ledger.Digest]*projector.Chunk{}
	if g, _ := e.cache.Current(); g != nil {
		if g.Snapshot.Fingerprint() == fp {
			return g.Snapshot, nil
		}
		for c := range g.Snapshot.Chunks() {
			chunks[c.Digest()] = c
		}
	}
	manifest, err := e.opts.Store.Manifest(fp)
	if err != nil {
		if manifest, err = try(ctx, e, "manifest of "+fp.Short(), func() ([]byte, error) {
			b, err := e.opts.Source.Manifest(ctx, fp)
			if err == nil && projector.Fingerprint(ledger.DigestOf(b)) != fp {
				return nil, fmt.Errorf("the manifest is of another snapshot: %w", projector.ErrChunk)
			}
			return b, err
		}); err != nil {
			return nil, err
		}
	}
	digests, err := projector.ManifestChunks(manifest)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards chunks while fetching
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchesAtOnce)
	missing := map[ledger.Digest]bool{} // one flight for each digest
	for _, d := range digests {
		if chunks[d] == nil {
			missing[d] = true
		}
	}
	for d := range missing {
		group.Go(func() error {
			c, err := e.chunk(gctx, d)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			chunks[d] = c
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return projector.Assemble(manifest, fp, func(d ledger.Digest) (*projector.Chunk, error) {
		c := chunks[d]
		if c == nil {
			return nil, fmt.Errorf("chunk %s: %w", d.Short(), projector.ErrChunk)
		}
		return c, nil
	})
}

func (e *Edge) chunk(ctx context.Context, d ledger.Digest) (*projector.Chunk, error) {
	if b, err := e.opts.Store.Chunk(d); err == nil {
		if c, err := projector.DecodeChunk(b, d); err == nil {
			return c, nil
		}
	}
	return try(ctx, e, "chunk "+d.Short(), func() (*projector.Chunk, error) {
		b, err := e.opts.Source.Chunk(ctx, d)
		if err != nil {
			return nil, err
		}
		return projector.DecodeChunk(b, d)
	})
}

// try repeats what fails, up to fetchTries times.
func try[T any](ctx context.Context, e *Edge, what string, f func() (T, error)) (T, error) {
	wait := fetchFirstWait
	for n := 1; ; n++ {
		v, err := f()
		if err == nil {
			e.fetched.WithLabelValues("ok").Inc()
			return v, nil
		}
		e.fetched.WithLabelValues("error").Inc()
		if n == fetchTries || !sleep(ctx, wait) {
			return v, fmt.Errorf("fetch %s, try %d: %w", what, n, err)
		}
		wait = min(2*wait, fetchLastWait)
	}
}

// save writes the live answers to disk when they changed, and once more at the
// end.
func (e *Edge) save(ctx context.Context) error {
	t := time.NewTicker(liveSaves)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := e.saveOnce(); err != nil {
				return err
			}
		case <-ctx.Done():
			return e.saveOnce()
		}
	}
}

func (e *Edge) saveOnce() error {
	e.mu.Lock()
	if !e.unsaved {
		e.mu.Unlock()
		return nil
	}
	e.unsaved = false
	answers := make([]projector.Update, 0, len(e.answers))
	for _, u := range e.answers {
		answers = append(answers, u)
	}
	e.mu.Unlock()
	return e.opts.Store.PutLive(answers)
}

// judge passes verdicts on, has acknowledged heads proven, and promotes what
// soaked.
func (e *Edge) judge(ctx context.Context) error {
	var (
		wg      sync.WaitGroup
		proofs  = map[string]context.CancelFunc{} // by node: the proof under way
		proven  = make(chan projector.Verdict)    // of kind Served
		refused = map[uint64]bool{}               // generations that some node refused since the last promotion
		soaking projector.SignedHead
		soaked  *time.Timer
	)
	defer func() {
		for _, cancel := range proofs {
			cancel()
		}
		wg.Wait()
		if soaked != nil {
			soaked.Stop()
		}
	}()
	tell := func(v projector.Verdict) {
		if e.opts.OnVerdict != nil {
			e.opts.OnVerdict(v)
		}
	}
	// settle begins the soak of what is served now.
	settle := func(v projector.Verdict) {
		h := e.Head()
		if h.Head.Generation != v.Generation || soaking.Head.Generation == v.Generation {
			return
		}
		soaking = h
		if soaked != nil {
			soaked.Stop()
		}
		soaked = time.NewTimer(e.opts.Soak)
	}
	for {
		var soak <-chan time.Time
		if soaked != nil {
			soak = soaked.C
		}
		select {
		case <-ctx.Done():
			return nil
		case v := <-e.verdicts:
			tell(v)
			switch {
			case v.Kind == projector.Nacked:
				refused[v.Generation] = true
			case v.Kind == projector.Acked && e.opts.Prober == nil:
				settle(v)
			case v.Kind == projector.Acked:
				g, _ := e.cache.Current()
				if g == nil || g.Head.Head.Generation != v.Generation {
					continue // overtaken
				}
				if cancel := proofs[v.Node]; cancel != nil {
					cancel()
				}
				pctx, cancel := context.WithCancel(ctx)
				proofs[v.Node] = cancel
				wg.Go(func() { e.prove(pctx, v, g, proven) })
			}
		case v := <-proven:
			e.served.Inc()
			tell(v)
			settle(v)
		case <-soak:
			soaked = nil
			if refused[soaking.Head.Generation] || e.Head().Head.Generation != soaking.Head.Generation {
				continue
			}
			clear(refused)
			if err := e.opts.Store.Promote(soaking); err != nil {
				return err
			}
			e.opts.Log.InfoContext(ctx, "a snapshot is a last known good one", slog.Uint64("generation", soaking.Head.Generation),
				slog.String("fingerprint", soaking.Head.Fingerprint.Short()))
		}
	}
}

// prove has one node proven to serve what it acknowledged.
func (e *Edge) prove(ctx context.Context, acked projector.Verdict, g *cache.Generation, out chan<- projector.Verdict) {
	unasked, err := e.opts.Prober.Prove(ctx, acked.Node, g)
	if err != nil {
		if ctx.Err() == nil {
			e.opts.Log.WarnContext(ctx, "an envoy acknowledged what it is not proven to serve", slog.String("node", acked.Node),
				slog.Uint64("generation", acked.Generation), slog.Any("error", err))
		}
		return
	}
	v := acked
	v.Kind = projector.Served
	if len(unasked) > 0 {
		v.Message = fmt.Sprintf("%d route tables could not be asked from outside (client certificate, QUIC or no sentinel), such as %s; nothing is warming", len(unasked), unasked[0])
	}
	select {
	case out <- v:
	case <-ctx.Done():
	}
}
