package getambassador

// The struct tags of this package, read by the decoder:
//
//	json:"name"          the field's v3alpha1 name
//	v2:"other|another"   its names in v1 and v2, where they differ
//	v2:"-"               v1 and v2 have no such field
//	v2:"convert"         same name, but the type's fromV2 method reads it
//	check:"…"            what the published schema asks for, comma-separated:
//	                     required, required-v3, enum=a|b, min=N, max=N,
//	                     items=N (at least), duration, scheme
//
// A pointer, map or slice that is nil was not set; an empty map or list that
// was written stays non-nil, because `{}` can override a default.

// AmbassadorID is the list of installations that an object is meant for.
// Absent or empty means ["default"]. A bare string is accepted as a list of one.
type AmbassadorID []string

// StringList is a list of strings that also accepts a bare string, as v1 and
// v2 did, as a list of one.
type StringList []string

// LabelSelector selects objects by their labels, as in Kubernetes. All
// requirements must hold.
type LabelSelector struct {
	MatchLabels      map[string]string          `json:"matchLabels,omitzero"`
	MatchExpressions []LabelSelectorRequirement `json:"matchExpressions,omitzero"`
}

// LabelSelectorRequirement relates a label key to values by an operator: In,
// NotIn, Exists or DoesNotExist.
type LabelSelectorRequirement struct {
	Key      string   `json:"key" check:"required"`
	Operator string   `json:"operator" check:"required"`
	Values   []string `json:"values,omitzero"`
}

// CircuitBreaker limits what is in flight to one upstream for one priority.
type CircuitBreaker struct {
	Priority           string `json:"priority,omitzero" check:"enum=default|high"`
	MaxConnections     *int   `json:"max_connections,omitzero"`
	MaxPendingRequests *int   `json:"max_pending_requests,omitzero"`
	MaxRequests        *int   `json:"max_requests,omitzero"`
	MaxRetries         *int   `json:"max_retries,omitzero"`
}

// AddedHeader is the value of a header that a route adds. Append nil means
// true: the value is added beside one that is already there. In v1 and v2 it
// may be a bare string.
type AddedHeader struct {
	Value  string `json:"value,omitzero"`
	Append *bool  `json:"append,omitzero"`
	// V2Representation records how v2 spelled the value. It has no effect.
	V2Representation string `json:"v2Representation,omitzero" check:"enum=|string|null"`
}

// V2ExplicitTLS records how a v2 object spelled its TLS origination. It is
// kept for round trips through v2 and has no effect on routing.
type V2ExplicitTLS struct {
	ServiceScheme string `json:"serviceScheme,omitzero" check:"scheme"`
	TLS           string `json:"tls,omitzero" check:"enum=|null|bool:true|bool:false|string"`
}

// RegexMatch rewrites what the RE2 pattern matches into the substitution,
// where \1 stands for the first group.
type RegexMatch struct {
	Pattern      string `json:"pattern,omitzero"`
	Substitution string `json:"substitution,omitzero"`
}
