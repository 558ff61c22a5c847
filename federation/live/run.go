package live

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// View is a full view of a cluster's live objects.
type View struct {
	Objects []Object
	// Stale says that the view may lack objects that exist.
	Stale bool
}

// Source watches one cluster. Watch calls deliver with a full view, at first
// and after each change, one call at a time, until ctx ends or it cannot go on;
// then it returns. deliver blocks while the plane is busy.
type Source interface {
	Watch(ctx context.Context, deliver func(View)) error
}

// Config is what Run needs. All fields but Log are required.
type Config struct {
	Plane   *Plane // owned by Run until it returns
	Sources map[ledger.ClusterName]Source
	// Needs carries changes of the needs, as functions that are called with
	// the plane, on Run's goroutine: SetNeeds or UpdateNeeds.
	Needs <-chan func(*Plane)
	// Out gets the answers, at first and whenever they change. A receiver that
	// is slow misses all but the latest.
	Out chan<- Answers
	// Now is the clock.
	Now func() time.Time
	Log *slog.Logger
}

// A source that ended is watched again after retryMin, then twice that, up to
// retryMax.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// delivery is what the sources' goroutines send to the loop.
type delivery struct {
	cluster ledger.ClusterName
	view    View
}

// Run feeds the plane from the sources until ctx ends, and returns when all of
// its goroutines have. A source that ends early makes its cluster stale, and
// is watched again.
func Run(ctx context.Context, c Config) error {
	if c.Plane == nil || c.Out == nil || c.Now == nil {
		return errors.New("live: Config needs Plane, Out and Now")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	in := make(chan delivery)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for name, source := range c.Sources {
		watchers.Go(func() { watch(ctx, c.Log, name, source, in) })
	}
	loop(ctx, c, in)
	return nil
}

// loop owns the plane until ctx ends.
func loop(ctx context.Context, c Config, in <-chan delivery) {
	var timer *time.Timer
	given, first := uint64(0), true
	for {
		answers := c.Plane.Answers(c.Now())
		out := c.Out
		if !first && answers.Revision == given {
			out = nil
		}
		for done := false; !done; {
			// Bounded, so that a clock that was set is noticed.
			var at <-chan time.Time
			if next := c.Plane.Next(); !next.IsZero() {
				timer = time.NewTimer(min(max(next.Sub(c.Now()), time.Millisecond), time.Minute))
				at = timer.C
			}
			select {
			case <-ctx.Done():
				done = true
			case out <- answers:
				out, given, first = nil, answers.Revision, false
			case d := <-in:
				c.Plane.SetObjects(d.cluster, d.view.Objects, d.view.Stale)
				done = true
			case change, ok := <-c.Needs:
				if !ok {
					c.Needs = nil
					break
				}
				change(c.Plane)
				done = true
			case <-at:
				done = true
			}
			if timer != nil {
				timer.Stop()
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// watch keeps one source going.
func watch(ctx context.Context, log *slog.Logger, name ledger.ClusterName, source Source, in chan<- delivery) {
	send := func(v View) {
		select {
		case in <- delivery{name, v}:
		case <-ctx.Done():
		}
	}
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := source.Watch(ctx, func(v View) {
			wait = retryMin
			send(v)
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("the watch ended by itself")
		}
		log.WarnContext(ctx, "live objects are not being watched", slog.String("cluster", string(name)),
			slog.String("error", fmt.Sprint(err)), slog.Duration("retry_in", wait))
		send(View{Stale: true})
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
