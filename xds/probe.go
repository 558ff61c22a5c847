package xds

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/xds/cache"
)

// Prober proves that an Envoy serves what it acknowledged, by asking it.
type Prober struct {
	// Reach returns the host under which a node's listeners can be reached, ""
	// for the address that they bind (loopback where they bind all). false
	// says that the node cannot be asked from here. Nil: all nodes, "".
	Reach func(node string) (host string, ok bool)
	// Warming returns how many of a node's upstreams and listeners are not in
	// use yet. Nil: nobody asks, and the acknowledgement, which an Envoy holds
	// back while upstreams are warming, has to do.
	Warming func(ctx context.Context, node string) (int, error)
	// Limit bounds the wait for an answer. Zero means DefaultProbeLimit.
	Limit time.Duration

	mu     sync.Mutex
	proven map[string]proof // by node; guarded by mu
	forgot uint64           // how often Forget was called; guarded by mu
}

// proof is what a node was last proven to serve.
type proof struct {
	snapshot *projector.Snapshot
	tables   map[string]ledger.Digest // by table: the version that answered
}

// mayWarm reports whether something can be warming when the node goes from what
// was proven, with nothing warming, to the snapshot: routes change in place.
func (p proof) mayWarm(to *projector.Snapshot) bool {
	return p.snapshot == nil || slices.ContainsFunc(projector.Diff(p.snapshot, to), func(u projector.Update) bool { return u.Type != projector.Routes })
}

// DefaultProbeLimit is how long an Envoy may take to serve what it
// acknowledged.
const DefaultProbeLimit = 10 * time.Second

const (
	probesAtOnce = 8
	firstRetry   = time.Millisecond
	lastRetry    = 50 * time.Millisecond
	tryLimit     = 2 * time.Second
	// maxProven bounds the nodes whose proofs are remembered; a node that is
	// forgotten is asked for every table again.
	maxProven = 1024
)

// ErrUnreachable says that a node cannot be asked from here.
var ErrUnreachable = errors.New("cannot be asked from here")

// Prove asks the node for the sentinel of each route table that changed since
// it was last proven, until all answer with the table's hash and nothing is
// warming. It returns the tables that nobody can ask for from outside, because
// every way to them wants a client's certificate or is QUIC, or because they
// have no sentinel: for them the acknowledgement has to do.
func (p *Prober) Prove(ctx context.Context, node string, g *cache.Generation) (unasked []string, err error) {
	host := ""
	if p.Reach != nil {
		var ok bool
		if host, ok = p.Reach(node); !ok {
			return nil, fmt.Errorf("node %s: %w", node, ErrUnreachable)
		}
	}
	limit := p.Limit
	if limit == 0 {
		limit = DefaultProbeLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	ways := map[string]cache.Front{}
	for _, f := range g.Fronts() {
		if had, ok := ways[f.Table]; !ok || !askable(had) && askable(f) {
			ways[f.Table] = f
		}
	}
	p.mu.Lock()
	before, forgot := p.proven[node], p.forgot
	p.mu.Unlock()
	answered := make(chan answer, len(ways))
	now := make(map[string]ledger.Digest, len(ways))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(probesAtOnce)
	for table, way := range ways {
		r, ok := g.Snapshot.Get(projector.Routes, table)
		if !ok {
			continue
		}
		now[table] = r.Version
		if before.tables[table] == r.Version {
			continue
		}
		body, err := envoy.SentinelBody(r)
		if err != nil || !askable(way) {
			unasked = append(unasked, table)
			continue
		}
		group.Go(func() error {
			err := askUntil(gctx, way, host, body)
			if err == nil {
				answered <- answer{table, r.Version}
			}
			return err
		})
	}
	slices.Sort(unasked)
	if err := group.Wait(); err != nil {
		p.keep(node, answered, forgot)
		return unasked, fmt.Errorf("node %s: %w", node, err)
	}
	if p.Warming != nil && before.mayWarm(g.Snapshot) {
		if err := p.warm(ctx, node); err != nil {
			p.keep(node, answered, forgot)
			return unasked, err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.forgot == forgot {
		p.put(node, proof{g.Snapshot, now})
	}
	return unasked, nil
}

// answer is a route table that answered, and as which version.
type answer struct {
	table   string
	version ledger.Digest
}

// keep remembers the tables that answered before a proof ended without a
// result, so that proofs that newer heads cut short come to an end together.
func (p *Prober) keep(node string, answered <-chan answer, forgot uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.forgot != forgot || len(answered) == 0 {
		return
	}
	had := p.proven[node]
	tables := maps.Clone(had.tables) // others may be reading it
	if tables == nil {
		tables = map[string]ledger.Digest{}
	}
	for range len(answered) {
		a := <-answered
		tables[a.table] = a.version
	}
	p.put(node, proof{had.snapshot, tables})
}

// put remembers a proof. The caller holds p.mu.
func (p *Prober) put(node string, proven proof) {
	if p.proven == nil || len(p.proven) >= maxProven {
		p.proven = map[string]proof{}
	}
	p.proven[node] = proven
}

// Forget makes the next Prove of the node ask for all tables, as after it was
// started anew.
func (p *Prober) Forget(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.proven, node)
	p.forgot++
}

func askable(f cache.Front) bool { return !f.ClientCert && !f.UDP }

func (p *Prober) warm(ctx context.Context, node string) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		n, err := p.Warming(ctx, node)
		if err == nil && n == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%d upstreams and listeners are warming", n)
		}
		if !sleep(ctx, wait) {
			return fmt.Errorf("node %s: %w", node, err)
		}
	}
}

// askUntil asks until the answer is right.
func askUntil(ctx context.Context, f cache.Front, host, want string) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		got, err := ask(ctx, f, host)
		if err == nil && got == want {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("it answers for another version (%.12s, want %.12s)", got, want)
		}
		if !sleep(ctx, wait) {
			return fmt.Errorf("route table %s behind listener %s: %w", f.Table, f.Listener, err)
		}
	}
}

// ask asks the sentinel once, on a connection of its own: an older one would be
// answered by the listener that accepted it.
func ask(ctx context.Context, f cache.Front, host string) (body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	if host == "" {
		host = f.Address
		if a, err := netip.ParseAddr(host); err == nil && a.IsUnspecified() {
			host = "127.0.0.1"
			if a.Is6() {
				host = "::1"
			}
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(f.Port))))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }() // the answer is read by then
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if f.ProxyProtocol {
		if _, err := io.WriteString(conn, "PROXY UNKNOWN\r\n"); err != nil {
			return "", err
		}
	}
	if f.TLS {
		// What is to be proven is which configuration answers, not who; the
		// certificate was judged before it went live.
		conn = tls.Client(conn, &tls.Config{ServerName: f.ServerName, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	}
	name := envoy.SentinelHost(f.Table)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("the sentinel answers with status %d", resp.StatusCode)
	}
	return strings.TrimSpace(string(b)), nil
}

// sleep waits, and reports whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
