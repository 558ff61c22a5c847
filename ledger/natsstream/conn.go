package natsstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/chancery-dev/chancery/ledger"
)

// Conn is a connection to NATS that tells publishers at once when the server
// refuses a subject, which NATS itself reports only beside the request.
type Conn struct {
	*nats.Conn

	mu      sync.Mutex
	pending map[uint64]pendingPublish // guarded by mu
	nextID  uint64                    // guarded by mu
}

type pendingPublish struct {
	subjects []string
	cancel   context.CancelCauseFunc
}

// ConnectOptions say how to reach NATS.
type ConnectOptions struct {
	// Name is shown in the server's list of connections.
	Name string
	// URL of a server; not used when Server is set.
	URL string
	// Server is an embedded server to connect to within the process.
	Server *Server
	// Cluster is set on the connection of a collector: a server lets it hear only
	// answers under its own name.
	Cluster ledger.ClusterName
	// Extra options, such as the TLS configuration or credentials.
	Extra []nats.Option
	// Logger gets what happens to the connection. Nil means slog.Default.
	Logger *slog.Logger
}

// Connect connects to NATS. The connection is restored for as long as it is
// not closed; while it is down a publish fails at once and is not queued.
func Connect(o ConnectOptions) (*Conn, error) {
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	c := &Conn{pending: map[uint64]pendingPublish{}}
	opts := []nats.Option{
		nats.Name(o.Name),
		nats.PingInterval(time.Second),
		nats.MaxPingsOutstanding(5),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(200 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.Timeout(10 * time.Second),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			c.refused(err)
			log.Warn("nats connection error", slog.String("name", o.Name), slog.Any("err", err))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil {
				return // it was closed
			}
			log.Warn("nats disconnected", slog.String("name", o.Name), slog.Any("err", err))
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("nats reconnected", slog.String("name", o.Name)) }),
	}
	if o.Server != nil {
		opts = append(opts, nats.InProcessServer(o.Server.ns))
	}
	if o.Cluster != "" {
		opts = append(opts, nats.CustomInboxPrefix(inboxPrefix(o.Cluster)))
	}
	nc, err := nats.Connect(o.URL, append(opts, o.Extra...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to nats as %s: %w", o.Name, err)
	}
	c.Conn = nc
	return c, nil
}

// inboxPrefix is what the subjects start with on which a collector gets
// answers.
func inboxPrefix(c ledger.ClusterName) string { return "_INBOX." + string(c) }

// watchRefusal returns a context that ends with ErrRefused as its cause when
// the server says that one of the subjects may not be published on. The
// function that it also returns ends the watch.
func (c *Conn) watchRefusal(ctx context.Context, subjects ...string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.nextID
	c.nextID++
	c.pending[id] = pendingPublish{subjects: subjects, cancel: cancel}
	return ctx, func() {
		cancel(nil)
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pending, id)
	}
}

// refused ends the publishes that a permission error is about. The error names
// the subject only in its text.
func (c *Conn) refused(err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return
	}
	text := strings.ToLower(err.Error())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pending {
		if slices.ContainsFunc(p.subjects, func(s string) bool {
			return strings.Contains(text, `"`+strings.ToLower(s)+`"`)
		}) {
			p.cancel(fmt.Errorf("%w: %w", ErrRefused, err))
		}
	}
}
