package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Keeper holds a part's credentials and takes up new ones while connections go
// on. It is safe for concurrent use.
type Keeper struct {
	now  func() time.Time
	next func(have *parsed, now time.Time) (Credentials, error)

	checking sync.Mutex   // held by Check
	raw      *Credentials // as current was made of; nil before the first
	current  atomic.Pointer[parsed]
}

// Keep returns the credentials that the authority issued under its folder, or
// issues them, and renews them as they get old. A certificate that lacks one
// of the names is issued again at once.
func (a *Authority) Keep(role Role, name string, sans []string, lifetime time.Duration) (*Keeper, error) {
	if err := (Identity{Install: a.install, Role: role, Name: name}).validate(); err != nil {
		return nil, fmt.Errorf("keep certificate: %w", err)
	}
	dir := filepath.Join(a.dir, dirIssued, string(role)+"-"+name)
	k := &Keeper{now: a.Now}
	k.next = func(have *parsed, now time.Time) (Credentials, error) {
		if have != nil && !old(have.cert.Leaf, now) {
			return *k.raw, nil
		}
		c, err := a.Issue(role, name, sans, lifetime)
		if err != nil {
			return Credentials{}, err
		}
		return c, c.Save(dir)
	}
	if c, err := Load(dir); err == nil {
		p, err := c.parse()
		if err == nil && string(c.CA) == string(a.caPEM) && hasNames(p.cert.Leaf, sans) {
			k.raw = &c
			k.current.Store(p)
		}
	} else if errors.Is(err, ErrTooOpen) {
		return nil, err
	}
	if _, err := k.Check(); err != nil {
		return nil, err
	}
	return k, nil
}

// Watch returns the credentials in a folder that another process writes, and
// reads them again when they change.
func Watch(dir string, now func() time.Time) (*Keeper, error) {
	k := &Keeper{now: now}
	k.next = func(*parsed, time.Time) (Credentials, error) { return Load(dir) }
	if _, err := k.Check(); err != nil {
		return nil, err
	}
	return k, nil
}

// old reports whether less than a third of the certificate's life is left.
func old(c *x509.Certificate, now time.Time) bool {
	return c.NotAfter.Sub(now) < c.NotAfter.Sub(c.NotBefore)/3
}

func hasNames(c *x509.Certificate, sans []string) bool {
	want := &x509.Certificate{}
	if addSANs(want, sans) != nil {
		return false // Issue says what is wrong with them
	}
	for _, n := range want.DNSNames {
		if !slices.Contains(c.DNSNames, n) {
			return false
		}
	}
	for _, ip := range want.IPAddresses {
		if !slices.ContainsFunc(c.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

// Check takes up new credentials, if there are any, and reports whether it
// did. With an error the ones at hand stay in use.
func (k *Keeper) Check() (bool, error) {
	k.checking.Lock()
	defer k.checking.Unlock()
	have := k.current.Load()
	c, err := k.next(have, k.now())
	if err != nil {
		return false, err
	}
	if have != nil && c.equal(*k.raw) {
		return false, nil
	}
	p, err := c.parse()
	if err != nil {
		return false, err
	}
	if have != nil && p.id != have.id {
		return false, fmt.Errorf("%w: the new certificate is of %s, this process is %s; restart it to become another", ErrIdentity, p.id, have.id)
	}
	k.raw = &c
	k.current.Store(p)
	return true, nil
}

// Run checks every period until ctx ends.
func (k *Keeper) Run(ctx context.Context, every time.Duration, log *slog.Logger) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch changed, err := k.Check(); {
		case err != nil:
			log.ErrorContext(ctx, "certificate was not renewed", slog.String("identity", k.Identity().String()),
				slog.Time("valid_until", k.NotAfter()), slog.Any("error", err))
		case changed:
			log.InfoContext(ctx, "certificate renewed", slog.String("identity", k.Identity().String()), slog.Time("valid_until", k.NotAfter()))
		}
	}
}

// Format writes the identity, whatever the verb.
func (k *Keeper) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "credentials of %s (redacted)", k.Identity())
}

// Identity returns who the credentials are for.
func (k *Keeper) Identity() Identity { return k.current.Load().id }

// NotAfter returns when the certificate in use ends.
func (k *Keeper) NotAfter() time.Time { return k.current.Load().cert.Leaf.NotAfter }

// ServerTLS returns a configuration for a server that lets in the given roles
// of its own install, with TLS 1.3 and a certificate. Each connection uses the
// credentials of the moment.
func (k *Keeper) ServerTLS(allowed ...Role) *tls.Config {
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		Time:       k.now,
		// A resumed session would outlive its certificate.
		SessionTicketsDisabled: true,
		VerifyConnection:       func(s tls.ConnectionState) error { return k.admit(s, allowed) },
		NextProtos:             []string{"h2", "http/1.1"},
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &k.current.Load().cert, nil },
		ClientCAs:              k.current.Load().roots,
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		c := base.Clone()
		c.GetConfigForClient = nil
		c.ClientCAs = k.current.Load().roots
		return c, nil
	}
	return base
}

// ClientTLS returns a configuration for a client of a server that has the
// given role in the same install, at whatever address. The roots are those of
// the moment of the call.
func (k *Keeper) ClientTLS(server Role) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		ServerName:       server.serverName(),
		RootCAs:          k.current.Load().roots,
		Time:             k.now,
		VerifyConnection: func(s tls.ConnectionState) error { return k.admit(s, []Role{server}) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &k.current.Load().cert, nil
		},
	}
}

// admit checks who a verified peer is.
func (k *Keeper) admit(s tls.ConnectionState, allowed []Role) error {
	if len(s.PeerCertificates) == 0 {
		return fmt.Errorf("%w: no certificate", ErrIdentity)
	}
	id, err := IdentityOf(s.PeerCertificates[0])
	if err != nil {
		return err
	}
	switch {
	case id.Install != k.Identity().Install:
		return fmt.Errorf("%w: %s is of another install than %s", ErrIdentity, id, k.Identity())
	case !slices.Contains(allowed, id.Role):
		return fmt.Errorf("%w: %s has role %s, and this is for %v; use a certificate of that role: chancery pki issue", ErrIdentity, id, id.Role, allowed)
	}
	return nil
}

// PeerOf returns who is at the other end of a connection that one of the
// configurations here let through.
func PeerOf(s tls.ConnectionState) (Identity, error) {
	if len(s.PeerCertificates) == 0 || len(s.VerifiedChains) == 0 {
		return Identity{}, fmt.Errorf("%w: no verified certificate", ErrIdentity)
	}
	return IdentityOf(s.PeerCertificates[0])
}
