package cache

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	gcp "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	deltaserver "github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"

	"github.com/chancery-dev/chancery/projector"
)

// ErrStateOfTheWorld refuses a client that does not speak the delta protocol.
// An Envoy asks again for a state of the world that it refused, in a hot loop.
var ErrStateOfTheWorld = errors.New("this server speaks delta xDS only: set api_type to DELTA_GRPC in ads_config")

// Stream is one Envoy's stream. It holds where the Envoy is: for each type
// which set of resources it was brought to, and what differs from that.
type Stream struct {
	cache *Cache

	mu      sync.Mutex // guards what follows; the cache's may be taken under it
	node    string     // set at the latest by the first request
	known   bool       // there was a first request
	lanes   [numTypes]lane
	target  *Generation // what upstreams, listeners and routes are on their way to
	acked   key         // the head that was acknowledged last
	nacked  key         // the head that was refused last
	settled bool        // all of what is served was acknowledged
	behind  bool        // counted in the metric
	// timer runs while the upstreams are unanswered; waited says it rang.
	timer  *time.Timer
	waited bool
	closed bool
	told   []projector.Verdict // to be passed on without the lock
}

var (
	_ gcp.Cache             = (*Stream)(nil)
	_ deltaserver.Callbacks = (*Stream)(nil)
)

// lane is a stream's state for one type.
type lane struct {
	typ  projector.ResourceType
	open bool
	// watch is the request that waits for news, nil while there is none. Each
	// is answered at most once.
	watch *watch
	// at is the set that the client was brought to: of the names that it
	// subscribes it was sent these versions, except for
	at *projector.Snapshot
	// owed, which it is to be sent whatever the version,
	owed map[string]struct{}
	// and lingering, which it has and which are to be removed.
	lingering map[string]struct{}
	// first are the versions that a reconnecting client said it has, until
	// there is something to compare them with; started says that was done.
	first   map[string]string
	started bool
	// greeting says that a client that asked for everything and has nothing is
	// to be told even that there is nothing: it waits for a first response.
	greeting bool
	// unanswered is what remains of first: versions of what is needed but has
	// no answer of the live plane yet. Unknown is not gone.
	unanswered map[string]string
	// sent are the unanswered responses, oldest first.
	sent []*response
	// acked is the generation that was last acknowledged, nil if none was.
	acked *Generation
	// refused is the set that was refused last, of a live type.
	refused *projector.Snapshot
	// doubted are the names in refused responses that there was nothing better
	// to put in place of: what the client has of them is unknown.
	doubted []string
}

type watch struct {
	req *discovery.DeltaDiscoveryRequest
	sub gcp.Subscription
	ch  chan gcp.DeltaResponse
}

// subscribes reports whether the client wants to have the resource. There must
// be a watch.
func (l *lane) subscribes(name string) bool {
	if l.watch.sub.IsWildcard() {
		return true
	}
	_, ok := l.watch.sub.SubscribedResources()[name]
	return ok
}

func (l *lane) live() bool {
	return l.typ == projector.EndpointNeeds || l.typ == projector.SecretNeeds
}

func (l *lane) ready() bool { return l.watch != nil && len(l.sent) == 0 }

func (l *lane) owe(name string) {
	if l.owed == nil {
		l.owed = map[string]struct{}{}
	}
	l.owed[name] = struct{}{}
}

func (l *lane) linger(name string) {
	if l.lingering == nil {
		l.lingering = map[string]struct{}{}
	}
	l.lingering[name] = struct{}{}
}

// response is what the server sends for a watch. The resources are in it as
// bytes that all streams share; nonce and type are its own.
type response struct {
	req   *discovery.DeltaDiscoveryRequest
	msg   *discovery.DeltaDiscoveryResponse
	names []string // of the resources in it, removals included
	to    *Generation
	wire  *projector.Snapshot
}

var _ gcp.DeltaResponse = (*response)(nil)

// GetDeltaDiscoveryResponse returns the message, which the server adds the
// nonce to.
func (r *response) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	return r.msg, nil
}

// GetDeltaRequest returns the request that is answered.
func (r *response) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return r.req }

// GetSystemVersion returns the fingerprint.
func (r *response) GetSystemVersion() (string, error) { return r.msg.GetSystemVersionInfo(), nil }

// GetResponseVersion returns the fingerprint.
func (r *response) GetResponseVersion() string { return r.msg.GetSystemVersionInfo() }

// GetNextVersionMap returns an empty map: the stream itself knows what its
// client has, and the server writes into the map.
func (r *response) GetNextVersionMap() map[string]string { return map[string]string{} }

// GetReturnedResources returns an empty map, as GetNextVersionMap.
func (r *response) GetReturnedResources() map[string]string { return map[string]string{} }

// GetContext returns no context of its own.
func (r *response) GetContext() context.Context { return context.Background() }

// CreateWatch refuses the state-of-the-world protocol.
func (s *Stream) CreateWatch(*gcp.Request, gcp.Subscription, chan gcp.Response) (func(), error) {
	return nil, ErrStateOfTheWorld
}

// Fetch refuses the REST protocol.
func (s *Stream) Fetch(context.Context, *gcp.Request) (gcp.Response, error) {
	return nil, ErrStateOfTheWorld
}

// OnDeltaStreamOpen does nothing: the stream was opened by Cache.Open.
func (s *Stream) OnDeltaStreamOpen(context.Context, int64, string) error { return nil }

// OnDeltaStreamClosed ends the stream.
func (s *Stream) OnDeltaStreamClosed(int64, *corev3.Node) {
	s.mu.Lock()
	s.closed = true
	s.rest()
	for t := range s.lanes {
		s.lanes[t].watch = nil
	}
	if s.behind {
		s.behind = false
		s.cache.opts.Metrics.behind.Dec()
	}
	s.mu.Unlock()
	s.cache.close(s)
}

// OnStreamDeltaResponse notes the nonce that the server gave to a response.
// The client's answer cannot come before.
func (s *Stream) OnStreamDeltaResponse(int64, *discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse) {
	// The response on its way is the very message in lane.sent, so its nonce
	// is there already.
}

// OnStreamDeltaRequest takes the answer to a response, if the request is one.
// The server creates the type's watch right after.
func (s *Stream) OnStreamDeltaRequest(_ int64, req *discovery.DeltaDiscoveryRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known {
		s.known = true
		if s.node == "" {
			s.node = req.GetNode().GetId()
		}
		if s.cache.opts.OnConnect != nil {
			s.cache.opts.OnConnect(s.node, len(req.GetInitialResourceVersions()) == 0)
		}
	}
	t, ok := typeOf(req.GetTypeUrl())
	if !ok || req.GetResponseNonce() == "" {
		return nil
	}
	l := &s.lanes[t]
	i := slices.IndexFunc(l.sent, func(r *response) bool { return r.msg.GetNonce() == req.GetResponseNonce() })
	if i < 0 {
		return nil // an answer to what was answered before
	}
	r := l.sent[i]
	l.sent = slices.Delete(l.sent, 0, i+1)
	if t == projector.Upstreams {
		s.rest()
	}
	if detail := req.GetErrorDetail(); detail != nil {
		s.refuse(l, r, detail.GetMessage())
		return nil
	}
	l.acked = r.to
	return nil
}

// rest stops the wait for the upstreams.
func (s *Stream) rest() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	s.waited = false
}

// maxNamed bounds the resources that a verdict names.
const maxNamed = 100

// refuse takes a NACK. What was in the response may be applied in part.
func (s *Stream) refuse(l *lane, r *response, message string) {
	m := s.cache.opts.Metrics
	m.nacks.WithLabelValues(l.typ.String()).Inc()
	k := r.to.key()
	if s.nacked != k {
		s.nacked = k
		for _, name := range r.names {
			if _, ok := r.wire.Get(l.typ, name); !ok {
				l.linger(name) // it was to be removed and may still be there; tried once more
			}
		}
		s.told = append(s.told, projector.Verdict{
			Fleet: r.to.Head.Head.Fleet, Edge: s.cache.opts.Edge, Node: s.node, Kind: projector.Nacked,
			Generation: k.generation, Fingerprint: k.fingerprint,
			Type: l.typ, Resources: named(r.names, message), Message: message,
		})
	}
	s.cache.opts.Log.Warn("envoy refused a response", slog.String("node", s.node), slog.String("type", l.typ.String()),
		slog.Uint64("generation", k.generation), slog.String("fingerprint", k.fingerprint.Short()), slog.String("message", message))
	if l.live() {
		// The answers of the live plane have no head to go back to: what was
		// acknowledged before is sent again, until they change.
		l.refused = r.wire
		return
	}
	s.cache.refuse(s.node, k)
	next, _ := s.cache.target(s.node)
	// Nobody knows which part of the response was applied, so all of it is sent
	// once more as it is to be.
	l.doubted = append(l.doubted, r.names...)
	if next.key() == k {
		return // there is nothing better yet
	}
	// At once, also to a newer head: what follows in the refused one relies on
	// what was refused.
	s.turn(next)
}

// turn makes g what upstreams, listeners and routes are on their way to. What
// a refusal left unknown is sent once more for another head: with equal content
// there would be nothing to send, and silence would pass for consent.
func (s *Stream) turn(g *Generation) {
	s.target = g
	if g.key() == s.nacked {
		return
	}
	for t := range s.lanes {
		l := &s.lanes[t]
		for _, name := range l.doubted {
			if _, ok := g.wire.Get(l.typ, name); ok {
				l.owe(name)
			} else {
				l.linger(name)
			}
		}
		l.doubted = nil
	}
}

// named returns the names that the message mentions, else all.
func named(names []string, message string) []string {
	var hit []string
	for _, n := range names {
		if strings.Contains(message, n) {
			hit = append(hit, n)
		}
	}
	if len(hit) == 0 {
		hit = names
	}
	return slices.Clone(hit[:min(len(hit), maxNamed)])
}

// CreateDeltaWatch opens the watch of a type. The server calls it after each
// request, from one goroutine for each stream.
func (s *Stream) CreateDeltaWatch(req *gcp.DeltaRequest, sub gcp.Subscription, ch chan gcp.DeltaResponse) (func(), error) {
	t, ok := typeOf(req.GetTypeUrl())
	if !ok {
		return nil, nil // a type that we have nothing of
	}
	w := &watch{req: req, sub: sub, ch: ch}
	s.mu.Lock()
	l := &s.lanes[t]
	l.watch = w
	if !l.open {
		l.open = true
		l.first = req.GetInitialResourceVersions()
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		delete(l.owed, name)
		delete(l.lingering, name)
		if sub.IsWildcard() && name != "*" {
			l.owe(name) // the protocol wants it sent once more
		}
	}
	if l.started {
		for _, name := range req.GetResourceNamesSubscribe() {
			if name != "*" {
				l.owe(name)
			}
		}
	}
	s.mu.Unlock()
	s.advance()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.watch == w {
			l.watch = nil
		}
	}, nil
}

// advance sends what can be sent now.
func (s *Stream) advance() {
	s.mu.Lock()
	s.run()
	told := s.told
	s.told = nil
	s.mu.Unlock()
	if s.cache.opts.OnVerdict != nil {
		for _, v := range told {
			s.cache.opts.OnVerdict(v)
		}
	}
}

// run takes steps until there is none to take. Each either sends or finds
// that there is nothing to send, so the loop ends.
func (s *Stream) run() {
	for !s.closed {
		want, refused := s.cache.target(s.node)
		if want == nil {
			return
		}
		if s.target == nil {
			s.target = want
		}
		step := Next(s.facts(want))
		if step.Settled {
			s.finish(want)
			if s.target != want {
				// Before endpoints are sent: those of changed upstreams come
				// after the upstreams.
				s.turn(want)
				continue
			}
		}
		for _, x := range step.Send {
			s.send(x, want)
		}
		if len(step.Send) > 0 {
			continue
		}
		s.settled = step.Settled && !refused && s.whole(want)
		if behind := s.target != want; behind != s.behind {
			s.behind = behind
			if behind {
				s.cache.opts.Metrics.behind.Inc()
			} else {
				s.cache.opts.Metrics.behind.Dec()
			}
		}
		return
	}
}

// towards returns the set that a lane is on its way to.
func (s *Stream) towards(l *lane, want *Generation) *Generation {
	if !l.live() {
		return s.target
	}
	if l.refused == want.wire && l.acked != nil {
		return l.acked
	}
	return want
}

// facts prepares each lane and says where it is.
func (s *Stream) facts(want *Generation) Facts {
	f := Facts{WaitedEnough: s.waited}
	for t := range s.lanes {
		l := &s.lanes[t]
		if !l.open {
			continue
		}
		to := s.towards(l, want).wire
		if l.watch != nil && !l.started {
			l.start(s.towards(l, want))
		}
		if l.at != to && len(l.owed) == 0 {
			d := s.cache.deltas.between(l.at, to, l.typ)
			if len(d.changed) == 0 && len(d.removed) == 0 {
				l.at = to
			}
		}
		f.Lanes[t] = Lane{
			Open: true, Ready: l.ready(),
			Behind:    l.at != to || len(l.owed) > 0 || l.greeting,
			Lingering: len(l.lingering) > 0 && (!l.live() || s.target == want),
		}
	}
	return f
}

// start compares what the client said that it has with what it should have.
func (l *lane) start(g *Generation) {
	to := g.wire
	l.started = true
	first := l.first
	l.first = nil
	wildcard := l.watch.sub.IsWildcard()
	if wildcard && len(first) == 0 {
		l.greeting = true
		return // all of it, from the shared delta
	}
	l.at = to
	stale := func(r projector.Resource) {
		if first[r.Name] != version(r.Version) {
			l.owe(r.Name)
		}
	}
	if wildcard {
		for r := range to.All(l.typ) {
			stale(r)
		}
	}
	for name := range l.watch.sub.SubscribedResources() {
		if r, ok := to.Get(l.typ, name); ok {
			stale(r)
		} else {
			l.owe(name) // it may be in the generation that the client is still at
		}
	}
	for name, v := range first {
		if _, ok := to.Get(l.typ, name); ok {
			continue
		}
		if _, needed := g.Snapshot.Get(l.typ, name); !needed {
			l.linger(name)
			continue
		}
		if l.unanswered == nil {
			l.unanswered = map[string]string{}
		}
		l.unanswered[name] = v
		delete(l.owed, name)
	}
}

// send sends one thing, or finds that there is nothing to send.
func (s *Stream) send(x Send, want *Generation) {
	l := &s.lanes[x.Type]
	if x.Removals {
		names := slices.Sorted(maps.Keys(l.lingering))
		l.lingering = nil
		s.push(l, s.towards(l, want), nil, nil, names)
		return
	}
	to := s.towards(l, want)
	d := s.cache.deltas.between(l.at, to.wire, l.typ)
	var (
		wire  []byte
		names []string
		all   = l.watch.sub.IsWildcard()
	)
	names = make([]string, 0, len(d.changed)+len(l.owed))
	for _, c := range d.changed {
		delete(l.owed, c.name)
		delete(l.lingering, c.name)
		if !all && !l.subscribes(c.name) {
			continue
		}
		if had, ok := l.unanswered[c.name]; ok {
			delete(l.unanswered, c.name)
			if r, _ := to.wire.Get(l.typ, c.name); version(r.Version) == had {
				continue
			}
		}
		names = append(names, c.name)
		if !all {
			wire = append(wire, c.wire...)
		}
	}
	if all {
		wire = d.all
	}
	for _, name := range d.removed {
		l.linger(name)
	}
	endpoints := d.endpoints
	if len(l.owed) > 0 {
		wire = slices.Clip(wire) // never write behind what streams share
	}
	for _, name := range slices.Sorted(maps.Keys(l.owed)) {
		if !l.subscribes(name) {
			continue
		}
		r, ok := to.wire.Get(l.typ, name)
		if !ok && l.live() {
			r, ok = s.target.wire.Get(l.typ, name)
		}
		if !ok {
			continue // asked for before it exists; it is sent when it does
		}
		wire = encode(wire, l.typ, r)
		names = append(names, name)
		delete(l.lingering, name)
		if e, ok := endpointsOf(r); l.typ == projector.Upstreams && ok {
			endpoints = append(slices.Clip(endpoints), e)
		}
	}
	l.owed = nil
	l.at = to.wire
	var removed []string
	if l.typ == projector.Listeners {
		removed = slices.Sorted(maps.Keys(l.lingering))
		l.lingering = nil
	}
	sent := s.push(l, to, wire, names, removed)
	if !sent || l.typ != projector.Upstreams {
		return
	}
	// A changed upstream starts without endpoints and does not ask for what it
	// is subscribed to already.
	if e := &s.lanes[projector.EndpointNeeds]; e.open {
		for _, name := range endpoints {
			e.owe(name)
		}
	}
	s.rest()
	s.timer = time.AfterFunc(s.cache.opts.WarmLimit, func() { s.overdue(to) })
}

// overdue stops the wait for upstreams that do not get warm.
func (s *Stream) overdue(to *Generation) {
	s.mu.Lock()
	late := !s.closed && len(s.lanes[projector.Upstreams].sent) > 0
	if late {
		s.waited = true
		s.cache.opts.Log.Warn("upstreams stay cold, sending routes without waiting longer",
			slog.String("node", s.node), slog.Uint64("generation", to.Head.Head.Generation), slog.String("fingerprint", to.Snapshot.Fingerprint().Short()))
	}
	s.mu.Unlock()
	if late {
		s.advance()
	}
}

// push answers the lane's watch, and reports whether there was anything to
// answer it with.
func (s *Stream) push(l *lane, to *Generation, wire []byte, names, removed []string) bool {
	if !l.watch.sub.IsWildcard() {
		removed = slices.DeleteFunc(removed, func(n string) bool { return !l.subscribes(n) })
	}
	if len(names) == 0 && len(removed) == 0 && !l.greeting {
		return false
	}
	l.greeting = false
	if len(removed) > 0 {
		wire = slices.Clip(wire)
		for _, n := range removed {
			wire = appendRemoved(wire, n)
		}
		names = append(slices.Clip(names), removed...)
	}
	msg := &discovery.DeltaDiscoveryResponse{
		SystemVersionInfo: to.Snapshot.Fingerprint().Short(),
		TypeUrl:           urls[l.typ],
	}
	// Bytes set as unknown fields are written out as they are. They are the
	// fields resources and removed_resources, which every receiver knows.
	msg.ProtoReflect().SetUnknown(wire)
	r := &response{req: l.watch.req, msg: msg, names: names, to: to, wire: to.wire}
	select {
	case l.watch.ch <- r:
	default:
		// The server has room for two responses of each type and takes them
		// out before it lets a watch be opened.
		panic("xds: no room for the response to a " + l.typ.String() + " watch")
	}
	l.watch = nil
	l.sent = append(l.sent, r)
	m, label := s.cache.opts.Metrics, l.typ.String()
	m.responses.WithLabelValues(label).Inc()
	m.resources.WithLabelValues(label).Add(float64(len(names)))
	m.bytes.WithLabelValues(label).Add(float64(len(wire)))
	return true
}

// whole reports whether the client acknowledged everything of the generation
// and asked for everything in it that its listeners refer to.
func (s *Stream) whole(g *Generation) bool {
	for _, t := range []projector.ResourceType{projector.Upstreams, projector.Listeners, projector.Routes} {
		l := &s.lanes[t]
		if !l.open && g.wire.Len(t) > 0 && t != projector.Routes {
			return false
		}
		if l.open && (!l.ready() || l.at != s.target.wire || len(l.owed) > 0) {
			return false
		}
	}
	for _, t := range []projector.ResourceType{projector.EndpointNeeds, projector.SecretNeeds} {
		l := &s.lanes[t]
		past := l.acked != nil && l.acked.Serial >= g.Serial
		if l.open && !past && (len(l.sent) > 0 || len(l.owed) > 0) {
			return false
		}
	}
	tables := g.tables()
	if len(tables) == 0 {
		return true
	}
	routes := &s.lanes[projector.Routes]
	if !routes.open {
		return false
	}
	for _, table := range tables {
		if !routes.subscribes(table) {
			return false
		}
	}
	return true
}

// finish tells that the target was acknowledged, if it was.
func (s *Stream) finish(want *Generation) {
	g := s.target
	k := g.key()
	if k == s.nacked || !s.whole(g) {
		return
	}
	s.cache.accept(g)
	if k == s.acked || want.key() != k && s.acked.generation > k.generation {
		return
	}
	s.acked = k
	s.told = append(s.told, projector.Verdict{
		Fleet: g.Head.Head.Fleet, Edge: s.cache.opts.Edge, Node: s.node, Kind: projector.Acked,
		Generation: k.generation, Fingerprint: k.fingerprint,
	})
}

// describe returns what is known of the node.
func (s *Stream) describe() Node {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := Node{ID: s.node, Generation: s.acked.generation, Fingerprint: s.acked.fingerprint, Settled: s.settled}
	want, refused := s.cache.target(s.node)
	if want != nil {
		n.Fleet = want.Head.Head.Fleet
		// What the stream last ran with may be older than what is served now.
		n.Settled = n.Settled && s.target == want
	}
	n.Refused = refused
	return n
}

// LogValue shows the node, for slog.
func (s *Stream) LogValue() slog.Value {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slog.StringValue(s.node)
}
