package ir

// Endpoints are the addresses behind an EndpointSet: an answer of the live
// plane.
type Endpoints struct {
	Name      string // of the EndpointSet
	Addresses []Endpoint
}

// Endpoint is one ready address.
type Endpoint struct {
	IP       string
	Port     uint32
	Zone     string
	Node     string
	Draining bool // terminating but still serving
}

// Secret is the content behind a SecretRef: an answer of the live plane. It
// holds private keys: never log, record or gossip it.
type Secret struct {
	Name  string // of the SecretRef
	Chain []byte // PEM, for UseCertificate
	Key   []byte // PEM, for UseCertificate
	CA    []byte // PEM, for UseCA
	CRL   []byte // PEM, for UseCA
}
