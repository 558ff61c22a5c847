package getambassador

// AuthService asks an external service whether a request may pass.
type AuthService struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       AuthServiceSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *AuthService) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// AuthServiceSpec is what an [AuthService] asks for.
type AuthServiceSpec struct {
	AmbassadorID                AmbassadorID      `json:"ambassador_id,omitzero"`
	AuthService                 string            `json:"auth_service" check:"required"`
	Proto                       string            `json:"proto,omitzero" check:"enum=http|grpc"`
	ProtocolVersion             string            `json:"protocol_version,omitzero" check:"enum=v2|v3"`
	TLS                         string            `json:"tls,omitzero" v2:"convert"`
	PathPrefix                  string            `json:"path_prefix,omitzero"`
	TimeoutMs                   *int              `json:"timeout_ms,omitzero"`
	AllowedRequestHeaders       []string          `json:"allowed_request_headers,omitzero"`
	AllowedAuthorizationHeaders []string          `json:"allowed_authorization_headers,omitzero"`
	AddAuthHeaders              map[string]string `json:"add_auth_headers,omitzero"`
	AddLinkerdHeaders           *bool             `json:"add_linkerd_headers,omitzero"`
	AllowRequestBody            *bool             `json:"allow_request_body,omitzero"`
	IncludeBody                 *AuthIncludeBody  `json:"include_body,omitzero"`
	FailureModeAllow            *bool             `json:"failure_mode_allow,omitzero"`
	StatusOnError               *AuthErrorStatus  `json:"status_on_error,omitzero"`
	CircuitBreakers             []CircuitBreaker  `json:"circuit_breakers,omitzero" v2:"v3CircuitBreakers"`
	StatsName                   string            `json:"stats_name,omitzero" v2:"v3StatsName"`
	V2ExplicitTLS               *V2ExplicitTLS    `json:"v2ExplicitTLS,omitzero" v2:"-"`
}

// AuthIncludeBody sends up to MaxBytes of the request's body along.
type AuthIncludeBody struct {
	MaxBytes     int  `json:"max_bytes" check:"required"`
	AllowPartial bool `json:"allow_partial" check:"required"`
}

// AuthErrorStatus is the status that clients see when the service fails.
type AuthErrorStatus struct {
	Code *int `json:"code,omitzero"`
}

// RateLimitService asks an external service whether a request is within its
// limits.
type RateLimitService struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       RateLimitServiceSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *RateLimitService) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// RateLimitServiceSpec is what a [RateLimitService] asks for.
type RateLimitServiceSpec struct {
	AmbassadorID    AmbassadorID   `json:"ambassador_id,omitzero"`
	Service         string         `json:"service" check:"required"`
	Domain          string         `json:"domain,omitzero"`
	ProtocolVersion string         `json:"protocol_version,omitzero" check:"enum=v2|v3"`
	TLS             string         `json:"tls,omitzero" v2:"convert"`
	TimeoutMs       *int           `json:"timeout_ms,omitzero"`
	FailureModeDeny *bool          `json:"failure_mode_deny,omitzero"`
	GRPC            *RateLimitGRPC `json:"grpc,omitzero" v2:"v3GRPC"`
	StatsName       string         `json:"stats_name,omitzero" v2:"v3StatsName"`
	V2ExplicitTLS   *V2ExplicitTLS `json:"v2ExplicitTLS,omitzero" v2:"-"`
}

// RateLimitGRPC says how a gRPC client sees that it is over its limit.
type RateLimitGRPC struct {
	UseResourceExhaustedCode *bool `json:"use_resource_exhausted_code,omitzero"`
}

// LogService receives access logs over gRPC.
type LogService struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       LogServiceSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *LogService) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// LogServiceSpec is what a [LogService] asks for. FlushIntervalTime is seconds.
type LogServiceSpec struct {
	AmbassadorID          AmbassadorID     `json:"ambassador_id,omitzero"`
	Service               string           `json:"service,omitzero"`
	Driver                string           `json:"driver,omitzero" check:"enum=tcp|http"`
	DriverConfig          *LogDriverConfig `json:"driver_config,omitzero"`
	FlushIntervalByteSize *int             `json:"flush_interval_byte_size,omitzero"`
	FlushIntervalTime     *int             `json:"flush_interval_time,omitzero"`
	GRPC                  *bool            `json:"grpc,omitzero"`
	ProtocolVersion       string           `json:"protocol_version,omitzero" v2:"v3ProtocolVersion" check:"enum=v2|v3"`
	StatsName             string           `json:"stats_name,omitzero" v2:"v3StatsName"`
}

// LogDriverConfig is for the http driver only.
type LogDriverConfig struct {
	AdditionalLogHeaders []AdditionalLogHeader `json:"additional_log_headers,omitzero"`
}

// AdditionalLogHeader names a header to log, and where it is looked for.
type AdditionalLogHeader struct {
	HeaderName     string `json:"header_name,omitzero"`
	DuringRequest  *bool  `json:"during_request,omitzero"`
	DuringResponse *bool  `json:"during_response,omitzero"`
	DuringTrailer  *bool  `json:"during_trailer,omitzero"`
}

// TracingService receives traces.
type TracingService struct {
	TypeMeta
	ObjectMeta `json:"metadata"`
	Spec       TracingServiceSpec `json:"spec"`
}

// AmbassadorIDs returns spec.ambassador_id as written.
func (o *TracingService) AmbassadorIDs() []string { return o.Spec.AmbassadorID }

// TracingServiceSpec is what a [TracingService] asks for.
type TracingServiceSpec struct {
	AmbassadorID AmbassadorID       `json:"ambassador_id,omitzero"`
	Driver       string             `json:"driver" check:"required,enum=lightstep|zipkin|datadog|opentelemetry"`
	Service      string             `json:"service" check:"required"`
	Sampling     *TracingSampling   `json:"sampling,omitzero"`
	TagHeaders   []string           `json:"tag_headers,omitzero"`
	CustomTags   []TracingCustomTag `json:"custom_tags,omitzero" v2:"v3CustomTags"`
	Config       *TracingConfig     `json:"config,omitzero"`
	StatsName    string             `json:"stats_name,omitzero" v2:"v3StatsName"`
}

// TracingSampling holds percentages.
type TracingSampling struct {
	Client  *int `json:"client,omitzero"`
	Random  *int `json:"random,omitzero"`
	Overall *int `json:"overall,omitzero"`
}

// TracingCustomTag adds a tag to spans: one of the sources.
type TracingCustomTag struct {
	Tag           string               `json:"tag" check:"required"`
	Literal       *TracingTagLiteral   `json:"literal,omitzero"`
	Environment   *TracingTagReference `json:"environment,omitzero"`
	RequestHeader *TracingTagReference `json:"request_header,omitzero"`
}

// TracingTagLiteral is a constant value.
type TracingTagLiteral struct {
	Value string `json:"value" check:"required"`
}

// TracingTagReference takes a value from an environment variable or a header.
type TracingTagReference struct {
	Name         string `json:"name" check:"required"`
	DefaultValue string `json:"default_value,omitzero"`
}

// TracingConfig is what the drivers read; which fields count depends on the
// driver.
type TracingConfig struct {
	AccessTokenFile          string   `json:"access_token_file,omitzero"`
	CollectorCluster         string   `json:"collector_cluster,omitzero"`
	CollectorEndpoint        string   `json:"collector_endpoint,omitzero"`
	CollectorEndpointVersion string   `json:"collector_endpoint_version,omitzero" check:"enum=HTTP_JSON_V1|HTTP_JSON|HTTP_PROTO"`
	CollectorHostname        string   `json:"collector_hostname,omitzero"`
	PropagationModes         []string `json:"propagation_modes,omitzero" v2:"v3PropagationModes" check:"enum=ENVOY|LIGHTSTEP|B3|TRACE_CONTEXT"`
	ServiceName              string   `json:"service_name,omitzero"`
	SharedSpanContext        *bool    `json:"shared_span_context,omitzero"`
	TraceID128Bit            *bool    `json:"trace_id_128bit,omitzero"`
}
