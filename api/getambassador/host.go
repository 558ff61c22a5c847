package getambassador

// Host is a name by which clients reach the gateway, with its certificate and
// its policy for insecure requests.
type Host struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       HostSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *Host) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// HostSpec is what a [Host] asks for. An empty Hostname means "*".
type HostSpec struct {
	AmbassadorID AmbassadorID `json:"ambassador_id,omitzero" v2:"ambassador_id|ambassadorId"`
	Hostname     string       `json:"hostname,omitzero"`
	// MappingSelector chooses the Mappings; Selector is its older name and
	// counts only if MappingSelector is empty.
	MappingSelector *LabelSelector   `json:"mappingSelector,omitzero" v2:"-"`
	Selector        *LabelSelector   `json:"selector,omitzero"`
	ACMEProvider    *ACMEProvider    `json:"acmeProvider,omitzero"`
	TLSSecret       *SecretReference `json:"tlsSecret,omitzero"`
	// TLSContext names a TLSContext of the Host's own namespace. At most one
	// of TLSContext and TLS is valid.
	TLSContext    *LocalReference `json:"tlsContext,omitzero"`
	TLS           *HostTLS        `json:"tls,omitzero"`
	RequestPolicy *RequestPolicy  `json:"requestPolicy,omitzero"`
	PreviewURL    *PreviewURL     `json:"previewUrl,omitzero"`
}

// LocalReference names an object in the referring object's namespace.
type LocalReference struct {
	Name string `json:"name,omitzero"`
}

// SecretReference names a Secret; an empty Namespace is the referring object's.
type SecretReference struct {
	Name      string `json:"name,omitzero"`
	Namespace string `json:"namespace,omitzero"`
}

// ACMEProvider says who issues a Host's certificate. Neither Emissary nor we
// speak ACME: only PrivateKeySecret is looked at.
type ACMEProvider struct {
	Authority        string          `json:"authority,omitzero"`
	Email            string          `json:"email,omitzero"`
	PrivateKeySecret *LocalReference `json:"privateKeySecret,omitzero"`
	Registration     string          `json:"registration,omitzero"`
}

// HostTLS holds a Host's TLS settings inline; the fields are those of
// [TLSContextSpec].
type HostTLS struct {
	CertChainFile         string     `json:"cert_chain_file,omitzero"`
	PrivateKeyFile        string     `json:"private_key_file,omitzero"`
	CASecret              string     `json:"ca_secret,omitzero"`
	CACertChainFile       string     `json:"cacert_chain_file,omitzero"`
	CRLSecret             string     `json:"crl_secret,omitzero" v2:"v3CRLSecret"`
	ALPNProtocols         string     `json:"alpn_protocols,omitzero"`
	CertRequired          *bool      `json:"cert_required,omitzero"`
	MinTLSVersion         string     `json:"min_tls_version,omitzero"`
	MaxTLSVersion         string     `json:"max_tls_version,omitzero"`
	CipherSuites          StringList `json:"cipher_suites,omitzero"`
	ECDHCurves            StringList `json:"ecdh_curves,omitzero"`
	RedirectCleartextFrom *int       `json:"redirect_cleartext_from,omitzero"`
	SNI                   string     `json:"sni,omitzero"`
}

// RequestPolicy says what a Host does with requests by how they arrive.
type RequestPolicy struct {
	Insecure *InsecurePolicy `json:"insecure,omitzero"`
}

// InsecurePolicy says what a Host does with insecure requests. An empty Action
// means Redirect.
type InsecurePolicy struct {
	Action         string `json:"action,omitzero" check:"enum=Redirect|Reject|Route"`
	AdditionalPort *int   `json:"additionalPort,omitzero"`
}

// PreviewURL is accepted and has no effect.
type PreviewURL struct {
	Enabled *bool  `json:"enabled,omitzero"`
	Type    string `json:"type,omitzero" check:"enum=Path"`
}
