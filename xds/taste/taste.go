package taste

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
	"github.com/chancery-dev/chancery/xds"
	"github.com/chancery-dev/chancery/xds/cache"
	"github.com/chancery-dev/chancery/xds/process"
)

// Options configure a taster.
type Options struct {
	// Binary is the path of the Envoy.
	Binary string
	// Dir is the taster's own directory. Its path must leave room for a socket
	// name: at most 80 bytes.
	Dir string
	// Limit bounds one taste. Zero means DefaultLimit.
	Limit time.Duration
	// Dummies are the certificates that stand for real ones. The zero value:
	// they are made by New.
	Dummies envoy.Dummies
	// KeyKind returns the kind of the real key behind a need. Nil: all ECDSA.
	KeyKind func(ir.SecretRef) envoy.KeyKind
	// Log receives what an operator would want to know. Nil: slog.Default.
	Log *slog.Logger
}

// DefaultLimit bounds one taste. The first, of a large snapshot by an Envoy
// that just started, takes longest.
const DefaultLimit = 60 * time.Second

const maxDir = 80

// ErrLimit says that there was no answer in time. The Envoy is started anew.
var ErrLimit = errors.New("the tasting envoy gave no answer in time")

// Result is what the Envoy had to say.
type Result struct {
	// OK says that it took everything.
	OK bool
	// Type, Resources and Message say what it refused and why.
	Type      projector.ResourceType
	Resources []string
	Message   string
	// Crashed says that it did not refuse but died.
	Crashed bool
	// Took is the time until the answer.
	Took time.Duration
}

// Taster is a resident Envoy. Taste may be called from any goroutine while Run
// runs; one taste is made at a time.
type Taster struct {
	opts     Options
	cache    *cache.Cache
	envoy    *process.Process
	admin    *process.Admin
	verdicts chan projector.Verdict

	mu         sync.Mutex // held for a whole taste; guards what follows
	generation uint64
	last       *projector.Snapshot // as given
	rewritten  *projector.Snapshot // last, as tasted
	good       *projector.Snapshot // the last that was taken, as given; nil before the first
	goodWire   *projector.Snapshot // good, as tasted
	cold       bool                // something may be warming since before the taste under way
}

// New returns a taster. Its Envoy starts with Run.
func New(opts Options) (*Taster, error) {
	if opts.Limit == 0 {
		opts.Limit = DefaultLimit
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("taster: %w", err)
	}
	if len(dir) > maxDir {
		return nil, fmt.Errorf("taster: the path %s is too long for a socket in it; use one of at most %d bytes", dir, maxDir)
	}
	if opts.Dummies.Certificates == nil {
		if opts.Dummies, err = dummies(); err != nil {
			return nil, fmt.Errorf("taster: %w", err)
		}
	}
	opts.Dir = dir
	t := &Taster{
		opts: opts, verdicts: make(chan projector.Verdict, 64),
		last: projector.EmptySnapshot(), rewritten: projector.EmptySnapshot(), cold: true,
		admin: process.NewAdmin(filepath.Join(dir, "admin.sock")),
	}
	t.cache = cache.New(cache.Options{Edge: "taster", OnVerdict: t.take, Log: slog.New(slog.DiscardHandler)})
	bootstrap, err := envoy.BootstrapADS(envoy.ADSOptions{
		NodeID: "taster", NodeCluster: "taster", Socket: filepath.Join(dir, "ads.sock"),
		Admin: envoy.Admin{Socket: filepath.Join(dir, "admin.sock")}, InitialFetch: 15 * time.Second,
		FewStats: true,
	})
	if err != nil {
		return nil, fmt.Errorf("taster: %w", err)
	}
	t.envoy, err = process.New(process.Options{
		Binary: opts.Binary, Dir: dir, Bootstrap: bootstrap, Concurrency: 1, Log: opts.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("taster: %w", err)
	}
	return t, nil
}

// take hands a verdict to the taste under way. Of old ones, which nobody takes,
// the oldest is dropped.
func (t *Taster) take(v projector.Verdict) {
	for {
		select {
		case t.verdicts <- v:
			return
		default:
		}
		select {
		case <-t.verdicts:
		default:
		}
	}
}

// Run keeps the Envoy and feeds it until ctx ends; then it stops it.
func (t *Taster) Run(ctx context.Context) error {
	lis, err := xds.ListenUnix(filepath.Join(t.opts.Dir, "ads.sock"))
	if err != nil {
		return fmt.Errorf("taster: %w", err)
	}
	defer t.admin.Close()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return xds.Serve(ctx, xds.Endpoint{Listener: lis, Registry: xds.Only(t.cache, "taster")})
	})
	group.Go(func() error { return t.envoy.Run(ctx) })
	return group.Wait()
}

// Taste has the Envoy judge a snapshot. An error says that there is no
// judgement: absence of an answer is not a pass.
func (t *Taster) Taste(ctx context.Context, s *projector.Snapshot) (Result, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, t.opts.Limit, ErrLimit)
	defer cancel()
	begin := time.Now()
	r, err := t.taste(ctx, s)
	r.Took = time.Since(begin)
	if err != nil {
		return r, fmt.Errorf("taste %s: %w", s.Fingerprint().Short(), err)
	}
	return r, nil
}

func (t *Taster) taste(ctx context.Context, s *projector.Snapshot) (Result, error) {
	updates := projector.Diff(t.last, s)
	rewritten, err := envoy.Tasteable(updates)
	if err != nil {
		return Result{Message: err.Error()}, nil //nolint:nilerr // a judgement: what cannot be read cannot be served
	}
	live, err := t.answers(updates)
	if err != nil {
		return Result{Message: err.Error()}, nil //nolint:nilerr // as above
	}
	pid, changed, err := t.running(ctx)
	if err != nil {
		return Result{}, err
	}
	t.last, t.rewritten = s, t.rewritten.With(rewritten)
	// Routes change in place: with nothing else changed, nothing begins to warm.
	t.cold = t.cold || slices.ContainsFunc(updates, func(u projector.Update) bool { return u.Type != projector.Routes })
	t.offer(t.rewritten, live)
	for {
		select {
		case v := <-t.verdicts:
			if v.Generation != t.generation {
				continue
			}
			if v.Kind == projector.Nacked {
				// The cache has put the Envoy back to what it took last.
				t.cold = true
				return Result{Type: v.Type, Resources: v.Resources, Message: v.Message}, nil
			}
			if t.cold {
				if err := t.warm(ctx); err != nil {
					return Result{}, t.reset(err)
				}
				t.cold = false
			}
			t.forget(s)
			t.good, t.goodWire = s, t.rewritten
			return Result{OK: true}, nil
		case <-changed:
			var now int
			if now, _, _, changed = t.envoy.State(); now != pid {
				t.back()
				return Result{Crashed: true, Message: "envoy died of it; its log is " + t.envoy.LogPath()}, nil
			}
		case <-ctx.Done():
			return Result{}, t.reset(context.Cause(ctx))
		}
	}
}

// running waits until an Envoy runs: one that dies later died of the taste.
func (t *Taster) running(ctx context.Context) (pid int, changed <-chan struct{}, err error) {
	for {
		pid, _, _, changed = t.envoy.State()
		if pid != 0 {
			return pid, changed, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, context.Cause(ctx)
		}
	}
}

// offer makes the next generation.
func (t *Taster) offer(s *projector.Snapshot, live []projector.Update) {
	t.generation++
	t.cache.Offer(projector.SignedHead{Head: projector.Head{
		Fleet: "taster", Ring: "taster", Generation: t.generation, Fingerprint: s.Fingerprint(),
	}}, s, live...)
}

// answers answers the needs as a live plane would that has nothing real.
func (t *Taster) answers(updates []projector.Update) ([]projector.Update, error) {
	var live []projector.Update
	for _, u := range updates {
		if u.Resource == nil {
			continue // it may be needed once more, if this is refused; forget drops it
		}
		var (
			r   projector.Resource
			err error
		)
		switch u.Type {
		case projector.EndpointNeeds:
			r, err = envoy.Endpoints(ir.Endpoints{Name: u.Name})
		case projector.SecretNeeds:
			var ref ir.SecretRef
			if ref, err = envoy.ReadSecretNeed(*u.Resource); err != nil {
				return nil, err
			}
			var kind envoy.KeyKind
			if t.opts.KeyKind != nil {
				kind = t.opts.KeyKind(ref)
			}
			r, err = envoy.DummySecret(ref, kind, t.opts.Dummies)
		default:
			continue
		}
		if err != nil {
			return nil, err
		}
		live = append(live, projector.Update{Type: u.Type, Name: u.Name, Resource: &r})
	}
	return live, nil
}

// forget drops the answers that what was taken before needed and s does not.
func (t *Taster) forget(s *projector.Snapshot) {
	if t.good == nil {
		return
	}
	var gone []projector.Update
	for _, u := range projector.Diff(t.good, s) {
		if u.Resource == nil && (u.Type == projector.EndpointNeeds || u.Type == projector.SecretNeeds) {
			gone = append(gone, u)
		}
	}
	if len(gone) > 0 {
		t.cache.Answer(gone...)
	}
}

// warm waits until nothing is warming.
func (t *Taster) warm(ctx context.Context) error {
	for {
		n, err := t.admin.Warming(ctx)
		if err == nil && n == 0 {
			return nil
		}
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("%d upstreams and listeners stay cold", n)
			}
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

// back goes back to what was taken last.
func (t *Taster) back() {
	t.cold = true
	if t.good == nil {
		t.last, t.rewritten = projector.EmptySnapshot(), projector.EmptySnapshot()
	} else {
		t.last, t.rewritten = t.good, t.goodWire
	}
	t.offer(t.rewritten, nil)
}

// restartLimit bounds the wait for an Envoy in place of one that hangs.
const restartLimit = 10 * time.Second

// reset starts the Envoy anew, whose state is unknown.
func (t *Taster) reset(why error) error {
	t.opts.Log.Error("starting the tasting envoy anew", slog.Any("error", why))
	t.back()
	// The context of the taste is over.
	ctx, cancel := context.WithTimeout(context.Background(), restartLimit)
	defer cancel()
	return errors.Join(why, t.envoy.Restart(ctx))
}

// Culprits finds which of n changes the Envoy refuses. build returns the
// snapshot with only the given changes, in rising order; with none of them it
// must be good. The result is that of Bisect.
func (t *Taster) Culprits(ctx context.Context, n int, build func(included []int) (*projector.Snapshot, error)) ([]int, error) {
	return Bisect(n, func(included []int) (bool, error) {
		s, err := build(included)
		if err != nil {
			return false, err
		}
		r, err := t.Taste(ctx, s)
		return !r.OK, err
	})
}

// dummies makes certificates that prove nothing.
func dummies() (envoy.Dummies, error) {
	d := envoy.Dummies{Certificates: map[envoy.KeyKind]ir.Secret{}}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "taster.invalid"}, DNSNames: []string{"taster.invalid"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	for _, kind := range []envoy.KeyKind{envoy.RSA, envoy.ECDSA} {
		var (
			key crypto.Signer
			err error
		)
		if kind == envoy.RSA {
			key, err = rsa.GenerateKey(rand.Reader, 2048)
		} else {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		if err != nil {
			return d, err
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return d, err
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return d, err
		}
		chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		d.Certificates[kind] = ir.Secret{Chain: chain, Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
		d.CA = chain
	}
	return d, nil
}
