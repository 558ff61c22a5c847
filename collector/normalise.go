package collector

import (
	"fmt"
	"slices"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
)

// Normaliser turns an object as a site holds it into one as events tell it. It is a pure function of its fields and
// its argument.
type Normaliser struct {
	Cluster ledger.ClusterName
	// DigestKey is the site's key for digests of Secret values: see SecretDigestKey.
	DigestKey []byte
}

// Normalise returns the object, or nil for one of a kind that is not collected. The error is a finding: what is
// wrong with which object and what to do.
func (n Normaliser) Normalise(obj map[string]any, where, owner string) (*Object, error) {
	gk, namespace, name, err := Identity(obj)
	if gk == (GroupKind{}) {
		return nil, err
	}
	if !gk.Collected() {
		if gk.Group == ambassadorGroup {
			return nil, fmt.Errorf("%s: getambassador.io has no kind %.60q; correct the kind", describe(obj), gk.Kind)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	o := &Object{
		Key:   ledger.ObjectKey{Cluster: n.Cluster, Group: gk.Group, Kind: gk.Kind, Namespace: namespace, Name: name},
		Actor: actorOf(obj),
		Where: where,
	}
	if o.Actor.Name == "" && owner != "" {
		o.Actor = ledger.Actor{Name: owner, Source: "file"}
	}
	if o.isSecret() {
		if obj, err = n.withoutSecrets(obj); err != nil {
			return nil, fmt.Errorf("%s %s: %w", gk, qualified(namespace, name), err)
		}
	}
	if o.Data, o.Facts, err = Canonical(obj); err != nil {
		return nil, err
	}
	o.Digest = ledger.DigestOf(o.Data)
	o.SecretRefs = n.refs(obj, o)
	return o, nil
}

// withoutSecrets returns what may be told of a Secret: its identity, labels, type and facts. Annotations may repeat
// its data, so none is told.
func (n Normaliser) withoutSecrets(obj map[string]any) (map[string]any, error) {
	facts, err := FactsOfSecret(obj, n.DigestKey)
	if err != nil {
		return nil, err
	}
	in, _ := obj["metadata"].(map[string]any)
	meta := map[string]any{}
	for _, k := range []string{"name", "namespace", "labels", "uid", "resourceVersion", "generation", "creationTimestamp"} {
		if v, ok := in[k]; ok {
			meta[k] = v
		}
	}
	kind := "Opaque"
	switch v := obj["type"].(type) {
	case nil:
	case string:
		kind = v
	default:
		return nil, fmt.Errorf("type is not a string")
	}
	return map[string]any{
		"apiVersion": obj["apiVersion"], "kind": "Secret", "metadata": meta, "type": kind, "facts": facts.value(),
	}, nil
}

// refs returns the Secrets that an object's TLS settings refer to, each once. How a dot in a name is read is up to
// the Module, so both readings count: the facts of a Secret too many do no harm.
func (n Normaliser) refs(obj map[string]any, o *Object) []ledger.ObjectKey {
	var keys []ledger.ObjectKey
	add := func(namespace, name string) {
		k := ledger.ObjectKey{Cluster: n.Cluster, Kind: "Secret", Namespace: namespace, Name: name}
		if namespace != "" && name != "" && checkName("", name) == nil && checkName("", namespace) == nil && !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	decoded := func(raw []byte) {
		d, _, err := getambassador.Decode(raw)
		if err != nil {
			return // the compiler reports it
		}
		for _, namespacing := range []bool{true, false} {
			for _, r := range (getambassador.SecretNaming{Namespacing: namespacing}).Refs(d) {
				add(r.Namespace, r.Name)
			}
		}
	}
	switch o.Key.Group + "/" + o.Key.Kind {
	case "getambassador.io/Host", "getambassador.io/TLSContext", "getambassador.io/Module":
		decoded(o.Data)
	case "networking.k8s.io/Ingress":
		spec, _ := obj["spec"].(map[string]any)
		tls, _ := spec["tls"].([]any)
		for _, e := range tls {
			entry, _ := e.(map[string]any)
			name, _ := entry["secretName"].(string)
			add(o.Key.Namespace, name)
		}
		fallthrough
	case "/Service":
		meta, _ := obj["metadata"].(map[string]any)
		annotations, _ := meta["annotations"].(map[string]any)
		text, _ := annotations[getambassador.AnnotationKey].(string)
		if text == "" {
			break
		}
		found, _ := getambassador.FromAnnotations(getambassador.Parent{
			Kind: o.Key.Kind, Namespace: o.Key.Namespace, Name: o.Key.Name,
		}, text)
		for _, raw := range found {
			decoded(raw.JSON)
		}
	}
	return keys
}

// describe names an object that may have no proper identity.
func describe(obj map[string]any) string {
	gk, namespace, name, err := Identity(obj)
	if err != nil {
		return "an object"
	}
	return fmt.Sprintf("%s %s", gk, qualified(namespace, name))
}
