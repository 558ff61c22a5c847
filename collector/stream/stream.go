// Package stream is a collector's end of the stream: it publishes to NATS JetStream, reads back who claimed an epoch,
// and passes on what the hub says.
//
// How a message is stored is ledger/natsstream's business; what is published, and what is made of the hub's words, is
// package collector's.
package stream

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// Stream is a collector.Stream over a connection to NATS. It serves one collector.
type Stream struct {
	conn *natsstream.Conn
	pub  *natsstream.Publisher

	mu    sync.Mutex
	below uint64 // guarded by mu: a stream sequence before which no epoch is claimed that is still of interest
}

// New returns the stream that a connection reaches.
func New(conn *natsstream.Conn, pub *natsstream.Publisher) *Stream {
	return &Stream{conn: conn, pub: pub}
}

// Publish stores the messages in their order: a few one by one, more as atomic batches.
func (s *Stream) Publish(ctx context.Context, messages []collector.Message) error {
	out := make([]natsstream.Message, len(messages))
	for i, m := range messages {
		out[i] = natsstream.Message{Record: m.Record, Subject: m.Subject, MsgID: m.ID}
	}
	for len(out) > 0 {
		n := min(len(out), natsstream.MaxBatch)
		_, err := s.pub.PublishInOrder(ctx, out[:n])
		if errors.Is(err, natsstream.ErrRefused) {
			return fmt.Errorf("%w: %w", collector.ErrRefused, err)
		}
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

func (s *Stream) stream(ctx context.Context) (jetstream.Stream, error) {
	js, err := jetstream.New(s.conn.Conn)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", natsstream.StreamName, err)
	}
	stream, err := js.Stream(ctx, natsstream.StreamName)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", natsstream.StreamName, err)
	}
	return stream, nil
}

// NewestEpoch returns the epoch of the cluster's newest sync message, 0 if there is none.
func (s *Stream) NewestEpoch(ctx context.Context, cluster ledger.ClusterName) (uint64, error) {
	stream, err := s.stream(ctx)
	if err != nil {
		return 0, err
	}
	m, err := stream.GetLastMsgForSubject(ctx, ledger.SyncSubject(cluster))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("newest sync message of %s: %w", cluster, err)
	}
	e, err := ledger.DecodeEvent(m.Data)
	if err != nil {
		return 0, fmt.Errorf("newest sync message of %s: %w", cluster, err)
	}
	s.mu.Lock()
	s.below = m.Sequence
	s.mu.Unlock()
	return e.ID.Epoch, nil
}

// FirstClaim returns the first claim of the epoch on the stream.
func (s *Stream) FirstClaim(ctx context.Context, cluster ledger.ClusterName, epoch uint64) (collector.Claim, bool, error) {
	stream, err := s.stream(ctx)
	if err != nil {
		return collector.Claim{}, false, err
	}
	s.mu.Lock()
	from := max(s.below, 1)
	s.mu.Unlock()
	claim, ok, err := s.claimFrom(ctx, stream, cluster, epoch, from)
	if err == nil && !ok && from > 1 {
		claim, ok, err = s.claimFrom(ctx, stream, cluster, epoch, 1) // the stream may have been made anew
	}
	return claim, ok, err
}

func (s *Stream) claimFrom(ctx context.Context, stream jetstream.Stream, cluster ledger.ClusterName, epoch, from uint64) (collector.Claim, bool, error) {
	subject := ledger.SyncSubject(cluster)
	for {
		m, err := stream.GetMsg(ctx, from, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return collector.Claim{}, false, nil
		}
		if err != nil {
			return collector.Claim{}, false, fmt.Errorf("claim of epoch %d of %s: %w", epoch, cluster, err)
		}
		from = m.Sequence + 1
		e, err := ledger.DecodeEvent(m.Data)
		if err != nil || e.ID.N != 0 || e.Type != ledger.SyncBegin {
			continue // the ledger refuses what is malformed
		}
		if e.ID.Epoch == epoch {
			s.mu.Lock()
			s.below = m.Sequence
			s.mu.Unlock()
			return collector.Claim{Epoch: epoch, Instance: e.ID.Instance}, true, nil
		}
	}
}

// Subscribe passes the hub's messages to the cluster's collector on, until stop is called. What cannot be taken at
// once is dropped: the hub repeats itself.
func Subscribe(conn *natsstream.Conn, cluster ledger.ClusterName, to chan<- collector.Control) (stop func() error, err error) {
	sub, err := natsstream.SubscribeControl(conn.Conn, cluster, func(c natsstream.Control) {
		select {
		case to <- control(c):
		default:
		}
	}, nil)
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			return fmt.Errorf("end the hub's messages to %s: %w", cluster, err)
		}
		return nil
	}, nil
}

func control(c natsstream.Control) collector.Control {
	switch {
	case c.Trim != nil:
		return collector.Control{Kind: collector.Trim, Epoch: c.Trim.Epoch, Instance: c.Trim.Instance, N: c.Trim.N}
	case c.Resend != nil:
		return collector.Control{Kind: collector.Resend, Epoch: c.Resend.Epoch, Instance: c.Resend.Instance, N: c.Resend.N}
	default:
		return collector.Control{Kind: collector.Reclaim, Epoch: c.Claim.Epoch}
	}
}
