package getambassador

// Listener opens a port.
type Listener struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       ListenerSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *Listener) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// ListenerSpec is what a [Listener] asks for. ProtocolStack, outermost first,
// overrides Protocol.
type ListenerSpec struct {
	AmbassadorID  AmbassadorID `json:"ambassador_id,omitzero"`
	Port          int          `json:"port" check:"required,min=1,max=65535"`
	Protocol      string       `json:"protocol,omitzero" check:"enum=HTTP|HTTPS|HTTPPROXY|HTTPSPROXY|TCP|TLS|UDP"`
	ProtocolStack []string     `json:"protocolStack,omitzero" check:"enum=HTTP|PROXY|TLS|TCP|UDP"`
	SecurityModel string       `json:"securityModel" check:"required,enum=XFP|SECURE|INSECURE"`
	StatsPrefix   string       `json:"statsPrefix,omitzero"`
	L7Depth       *int         `json:"l7Depth,omitzero" check:"min=-2147483648,max=2147483647"`
	HostBinding   HostBinding  `json:"hostBinding" check:"required"`
}

// HostBinding says which Hosts a Listener serves: both conditions must hold.
type HostBinding struct {
	Namespace *NamespaceBinding `json:"namespace,omitzero"`
	Selector  *LabelSelector    `json:"selector,omitzero"`
}

// NamespaceBinding chooses Hosts by namespace. An empty From means SELF, the
// Listener's own.
type NamespaceBinding struct {
	From string `json:"from,omitzero" check:"enum=SELF|ALL|SELECTOR"`
}
