package corpus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A Stage is the local machine dressed up as the world of one case: one echo backend for each upstream address, and a
// loopback address of its own on which the case's listeners keep their ports, so that what depends on a port is not
// disturbed. Rewrite turns Envoy's resources towards it. A Stage may be used by many goroutines; Observe, which takes
// every request that the backends see for its own, by one at a time.
type Stage struct {
	ip    string
	claim net.Listener // holds ip against other stages on this machine
	c     *Case
	cert  tls.Certificate

	closing  chan struct{}  // closed by Close: ends what backends wait for
	serving  sync.WaitGroup // whatever serves; added to only through enter
	mu       sync.Mutex     // guards what follows
	closed   bool
	backends map[string]*backend // by upstream address, host:port
	hits     []*hit              // since the last reset
	byID     map[string]*hit     // every hit so far
}

const (
	claimPort = 62999 // whoever listens on it has the address
	adminPort = 62998
)

// NewStage claims a loopback address for the case. The caller closes the Stage.
func NewStage(c *Case) (*Stage, error) {
	cert, err := selfSigned("echo")
	if err != nil {
		return nil, fmt.Errorf("stage of %s: %w", c.Name, err)
	}
	claim, err := claimAddress()
	if err != nil {
		return nil, fmt.Errorf("stage of %s: %w", c.Name, err)
	}
	return &Stage{
		ip: claim.Addr().(*net.TCPAddr).IP.String(), claim: claim, c: c, cert: cert,
		closing: make(chan struct{}), backends: map[string]*backend{}, byID: map[string]*hit{},
	}, nil
}

// claimAddress finds a loopback address that no other stage has, in this process or another. Processes begin at
// different places, so that they rarely meet.
func claimAddress() (net.Listener, error) {
	const networks, hosts = 128, 250
	start := os.Getpid() * 7919
	var last error
	for i := range networks * hosts {
		n := (start + i) % (networks * hosts)
		address := fmt.Sprintf("127.%d.%d.1:%d", 64+n/hosts, 1+n%hosts, claimPort)
		claim, err := net.Listen("tcp4", address)
		if err == nil {
			return claim, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no loopback address is free: %w", last)
}

// Close ends the backends and gives the address back. It waits until they have ended.
func (s *Stage) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	backends := make([]*backend, 0, len(s.backends))
	for _, b := range s.backends {
		backends = append(backends, b)
	}
	s.mu.Unlock()
	close(s.closing)
	var errs []error
	for _, b := range backends {
		errs = append(errs, b.close())
	}
	s.serving.Wait()
	return errors.Join(append(errs, s.claim.Close())...)
}

// enter counts one more goroutine that serves, unless the Stage is closed. The goroutine says serving.Done at its end.
func (s *Stage) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.serving.Add(1)
	return true
}

// Address returns where the case's listener on a port is to listen, and where probes connect to.
func (s *Stage) Address(port int) string { return net.JoinHostPort(s.ip, strconv.Itoa(port)) }

// AdminAddress returns an address for the admin interface of the case's Envoy that nothing else uses.
func (s *Stage) AdminAddress() string { return s.Address(adminPort) }

// Backend returns the loopback address, host:port, of the echo backend that stands for an upstream address, which is
// started at the first call. The same upstream address always gets the same backend.
func (s *Stage) Backend(host string, port int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", net.ErrClosed
	}
	upstream := net.JoinHostPort(host, strconv.Itoa(port))
	b, ok := s.backends[upstream]
	if !ok {
		name, servicePort := s.c.backendFor(host, port)
		var err error
		if b, err = startBackend(s, name, servicePort, upstream); err != nil {
			return "", fmt.Errorf("backend for %s: %w", upstream, err)
		}
		s.backends[upstream] = b
	}
	return b.address, nil
}

// A hit is one request that reached a backend.
type hit struct {
	id        string
	kind      string // as SideRequest.Kind
	backend   string
	port      int
	endpoint  string // the upstream address that the backend stands for
	method    string
	path      string
	host      string
	proto     string
	tls       bool
	sni       string
	client    string // common name of the client's certificate
	headers   map[string]Values
	detail    map[string]string
	responded []string // names of the response headers that were asked for
}

// record files a hit, which must not change afterwards, and returns how many of its backend and kind came before it
// since the last reset.
func (s *Stage) record(h *hit) (earlier int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.hits {
		if o.backend == h.backend && o.kind == h.kind {
			earlier++
		}
	}
	h.id = strconv.Itoa(len(s.byID) + 1)
	s.hits = append(s.hits, h)
	s.byID[h.id] = h
	return earlier
}

func (s *Stage) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hits = nil
}

func (s *Stage) recorded() []*hit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.hits)
}

// answering returns the hit that a response came from, or nil if no backend gave it.
func (s *Stage) answering(r *response) *hit {
	ids := r.headers["x-echo-id"]
	if len(ids) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[ids[len(ids)-1]]
}

// pause waits, or returns early when ctx or the Stage ends.
func (s *Stage) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-s.closing:
	}
}

func selfSigned(cn string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: cn},
		DNSNames:     []string{cn},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// certificateName is the name that expectations know a certificate by.
func certificateName(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	if len(c.DNSNames) > 0 {
		return c.DNSNames[0]
	}
	return c.SerialNumber.String()
}
