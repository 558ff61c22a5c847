package collector

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/chancery-dev/chancery/ledger"
)

// Site is a source of objects.
type Site interface {
	// Run calls emit for everything that the site has to say, one call at a time, until ctx ends. What happens while
	// emit blocks is told by the next call. It returns nil when ctx ends, and an error when it cannot go on.
	Run(ctx context.Context, emit func(Update)) error
}

// Outbox keeps what must not be lost between two steps. It is read and written by different goroutines.
type Outbox interface {
	Load() (State, error)
	// Apply makes a batch durable. After an error Load says whether it is.
	Apply(Batch) error
	// Read returns items from a position on, in order.
	Read(from Position, n, maxBytes int) ([]Item, error)
	// Size returns the bytes that wait and how many it takes.
	Size() (used, limit int64)
}

// Message is one record on its way to the stream.
type Message struct {
	At      Position
	Subject string
	Record  ledger.Record
	// ID is the same when a publish is tried again, and fresh when the hub asked for the event once more.
	ID string
}

// ErrRefused is what a Stream's Publish wraps when the stream will not take a message as it is. Any other error is
// taken to be passing, and its outcome to be unknown.
var ErrRefused = errors.New("publish refused")

// Stream is where events are published. Its methods may block; they are called by one goroutine.
type Stream interface {
	// Publish stores the messages in their order and returns once they are on disk.
	Publish(ctx context.Context, messages []Message) error
	// NewestEpoch returns the newest epoch that anyone claimed on the stream for the cluster, 0 for none.
	NewestEpoch(ctx context.Context, cluster ledger.ClusterName) (uint64, error)
	// FirstClaim returns the claim of the epoch that is first in the stream. ok is false when there is none, as
	// after it aged out.
	FirstClaim(ctx context.Context, cluster ledger.ClusterName, epoch uint64) (claim Claim, ok bool, err error)
}

// Config is what Run needs. All fields but Logger, Metrics and Now are required.
type Config struct {
	Cluster  ledger.ClusterName
	Key      ed25519.PrivateKey
	Instance string // unique to this process: it is in the events' ids; without "/"
	Site     Site
	Outbox   Outbox
	Stream   Stream
	// Control carries the hub's messages. It may drop them: the hub repeats itself.
	Control <-chan Control
	Logger  *slog.Logger
	Metrics *Metrics
	Now     func() time.Time
}

func (c *Config) validate() error {
	if err := c.Cluster.Validate(); err != nil {
		return err
	}
	switch {
	case len(c.Key) != ed25519.PrivateKeySize:
		return fmt.Errorf("collector of %s: Key has %d bytes, want %d", c.Cluster, len(c.Key), ed25519.PrivateKeySize)
	case !validInstance(c.Instance):
		return fmt.Errorf("collector of %s: Instance %q: use 1 to 63 letters, digits, dots and hyphens", c.Cluster, c.Instance)
	case c.Site == nil || c.Outbox == nil || c.Stream == nil:
		return fmt.Errorf("collector of %s: Site, Outbox and Stream are required", c.Cluster)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

func validInstance(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '.' {
			return false
		}
	}
	return s != "" && len(s) <= 63
}

// Run collects a site's events until ctx ends; it then returns nil. It returns an error when the site cannot go on
// or the outbox cannot be read. While the stream is away events gather in the outbox; while the outbox is full, or
// its disk is, changes wait and are told as they then are.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	state, err := cfg.Outbox.Load()
	if err != nil {
		return fmt.Errorf("collector of %s: %w", cfg.Cluster, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	r := &runner{
		Config: cfg, ctx: ctx,
		core:    NewCore(Settings{Cluster: cfg.Cluster, Instance: cfg.Instance, Key: cfg.Key}, state),
		updates: make(chan Update), inputs: make(chan Input), siteEnd: make(chan error, 1),
	}
	r.pub = newPublisher(cfg, r.inputs)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		r.siteEnd <- cfg.Site.Run(ctx, func(u Update) {
			select {
			case r.updates <- u:
			case <-ctx.Done():
			}
		})
	})
	wg.Go(func() { r.pub.run(ctx) })
	return r.loop()
}

// runner is the one owner of the core, and the only writer of the outbox.
type runner struct {
	Config
	ctx     context.Context //nolint:containedctx // Run's own, for its loop
	core    *Core
	pub     *publisher
	updates chan Update
	inputs  chan Input // from the publisher
	siteEnd chan error

	broken  *backoff.ExponentialBackOff // not nil while the outbox cannot be written
	retry   <-chan time.Time
	waiting bool
}

func (r *runner) loop() error {
	for {
		select {
		case <-r.ctx.Done():
			return nil
		case err := <-r.siteEnd:
			if err != nil && r.ctx.Err() == nil {
				return fmt.Errorf("site of %s: %w", r.Cluster, err)
			}
			return nil
		case u := <-r.updates:
			r.step(Input{Update: &u})
		case in := <-r.inputs:
			r.step(in)
		case m := <-r.Control:
			if r.broken == nil {
				r.step(Input{Control: &m})
			}
		case <-r.retry:
			r.reload()
		}
	}
}

func (r *runner) step(in Input) {
	for {
		used, limit := r.Outbox.Size()
		in.Full = used >= limit || r.broken != nil
		out := r.core.Step(in, r.Now())
		r.note(out, used, limit)
		if r.broken != nil {
			return // what the core made is worth nothing; what the site holds, it keeps
		}
		if !out.Persist.IsZero() {
			if err := r.Outbox.Apply(out.Persist); err != nil {
				r.breakdown(err)
				return
			}
			r.Metrics.persisted(r.Cluster, out.Persist)
		}
		r.pub.enqueue(out)
		if !out.More || r.ctx.Err() != nil {
			return
		}
		in = Input{}
	}
}

func (r *runner) note(out Effects, used, limit int64) {
	r.Metrics.state(r.Cluster, r.core, used, limit)
	if out.Superseded != nil {
		r.Logger.Warn("another collector has taken over; claiming the cluster again. If two run for one site, stop one",
			slog.String("cluster", string(r.Cluster)), slog.Uint64("epoch", out.Superseded.Epoch), slog.String("instance", out.Superseded.Instance))
	}
	if out.Waiting == r.waiting || r.broken != nil {
		return
	}
	r.waiting = out.Waiting
	if r.waiting {
		r.Logger.Error("outbox is full; changes wait until the hub has committed events",
			slog.String("cluster", string(r.Cluster)), slog.Int64("bytes", used), slog.Int64("limit", limit))
		return
	}
	r.Logger.Info("outbox takes events again", slog.String("cluster", string(r.Cluster)), slog.Int64("bytes", used))
}

// breakdown stops all telling until the outbox has been read back: whether the batch is in it is not known.
func (r *runner) breakdown(err error) {
	if r.broken == nil {
		r.broken = backoff.NewExponentialBackOff()
		r.broken.InitialInterval, r.broken.MaxInterval = 50*time.Millisecond, 5*time.Second
		r.Logger.Error("outbox cannot be written; changes wait",
			slog.String("cluster", string(r.Cluster)), slog.Any("error", err))
	}
	r.Metrics.failures.WithLabelValues(string(r.Cluster), "outbox").Inc()
	r.retry = time.After(r.broken.NextBackOff())
}

func (r *runner) reload() {
	state, err := r.Outbox.Load()
	if err != nil {
		r.breakdown(err)
		return
	}
	r.core.Restart(state)
	r.pub.rewind(Position{}) // what is there may never have been published
	was := r.broken
	r.broken, r.retry = nil, nil
	r.step(Input{})
	if r.broken != nil {
		r.broken = was // go on waiting longer
		return
	}
	r.Logger.Info("outbox is written again", slog.String("cluster", string(r.Cluster)))
}
