package xds

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/chancery-dev/chancery/xds/cache"
)

// Peer is what the registry knows of who connected.
type Peer struct {
	// Cache serves the peer's fleet.
	Cache *cache.Cache
	// Node is the peer's name; "" takes the one that it gives itself, which is
	// a label and decides nothing.
	Node string
}

// Registry says who connected, by the connection alone: the certificate, or
// the socket. It must not block.
type Registry func(ctx context.Context) (Peer, error)

// Only returns the registry of a socket that one fleet's Envoys connect to.
func Only(c *cache.Cache, node string) Registry {
	return func(context.Context) (Peer, error) { return Peer{Cache: c, Node: node}, nil }
}

// ByCertificate returns a registry that knows peers by their verified
// certificate; find is also told where the connection comes from.
func ByCertificate(find func(state tls.ConnectionState, from net.Addr) (Peer, error)) Registry {
	return func(ctx context.Context) (Peer, error) {
		p, ok := peer.FromContext(ctx)
		if !ok {
			return Peer{}, errors.New("connection without a peer")
		}
		info, ok := p.AuthInfo.(credentials.TLSInfo)
		if !ok || len(info.State.VerifiedChains) == 0 {
			return Peer{}, errors.New("connection without a verified certificate")
		}
		return find(info.State, p.Addr)
	}
}

// Endpoint is where Envoys connect.
type Endpoint struct {
	// Listener is closed when Serve returns.
	Listener net.Listener
	// TLS must verify client certificates, except on Unix sockets, where it
	// may be nil: there, who may open the socket is who may connect.
	TLS      *tls.Config
	Registry Registry
}

// Bounds of the server, for each connection.
const (
	maxStreams   = 100
	maxRecvBytes = 4 << 20
	// stopLimit is how long a stopping server waits for what is being sent.
	stopLimit = 2 * time.Second
)

// ListenUnix listens on a socket that only this user may open: its directory
// is made with mode 0700, or must not be open to others. A socket that a dead
// process left behind is removed.
func ListenUnix(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("listen on %s: others may open sockets in %s; chmod 700 it", path, dir)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close() // it said all that it was asked
		return nil, fmt.Errorf("listen on %s: another process serves there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}

// Serve serves delta ADS until ctx ends, and then nil; or until the listener
// fails. Streams are closed when it returns.
func Serve(ctx context.Context, e Endpoint) error {
	if e.TLS == nil && e.Listener.Addr().Network() != "unix" {
		return errors.Join(fmt.Errorf("serve xds on %s: TLS with client certificates is required off a Unix socket", e.Listener.Addr()), e.Listener.Close())
	}
	if e.TLS != nil && e.TLS.ClientAuth != tls.RequireAndVerifyClientCert {
		return errors.Join(fmt.Errorf("serve xds on %s: the TLS configuration must require and verify client certificates", e.Listener.Addr()), e.Listener.Close())
	}
	opts := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxRecvMsgSize(maxRecvBytes),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if e.TLS != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(e.TLS)))
	}
	g := grpc.NewServer(opts...)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, &ads{ctx: ctx, registry: e.Registry})
	failed := make(chan error, 1)
	go func() { failed <- g.Serve(e.Listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve xds on %s: %w", e.Listener.Addr(), err)
	case <-ctx.Done():
	}
	// The streams end with ctx; what is being sent is let out.
	timer := time.AfterFunc(stopLimit, g.Stop)
	g.GracefulStop()
	timer.Stop()
	if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve xds on %s: %w", e.Listener.Addr(), err)
	}
	return nil
}

// ads is the gRPC service.
type ads struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	ctx      context.Context //nolint:containedctx // the server's life, which go-control-plane wants for each stream
	registry Registry
}

// DeltaAggregatedResources serves one Envoy.
func (a *ads) DeltaAggregatedResources(str discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	p, err := a.registry(str.Context())
	if err != nil {
		return status.Errorf(codes.PermissionDenied, "xds: %v", err)
	}
	if p.Cache == nil {
		return status.Error(codes.PermissionDenied, "xds: the peer belongs to no fleet that is served here")
	}
	// One server for each stream, for it is what ties the requests that reach
	// the cache to the connection that they came by.
	s := p.Cache.Open(p.Node)
	return delta.NewServer(a.ctx, s, s).DeltaStreamHandler(str, resource.AnyType)
}

// StreamAggregatedResources refuses the state-of-the-world protocol.
func (a *ads) StreamAggregatedResources(discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, cache.ErrStateOfTheWorld.Error())
}
