package xds_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"testing"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/xds"
	"github.com/chancery-dev/chancery/xds/cache"
)

// keyPair returns a certificate of the authority for a name.
func (a *authority) keyPair(name string) tls.Certificate {
	a.tb.Helper()
	s := a.issue("", name)
	pair, err := tls.X509KeyPair(s.Chain, s.Key)
	if err != nil {
		a.tb.Fatal(err)
	}
	return pair
}

// TestIdentity shows that a peer's fleet comes from its certificate, whatever
// it says of itself, and that without one there is nothing.
func TestIdentity(t *testing.T) {
	a := newAuthority(t)
	fleet := cache.New(cache.Options{})
	s := probed(t, raw(upstreams, "a", "1"))
	fleet.Offer(head(1, s), s)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := a.keyPair("edge")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- xds.Serve(ctx, xds.Endpoint{
			Listener: lis,
			TLS: &tls.Config{
				Certificates: []tls.Certificate{own}, ClientCAs: a.pool,
				ClientAuth: tls.RequireAndVerifyClientCert,
			},
			Registry: xds.ByCertificate(func(state tls.ConnectionState, from net.Addr) (xds.Peer, error) {
				identity := state.PeerCertificates[0].DNSNames[0]
				if identity != "envoy-1" {
					return xds.Peer{}, fmt.Errorf("%s from %s is in no fleet", identity, from)
				}
				return xds.Peer{Cache: fleet, Node: identity}, nil
			}),
		})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	ask := func(certs ...tls.Certificate) error {
		conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: certs, RootCAs: a.pool, ServerName: "edge",
		})))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		str, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
		if err != nil {
			return err
		}
		// A server that refuses may do so before this is sent.
		_ = str.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: cache.TypeURL(projector.Upstreams)})
		_, err = str.Recv()
		if err != nil {
			return err
		}
		if nodes := fleet.Nodes(); len(nodes) != 1 || nodes[0].ID != "envoy-1" {
			t.Errorf("got nodes %+v", nodes)
		}
		return nil
	}
	if err := ask(a.keyPair("envoy-1")); err != nil {
		t.Error(err)
	}
	if err := ask(a.keyPair("envoy-2")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a peer of no fleet: got %v", err)
	}
	if err := ask(newAuthority(t).keyPair("envoy-1")); status.Code(err) != codes.Unavailable {
		t.Errorf("a certificate of another authority: got %v", err)
	}
	if err := ask(); status.Code(err) != codes.Unavailable {
		t.Errorf("no certificate: got %v", err)
	}
}

// TestTLSIsRequired shows that no server starts that would let anyone in.
func TestTLSIsRequired(t *testing.T) {
	for name, config := range map[string]*tls.Config{
		"none": nil, "without client certificates": {ClientCAs: x509.NewCertPool()},
	} {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := xds.Serve(t.Context(), xds.Endpoint{Listener: lis, TLS: config}); err == nil {
			t.Errorf("%s: served", name)
		}
	}
}
