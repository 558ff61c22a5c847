package getambassador

import "cmp"

// Group is the API group of every kind in this package.
const Group = "getambassador.io"

// APIVersion is the hub version that every decoded object is in.
const APIVersion = Group + "/v3alpha1"

// Object is one decoded resource. The concrete type is a pointer to one of the
// kinds of this package: use a type switch.
type Object interface {
	// ObjectKind returns the kind, such as "Mapping".
	ObjectKind() string
	// Meta returns the object's metadata, owned by the object.
	Meta() *ObjectMeta
	// AmbassadorIDs returns spec.ambassador_id as written; see [ServedBy].
	AmbassadorIDs() []string
}

// TypeMeta says what an object is. After [Decode], APIVersion is always the
// hub version, whatever version the object was written in.
type TypeMeta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// ObjectKind returns the kind, such as "Mapping".
func (t *TypeMeta) ObjectKind() string { return t.Kind }

// ObjectMeta is the part of Kubernetes metadata that configuration may depend
// on. The rest (uid, resourceVersion, managedFields, …) is the collector's.
type ObjectMeta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace,omitzero"`
	Labels      map[string]string `json:"labels,omitzero"`
	Annotations map[string]string `json:"annotations,omitzero"`
	// CreationTimestamp is RFC 3339 text as the API server wrote it, or empty.
	CreationTimestamp string `json:"creationTimestamp,omitzero"`
	Generation        int    `json:"generation,omitzero"`
}

// Meta returns the metadata itself, so that embedding it satisfies [Object].
func (m *ObjectMeta) Meta() *ObjectMeta { return m }

// Kinds returns every kind of this package in alphabetical order.
func Kinds() []string {
	return []string{
		"AuthService", "ConsulResolver", "DevPortal", "Host",
		"KubernetesEndpointResolver", "KubernetesServiceResolver", "Listener",
		"LogService", "Mapping", "Module", "RateLimitService", "TCPMapping",
		"TLSContext", "TracingService",
	}
}

// newObject returns an empty object of the kind, or nil if the kind is not
// one of [Kinds].
func newObject(kind string) Object {
	switch kind {
	case "AuthService":
		return &AuthService{}
	case "ConsulResolver":
		return &ConsulResolver{}
	case "DevPortal":
		return &DevPortal{}
	case "Host":
		return &Host{}
	case "KubernetesEndpointResolver":
		return &KubernetesEndpointResolver{}
	case "KubernetesServiceResolver":
		return &KubernetesServiceResolver{}
	case "Listener":
		return &Listener{}
	case "LogService":
		return &LogService{}
	case "Mapping":
		return &Mapping{}
	case "Module":
		return &Module{}
	case "RateLimitService":
		return &RateLimitService{}
	case "TCPMapping":
		return &TCPMapping{}
	case "TLSContext":
		return &TLSContext{}
	case "TracingService":
		return &TracingService{}
	}
	return nil
}

// Describe returns "Kind namespace/name", for messages to people.
func Describe(o Object) string {
	m := o.Meta()
	name := cmp.Or(m.Name, "(no name)")
	if m.Namespace != "" {
		name = m.Namespace + "/" + name
	}
	return o.ObjectKind() + " " + name
}
