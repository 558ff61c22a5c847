package getambassador

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// SecretRef is a Secret that an object's TLS settings refer to.
type SecretRef struct {
	Namespace, Name string
	// Field is the path of the field that names it.
	Field string
}

// SecretNaming says how names of Secrets are read.
type SecretNaming struct {
	// Namespacing reads "name.namespace", cut at the last dot, as a Secret of
	// another namespace. An object's own secret_namespacing overrides it.
	Namespacing bool
}

// DefaultSecretNaming is what holds if no Module says otherwise.
var DefaultSecretNaming = SecretNaming{Namespacing: true}

// SecretNaming returns how the Module wants names of Secrets to be read:
// config.defaults.tls_secret_namespacing, true if absent.
func (o *Module) SecretNaming() SecretNaming {
	defaults, _ := o.Spec.Config["defaults"].(map[string]any)
	if on, ok := defaults["tls_secret_namespacing"].(bool); ok {
		return SecretNaming{Namespacing: on}
	}
	return DefaultSecretNaming
}

// SecretRefs returns the Secrets that the object's TLS settings refer to,
// with [DefaultSecretNaming], sorted by namespace, name and field. Other kinds
// than Host, TLSContext and the Module named "tls" refer to none.
func SecretRefs(o Object) []SecretRef { return DefaultSecretNaming.Refs(o) }

// Refs is [SecretRefs] under this naming.
func (n SecretNaming) Refs(o Object) []SecretRef {
	r := secretRefs{home: o.Meta().Namespace}
	switch o := o.(type) {
	case *Host:
		r.host(&o.Spec, n)
	case *TLSContext:
		if own := o.Spec.SecretNamespacing; own != nil {
			n.Namespacing = *own
		}
		r.add(n, "spec.secret", o.Spec.Secret)
		r.add(n, "spec.ca_secret", o.Spec.CASecret)
		r.add(n, "spec.crl_secret", o.Spec.CRLSecret)
	case *Module:
		if o.Name == "tls" {
			r.tlsModule(o.Spec.Config, n)
		}
	}
	slices.SortFunc(r.refs, func(a, b SecretRef) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Field, b.Field))
	})
	return r.refs
}

// Split returns the namespace and the name of the Secret that an object of
// namespace home calls by name.
func (n SecretNaming) Split(name, home string) (namespace, secret string) {
	if dot := strings.LastIndexByte(name, '.'); n.Namespacing && dot > 0 && dot < len(name)-1 {
		return name[dot+1:], name[:dot]
	}
	return home, name
}

// secretRefs collects references made from the namespace home.
type secretRefs struct {
	home string
	refs []SecretRef
}

func (r *secretRefs) add(n SecretNaming, field, name string) {
	if name == "" {
		return
	}
	namespace, secret := n.Split(name, r.home)
	r.refs = append(r.refs, SecretRef{Namespace: namespace, Name: secret, Field: field})
}

// host adds a Host's references. Those in Kubernetes' own form never hold a
// namespace in the name.
func (r *secretRefs) host(s *HostSpec, n SecretNaming) {
	plain := SecretNaming{}
	if ref := s.TLSSecret; ref != nil && ref.Name != "" {
		r.refs = append(r.refs, SecretRef{Namespace: cmp.Or(ref.Namespace, r.home), Name: ref.Name, Field: "spec.tlsSecret"})
	}
	if s.TLS != nil {
		r.add(n, "spec.tls.ca_secret", s.TLS.CASecret)
		r.add(n, "spec.tls.crl_secret", s.TLS.CRLSecret)
	}
	if s.ACMEProvider != nil && s.ACMEProvider.PrivateKeySecret != nil {
		r.add(plain, "spec.acmeProvider.privateKeySecret", s.ACMEProvider.PrivateKeySecret.Name)
	}
}

// legacyServerSecret is what the server entry of a Module named tls refers to
// if it names neither a Secret nor a file.
const legacyServerSecret = "ambassador-certs"

// tlsModule adds what the legacy Module's contexts (server, client, upstream
// and any other) refer to.
func (r *secretRefs) tlsModule(config map[string]any, n SecretNaming) {
	for _, name := range slices.Sorted(maps.Keys(config)) {
		context, ok := config[name].(map[string]any)
		if !ok {
			continue
		}
		naming := n
		if own, ok := context["secret_namespacing"].(bool); ok {
			naming = SecretNaming{Namespacing: own}
		}
		for _, key := range []string{"secret", "ca_secret", "crl_secret"} {
			secret, _ := context[key].(string)
			r.add(naming, "spec.config."+name+"."+key, secret)
		}
		enabled, given := context["enabled"].(bool)
		if name == "server" && (enabled || !given) && context["secret"] == nil && context["cert_chain_file"] == nil {
			r.add(SecretNaming{}, "spec.config.server", legacyServerSecret)
		}
	}
}
