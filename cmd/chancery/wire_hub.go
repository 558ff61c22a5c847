package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/natsstream"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/shelf"
)

// hubParts are the hub with what it stands on.
type hubParts struct {
	*hub.Hub
	conn        *natsstream.Conn
	publisher   *natsstream.Publisher
	shelf       *shelf.Shelf
	incarnation atomic.Value // string: of the stream that is consumed
	taster      *tasterParts
}

// consumed returns the incarnation of the stream that is consumed, "" for none.
func (h *hubParts) consumed() string {
	s, _ := h.incarnation.Load().(string)
	return s
}

func (h *hubParts) close() error {
	if h.conn != nil {
		h.conn.Close()
	}
	if h.shelf != nil {
		return h.shelf.Close()
	}
	return nil
}

// startHub opens the stream, follows it into the ledger, and decides.
func (in *install) startHub(ctx context.Context, g *errgroup.Group) error {
	h := &hubParts{}
	in.hub = h
	var err error
	if h.shelf, err = shelf.Open(filepath.Join(in.cfg.Data, "shelf.db")); err != nil {
		return err
	}
	if aside := h.shelf.SetAside(); aside != "" {
		in.log.WarnContext(ctx, "the shelf of snapshots was damaged and set aside; snapshots are compiled again", slog.String("moved_to", aside))
	}
	if h.conn, err = natsstream.Connect(natsstream.ConnectOptions{Name: "hub", Server: in.nats, Logger: in.log}); err != nil {
		return err
	}
	h.publisher = natsstream.NewPublisher(h.conn, 0)

	seen, err := in.edge.seenTerm()
	if err != nil {
		return err
	}
	cfg := hub.Config{
		SeenTerm: seen,
		Instance: in.instance, Build: in.cfg.Build, Key: in.authority.DecisionKey(), Fleet: federation.DefaultFleet,
		Settings: in.cfg.Settings, Ledger: in.store, Publisher: decisions{h.publisher}, Shelf: shelved{h.shelf},
		Announce:    func(s projector.SignedHead) { in.announceHead(s) },
		Incarnation: h.consumed, Logger: in.log, Metrics: hub.NewMetrics(in.registry),
	}
	for _, s := range in.cfg.Sites {
		key, err := in.collectorKey(s.Cluster)
		if err != nil {
			return err
		}
		cfg.Sites = append(cfg.Sites, ledger.SiteAddedData{Cluster: s.Cluster, Key: key.Public().(ed25519.PublicKey), Site: s.String()})
	}
	if in.cfg.Envoy != "" {
		if h.taster, err = in.startTaster(ctx, g); err != nil {
			return err
		}
		cfg.Taster = h.taster
	}
	h.Hub = hub.New(cfg)

	if err := in.openStream(ctx, false); err != nil {
		return err
	}
	losses := make(chan natsstream.Loss, 16)
	follower := natsstream.NewFollower(h.conn, in.store, natsstream.FollowerOptions{
		OnCommit: in.tellProgress,
		OnGap:    in.askAgain,
		OnLoss: func(l natsstream.Loss) {
			select {
			case losses <- l:
			default: // the follower says it again
			}
		},
		Logger: in.log,
	})
	g.Go(func() error { return ended(ctx, follower.Run(ctx)) })
	g.Go(func() error { return in.keepStream(ctx, losses) })
	g.Go(func() error { return in.repeatProgress(ctx) })
	g.Go(func() error { return in.keepCheckpoints(ctx) })
	g.Go(func() error { return h.Run(ctx) })
	return in.hearEdges(ctx, g)
}

// ended returns nil for an error that only says that ctx ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// keepStream makes the stream, opens its incarnations, and tells the hub which
// one is consumed.
func (in *install) keepStream(ctx context.Context, losses <-chan natsstream.Loss) error {
	for {
		var l natsstream.Loss
		select {
		case <-ctx.Done():
			return nil
		case l = <-losses:
		}
		in.hub.incarnation.Store("")
		switch l.Kind {
		case natsstream.TailSetAside:
			in.log.ErrorContext(ctx, "the stream begins at a smaller size; what this ledger had beyond it is set aside", slog.Uint64("base", uint64(l.Base)), slog.String("file", l.Aside))
		case natsstream.Diverged:
			return fmt.Errorf("%s; move %s away: it is rebuilt from the stream", l.Reason, in.store.Path())
		default:
			in.log.WarnContext(ctx, "the stream begins anew and collectors publish again", slog.String("kind", l.Kind.String()))
		}
		renew := l.Kind == natsstream.StreamRegressed || l.Kind == natsstream.MessagesMissing || l.Kind == natsstream.Behind
		_, err := backoff.Retry(ctx, func() (struct{}, error) { return struct{}{}, in.openStream(ctx, renew) },
			backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, d time.Duration) {
				in.log.WarnContext(ctx, "the stream cannot be opened; it is tried again", slog.Any("err", err), slog.Duration("after", d))
			}))
		if err != nil {
			return ended(ctx, err)
		}
	}
}

// openStream makes sure that the stream is there and that the ledger's newest
// incarnation is the stream's.
func (in *install) openStream(ctx context.Context, renew bool) error {
	incarnation, err := natsstream.EnsureStream(ctx, in.hub.conn, natsstream.StreamOptions{})
	if err != nil {
		return err
	}
	if renew || in.store.Admission().Incarnation() != incarnation {
		size := in.store.Size()
		root, err := in.store.Root(size)
		if err != nil {
			return err
		}
		incarnation, err = natsstream.Bootstrap(ctx, in.hub.conn, in.hub.publisher, natsstream.Opening{
			Size: size, Root: root, Renew: renew,
			Sign: func(d ledger.StreamBegunData) (ledger.Record, error) {
				author := federation.Author{Instance: in.instance, Term: in.store.Admission().Term().Epoch, Previous: map[string]ledger.Digest{}}
				_, b, err := author.Encode(federation.Decision{Scope: ledger.InstallScope, Name: "stream-begin", Body: d, Actor: ledger.Actor{Name: "chancery", Source: "hub"}}, size, time.Now())
				return ledger.Sign(b, in.authority.DecisionKey()), err
			},
		})
		if err != nil {
			return err
		}
	}
	in.hub.incarnation.Store(incarnation)
	return nil
}

// decisions publishes what the hub decides.
type decisions struct{ publisher *natsstream.Publisher }

// PublishDecisions publishes in order, all or none where that is asked for,
// under fresh message ids: admission drops what is recorded already.
func (d decisions) PublishDecisions(ctx context.Context, ds []hub.Published) error {
	ms := make([]natsstream.Message, len(ds))
	for i, p := range ds {
		ms[i] = natsstream.Message{Record: p.Record, Subject: p.Subject, MsgID: nuid.Next()}
	}
	publish := d.publisher.PublishInOrder
	if slices.ContainsFunc(ds, func(p hub.Published) bool { return p.WithNext }) {
		publish = d.publisher.PublishBatch
	}
	for len(ms) > 0 {
		n := min(len(ms), natsstream.MaxBatch)
		if _, err := publish(ctx, ms[:n]); err != nil {
			return err
		}
		ms = ms[n:]
	}
	return nil
}

// shelved keeps snapshots on the shelf, without provenance of their own: the
// candidate decisions have it.
type shelved struct{ *shelf.Shelf }

// Put stores a snapshot.
func (s shelved) Put(snapshot *projector.Snapshot) error {
	return s.Shelf.Put(snapshot, shelf.Provenance{})
}

// tellProgress tells collectors how far their events are recorded.
func (in *install) tellProgress(results []ledger.Result) {
	told := map[ledger.ClusterName]ledger.Origin{}
	for _, r := range results {
		switch {
		case r.Outcome != ledger.Append:
		case !r.Event.Type.IsDecision():
			told[r.Event.ID.Cluster] = r.Event.ID
		case r.Event.Type == ledger.SiteAdded:
			in.sayProgress()
		}
	}
	for c, id := range told {
		in.control(c, natsstream.Control{Trim: &natsstream.Trim{Epoch: id.Epoch, Instance: id.Instance, N: id.N}})
	}
}

// progressPeriod is how often collectors are told again: control messages may
// be lost.
const progressPeriod = 2 * time.Second

func (in *install) repeatProgress(ctx context.Context) error {
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		in.sayProgress()
	}
}

// sayProgress tells every collector how far its events are recorded.
func (in *install) sayProgress() {
	admission := in.store.Admission()
	for _, s := range in.cfg.Sites {
		p, ok := admission.Progress(s.Cluster)
		switch {
		case !ok:
		case p.Epoch == 0:
			in.control(s.Cluster, natsstream.Control{Claim: &natsstream.Claim{Epoch: 1}})
		default:
			in.control(s.Cluster, natsstream.Control{Trim: &natsstream.Trim{Epoch: p.Epoch, Instance: p.Instance, N: p.NextN - 1}})
		}
	}
}

// askAgain asks a collector to publish again from the event that would be
// appended next.
func (in *install) askAgain(c ledger.ClusterName, epoch, n uint64) {
	if c == ledger.InstallScope {
		return // the hub publishes its own decisions again
	}
	if n == 0 {
		in.control(c, natsstream.Control{Claim: &natsstream.Claim{Epoch: epoch}})
		return
	}
	p, _ := in.store.Admission().Progress(c)
	in.control(c, natsstream.Control{Resend: &natsstream.Resend{Epoch: epoch, Instance: p.Instance, N: n}})
}

func (in *install) control(c ledger.ClusterName, m natsstream.Control) {
	if err := natsstream.SendControl(in.hub.conn.Conn, c, m); err != nil {
		in.log.Debug("control message not sent; it is repeated", slog.String("cluster", string(c)), slog.Any("err", err))
	}
}

// checkpointPeriod is how often a growing ledger gets a checkpoint.
const checkpointPeriod = 10 * time.Second

// keepCheckpoints signs the ledger's root while it grows.
func (in *install) keepCheckpoints(ctx context.Context) error {
	tick := time.NewTicker(checkpointPeriod)
	defer tick.Stop()
	var signed ledger.Seq
	for {
		if size := in.store.Size(); size > signed {
			if err := in.checkpoint(size); err != nil {
				in.log.ErrorContext(ctx, "checkpoint", slog.Uint64("size", uint64(size)), slog.Any("err", err))
			} else {
				signed = size
			}
		}
		select {
		case <-ctx.Done():
			// The check on opening reads what is after the last checkpoint.
			if size := in.store.Size(); size > signed {
				return in.checkpoint(size)
			}
			return nil
		case <-tick.C:
		}
	}
}

func (in *install) checkpoint(size ledger.Seq) error {
	root, err := in.store.Root(size)
	if err != nil {
		return err
	}
	note, err := ledger.SignCheckpoint(ledger.Checkpoint{
		Origin: ledger.CheckpointOrigin(in.authority.Install()), Size: size, Root: root,
	}, in.authority.DecisionKey())
	if err != nil {
		return err
	}
	return in.store.SaveCheckpoint(note)
}

// Subjects of core NATS between hub and edges. Nothing on them is a fact: a
// head carries its decision, a status is said again.
const (
	headSubject    = "chancery.head."
	askHeadSubject = "chancery.ask.head."
	statusSubject  = "chancery.edge."
)

func (in *install) announceHead(s projector.SignedHead) {
	b, err := json.Marshal(s)
	if err == nil {
		err = in.hub.conn.Publish(headSubject+string(s.Head.Fleet), b)
	}
	if err != nil {
		in.log.Debug("head not announced; edges ask for it", slog.Any("err", err))
	}
}

// hearEdges takes what edges say and answers which head is recorded.
func (in *install) hearEdges(ctx context.Context, g *errgroup.Group) error {
	status, err := in.hub.conn.Subscribe(statusSubject+"*.*", func(m *nats.Msg) {
		var s federation.EdgeStatus
		if err := json.Unmarshal(m.Data, &s); err != nil {
			in.log.WarnContext(ctx, "an edge's status cannot be read", slog.String("subject", m.Subject), slog.Any("err", err))
			return
		}
		in.hub.Status(s)
	})
	if err != nil {
		return fmt.Errorf("subscribe to edges: %w", err)
	}
	ask, err := in.hub.conn.Subscribe(askHeadSubject+"*", func(m *nats.Msg) {
		head, err := in.recordedHead(ctx)
		if err != nil {
			in.log.WarnContext(ctx, "an edge asked for the head", slog.Any("err", err))
			return
		}
		if b, err := json.Marshal(head); err == nil {
			_ = m.Respond(b) // the edge asks again
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe to edges: %w", err)
	}
	g.Go(func() error {
		<-ctx.Done()
		return errors.Join(drop(status), drop(ask))
	})
	return nil
}

func drop(s *nats.Subscription) error {
	if err := s.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		return err
	}
	return nil
}

// recordedHead returns the newest head with its decision, zero while there is
// none.
func (in *install) recordedHead(ctx context.Context) (projector.SignedHead, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var seq ledger.Seq
	if err := in.hub.Inspect(ctx, func(i hub.Inside) { seq = i.Fleet.HeadSeq }); err != nil || seq == 0 {
		return projector.SignedHead{}, err
	}
	entries, err := in.store.Read(seq, 1)
	if err != nil || len(entries) == 0 {
		return projector.SignedHead{}, fmt.Errorf("head at seq %d: %w", seq, err)
	}
	return projector.OpenHead(entries[0].Record, seq, in.hubKey())
}

// natsIdentity says what a client with a certificate of the install may do.
func natsIdentity(cert *x509.Certificate) (natsstream.Identity, error) {
	id, err := pki.IdentityOf(cert)
	if err != nil {
		return natsstream.Identity{}, err
	}
	switch {
	case id.Role == pki.Hub:
		return natsstream.Identity{Hub: true}, nil
	case id.Role == pki.Collector && slices.Contains(pki.Roles, id.Role):
		return natsstream.Identity{Cluster: ledger.ClusterName(id.Name)}, nil
	}
	return natsstream.Identity{}, fmt.Errorf("%s has no business on the stream", id)
}
