package getambassador

// TLSContext holds TLS settings for termination, when it names hosts, or for
// origination, when a service refers to it by name.
type TLSContext struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       TLSContextSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *TLSContext) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// TLSContextSpec is what a [TLSContext] asks for. Names of Secrets may be
// "name.namespace": see [SecretNaming].
type TLSContextSpec struct {
	AmbassadorID          AmbassadorID `json:"ambassador_id,omitzero"`
	Hosts                 []string     `json:"hosts,omitzero"`
	Secret                string       `json:"secret,omitzero"`
	CertChainFile         string       `json:"cert_chain_file,omitzero"`
	PrivateKeyFile        string       `json:"private_key_file,omitzero"`
	CASecret              string       `json:"ca_secret,omitzero"`
	CACertChainFile       string       `json:"cacert_chain_file,omitzero"`
	CRLSecret             string       `json:"crl_secret,omitzero" v2:"v3CRLSecret"`
	SecretNamespacing     *bool        `json:"secret_namespacing,omitzero"`
	ALPNProtocols         string       `json:"alpn_protocols,omitzero"`
	CertRequired          *bool        `json:"cert_required,omitzero"`
	MinTLSVersion         string       `json:"min_tls_version,omitzero" check:"enum=v1.0|v1.1|v1.2|v1.3"`
	MaxTLSVersion         string       `json:"max_tls_version,omitzero" check:"enum=v1.0|v1.1|v1.2|v1.3"`
	CipherSuites          StringList   `json:"cipher_suites,omitzero"`
	ECDHCurves            StringList   `json:"ecdh_curves,omitzero"`
	RedirectCleartextFrom *int         `json:"redirect_cleartext_from,omitzero"`
	SNI                   string       `json:"sni,omitzero"`
}
