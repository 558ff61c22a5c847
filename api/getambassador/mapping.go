package getambassador

// Mapping routes requests that match a prefix, and more, to a service.
type Mapping struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       MappingSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *Mapping) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// MappingSpec is what a [Mapping] asks for. Fields ending in _ms are
// milliseconds.
type MappingSpec struct {
	AmbassadorID AmbassadorID `json:"ambassador_id,omitzero"`

	// Matching.
	Prefix               string            `json:"prefix" check:"required"`
	PrefixRegex          *bool             `json:"prefix_regex,omitzero"`
	PrefixExact          *bool             `json:"prefix_exact,omitzero"`
	CaseSensitive        *bool             `json:"case_sensitive,omitzero"`
	Hostname             string            `json:"hostname,omitzero" v2:"-"`
	Host                 string            `json:"host,omitzero"`
	HostRegex            *bool             `json:"host_regex,omitzero"`
	Method               string            `json:"method,omitzero"`
	MethodRegex          *bool             `json:"method_regex,omitzero"`
	Headers              map[string]string `json:"headers,omitzero" v2:"convert"`
	RegexHeaders         map[string]string `json:"regex_headers,omitzero"`
	QueryParameters      map[string]string `json:"query_parameters,omitzero" v2:"convert"`
	RegexQueryParameters map[string]string `json:"regex_query_parameters,omitzero"`
	Precedence           *int              `json:"precedence,omitzero"`

	// Destination.
	Service    string `json:"service" check:"required"`
	Resolver   string `json:"resolver,omitzero"`
	TLS        string `json:"tls,omitzero" v2:"convert"`
	Weight     *int   `json:"weight,omitzero"`
	Shadow     *bool  `json:"shadow,omitzero"`
	GRPC       *bool  `json:"grpc,omitzero"`
	ClusterTag string `json:"cluster_tag,omitzero"`
	StatsName  string `json:"stats_name,omitzero" v2:"v3StatsName"`
	Priority   string `json:"priority,omitzero"`

	// Rewriting. A nil Rewrite means "/"; an empty one means no rewrite.
	Rewrite         *string     `json:"rewrite,omitzero"`
	RegexRewrite    *RegexMatch `json:"regex_rewrite,omitzero"`
	HostRewrite     string      `json:"host_rewrite,omitzero"`
	AutoHostRewrite *bool       `json:"auto_host_rewrite,omitzero"`

	// Redirecting, when HostRedirect is true: Service is the target host.
	HostRedirect         *bool       `json:"host_redirect,omitzero"`
	PathRedirect         string      `json:"path_redirect,omitzero"`
	PrefixRedirect       string      `json:"prefix_redirect,omitzero"`
	RegexRedirect        *RegexMatch `json:"regex_redirect,omitzero"`
	RedirectResponseCode *int        `json:"redirect_response_code,omitzero" check:"enum=301|302|303|307|308"`

	// Headers added and removed on the way.
	AddRequestHeaders     map[string]AddedHeader `json:"add_request_headers,omitzero"`
	AddResponseHeaders    map[string]AddedHeader `json:"add_response_headers,omitzero"`
	RemoveRequestHeaders  StringList             `json:"remove_request_headers,omitzero"`
	RemoveResponseHeaders StringList             `json:"remove_response_headers,omitzero"`
	AddLinkerdHeaders     *bool                  `json:"add_linkerd_headers,omitzero"`

	// Behaviour of the connection and the route.
	TimeoutMs                      *int             `json:"timeout_ms,omitzero"`
	IdleTimeoutMs                  *int             `json:"idle_timeout_ms,omitzero"`
	ConnectTimeoutMs               *int             `json:"connect_timeout_ms,omitzero"`
	ClusterIdleTimeoutMs           *int             `json:"cluster_idle_timeout_ms,omitzero"`
	ClusterMaxConnectionLifetimeMs *int             `json:"cluster_max_connection_lifetime_ms,omitzero"`
	RetryPolicy                    *RetryPolicy     `json:"retry_policy,omitzero"`
	CircuitBreakers                []CircuitBreaker `json:"circuit_breakers,omitzero"`
	LoadBalancer                   *LoadBalancer    `json:"load_balancer,omitzero"`
	HealthChecks                   []HealthCheck    `json:"health_checks,omitzero" v2:"v3health_checks" check:"items=1"`
	KeepAlive                      *KeepAlive       `json:"keepalive,omitzero"`
	CORS                           *CORS            `json:"cors,omitzero"`
	AllowUpgrade                   []string         `json:"allow_upgrade,omitzero"`
	UseWebsocket                   *bool            `json:"use_websocket,omitzero"`
	DNSType                        string           `json:"dns_type,omitzero"`
	RespectDNSTTL                  *bool            `json:"respect_dns_ttl,omitzero"`
	EnableIPv4                     *bool            `json:"enable_ipv4,omitzero"`
	EnableIPv6                     *bool            `json:"enable_ipv6,omitzero"`

	// Authentication and rate limiting.
	BypassAuth            *bool             `json:"bypass_auth,omitzero"`
	AuthContextExtensions map[string]string `json:"auth_context_extensions,omitzero"`
	Labels                MappingLabels     `json:"labels,omitzero"`

	// Error responses.
	ErrorResponseOverrides       []ErrorResponseOverride `json:"error_response_overrides,omitzero" check:"items=1"`
	BypassErrorResponseOverrides *bool                   `json:"bypass_error_response_overrides,omitzero"`

	// Documentation, and what Emissary accepts without effect.
	Docs             *Docs            `json:"docs,omitzero"`
	EnvoyOverride    map[string]any   `json:"envoy_override,omitzero"`
	Modules          []map[string]any `json:"modules,omitzero"`
	OutlierDetection string           `json:"outlier_detection,omitzero"`

	// How v2 spelled things. V2BoolHeaders and V2BoolQueryParameters name the
	// presence matches that a v1 or v2 object wrote as `true`, sorted.
	V2BoolHeaders         []string       `json:"v2BoolHeaders,omitzero" v2:"-"`
	V2BoolQueryParameters []string       `json:"v2BoolQueryParameters,omitzero" v2:"-"`
	V2ExplicitTLS         *V2ExplicitTLS `json:"v2ExplicitTLS,omitzero" v2:"-"`
}

// RetryPolicy says when and how often a request is tried again.
// PerTryTimeout is duration text such as "500ms".
type RetryPolicy struct {
	RetryOn       string `json:"retry_on,omitzero" check:"enum=5xx|gateway-error|connect-failure|retriable-4xx|refused-stream|retriable-status-codes"`
	NumRetries    *int   `json:"num_retries,omitzero"`
	PerTryTimeout string `json:"per_try_timeout,omitzero"`
}

// LoadBalancer chooses among the endpoints of an upstream. Ring hash and
// maglev take exactly one of Cookie, Header and SourceIP.
type LoadBalancer struct {
	Policy   string              `json:"policy" check:"required,enum=round_robin|ring_hash|maglev|least_request"`
	Cookie   *LoadBalancerCookie `json:"cookie,omitzero"`
	Header   string              `json:"header,omitzero"`
	SourceIP *bool               `json:"source_ip,omitzero"`
}

// LoadBalancerCookie is the cookie that keeps a client on one endpoint. TTL is
// duration text.
type LoadBalancerCookie struct {
	Name string `json:"name" check:"required"`
	Path string `json:"path,omitzero"`
	TTL  string `json:"ttl,omitzero"`
}

// KeepAlive sets TCP keep-alive towards an upstream: seconds, and a count of
// probes.
type KeepAlive struct {
	Probes   *int `json:"probes,omitzero"`
	IdleTime *int `json:"idle_time,omitzero"`
	Interval *int `json:"interval,omitzero"`
}

// CORS says which other origins may call a route. MaxAge is seconds as text.
type CORS struct {
	Origins        StringList `json:"origins,omitzero" v2:"convert"`
	Methods        StringList `json:"methods,omitzero"`
	Headers        StringList `json:"headers,omitzero"`
	ExposedHeaders StringList `json:"exposed_headers,omitzero"`
	Credentials    *bool      `json:"credentials,omitzero"`
	MaxAge         string     `json:"max_age,omitzero"`
	// V2CommaSeparatedOrigins records that v2 wrote the origins as one string.
	V2CommaSeparatedOrigins *bool `json:"v2CommaSeparatedOrigins,omitzero" v2:"-"`
}

// HealthCheck is one active check of an upstream's endpoints. Interval and
// Timeout are duration text.
type HealthCheck struct {
	HealthCheck        HealthCheckTarget `json:"health_check" check:"required"`
	Interval           string            `json:"interval,omitzero" check:"duration"`
	Timeout            string            `json:"timeout,omitzero" check:"duration"`
	HealthyThreshold   *int              `json:"healthy_threshold,omitzero"`
	UnhealthyThreshold *int              `json:"unhealthy_threshold,omitzero"`
}

// HealthCheckTarget is what a [HealthCheck] asks: exactly one is set.
type HealthCheckTarget struct {
	HTTP *HTTPHealthCheck `json:"http,omitzero"`
	GRPC *GRPCHealthCheck `json:"grpc,omitzero"`
}

func (*HealthCheckTarget) exactlyOne() {}

// HTTPHealthCheck asks for a path and judges the status.
type HTTPHealthCheck struct {
	Path                 string                 `json:"path" check:"required"`
	Hostname             string                 `json:"hostname,omitzero"`
	AddRequestHeaders    map[string]AddedHeader `json:"add_request_headers,omitzero"`
	RemoveRequestHeaders []string               `json:"remove_request_headers,omitzero"`
	ExpectedStatuses     []StatusRange          `json:"expected_statuses,omitzero"`
}

// StatusRange is a range of HTTP statuses, both ends included.
type StatusRange struct {
	Min int `json:"min" check:"required,min=100,max=599"`
	Max int `json:"max" check:"required,min=100,max=599"`
}

// GRPCHealthCheck asks the gRPC health service.
type GRPCHealthCheck struct {
	UpstreamName string `json:"upstream_name" check:"required"`
	Authority    string `json:"authority,omitzero"`
}

// MappingLabels maps a rate-limit domain to its label groups. Each group
// becomes one descriptor.
type MappingLabels map[string][]MappingLabelGroup

// MappingLabelGroup is a map of exactly one name to the ordered labels of one
// descriptor.
type MappingLabelGroup map[string][]LabelSpecifier

func (*MappingLabelGroup) exactlyOne() {}

// LabelSpecifier is one label of a rate-limit descriptor: exactly one is set.
// In v1 and v2 it may be a bare string.
type LabelSpecifier struct {
	SourceCluster      *LabelSourceCluster      `json:"source_cluster,omitzero"`
	DestinationCluster *LabelDestinationCluster `json:"destination_cluster,omitzero"`
	RequestHeaders     *LabelRequestHeaders     `json:"request_headers,omitzero"`
	RemoteAddress      *LabelRemoteAddress      `json:"remote_address,omitzero"`
	GenericKey         *LabelGenericKey         `json:"generic_key,omitzero"`
}

func (*LabelSpecifier) exactlyOne() {}

// LabelSourceCluster labels with Envoy's source cluster.
type LabelSourceCluster struct {
	Key string `json:"key" check:"required,enum=source_cluster"`
}

// LabelDestinationCluster labels with Envoy's destination cluster.
type LabelDestinationCluster struct {
	Key string `json:"key" check:"required,enum=destination_cluster"`
}

// LabelRemoteAddress labels with the client's address.
type LabelRemoteAddress struct {
	Key string `json:"key" check:"required,enum=remote_address"`
}

// LabelRequestHeaders labels with the value of a request header; without the
// header the whole group does not apply.
type LabelRequestHeaders struct {
	Key              string `json:"key" check:"required"`
	HeaderName       string `json:"header_name" check:"required"`
	OmitIfNotPresent *bool  `json:"omit_if_not_present,omitzero"`
}

// LabelGenericKey labels with a constant. An empty Key means "generic_key".
type LabelGenericKey struct {
	Key         string `json:"key,omitzero"`
	Value       string `json:"value" check:"required"`
	V2Shorthand *bool  `json:"v2Shorthand,omitzero"`
}

// ErrorResponseOverride replaces the body of a response with this status.
type ErrorResponseOverride struct {
	OnStatusCode int               `json:"on_status_code" check:"required,min=400,max=599"`
	Body         ErrorResponseBody `json:"body" check:"required"`
}

// ErrorResponseBody is the body of an [ErrorResponseOverride]: one of the
// formats.
type ErrorResponseBody struct {
	ContentType      string            `json:"content_type,omitzero"`
	TextFormat       string            `json:"text_format,omitzero"`
	JSONFormat       map[string]string `json:"json_format,omitzero"`
	TextFormatSource *TextFormatSource `json:"text_format_source,omitzero"`
}

// TextFormatSource names a file of the gateway's own file system.
type TextFormatSource struct {
	Filename string `json:"filename,omitzero"`
}

// Docs describes the API behind a [Mapping]. It has no effect on routing.
type Docs struct {
	DisplayName string `json:"display_name,omitzero"`
	Ignored     *bool  `json:"ignored,omitzero"`
	Path        string `json:"path,omitzero"`
	TimeoutMs   *int   `json:"timeout_ms,omitzero"`
	URL         string `json:"url,omitzero"`
}
