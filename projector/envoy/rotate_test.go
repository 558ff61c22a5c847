package envoy_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// TestXDSCertificateIsRenewed: an Envoy with FileSecrets shows its edge the
// new certificate once it was moved into place.
func TestXDSCertificateIsRenewed(t *testing.T) {
	dir, err := os.MkdirTemp("", "envoy") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	put := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// As Kubernetes mounts a Secret: a link is moved over an older one.
	mount := func(version string, s ir.Secret) {
		if err := os.MkdirAll(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		put(version+"/cert", s.Chain)
		put(version+"/key", s.Key)
		put(version+"/ca", credentials().CA)
		if err := os.Symlink(version, filepath.Join(dir, "next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "data")); err != nil {
			t.Fatal(err)
		}
	}
	ec, rsa := credentials().Certificates[envoy.ECDSA], credentials().Certificates[envoy.RSA]
	mount("1", ec)
	for _, name := range []string{"cert", "key", "ca"} {
		if err := os.Symlink(filepath.Join("data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	files := envoy.MutualTLS{
		CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key"), CAFile: filepath.Join(dir, "ca"),
		ServerName: "localhost", CertificateSDS: filepath.Join(dir, "certificate.json"), CASDS: filepath.Join(dir, "anchors.json"),
	}
	certificate, ca, err := envoy.FileSecrets(files)
	if err != nil {
		t.Fatal(err)
	}
	put("certificate.json", certificate)
	put("anchors.json", ca)

	server, err := tls.X509KeyPair(ec.Chain, ec.Key)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if err := listener.(*net.TCPListener).SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	edge := tls.NewListener(listener, &tls.Config{
		Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
	})
	b, err := envoy.BootstrapADS(envoy.ADSOptions{
		NodeID: "n", NodeCluster: "c", TLS: &files, Admin: envoy.Admin{Socket: filepath.Join(dir, "admin")},
		Edges: []ir.HostPort{{Host: "127.0.0.1", Port: uint32(edge.Addr().(*net.TCPAddr).Port)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	launch(t, put("bootstrap.json", b))

	// Each connection is closed once it is seen, so that Envoy makes another.
	shown := func(want ir.Secret) {
		t.Helper()
		block, _ := pem.Decode(want.Chain)
		for {
			conn, err := edge.Accept()
			if err != nil {
				t.Fatalf("envoy never showed the certificate: %v", err)
			}
			c := conn.(*tls.Conn)
			err = c.SetDeadline(time.Now().Add(10 * time.Second))
			if err == nil {
				err = c.Handshake()
			}
			var peers []*x509.Certificate
			if err == nil {
				peers = c.ConnectionState().PeerCertificates
			}
			conn.Close()
			if len(peers) > 0 && bytes.Equal(peers[0].Raw, block.Bytes) {
				return
			}
		}
	}
	shown(ec)
	mount("2", rsa)
	shown(rsa)
}
