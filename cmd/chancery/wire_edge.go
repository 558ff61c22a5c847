package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/live"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/natsstream"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/projector/shelf"
	"github.com/chancery-dev/chancery/xds"
	"github.com/chancery-dev/chancery/xds/process"
)

// edgeName is the name of the edge that runs in the same process as the hub.
const edgeName = "local"

// envoyNode is the node id of the Envoy that serve starts.
const envoyNode = "envoy-" + edgeName

// edgeParts are an edge server with the Envoy that it feeds.
type edgeParts struct {
	*xds.Edge
	name  string
	conn  *natsstream.Conn
	store *xds.Store
	envoy *process.Process
	admin *process.Admin
	log   *slog.Logger

	mu       sync.Mutex
	verdicts map[string]federation.EnvoyStatus // by node; guarded by mu
	problems []string                          // guarded by mu
	hosts    map[string]string                 // of Envoys that connect by TCP, by node; guarded by mu
	changed  chan struct{}                     // something to tell the hub
}

func (e *edgeParts) close() error {
	if e.conn != nil {
		e.conn.Close()
	}
	if e.admin != nil {
		e.admin.Close()
	}
	if e.store != nil {
		return e.store.Close()
	}
	return nil
}

// edgeSoak is how long the edge serves a snapshot before it trusts it.
const edgeSoak = 30 * time.Second

// openEdge opens what the edge has on disk.
func (in *install) openEdge(ctx context.Context) error {
	e := &edgeParts{name: edgeName, verdicts: map[string]federation.EnvoyStatus{}, hosts: map[string]string{}, changed: make(chan struct{}, 1), log: in.log}
	in.edge = e
	var err error
	if e.store, err = xds.OpenStore(in.edgeDir(), in.hubKey()); err != nil {
		return err
	}
	for _, f := range e.store.SetAside() {
		in.log.WarnContext(ctx, "a damaged file of the edge was set aside; its content is fetched again", slog.String("file", f))
	}
	return nil
}

func (in *install) edgeDir() string { return filepath.Join(in.cfg.Data, "edge") }

// seenTerm returns the term of the head that the edge has on disk, 0 for none.
func (e *edgeParts) seenTerm() (uint64, error) {
	head, _, err := e.store.Load()
	if errors.Is(err, xds.ErrNothingStored) {
		return 0, nil
	}
	return head.Term, err
}

// startEdge serves Envoys from what is on disk, and then from what the hub
// records.
func (in *install) startEdge(ctx context.Context, g *errgroup.Group) error {
	e, dir := in.edge, in.edgeDir()
	var err error
	prober := &xds.Prober{Reach: e.reach}
	if in.cfg.Envoy != "" {
		e.admin = process.NewAdmin(filepath.Join(dir, "envoy", "admin.sock"))
		prober.Warming = e.warming
	}
	e.Edge, err = xds.NewEdge(xds.EdgeOptions{
		Name: e.name, Fleet: federation.DefaultFleet, Ring: federation.DefaultRing, Hub: in.hubKey(),
		Source: shelfSource{in.hub.shelf}, Store: e.store, Prober: prober, OnVerdict: e.verdict,
		Soak: edgeSoak, Metrics: in.registry, Log: in.log,
	})
	if err != nil {
		return err
	}
	if e.conn, err = natsstream.Connect(natsstream.ConnectOptions{Name: "edge-" + e.name, Server: in.nats, Logger: in.log}); err != nil {
		return err
	}
	if err := in.serveXDS(ctx, g, dir); err != nil {
		return err
	}
	g.Go(func() error { return e.Run(ctx) })
	g.Go(func() error { return e.tellHub(ctx) })
	if err := in.hearHeads(ctx, g); err != nil {
		return err
	}
	if err := in.startLive(ctx, g); err != nil {
		return err
	}
	if in.cfg.Envoy == "" {
		return nil
	}
	bootstrap, err := envoy.BootstrapADS(envoy.ADSOptions{
		NodeID: envoyNode, NodeCluster: string(federation.DefaultFleet), Socket: filepath.Join(dir, "xds.sock"),
		Admin: envoy.Admin{Socket: filepath.Join(dir, "envoy", "admin.sock")}, InitialFetch: 15 * time.Second,
	})
	if err != nil {
		return err
	}
	e.envoy, err = process.New(process.Options{
		Binary: in.cfg.Envoy, Dir: filepath.Join(dir, "envoy"), Bootstrap: bootstrap,
		Concurrency: in.cfg.Concurrency, Keep: in.cfg.KeepEnvoy, Log: in.log,
	})
	if err != nil {
		return err
	}
	g.Go(func() error { return e.envoy.Run(ctx) })
	return nil
}

// serveXDS opens the edge to its own Envoy by a Unix socket, and to others by
// mutual TLS.
func (in *install) serveXDS(ctx context.Context, g *errgroup.Group, dir string) error {
	socket, err := xds.ListenUnix(filepath.Join(dir, "xds.sock"))
	if err != nil {
		return err
	}
	g.Go(func() error {
		return xds.Serve(ctx, xds.Endpoint{Listener: socket, Registry: xds.Only(in.edge.Cache(), envoyNode)})
	})
	if in.cfg.XDS == "" {
		return nil
	}
	keeper, err := in.authority.Keep(pki.Edge, in.edge.name, localNames(in.cfg.XDS), certLifetime)
	if err != nil {
		return err
	}
	l, err := listen("xDS", "--xds", in.cfg.XDS)
	if err != nil {
		return err
	}
	g.Go(func() error { keeper.Run(ctx, time.Hour, in.log); return nil })
	g.Go(func() error {
		return xds.Serve(ctx, xds.Endpoint{
			Listener: l, TLS: keeper.ServerTLS(pki.Envoy), Registry: xds.ByCertificate(in.edge.peer),
		})
	})
	return nil
}

// peer says who connects by TCP: its certificate names it, and it is asked for
// proof at the address that it comes from.
func (e *edgeParts) peer(state tls.ConnectionState, from net.Addr) (xds.Peer, error) {
	id, err := pki.PeerOf(state)
	if err != nil {
		return xds.Peer{}, err
	}
	if id.Name == envoyNode {
		return xds.Peer{}, fmt.Errorf("the name %s is that of this edge's own Envoy; issue the certificate for another", id.Name)
	}
	host, _, err := net.SplitHostPort(from.String())
	if err != nil {
		return xds.Peer{}, fmt.Errorf("peer address: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hosts[id.Name] = host
	return xds.Peer{Cache: e.Cache(), Node: id.Name}, nil
}

// reach returns where a node's listeners are: its own Envoy binds what the
// listeners say.
func (e *edgeParts) reach(node string) (host string, ok bool) {
	if node == envoyNode {
		return "", true
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	host, ok = e.hosts[node]
	return host, ok
}

// warming asks the edge's own Envoy; of others the acknowledgement, which an
// Envoy holds back while upstreams are warming, has to do.
func (e *edgeParts) warming(ctx context.Context, node string) (int, error) {
	if node != envoyNode {
		return 0, nil
	}
	return e.admin.Warming(ctx)
}

// shelfSource lets the edge fetch from the shelf of the hub in its process.
type shelfSource struct{ *shelf.Shelf }

// Manifest returns a snapshot's manifest.
func (s shelfSource) Manifest(_ context.Context, fp projector.Fingerprint) ([]byte, error) {
	return s.Shelf.Manifest(fp)
}

// Chunk returns a chunk's encoding.
func (s shelfSource) Chunk(_ context.Context, d ledger.Digest) ([]byte, error) {
	return s.Shelf.Chunk(d)
}

// hearHeads offers the edge every head that it hears of, and asks when it has
// heard of none for a while.
func (in *install) hearHeads(ctx context.Context, g *errgroup.Group) error {
	offer := func(b []byte) {
		var s projector.SignedHead
		err := json.Unmarshal(b, &s)
		if err == nil && s.Seq == 0 {
			return // nothing is recorded yet
		}
		if err == nil {
			s, err = projector.OpenHead(s.Record, s.Seq, in.hubKey())
		}
		if err == nil {
			err = in.edge.Offer(s)
		}
		if err != nil {
			in.log.WarnContext(ctx, "a head was refused", slog.Any("err", err))
		}
	}
	sub, err := in.edge.conn.Subscribe(headSubject+string(federation.DefaultFleet), func(m *nats.Msg) { offer(m.Data) })
	if err != nil {
		return fmt.Errorf("subscribe to heads: %w", err)
	}
	g.Go(func() error {
		tick := time.NewTicker(askPeriod)
		defer tick.Stop()
		for {
			if m, err := in.edge.conn.Request(askHeadSubject+string(federation.DefaultFleet), nil, time.Second); err == nil {
				offer(m.Data)
			}
			select {
			case <-ctx.Done():
				return drop(sub)
			case <-tick.C:
			}
		}
	})
	return nil
}

// askPeriod is how often an edge asks which head is recorded: an announcement
// may be lost.
const askPeriod = 5 * time.Second

// verdict notes what an Envoy answered.
func (e *edgeParts) verdict(v projector.Verdict) {
	e.mu.Lock()
	old := e.verdicts[v.Node]
	// After a hub lost a part of its ledger the served generation may be a lower one.
	served := e.Head().Head.Generation
	if v.Generation > old.Generation || v.Generation == served && v.Generation != old.Generation ||
		v.Generation == old.Generation && rank(v.Kind) >= rank(old.Kind) {
		e.verdicts[v.Node] = federation.EnvoyStatus{
			Node: v.Node, Kind: v.Kind, Generation: v.Generation, Type: v.Type, Resources: v.Resources, Message: v.Message,
		}
	}
	e.mu.Unlock()
	e.wake()
}

// rank orders verdicts on one generation: a refusal is the last word.
func rank(k projector.VerdictKind) int {
	return slices.Index([]projector.VerdictKind{projector.Acked, projector.Served, projector.Nacked}, k)
}

func (e *edgeParts) wake() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// status returns what the edge says of itself now.
func (e *edgeParts) status() federation.EdgeStatus {
	head := e.Head()
	s := federation.EdgeStatus{
		Edge: e.name, Fleet: federation.DefaultFleet, Ring: federation.DefaultRing,
		Generation: head.Head.Generation, Revision: head.Head.Revision, Fingerprint: head.Head.Fingerprint, Build: buildVersion(),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	connected := map[string]bool{}
	for _, n := range e.Cache().Nodes() {
		if connected[n.ID] {
			continue
		}
		connected[n.ID] = true
		v := e.verdicts[n.ID]
		v.Node = n.ID
		s.Envoys = append(s.Envoys, v)
	}
	maps.DeleteFunc(e.verdicts, func(node string, _ federation.EnvoyStatus) bool { return !connected[node] })
	slices.SortFunc(s.Envoys, func(a, b federation.EnvoyStatus) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
	s.Problems = slices.Clone(e.problems)
	return s
}

// statusPeriod is how often an edge says what it serves when nothing changed.
const statusPeriod = time.Second

func (e *edgeParts) tellHub(ctx context.Context) error {
	tick := time.NewTicker(statusPeriod)
	defer tick.Stop()
	subject := statusSubject + string(federation.DefaultFleet) + "." + e.name
	for {
		b, err := json.Marshal(e.status())
		if err == nil {
			err = e.conn.Publish(subject, b)
		}
		if err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "status not sent to the hub; it is said again", slog.Any("err", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-e.changed:
		case <-tick.C:
		}
	}
}

// startLive answers the edge's needs from the sites' own files: neither
// endpoints nor keys cross NATS.
func (in *install) startLive(ctx context.Context, g *errgroup.Group) error {
	plane := live.NewPlane()
	if err := in.restoreLive(plane); err != nil {
		in.log.WarnContext(ctx, "the last answers of the live plane cannot be read; they are asked for anew", slog.Any("err", err))
	}
	sources := map[ledger.ClusterName]live.Source{}
	for _, s := range in.cfg.Sites {
		sources[s.Cluster] = dirSource{path: s.Path}
	}
	needs, answers := make(chan func(*live.Plane), 1), make(chan live.Answers, 1)
	g.Go(func() error {
		return live.Run(ctx, live.Config{Plane: plane, Sources: sources, Needs: needs, Out: answers, Now: time.Now, Log: in.log})
	})
	g.Go(func() error { return in.followNeeds(ctx, needs) })
	g.Go(func() error { return in.takeAnswers(ctx, answers) })
	return nil
}

// restoreLive gives the plane what the edge served last: its guards compare new
// answers with it.
func (in *install) restoreLive(plane *live.Plane) error {
	updates, err := in.edge.store.Live()
	if err != nil {
		return err
	}
	var endpoints []ir.Endpoints
	var secrets []ir.Secret
	var errs []error
	for _, u := range updates {
		if u.Resource == nil {
			continue
		}
		switch u.Type {
		case projector.EndpointNeeds:
			e, err := envoy.ReadEndpoints(*u.Resource)
			endpoints, errs = append(endpoints, e), append(errs, err)
		case projector.SecretNeeds:
			s, err := envoy.ReadSecret(*u.Resource)
			secrets, errs = append(secrets, s), append(errs, err)
		case projector.Upstreams, projector.Listeners, projector.Routes:
			// Not of the live plane.
		}
	}
	plane.Restore(endpoints, secrets)
	return errors.Join(errs...)
}

// followNeeds tells the live plane what the served snapshots need.
func (in *install) followNeeds(ctx context.Context, needs chan<- func(*live.Plane)) error {
	last := projector.EmptySnapshot()
	for {
		gen, changed := in.edge.Cache().Current()
		if gen != nil && gen.Snapshot.Fingerprint() != last.Fingerprint() {
			updates := projector.Diff(last, gen.Snapshot)
			last = gen.Snapshot
			select {
			case needs <- func(p *live.Plane) {
				if err := p.UpdateNeeds(updates); err != nil {
					in.log.ErrorContext(ctx, "needs of a snapshot cannot be read", slog.String("fingerprint", gen.Snapshot.Fingerprint().Short()), slog.Any("err", err))
				}
			}:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// takeAnswers gives the edge what the live plane answers, as it changes.
func (in *install) takeAnswers(ctx context.Context, answers <-chan live.Answers) error {
	given := map[string]ledger.Digest{} // versions, by kind and name
	for {
		var a live.Answers
		select {
		case <-ctx.Done():
			return nil
		case a = <-answers:
		}
		var updates []projector.Update
		var errs []error
		for name, e := range a.Endpoints {
			if given["e/"+name] != e.Version {
				given["e/"+name] = e.Version
				r, err := envoy.Endpoints(e.Endpoints)
				errs = append(errs, err)
				updates = append(updates, projector.Update{Type: projector.EndpointNeeds, Name: name, Resource: &r})
			}
		}
		for name, s := range a.Secrets {
			if given["s/"+name] != s.Version {
				given["s/"+name] = s.Version
				r, err := envoy.Secret(s.Reveal(), secretUse(name))
				errs = append(errs, err)
				updates = append(updates, projector.Update{Type: projector.SecretNeeds, Name: name, Resource: &r})
			}
		}
		if err := errors.Join(errs...); err != nil {
			in.log.ErrorContext(ctx, "an answer of the live plane cannot be written", slog.Any("err", err))
			continue
		}
		if len(updates) > 0 {
			in.edge.Answer(updates...)
		}
		in.edge.mu.Lock()
		in.edge.problems = in.edge.problems[:0]
		for _, p := range a.Problems {
			in.edge.problems = append(in.edge.problems, p.String())
		}
		in.edge.mu.Unlock()
		in.edge.wake()
	}
}

// secretUse returns what a SecretRef of this name is for: the name ends with
// the use.
func secretUse(name string) ir.SecretUse {
	if filepath.Base(name) == string(ir.UseCA) {
		return ir.UseCA
	}
	return ir.UseCertificate
}
