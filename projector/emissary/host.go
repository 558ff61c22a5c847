package emissary

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Actions of a Host on insecure requests.
const (
	ActionRedirect = "Redirect"
	ActionRoute    = "Route"
	ActionReject   = "Reject"
)

// Host is a Host, ready to be bound to Listeners.
type Host struct {
	Key      UnitKey
	FirstSeq ledger.Seq
	Hostname string
	// TLS terminates TLS; nil for cleartext only.
	TLS     *ir.ServerTLS
	Context string // what TLS comes from: two Hosts with one context share a chain
	Secrets []ir.SecretRef
	Action  string
	// Selector is the labels that a Mapping must have, nil for none.
	Selector map[string]string
	Labels   map[string]string
	// Implied says that the Host stands for none being there.
	Implied bool
}

// SNI is the server name by which the Host is asked for in TLS.
func (h *Host) SNI() string {
	if i := strings.LastIndexByte(h.Hostname, ':'); i > 0 {
		return h.Hostname[:i]
	}
	return h.Hostname
}

// FallbackSecret is the Secret in Emissary's namespace that gives the implied
// Host a certificate.
const FallbackSecret = "fallback-self-signed-cert"

// ImpliedHost is what a cluster without any Host is served as.
func ImpliedHost(w World) *Host {
	h := &Host{
		Key: UnitKey{
			Object: ledger.ObjectKey{Cluster: ledger.ClusterName(w.Cluster()), Group: getambassador.Group, Kind: "Host", Namespace: w.Settings().Namespace, Name: "default-host"},
			Kind:   "Host", Namespace: w.Settings().Namespace, Name: "default-host",
		},
		Hostname: "*", Action: ActionRoute, Implied: true,
	}
	f := &findings{}
	if usableCertificate(w, f, "", w.Settings().Namespace, FallbackSecret) {
		need := SecretNeed(w.Cluster(), w.Settings().Namespace, FallbackSecret, ir.UseCertificate)
		h.TLS = &ir.ServerTLS{Certificates: []string{need.Name}}
		h.Secrets = []ir.SecretRef{need}
		h.Context = "fallback-self-signed-cert"
		h.Action = ActionRedirect
	}
	return h
}

// ReadHost reads a Host. It is not ok if the Host cannot be served.
func ReadHost(w World, u Unit) (*Host, []projector.Finding, bool) {
	f := &findings{}
	o := u.Resource.(*getambassador.Host)
	s := &o.Spec
	h := &Host{
		Key: u.Key, FirstSeq: u.FirstSeq, Labels: o.Labels,
		Hostname: cmp.Or(s.Hostname, "*"), Action: ActionRedirect,
	}
	if s.RequestPolicy != nil && s.RequestPolicy.Insecure != nil {
		h.Action = cmp.Or(s.RequestPolicy.Insecure.Action, ActionRedirect)
		if s.RequestPolicy.Insecure.AdditionalPort != nil {
			f.noEffect("spec.requestPolicy.insecure.additionalPort", "has no effect in Emissary and is ignored; use a Listener")
		}
	}
	if s.PreviewURL != nil {
		f.noEffect("spec.previewUrl", "has no effect in Emissary and is ignored")
	}
	if inner := strings.Trim(h.Hostname, "*"); h.Hostname != "*" && (strings.Contains(inner, "*") || inner == "" || strings.HasPrefix(h.Hostname, "*") && strings.HasSuffix(h.Hostname, "*")) {
		f.errorf(projector.CodeHostname, "spec.hostname", fmt.Sprintf("%q cannot be served: one * may stand at the start or at the end", h.Hostname))
		return nil, f.list, false
	}
	if !readSelector(f, s, h) {
		return nil, f.list, false
	}
	if !readHostTLS(w, f, o, h) {
		return nil, f.list, false
	}
	if acme := s.ACMEProvider; acme != nil && acme.PrivateKeySecret != nil && acme.PrivateKeySecret.Name != "" && acme.Authority != "none" {
		if _, ok := w.Secret(o.Namespace, acme.PrivateKeySecret.Name); !ok {
			f.errorf(projector.CodeNoSecret, "spec.acmeProvider.privateKeySecret", fmt.Sprintf("Secret %s/%s does not exist; certificates are issued by cert-manager, so remove the field or create the Secret", o.Namespace, acme.PrivateKeySecret.Name))
			return nil, f.list, false
		}
	}
	return h, f.list, true
}

func readSelector(f *findings, s *getambassador.HostSpec, h *Host) bool {
	sel, path := s.MappingSelector, "spec.mappingSelector"
	if emptySelector(sel) {
		sel, path = s.Selector, "spec.selector"
	}
	if emptySelector(sel) {
		return true
	}
	if len(sel.MatchExpressions) > 0 {
		f.errorf(projector.CodeSelector, path+".matchExpressions", "is not supported by Emissary; use matchLabels")
		return false
	}
	h.Selector = sel.MatchLabels
	return true
}

func emptySelector(s *getambassador.LabelSelector) bool {
	return s == nil || len(s.MatchLabels) == 0 && len(s.MatchExpressions) == 0
}

// readHostTLS chooses the Host's TLS settings: tlsContext, tls, a TLSContext
// named after the Host, or plain ones.
func readHostTLS(w World, f *findings, o *getambassador.Host, h *Host) bool {
	s := &o.Spec
	named := s.TLSContext != nil && s.TLSContext.Name != ""
	if named && s.TLS != nil {
		f.errorf(projector.CodeHostTLS, "spec.tls", "tlsContext is set as well; use one of them")
		return false
	}
	if s.TLSSecret == nil || s.TLSSecret.Name == "" {
		if named || s.TLS != nil {
			f.warnf(projector.CodeHostTLS, "spec.tlsSecret", "is not set, so TLS is not terminated; name the certificate's Secret")
		}
		return true
	}
	ns, secret := cmp.Or(s.TLSSecret.Namespace, o.Namespace), s.TLSSecret.Name
	if !usableCertificate(w, f, "spec.tlsSecret", ns, secret) {
		return false
	}
	if inner := h.SNI(); inner != "*" && strings.Contains(strings.TrimPrefix(inner, "*."), "*") {
		f.errorf(projector.CodeHostname, "spec.hostname", fmt.Sprintf("%q cannot be served by TLS: server names are exact or *.suffix", h.Hostname))
		return false
	}
	need := SecretNeed(w.Cluster(), ns, secret, ir.UseCertificate)
	if h.SNI() != "*" {
		need.Hosts = []string{h.SNI()}
	}
	h.TLS = &ir.ServerTLS{}
	implicit := o.Name + "-context"
	h.Context = h.Key.String()
	switch {
	case named:
		ctx, ok := w.Context(s.TLSContext.Name)
		if !ok {
			f.errorf(projector.CodeNoContext, "spec.tlsContext", fmt.Sprintf("TLSContext %q does not exist or cannot be used", s.TLSContext.Name))
			return false
		}
		if !applyContext(f, ctx, h, ns, secret, o) {
			return false
		}
	case s.TLS != nil:
		if !inlineTLS(w, f, o, h) {
			return false
		}
	default:
		if ctx, ok := w.Context(implicit); ok && !applyContext(f, ctx, h, ns, secret, o) {
			return false
		}
	}
	h.TLS.Certificates = []string{need.Name}
	h.Secrets = append(h.Secrets, need)
	return true
}

func applyContext(f *findings, c *Context, h *Host, ns, secret string, o *getambassador.Host) bool {
	if c.Secret != "" && (c.Secret != secret || c.SecretNamespace != ns) {
		f.errorf(projector.CodeHostTLS, "spec.tlsContext", fmt.Sprintf("TLSContext %s/%s names Secret %s/%s, the Host %s/%s; name the same one", c.Namespace, c.Name, c.SecretNamespace, c.Secret, ns, secret))
		return false
	}
	if len(c.Hosts) > 0 && !slices.Contains(c.Hosts, h.Hostname) && !slices.Contains(c.Hosts, o.Name) {
		f.warnf(projector.CodeHostTLS, "spec.tlsContext", fmt.Sprintf("TLSContext %s/%s does not list %q in hosts; it is used all the same", c.Namespace, c.Name, h.Hostname))
	}
	h.TLS.MinVersion, h.TLS.MaxVersion = c.MinVersion, c.MaxVersion
	h.TLS.Ciphers, h.TLS.Curves, h.TLS.ALPN = c.Ciphers, c.Curves, c.ALPN
	h.TLS.RequireCert = c.RequireCert
	if c.CA != nil {
		h.TLS.ClientCA = c.CA.Name
		h.Secrets = append(h.Secrets, *c.CA)
	}
	h.Context = "TLSContext " + c.Namespace + "/" + c.Name
	return true
}

func inlineTLS(w World, f *findings, o *getambassador.Host, h *Host) bool {
	t := o.Spec.TLS
	if !validTLSVersion(t.MinTLSVersion) || !validTLSVersion(t.MaxTLSVersion) {
		f.errorf(projector.CodeHostTLS, "spec.tls", "min_tls_version and max_tls_version are v1.0, v1.1, v1.2 or v1.3")
		return false
	}
	if t.CertChainFile != "" || t.PrivateKeyFile != "" || t.CACertChainFile != "" {
		f.errorf(projector.CodeNotServed, "spec.tls.cert_chain_file", "certificates in files are not served; put them into a Secret")
		return false
	}
	h.TLS.MinVersion, h.TLS.MaxVersion = tlsVersion(t.MinTLSVersion), tlsVersion(t.MaxTLSVersion)
	h.TLS.Ciphers, h.TLS.Curves, h.TLS.ALPN = t.CipherSuites, t.ECDHCurves, alpn(t.ALPNProtocols)
	h.TLS.RequireCert = t.CertRequired != nil && *t.CertRequired
	if t.CASecret != "" {
		ca, ok := caNeed(w, f, w.MappingDefaults().SecretNaming, o.Namespace, "spec.tls.", t.CASecret, t.CRLSecret)
		if !ok {
			return false
		}
		h.TLS.ClientCA = ca.Name
		h.Secrets = append(h.Secrets, *ca)
	}
	return true
}

// Takes reports whether a Host takes a group's routes, as Emissary's
// matches_httpgroup does.
func (h *Host) Takes(g *Group) bool {
	hasHost := g.HostRegex || g.Host != ""
	hostMatch := g.HostRegex || g.Host != "" && GlobsOverlap(h.Hostname, g.Host)
	switch {
	case h.Selector != nil && hasHost:
		return hostMatch && labelsMatch(h.Selector, g.Labels)
	case h.Selector != nil:
		return labelsMatch(h.Selector, g.Labels)
	}
	return hostMatch
}
