package ir

import (
	"time"
)

// Listener is one bound address with the ways in which it treats connections.
type Listener struct {
	Name        string // unique and stable: "<fleet-wide name>-<protocol>-<port>"
	Address     string // IP to bind
	Port        uint32
	UDP         bool     // QUIC
	StatsPrefix string   // "" for the proxy's own
	ProxyProto  Position // where the PROXY protocol is read, if it is
	InspectTLS  bool     // read SNI and ALPN before choosing a chain
	BufferLimit uint32   // bytes per connection, 0 for the proxy's own
	Chains      []Chain  // most specific match wins, whatever the order
	AccessLogs  []AccessLog
}

// Position says where in the stack a protocol layer is.
type Position int

// The positions.
const (
	Absent Position = iota
	BeforeTLS
	AfterTLS
)

// Chain treats the connections that match it.
type Chain struct {
	Name        string
	ServerNames []string // SNI: exact or "*.suffix"; empty: any
	TLSOnly     bool     // match TLS (or QUIC) connections only
	SourceCIDRs []string
	Ports       []uint32 // destination ports, empty: any
	TLS         *ServerTLS
	HTTP        *HTTP // exactly one of HTTP and TCP
	TCP         *TCP
}

// ServerTLS terminates TLS.
type ServerTLS struct {
	Certificates []string // names of SecretRefs
	ClientCA     string   // name of a SecretRef, "" for none
	RequireCert  bool
	MinVersion   string // "", "1.0" … "1.3"
	MaxVersion   string
	Ciphers      []string
	Curves       []string
	ALPN         []string
	// ClientSANs restricts client certificates, empty: any that the CA signed.
	ClientSANs []StringMatch
}

// HTTP terminates HTTP and routes by the RouteTable named Routes.
type HTTP struct {
	Routes               string
	StatsPrefix          string
	ServerName           string
	UseRemoteAddress     bool
	TrustedHops          uint32
	HTTP3                bool
	Filters              []Filter
	AccessLogs           []AccessLog
	Tracing              *Tracing
	StripMatchingPort    bool
	MergeSlashes         bool
	EscapedSlashes       string // "", "reject", "unescape-redirect", "unescape-forward", "keep"
	Underscores          string // "", "allow", "reject", "drop"
	PreserveRequestID    bool
	AcceptHTTP10         bool
	AllowChunkedLength   bool
	ProperCase           bool
	HeaderCases          []string // header names in the case to restore
	MaxRequestHeadersKiB uint32
	MaxConcurrentStreams uint32
	StreamIdle           *time.Duration // nil: the proxy's own
	ConnectionIdle       *time.Duration
	RequestTimeout       *time.Duration
	SuppressEnvoyHeaders bool
	ForwardClientCert    string // "", "sanitize", "forward_only", "append_forward", "sanitize_set", "always_forward_only"
	SetClientCert        *ClientCertDetails
	Upgrades             []string
	AltSvc               string // value of the alt-svc header to add, "" for none
	LocalReplies         []LocalReply
	// RouteReplies is whether routes of the table have LocalReplies of their
	// own. All replies on the chain then replace an upstream's of the same
	// status too, for the proxy cannot tell them apart there.
	RouteReplies bool
}

// ClientCertDetails says which parts of a client certificate are passed on.
type ClientCertDetails struct {
	Subject, Cert, Chain, DNS, URI bool
}

// TCP proxies bytes to weighted upstreams.
type TCP struct {
	StatsPrefix string
	Targets     []Weighted
	Idle        *time.Duration
	AccessLogs  []AccessLog
}

// RouteTable is what one chain, or one listener in cleartext, routes by. It is
// the unit in which routes reach an Envoy.
type RouteTable struct {
	Name  string
	Hosts []VirtualHost // order does not matter: domains must be disjoint
	// Sentinel is whether the table answers the path by which an edge proves
	// that it is served.
	Sentinel bool
	// MaxDirectResponseBytes, 0 for the proxy's own.
	MaxDirectResponseBytes uint32
}

// VirtualHost is the routes of some host names.
type VirtualHost struct {
	Name       string
	Domains    []string // exact, "*.suffix", "prefix.*" or "*"; with ports where given
	Routes     []Route  // first match wins
	RequireTLS bool     // redirect cleartext
	CORS       *CORS
	RateLimits []RateLimit
	Metadata   Source
}

// Source says which object a piece of configuration comes from, for access
// logs and for naming culprits.
type Source struct {
	Cluster, Kind, Namespace, Name string
}

// Route sends the requests that match somewhere.
type Route struct {
	Name     string
	Match    Match
	Action   Action
	Metadata Source

	Timeout            *time.Duration // of the whole request; nil: the proxy's own; 0: none
	IdleTimeout        *time.Duration
	MaxStreamDuration  *time.Duration
	Retry              *Retry
	Rewrite            Rewrite
	Mirrors            []Mirror
	Hash               []Hash
	CORS               *CORS
	RateLimits         []RateLimit
	Upgrades           []Upgrade
	HighPriority       bool
	AddRequestHeaders  []HeaderValue
	AddResponseHeaders []HeaderValue
	DelRequestHeaders  []string
	DelResponseHeaders []string
	DisableAuth        bool
	AuthContext        map[string]string
	LocalReplies       []LocalReply
	BufferLimit        *uint32
	StatPrefix         string
	// FilterSettings overrides HTTP filters for this route, by filter name.
	FilterSettings map[string]Filter
}

// PathKind is how Match.Path is compared.
type PathKind int

// The kinds of path match.
const (
	PathPrefix  PathKind = iota // string prefix
	PathExact                   // whole path
	PathRegex                   // RE2, whole path
	PathElement                 // prefix of whole path elements
)

// Match says which requests a route takes. All parts must match.
type Match struct {
	Path       string // "" with PathPrefix: any
	PathKind   PathKind
	IgnoreCase bool
	Headers    []HeaderMatch
	Query      []HeaderMatch // by parameter name
	GRPC       bool          // gRPC requests only
	// Fraction takes this share of what matches, in hundredths of a percent
	// (0–1,000,000 of Denominator), nil: all. The proxy draws one random value
	// per request, so cumulative fractions on successive routes split traffic.
	Fraction *Fraction
}

// Fraction is Numerator out of 100 percent.
type Fraction struct {
	Percent    uint32
	RuntimeKey string // "" for none
}

// StringMatch compares a string.
type StringMatch struct {
	Exact, Prefix, Suffix, Regex, Contains string // one of them is set, unless Present
	Present                                bool
	IgnoreCase                             bool
	Invert                                 bool
	// MatchEmpty lets an absent value count as "".
	MatchEmpty bool
}

// HeaderMatch compares a header, a pseudo-header such as ":method", or a query
// parameter.
type HeaderMatch struct {
	Name  string
	Value StringMatch
}

// Action is what a route does: exactly one field is set.
type Action struct {
	Forward  []Weighted // one target, or several by weight
	Redirect *Redirect
	Direct   *Direct
}

// Weighted is an upstream and its share.
type Weighted struct {
	Upstream string
	Weight   uint32
	// Per-target header changes, used by Gateway API.
	AddRequestHeaders  []HeaderValue
	DelRequestHeaders  []string
	AddResponseHeaders []HeaderValue
	DelResponseHeaders []string
	HostRewrite        string
}

// Redirect answers with a Location.
type Redirect struct {
	Code        uint32 // 301, 302, 303, 307, 308
	HTTPS       bool
	Scheme      string
	Host        string
	Port        uint32
	Path        string // whole path
	Prefix      string // replaces the matched prefix
	Regex       *RegexRewrite
	StripQuery  bool
	PrefixIsSet bool
}

// Direct answers by itself.
type Direct struct {
	Status uint32
	Body   string
}

// Rewrite changes what the upstream sees.
type Rewrite struct {
	Prefix     *string // replaces the matched prefix, nil: keep
	Regex      *RegexRewrite
	Path       string // whole path, "" : keep
	Host       string
	AutoHost   bool
	HostHeader string
}

// RegexRewrite replaces by RE2; Substitution uses \1.
type RegexRewrite struct {
	Pattern, Substitution string
}

// HeaderValue adds a header.
type HeaderValue struct {
	Name, Value string
	Append      bool // beside an existing one; else it replaces it
	IfAbsent    bool
}

// Retry repeats failed requests.
type Retry struct {
	On            string // the proxy's conditions, comma-separated
	Count         *uint32
	PerTry        *time.Duration
	StatusCodes   []uint32
	BackoffBase   *time.Duration
	BackoffMax    *time.Duration
	PreviousHosts bool
}

// Mirror copies requests.
type Mirror struct {
	Upstream string
	Percent  uint32 // in Denominator parts
	// Denominator is 100 when zero.
	Denominator uint32
}

// Hash chooses what requests of one client have in common, for ring hash and
// maglev. One field is set.
type Hash struct {
	Header   string
	SourceIP bool
	Cookie   *HashCookie
}

// HashCookie is a session cookie, made when absent if TTL is set.
type HashCookie struct {
	Name, Path string
	TTL        *time.Duration
}

// CORS answers cross-origin requests.
type CORS struct {
	Origins          []StringMatch
	Methods          string
	Headers          string
	ExposeHeaders    string
	MaxAge           string
	Credentials      *bool
	RuntimeKey       string
	ForwardPreflight *bool
}

// RateLimit is one descriptor: its actions in order.
type RateLimit struct {
	Stage   uint32
	Actions []RateLimitAction
}

// RateLimitAction is one entry of a descriptor. One field is set.
type RateLimitAction struct {
	SourceCluster, DestinationCluster, RemoteAddress bool
	GenericKey                                       *KeyValue
	Header                                           *HeaderEntry
}

// KeyValue is a fixed descriptor entry.
type KeyValue struct{ Key, Value string }

// HeaderEntry is a descriptor entry from a request header.
type HeaderEntry struct {
	Key, Header  string
	SkipIfAbsent bool
}

// Upgrade lets a protocol upgrade through.
type Upgrade struct {
	Protocol string // "websocket"
	Disabled bool
}

// LocalReply replaces the proxy's own replies of some statuses.
type LocalReply struct {
	Status      uint32
	Body        string
	ContentType string
	JSON        map[string]string
}

// Filter is one HTTP filter in the order of the chain. Name is the field's
// word; exactly the field of its kind is set.
type Filter struct {
	Name      string // "grpc-http1-bridge", "grpc-web", "grpc-stats", "lua", "gzip", "buffer", "ip-allow", "ip-deny", "cors", "ext-authz", "rate-limit"
	GRPCStats *GRPCStats
	Lua       string
	Gzip      *Gzip
	Buffer    uint32 // bytes
	IP        []CIDR
	ExtAuthz  *ExtAuthz
	RateLimit *RateLimitService
	Direct    *Direct // answer everything, for a broken authentication service
	Disabled  bool    // in FilterSettings: off for the route
}

// CIDR is a source address range: of the peer, or of the remote address that
// trusted hops report.
type CIDR struct {
	Range  string
	Remote bool
}

// GRPCStats counts gRPC calls.
type GRPCStats struct {
	AllMethods    bool
	Services      []GRPCService
	UpstreamStats bool
}

// GRPCService is a service and the methods that are counted.
type GRPCService struct {
	Name    string
	Methods []string
}

// Gzip compresses responses. Zero means the proxy's own.
type Gzip struct {
	MemoryLevel, WindowBits, MinLength uint32
	Level, Strategy                    string
	ContentTypes                       []string
	DisableOnETag                      bool
	RemoveAcceptEncoding               bool
}

// ExtAuthz asks an authentication service.
type ExtAuthz struct {
	Upstream        string
	GRPC            bool
	PathPrefix      string
	Timeout         time.Duration
	AllowedRequest  []string // headers
	AllowedUpstream []string
	AllowedClient   []string
	AddAuthHeaders  []HeaderValue
	BodyBytes       uint32 // 0: no body
	PartialBody     bool
	FailOpen        bool
	ErrorStatus     uint32
	ClearRouteCache bool
	HostHeader      string
}

// RateLimitService asks a rate limit service.
type RateLimitService struct {
	Upstream              string
	Domain                string
	Timeout               time.Duration
	FailClosed            bool
	ResourceExhaustedCode bool
}

// Tracing reports spans.
type Tracing struct {
	Upstream                string
	Driver                  string // "zipkin", "datadog", "opentelemetry"
	ServiceName             string
	CollectorPath           string
	Shared128               bool
	Client, Random, Overall float64 // percent
	Tags                    []TraceTag
}

// TraceTag adds a tag to spans. One of the fields after Name is set.
type TraceTag struct {
	Name, Literal, Environment, Header, Default string
}

// AccessLog writes a line or a message for each request.
type AccessLog struct {
	Path     string // file, "" for a service
	Text     string // format
	JSON     map[string]any
	Typed    bool
	Upstream string // gRPC access log service
	LogName  string
	TCP      bool
	Flush    time.Duration
	Bytes    uint32
	Headers  []LogHeader
}

// LogHeader is a header that a log service gets.
type LogHeader struct {
	Name                       string
	Request, Response, Trailer bool
}

// Upstream is where requests go, with the policy for going there. Its name
// says what it means, so equal ones are one.
type Upstream struct {
	Name       string
	AltStat    string // name in statistics, "" for Name
	Hosts      []HostPort
	Discovery  Discovery
	Endpoints  string // name of an EndpointSet, for DiscoverEndpoints
	DNS        *DNS
	Connect    time.Duration
	HTTP2      bool
	Downstream bool // speak what the client spoke
	TLS        *ClientTLS
	LB         LoadBalancer
	Breakers   []Breaker
	Keepalive  *Keepalive
	Idle       *time.Duration
	MaxAge     *time.Duration
	Health     []HealthCheck
	Outlier    *Outlier
	ProxyProto uint32 // 0: none, 1 or 2: version to send
	HeaderCase bool
}

// Discovery is how an upstream's addresses are found.
type Discovery int

// The kinds of discovery.
const (
	// DiscoverStatic uses Hosts, which are IP addresses.
	DiscoverStatic Discovery = iota
	// DiscoverDNS resolves Hosts and uses every address.
	DiscoverDNS
	// DiscoverLogicalDNS resolves the one host for each new connection.
	DiscoverLogicalDNS
	// DiscoverEndpoints takes addresses from the live plane.
	DiscoverEndpoints
)

// HostPort is an address.
type HostPort struct {
	Host string // IP or DNS name
	Port uint32
}

// DNS says how names are resolved.
type DNS struct {
	V4, V6     bool
	RespectTTL bool
}

// ClientTLS originates TLS.
type ClientTLS struct {
	SNI         string
	Certificate string // name of a SecretRef, "" for none
	CA          string // name of a SecretRef, "" : the peer is not verified
	SystemCA    bool
	SANs        []StringMatch
	MinVersion  string
	MaxVersion  string
	Ciphers     []string
	Curves      []string
	ALPN        []string
}

// LoadBalancer chooses an endpoint.
type LoadBalancer struct {
	Policy string // "round_robin", "least_request", "ring_hash", "maglev", "random"
}

// Breaker limits what is under way. Nil means the proxy's own.
type Breaker struct {
	High                                    bool
	Connections, Pending, Requests, Retries *uint32
}

// Keepalive probes idle connections. Nil means the system's own.
type Keepalive struct {
	Probes, Time, Interval *uint32 // seconds
}

// HealthCheck probes endpoints.
type HealthCheck struct {
	Timeout, Interval  time.Duration
	Unhealthy, Healthy uint32
	HTTP               *HTTPCheck
	GRPC               *GRPCCheck
}

// HTTPCheck probes by a request.
type HTTPCheck struct {
	Path, Host string
	Add        []HeaderValue
	Remove     []string
	Statuses   []StatusRange
}

// StatusRange is Min ≤ status ≤ Max.
type StatusRange struct{ Min, Max uint32 }

// GRPCCheck probes by the gRPC health protocol.
type GRPCCheck struct{ Service, Authority string }

// Outlier ejects endpoints that fail. Nil means the proxy's own.
type Outlier struct {
	Consecutive5xx, ConsecutiveGateway, MaxEjectionPercent *uint32
	Interval, BaseEjection                                 *time.Duration
}

// EndpointSet names the endpoints of a Service's port in its cluster. It is a
// need of a snapshot: the live plane answers it. Its name is
// "<cluster>/<namespace>/<service>/<port>".
type EndpointSet struct {
	Name      string `json:"name"`
	Cluster   string `json:"cluster"`
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	// PortName is the Service port's name as EndpointSlices carry it; "" for
	// an unnamed one.
	PortName string `json:"portName,omitempty"`
	// Port is the Service's port number, for people.
	Port uint32 `json:"port"`
}

// SecretUse is what a secret is needed for.
type SecretUse string

// The uses of secrets.
const (
	UseCertificate SecretUse = "certificate" // certificate chain and key
	UseCA          SecretUse = "ca"          // trust anchors, with a CRL if there is one
)

// SecretRef names a certificate or a set of trust anchors. It is a need of a
// snapshot: the live plane answers it. Its name is
// "<cluster>/<namespace>/<secret>/<use>".
type SecretRef struct {
	Name      string    `json:"name"`
	Cluster   string    `json:"cluster"`
	Namespace string    `json:"namespace"`
	Secret    string    `json:"secret"`
	Use       SecretUse `json:"use"`
	// Hosts are the host names that the certificate must cover; the live plane
	// keeps the previous one while a new one does not.
	Hosts []string `json:"hosts,omitempty"`
	// CRL names a second Secret of the same namespace with a crl.pem.
	CRL string `json:"crl,omitempty"`
	// CRLNamespace is the CRL's namespace, "" for Namespace.
	CRLNamespace string `json:"crlNamespace,omitempty"`
}
