package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/federation/pki"
)

// startServers opens the API, the probes and the metrics, and writes how the
// command line reaches the API.
func (in *install) startServers(ctx context.Context, g *errgroup.Group) error {
	if in.cfg.API != "" {
		if err := in.startAPI(ctx, g); err != nil {
			return err
		}
	}
	for _, s := range []struct {
		what, flag, address string
		handler             http.Handler
	}{
		{"probes", "--probes", in.cfg.Probes, console.Probes(in.checks)},
		{"metrics", "--metrics", in.cfg.Metrics, promhttp.HandlerFor(in.registry, promhttp.HandlerOpts{})},
	} {
		if s.address == "" {
			continue
		}
		l, err := listen(s.what, s.flag, s.address)
		if err != nil {
			return err
		}
		g.Go(func() error { return serveHTTP(ctx, l, s.handler) })
	}
	return nil
}

func (in *install) startAPI(ctx context.Context, g *errgroup.Group) error {
	l, err := listen("API", "--api", in.cfg.API)
	if err != nil {
		return err
	}
	keeper, err := in.authority.Keep(pki.Hub, "api", localNames(in.cfg.API), certLifetime)
	if err != nil {
		return err
	}
	operator, err := in.authority.Issue(pki.Operator, "local", nil, certLifetime)
	if err != nil {
		return err
	}
	if err := pki.WriteClientConfig(filepath.Join(in.cfg.Data, "client.yaml"), pki.ClientConfig{
		Server: "https://" + reachable(l.Addr().(*net.TCPAddr)), Credentials: operator,
	}); err != nil {
		return err
	}
	in.api = l
	handler := console.New(console.Config{
		Hub: in.hub.Hub, Ledger: in.store, Shelf: in.hub.shelf, Build: in.cfg.Build, Logger: in.log,
	})
	g.Go(func() error { keeper.Run(ctx, time.Hour, in.log); return nil })
	g.Go(func() error { return serveTLS(ctx, l, keeper, handler) })
	return nil
}

// reachable returns the address by which this machine reaches a listener.
func reachable(a *net.TCPAddr) string {
	host := a.IP.String()
	if a.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(a.Port))
}

// checks says what readiness rests on. A hub that is away does not make an
// edge unready: it serves what it has.
func (in *install) checks() []console.Check {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var seq uint64
	err := in.hub.Inspect(ctx, func(i hub.Inside) { seq = uint64(i.State.Seq) })
	checks := []console.Check{{Name: "hub", Err: err, Detail: fmt.Sprintf("folded up to seq %d of %d", seq, in.store.Size())}}
	gen, _ := in.edge.Cache().Current()
	snapshot := console.Check{Name: "snapshot"}
	if gen == nil {
		snapshot.Err = fmt.Errorf("no snapshot is served yet")
	} else {
		snapshot.Detail = fmt.Sprintf("serving r%d, %s", gen.Head.Head.Revision, gen.Snapshot.Fingerprint().Short())
	}
	return append(checks, snapshot)
}
