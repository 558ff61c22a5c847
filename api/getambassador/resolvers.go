package getambassador

// ConsulResolver finds the endpoints of services in Consul.
type ConsulResolver struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       ConsulResolverSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *ConsulResolver) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// ConsulResolverSpec says which Consul server and datacenter to ask.
type ConsulResolverSpec struct {
	AmbassadorID AmbassadorID `json:"ambassador_id,omitzero"`
	Address      string       `json:"address,omitzero"`
	Datacenter   string       `json:"datacenter,omitzero"`
}

// KubernetesServiceResolver sends traffic to a Service's own address.
type KubernetesServiceResolver struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       KubernetesResolverSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *KubernetesServiceResolver) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// KubernetesEndpointResolver sends traffic to the endpoints of a Service.
type KubernetesEndpointResolver struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       KubernetesResolverSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *KubernetesEndpointResolver) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// KubernetesResolverSpec has no settings: the resolver's kind says everything.
type KubernetesResolverSpec struct {
	AmbassadorID AmbassadorID `json:"ambassador_id,omitzero"`
}
