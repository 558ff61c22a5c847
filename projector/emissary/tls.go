package emissary

import (
	"fmt"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Context is a TLSContext with its Secrets looked up.
type Context struct {
	Name      string
	Namespace string
	Object    ledger.ObjectKey
	Hosts     []string
	// Secret is the certificate's Secret, "" for none.
	SecretNamespace, Secret string
	CertUsable              bool
	CA                      *ir.SecretRef
	RequireCert             bool
	MinVersion, MaxVersion  string
	Ciphers, Curves         []string
	ALPN                    []string
	SNI                     string
}

// SecretNeed names a Secret for the live plane.
func SecretNeed(cluster, namespace, name string, use ir.SecretUse) ir.SecretRef {
	return ir.SecretRef{
		Name:    cluster + "/" + namespace + "/" + name + "/" + string(use),
		Cluster: cluster, Namespace: namespace, Secret: name, Use: use,
	}
}

// ReadContext reads a TLSContext. It is not ok if Emissary would drop it.
func ReadContext(w World, key UnitKey, o *getambassador.TLSContext) (*Context, []projector.Finding, bool) {
	f := &findings{}
	s := &o.Spec
	naming := w.MappingDefaults().SecretNaming
	if s.SecretNamespacing != nil {
		naming.Namespacing = *s.SecretNamespacing
	}
	c := &Context{
		Name: o.Name, Namespace: o.Namespace, Object: key.Object, Hosts: s.Hosts,
		MinVersion: tlsVersion(s.MinTLSVersion), MaxVersion: tlsVersion(s.MaxTLSVersion),
		Ciphers: s.CipherSuites, Curves: s.ECDHCurves, ALPN: alpn(s.ALPNProtocols), SNI: s.SNI,
		RequireCert: s.CertRequired != nil && *s.CertRequired,
	}
	if s.CertChainFile != "" || s.PrivateKeyFile != "" || s.CACertChainFile != "" {
		f.errorf(projector.CodeNotServed, "spec.cert_chain_file", "certificates in files are not served; put them into a Secret and name it in secret or ca_secret")
		return nil, f.list, false
	}
	if s.RedirectCleartextFrom != nil {
		f.noEffect("spec.redirect_cleartext_from", "has no effect in Emissary and is ignored; use a Host's requestPolicy")
	}
	if s.Secret != "" {
		c.SecretNamespace, c.Secret = naming.Split(s.Secret, o.Namespace)
		if !usableCertificate(w, f, "spec.secret", c.SecretNamespace, c.Secret) {
			return nil, f.list, false
		}
		c.CertUsable = true
	}
	if s.CASecret != "" {
		ca, ok := caNeed(w, f, naming, o.Namespace, "spec.", s.CASecret, s.CRLSecret)
		if !ok {
			return nil, f.list, false
		}
		c.CA = ca
	}
	return c, f.list, true
}

// caNeed looks up the Secrets with trust anchors and a revocation list.
func caNeed(w World, f *findings, naming getambassador.SecretNaming, home, path, ca, crl string) (*ir.SecretRef, bool) {
	ns, name := naming.Split(ca, home)
	secret, ok := w.Secret(ns, name)
	if !ok {
		f.errorf(projector.CodeNoSecret, path+"ca_secret", fmt.Sprintf("Secret %s/%s does not exist; create it or correct ca_secret", ns, name))
		return nil, false
	}
	if !secret.Has("tls.crt") && !secret.Has("user.key") && !secret.Has("cert-chain.pem") && !secret.Has("root-cert.pem") && !secret.Has("ca.crt") {
		f.errorf(projector.CodeBadSecret, path+"ca_secret", fmt.Sprintf("Secret %s/%s has no tls.crt with trust anchors", ns, name))
		return nil, false
	}
	need := SecretNeed(w.Cluster(), ns, name, ir.UseCA)
	if crl != "" {
		crlNS, crlName := naming.Split(crl, home)
		s, ok := w.Secret(crlNS, crlName)
		if !ok || !s.Has("crl.pem") {
			f.errorf(projector.CodeNoSecret, path+"crl_secret", fmt.Sprintf("Secret %s/%s with crl.pem does not exist; create it or correct crl_secret", crlNS, crlName))
			return nil, false
		}
		need.CRL = crlName
		if crlNS != ns {
			need.CRLNamespace = crlNS
		}
		need.Name = w.Cluster() + "/" + ns + "/" + name + "/" + crlNS + "/" + crlName + "/" + string(ir.UseCA)
	}
	return &need, true
}

// usableCertificate looks up a certificate's Secret and says what is wrong.
func usableCertificate(w World, f *findings, path, namespace, name string) bool {
	s, ok := w.Secret(namespace, name)
	if !ok {
		f.errorf(projector.CodeNoSecret, path, fmt.Sprintf("Secret %s/%s does not exist; create it or correct the reference", namespace, name))
		return false
	}
	hasCert := s.Has("tls.crt") || s.Has("cert-chain.pem")
	hasKey := s.Has("tls.key") || s.Has("user.key") || s.Has("key.pem")
	if !hasCert || !hasKey {
		f.errorf(projector.CodeBadSecret, path, fmt.Sprintf("Secret %s/%s needs both tls.crt and tls.key", namespace, name))
		return false
	}
	if len(s.Problems) > 0 {
		f.errorf(projector.CodeBadSecret, path, fmt.Sprintf("Secret %s/%s cannot be used: %s", namespace, name, strings.Join(s.Problems, "; ")))
		return false
	}
	return true
}

// certificate reports whether there are a certificate and its key, which can be
// used as far as is known.
func (s *Secret) certificate() bool {
	return (s.Has("tls.crt") || s.Has("cert-chain.pem")) && (s.Has("tls.key") || s.Has("user.key") || s.Has("key.pem")) && len(s.Problems) == 0
}

// Worse reports whether an older version of the Secret has a usable certificate
// and this one has not.
func (s *Secret) Worse(old *Secret) bool { return old.certificate() && !s.certificate() }

// alpn reads comma-separated protocols.
func alpn(s string) []string {
	var out []string
	for p := range strings.SplitSeq(s, ",") {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return out
}

// tlsVersion turns "v1.2" into "1.2".
func tlsVersion(s string) string { return strings.TrimPrefix(s, "v") }

func validTLSVersion(s string) bool {
	return s == "" || slices.Contains([]string{"v1.0", "v1.1", "v1.2", "v1.3"}, s)
}

// Originate returns the TLS settings for an upstream under a context.
func (c *Context) Originate(cluster string) (*ir.ClientTLS, []ir.SecretRef) {
	t := &ir.ClientTLS{
		SNI: c.SNI, MinVersion: c.MinVersion, MaxVersion: c.MaxVersion, Ciphers: c.Ciphers, Curves: c.Curves, ALPN: c.ALPN,
	}
	var needs []ir.SecretRef
	if c.Secret != "" {
		need := SecretNeed(cluster, c.SecretNamespace, c.Secret, ir.UseCertificate)
		t.Certificate = need.Name
		needs = append(needs, need)
	}
	if c.CA != nil {
		t.CA = c.CA.Name
		needs = append(needs, *c.CA)
	}
	return t, needs
}
