package getambassador

// TCPMapping forwards connections of a port, and perhaps of one SNI host, to
// a service.
type TCPMapping struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       TCPMappingSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *TCPMapping) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// TCPMappingSpec is what a [TCPMapping] asks for. IdleTimeoutMs is
// milliseconds as text, as in the published schema.
type TCPMappingSpec struct {
	AmbassadorID    AmbassadorID     `json:"ambassador_id,omitzero"`
	Port            int              `json:"port" check:"required"`
	Host            string           `json:"host,omitzero"`
	Address         string           `json:"address,omitzero"`
	Service         string           `json:"service" check:"required"`
	Resolver        string           `json:"resolver,omitzero"`
	TLS             string           `json:"tls,omitzero" v2:"convert"`
	Weight          *int             `json:"weight,omitzero"`
	ClusterTag      string           `json:"cluster_tag,omitzero"`
	StatsName       string           `json:"stats_name,omitzero" v2:"v3StatsName"`
	CircuitBreakers []CircuitBreaker `json:"circuit_breakers,omitzero"`
	IdleTimeoutMs   string           `json:"idle_timeout_ms,omitzero"`
	EnableIPv4      *bool            `json:"enable_ipv4,omitzero"`
	EnableIPv6      *bool            `json:"enable_ipv6,omitzero"`
	V2ExplicitTLS   *V2ExplicitTLS   `json:"v2ExplicitTLS,omitzero" v2:"-"`
}
