package collector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// The bounds on one publish.
const (
	maxPublishItems = 500
	maxPublishBytes = 4 << 20
)

// publisher publishes what is in the outbox, in order, and asks the stream who has an epoch. run is its one
// goroutine.
type publisher struct {
	Config
	answers chan<- Input
	wake    chan struct{} // holds at most one

	mu       sync.Mutex
	cursor   Position // guarded by mu: the next item to publish is at or after it
	rewinds  int      // guarded by mu: how often the hub asked for events again; part of message ids
	changes  int      // guarded by mu: how often cursor was moved by another than run
	readBack uint64   // guarded by mu: the epoch to ask about once its claim is published
}

func newPublisher(cfg Config, answers chan<- Input) *publisher {
	return &publisher{Config: cfg, answers: answers, wake: make(chan struct{}, 1)}
}

// enqueue tells run of new items and of what else a step wants.
func (p *publisher) enqueue(out Effects) {
	p.mu.Lock()
	if out.ReadBack != 0 {
		p.readBack = out.ReadBack
	}
	if out.Persist.Reset {
		p.cursor = Position{}
		p.changes++
	}
	if out.Republish != nil {
		p.cursor = *out.Republish
		p.changes++
		p.rewinds++
	}
	p.mu.Unlock()
	p.signal()
}

// rewind has everything from the position on published again, with the same ids.
func (p *publisher) rewind(to Position) {
	p.mu.Lock()
	p.cursor = to
	p.changes++
	p.mu.Unlock()
	p.signal()
}

func (p *publisher) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *publisher) run(ctx context.Context) {
	known, ok := retry(ctx, p, "newest epoch", func() (uint64, error) { return p.Stream.NewestEpoch(ctx, p.Cluster) })
	if !ok || !p.answer(ctx, Input{Known: &known}) {
		return
	}
	for {
		if !p.publishAll(ctx) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
	}
}

func (p *publisher) answer(ctx context.Context, in Input) bool {
	select {
	case p.answers <- in:
		return true
	case <-ctx.Done():
		return false
	}
}

// publishAll publishes until nothing is left.
func (p *publisher) publishAll(ctx context.Context) bool {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 30*time.Second
	for {
		p.mu.Lock()
		cursor, rewinds, changes := p.cursor, p.rewinds, p.changes
		p.mu.Unlock()
		items, ok := retry(ctx, p, "outbox", func() ([]Item, error) {
			return p.Outbox.Read(cursor, maxPublishItems, maxPublishBytes)
		})
		if !ok {
			return false
		}
		if len(items) == 0 {
			return true
		}
		messages := make([]Message, len(items))
		for i, it := range items {
			messages[i] = Message{At: it.At, Subject: it.Subject, Record: it.Record, ID: p.messageID(it, rewinds)}
		}
		started := time.Now()
		if _, ok = retry(ctx, p, "publish", func() (struct{}, error) {
			return struct{}{}, p.Stream.Publish(ctx, messages)
		}); !ok {
			return false
		}
		p.Metrics.published(p.Cluster, len(items), time.Since(started))
		last := items[len(items)-1].At
		p.mu.Lock()
		if p.changes == changes {
			p.cursor = Position{last.Epoch, last.N + 1}
		}
		ask := p.readBack
		if ask != 0 && last.Compare(Position{ask, 0}) >= 0 {
			p.readBack = 0
		} else {
			ask = 0
		}
		p.mu.Unlock()
		if ask != 0 && !p.askWhose(ctx, ask, pause) {
			return false
		}
	}
}

// askWhose reads back who has an epoch. A claim that the stream has not, though it said so, is published again.
func (p *publisher) askWhose(ctx context.Context, epoch uint64, pause *backoff.ExponentialBackOff) bool {
	claim, ok := retry(ctx, p, "claim", func() (*Claim, error) {
		claim, ok, err := p.Stream.FirstClaim(ctx, p.Cluster, epoch)
		if err != nil || !ok {
			return nil, err
		}
		return &claim, nil
	})
	if !ok {
		return false
	}
	if claim != nil {
		pause.Reset()
		return p.answer(ctx, Input{Claimed: claim})
	}
	p.Logger.WarnContext(ctx, "claim is not on the stream; publishing it again", slog.String("cluster", string(p.Cluster)), slog.Uint64("epoch", epoch))
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause.NextBackOff()):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readBack == 0 { // else another epoch is claimed already
		p.cursor, p.readBack = Position{epoch, 0}, epoch
		p.rewinds++
	}
	return true
}

// messageID names one record, and one time that the hub asked for it.
func (p *publisher) messageID(it Item, rewinds int) string {
	id := fmt.Sprintf("%s/%d/%d/%x", p.Cluster, it.At.Epoch, it.At.N, it.Record.Signature[:8])
	if rewinds > 0 {
		id += fmt.Sprintf("/%s.%d", p.Instance, rewinds)
	}
	return id
}

// retry tries until it works, ever more rarely, or until ctx ends.
func retry[T any](ctx context.Context, p *publisher, what string, try func() (T, error)) (T, bool) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 50*time.Millisecond, 5*time.Second
	failed := false
	for {
		v, err := try()
		if err == nil {
			if failed {
				p.Logger.InfoContext(ctx, "stream works again", slog.String("cluster", string(p.Cluster)), slog.String("what", what))
			}
			return v, true
		}
		if ctx.Err() != nil {
			return v, false
		}
		pause := wait.NextBackOff()
		if errors.Is(err, ErrRefused) {
			pause = wait.MaxInterval // nothing of ours will change the answer
		}
		p.Metrics.failures.WithLabelValues(string(p.Cluster), what).Inc()
		if !failed {
			failed = true
			p.Logger.ErrorContext(ctx, "stream does not answer; events wait in the outbox",
				slog.String("cluster", string(p.Cluster)), slog.String("what", what), slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return v, false
		case <-time.After(pause):
		}
	}
}
