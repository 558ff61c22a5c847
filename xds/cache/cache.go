package cache

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Options configure a cache.
type Options struct {
	// Edge is the name that verdicts carry.
	Edge string
	// OnVerdict is told of each verdict (Acked and Nacked), once for each node
	// and head. It is called from the streams' goroutines and must not block.
	OnVerdict func(projector.Verdict)
	// OnConnect is told of each node that connects; fresh says that it has
	// nothing yet. It must not block. Nil: nobody is told.
	OnConnect func(node string, fresh bool)
	// WarmLimit bounds how long routes wait for upstreams that do not get
	// warm. Zero means DefaultWarmLimit.
	WarmLimit time.Duration
	// Metrics counts what the cache does; nil: nothing is counted.
	Metrics *Metrics
	// Log receives what an operator would want to know. Nil: slog.Default.
	Log *slog.Logger
}

// DefaultWarmLimit is how long routes wait for upstreams to get warm.
const DefaultWarmLimit = 5 * time.Second

// Metrics are the counters of all caches of a process.
type Metrics struct {
	nacks     *prometheus.CounterVec
	responses *prometheus.CounterVec
	resources *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	streams   prometheus.Gauge
	behind    prometheus.Gauge
}

// NewMetrics registers the metrics. It fails if they are registered already.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	byType := []string{"type"}
	m := &Metrics{
		nacks:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_xds_nack_total", Help: "Responses that an Envoy refused."}, byType),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_xds_responses_total", Help: "Responses sent to Envoys."}, byType),
		resources: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_xds_resources_total", Help: "Resources sent to Envoys, removals included."}, byType),
		bytes:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chancery_xds_sent_bytes_total", Help: "Bytes of resources sent to Envoys."}, byType),
		streams:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "chancery_xds_streams", Help: "Envoys connected."}),
		behind:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "chancery_xds_streams_behind", Help: "Streams with a newer generation waiting; each has at most one."}),
	}
	for _, c := range []prometheus.Collector{m.nacks, m.responses, m.resources, m.bytes, m.streams, m.behind} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// maxNodes bounds how many nodes' refusals are remembered.
const maxNodes = 4096

// Cache serves one fleet. Its methods may be called from any goroutine.
type Cache struct {
	opts   Options
	empty  *projector.Snapshot
	deltas transitions

	mu      sync.Mutex // guards what follows; no stream's lock is taken under it
	builder *builder
	current *Generation   // nil until there is one
	changed chan struct{} // closed when current changes
	good    *Generation   // the newest that an Envoy acknowledged whole
	// spare keeps the last good generation's answers current while some node
	// that refused a newer head is served with it; else nil.
	spare    *builder
	streams  map[*Stream]struct{}
	refusals map[string]key // the last head that a node refused
}

// New returns a cache that serves nothing yet.
func New(opts Options) *Cache {
	if opts.WarmLimit == 0 {
		opts.WarmLimit = DefaultWarmLimit
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	if opts.Metrics == nil {
		// Counted, but shown nowhere.
		opts.Metrics, _ = NewMetrics(prometheus.NewRegistry())
	}
	return &Cache{
		opts: opts, empty: projector.EmptySnapshot(), builder: newBuilder(),
		changed: make(chan struct{}),
		streams: map[*Stream]struct{}{}, refusals: map[string]key{},
	}
}

// Offer makes a generation of the head's snapshot and the live updates, and
// serves it. The caller vouches that the head is to be served: that it is
// signed and newer is not checked here.
func (c *Cache) Offer(head projector.SignedHead, snapshot *projector.Snapshot, live ...projector.Update) *Generation {
	c.mu.Lock()
	g := c.turn(head, snapshot, live)
	streams := c.list()
	c.mu.Unlock()
	for _, s := range streams {
		s.advance()
	}
	return g
}

// Answer makes a generation of the current head and the updates of the live
// plane: under projector.EndpointNeeds marshalled ClusterLoadAssignments by
// the names of their endpoint sets, under projector.SecretNeeds marshalled
// Secrets. Answers that nothing needs yet are kept. It returns the generation,
// nil while there is no head.
func (c *Cache) Answer(updates ...projector.Update) *Generation {
	c.mu.Lock()
	if c.current == nil {
		c.builder.live = c.builder.live.With(updates)
		c.mu.Unlock()
		return nil
	}
	before := c.builder.wire
	g := c.turn(c.current.Head, c.current.Snapshot, updates)
	var streams []*Stream
	if g.wire != before {
		streams = c.list()
	}
	c.mu.Unlock()
	for _, s := range streams {
		s.advance()
	}
	return g
}

// turn makes the next generation. The caller holds c.mu.
func (c *Cache) turn(head projector.SignedHead, snapshot *projector.Snapshot, live []projector.Update) *Generation {
	c.builder.turn(snapshot, live)
	g := &Generation{Serial: 1, Head: head, Snapshot: snapshot, wire: c.builder.wire, fronts: c.builder.fronts}
	if c.current != nil {
		g.Serial = c.current.Serial + 1
		if g.wire == c.current.wire && g.key() == c.current.key() {
			return c.current
		}
		if g.key() != c.current.key() {
			c.spare = nil // a head that nobody refused yet
		}
	}
	if c.spare != nil {
		c.spare.turn(c.good.Snapshot, live)
		c.good = &Generation{
			Serial: g.Serial, Head: c.good.Head, Snapshot: c.good.Snapshot,
			wire: c.spare.wire, fronts: c.spare.fronts,
		}
	}
	c.current = g
	close(c.changed)
	c.changed = make(chan struct{})
	return g
}

// list returns the streams. The caller holds c.mu.
func (c *Cache) list() []*Stream {
	streams := make([]*Stream, 0, len(c.streams))
	for s := range c.streams {
		streams = append(streams, s)
	}
	return streams
}

// Current returns what is served, nil if nothing is, and a channel that is
// closed when that changes.
func (c *Cache) Current() (*Generation, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, c.changed
}

// target returns what a node is to be served now: the current generation, or
// the last good one if it refused the current head before and there is a good
// one.
func (c *Cache) target(node string) (g *Generation, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil {
		return nil, false
	}
	k, ok := c.refusals[node]
	if !ok || k != c.current.key() || c.good == nil || c.good.key() == k {
		return c.current, false
	}
	return c.good, true
}

// refuse remembers that a node refused a head. A refusal of an older head, such
// as of the last good one itself, changes nothing: there is nothing to fall
// back to.
func (c *Cache) refuse(node string, k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == nil || k != c.current.key() {
		return
	}
	if len(c.refusals) >= maxNodes {
		clear(c.refusals) // the price is one more refusal by each
	}
	c.refusals[node] = k
	if c.good == nil || c.good.key() == k || c.spare != nil {
		return
	}
	c.spare = newBuilder()
	c.spare.live = c.builder.live
	c.spare.turn(c.good.Snapshot, nil)
	c.good = &Generation{
		Serial: c.current.Serial, Head: c.good.Head, Snapshot: c.good.Snapshot,
		wire: c.spare.wire, fronts: c.spare.fronts,
	}
}

// accept remembers the newest generation that was acknowledged whole. While
// the last good one is served in place of a refused one it stays: part of the
// fleet refuses what another part acknowledged.
func (c *Cache) accept(g *Generation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spare == nil && (c.good == nil || g.Serial > c.good.Serial) {
		c.good = g
	}
}

// Node is what is known of a connected Envoy.
type Node struct {
	// ID is what the registry calls it, or what it calls itself.
	ID string
	// Fleet is the fleet whose head it was offered.
	Fleet ledger.FleetName
	// Generation and Fingerprint are of the head that it acknowledged last,
	// zero if none.
	Generation  uint64
	Fingerprint projector.Fingerprint
	// Settled says that it acknowledged all of what is served now, endpoints
	// and secrets included.
	Settled bool
	// Refused says that it refused the head that is served now.
	Refused bool
}

// Nodes returns the connected Envoys, in no order.
func (c *Cache) Nodes() []Node {
	c.mu.Lock()
	streams := c.list()
	c.mu.Unlock()
	nodes := make([]Node, 0, len(streams))
	for _, s := range streams {
		nodes = append(nodes, s.describe())
	}
	return nodes
}

// Open returns the state of a new stream: the cache and the callbacks that
// go-control-plane's delta server is given for it. The node's name is that of
// the registry; "" takes the one that the Envoy gives itself, as a label. The
// stream ends when the server tells it so, by OnDeltaStreamClosed.
func (c *Cache) Open(node string) *Stream {
	s := &Stream{cache: c, node: node}
	for t := range s.lanes {
		s.lanes[t].typ = projector.ResourceType(t)
		s.lanes[t].at = c.empty
	}
	c.mu.Lock()
	c.streams[s] = struct{}{}
	c.mu.Unlock()
	c.opts.Metrics.streams.Inc()
	return s
}

func (c *Cache) close(s *Stream) {
	c.mu.Lock()
	_, ok := c.streams[s]
	delete(c.streams, s)
	c.mu.Unlock()
	if ok {
		c.opts.Metrics.streams.Dec()
	}
}
