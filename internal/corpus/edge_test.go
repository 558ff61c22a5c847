package corpus_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/internal/corpus"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/xds"
)

// throughEdge serves a case through the real edge by delta ADS, with an Envoy
// of its own.
func throughEdge(binary string) corpus.Serve {
	return func(ctx context.Context, c *corpus.Case, stage *corpus.Stage, dir string) (stop func(), err error) {
		out, err := compileCase(c)
		if err != nil {
			return nil, fmt.Errorf("compile: %w", err)
		}
		snapshot, answers, err := staged(out, stage)
		if err != nil {
			return nil, err
		}
		// Socket paths are short; those of test folders are not.
		sockets, err := os.MkdirTemp("", "corpus-")
		if err != nil {
			return nil, err
		}
		ctx, end := context.WithCancel(context.WithoutCancel(ctx))
		var wg sync.WaitGroup
		stop = func() {
			end()
			wg.Wait()
			_ = os.RemoveAll(sockets)
		}
		defer func() {
			if err != nil {
				stop()
			}
		}()
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		store, err := xds.OpenStore(filepath.Join(dir, "edge"), public)
		if err != nil {
			return nil, err
		}
		verdicts := make(chan projector.Verdict, 64)
		edge, err := xds.NewEdge(xds.EdgeOptions{
			Name: "edge", Fleet: federation.DefaultFleet, Ring: federation.DefaultRing, Hub: public,
			Source: memory{snapshot}, Store: store, Prober: &xds.Prober{},
			OnVerdict: func(v projector.Verdict) {
				select {
				case verdicts <- v:
				default: // only the first few matter
				}
			},
		})
		if err != nil {
			return nil, errors.Join(err, store.Close())
		}
		edge.Answer(answers...)
		socket := filepath.Join(sockets, "x", "xds.sock")
		l, err := xds.ListenUnix(socket)
		if err != nil {
			return nil, errors.Join(err, store.Close())
		}
		wg.Go(func() {
			_ = edge.Run(ctx)
			_ = store.Close()
		})
		wg.Go(func() { _ = xds.Serve(ctx, xds.Endpoint{Listener: l, Registry: xds.Only(edge.Cache(), "envoy")}) })
		head, err := signedHead(snapshot, private, public)
		if err != nil {
			return nil, err
		}
		if err := edge.Offer(head); err != nil {
			return nil, err
		}
		host, port, err := net.SplitHostPort(stage.AdminAddress())
		if err != nil {
			return nil, err
		}
		adminPort, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, err
		}
		bootstrap, err := envoy.BootstrapADS(envoy.ADSOptions{
			NodeID: "envoy", NodeCluster: "corpus", Socket: socket, Admin: envoy.Admin{Address: host, Port: uint32(adminPort)},
		})
		if err != nil {
			return nil, err
		}
		e, err := corpus.StartEnvoy(ctx, binary, bootstrap, stage.AdminAddress(), dir)
		if err != nil {
			return nil, err
		}
		before := stop
		stop = func() {
			e.Stop()
			before()
		}
		return stop, awaitServed(ctx, verdicts)
	}
}

// awaitServed waits until the edge has proved the snapshot.
func awaitServed(ctx context.Context, verdicts <-chan projector.Verdict) error {
	limit := time.After(time.Minute)
	last := "it has said nothing"
	for {
		select {
		case v := <-verdicts:
			switch v.Kind {
			case projector.Served:
				return nil
			case projector.Nacked:
				return fmt.Errorf("refused by Envoy: %s %v: %s", v.Type, v.Resources, v.Message)
			case projector.Acked:
				last = string(v.Kind) // and not proved yet
			}
		case <-limit:
			return fmt.Errorf("not proved to be served within a minute; last verdict: %s", last)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// staged turns every resource and every answer towards the stage.
func staged(c compiled, stage *corpus.Stage) (*projector.Snapshot, []projector.Update, error) {
	var updates, answers []projector.Update
	for _, t := range []projector.ResourceType{projector.Upstreams, projector.Listeners} {
		for r := range c.snapshot.All(t) {
			m, err := envoy.Message(r, t)
			if err != nil {
				return nil, nil, err
			}
			turned, err := stage.Rewrite(m)
			if err != nil {
				return nil, nil, err
			}
			u := projector.Update{Type: t, Name: r.Name}
			if turned != nil {
				b, err := proto.MarshalOptions{Deterministic: true}.Marshal(turned)
				if err != nil {
					return nil, nil, err
				}
				changed := projector.NewResource(r.Name, b)
				u.Resource = &changed
			}
			updates = append(updates, u)
		}
	}
	for name, e := range c.endpoints {
		for i, a := range e.Addresses {
			backend, err := stage.Backend(a.IP, int(a.Port))
			if err != nil {
				return nil, nil, err
			}
			host, port, err := net.SplitHostPort(backend)
			if err != nil {
				return nil, nil, err
			}
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return nil, nil, err
			}
			e.Addresses[i].IP, e.Addresses[i].Port = host, uint32(n)
		}
		r, err := envoy.Endpoints(e)
		if err != nil {
			return nil, nil, err
		}
		answers = append(answers, projector.Update{Type: projector.EndpointNeeds, Name: name, Resource: &r})
	}
	for name, s := range c.secrets {
		if s.Chain == nil && s.CA == nil {
			continue
		}
		r, err := envoy.Secret(s, c.uses[name])
		if err != nil {
			return nil, nil, err
		}
		answers = append(answers, projector.Update{Type: projector.SecretNeeds, Name: name, Resource: &r})
	}
	return c.snapshot.With(updates), answers, nil
}

func signedHead(s *projector.Snapshot, private ed25519.PrivateKey, public ed25519.PublicKey) (projector.SignedHead, error) {
	author := federation.Author{Term: 1, Instance: "corpus", NextN: 1, Previous: map[string]ledger.Digest{}}
	_, b, err := author.Encode(federation.Decision{
		Scope: string(federation.DefaultFleet), Name: projector.HeadDecision,
		Body: projector.Head{Fleet: federation.DefaultFleet, Ring: federation.DefaultRing, Generation: 1, Revision: 1, Fingerprint: s.Fingerprint(), Why: "rollout"},
	}, 1, time.Unix(1_700_000_000, 0))
	if err != nil {
		return projector.SignedHead{}, err
	}
	return projector.OpenHead(ledger.Sign(b, private), 2, public)
}

// memory is a hub's shelf with one snapshot.
type memory struct{ snapshot *projector.Snapshot }

// Manifest returns the snapshot's manifest.
func (m memory) Manifest(context.Context, projector.Fingerprint) ([]byte, error) {
	return m.snapshot.Manifest(), nil
}

// Chunk returns a chunk of the snapshot.
func (m memory) Chunk(_ context.Context, d ledger.Digest) ([]byte, error) {
	for c := range m.snapshot.Chunks() {
		if c.Digest() == d {
			return c.Encode(), nil
		}
	}
	return nil, fmt.Errorf("no chunk %s", d.Short())
}
