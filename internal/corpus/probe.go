package corpus

import (
	"encoding/json"
	"fmt"
	"strings"
)

// A Probe is one client action and its recorded outcome.
type Probe struct {
	Name          string            `json:"name"`
	Method        string            `json:"method"`
	URL           string            `json:"url"`     // as the client would write it; the path is sent as it stands
	Connect       int               `json:"connect"` // listener port to connect to, as the resources name it
	SNI           string            `json:"sni,omitempty"`
	HTTP2         bool              `json:"http2,omitempty"`
	Headers       map[string]Values `json:"headers,omitempty"` // a host here replaces the URL's authority
	Body          string            `json:"body,omitempty"`
	BodyBytes     int               `json:"body_bytes,omitempty"`
	Repeat        int               `json:"repeat,omitempty"`         // fire so many times and compare shares
	Parallel      bool              `json:"parallel,omitempty"`       // fire the repeats at once
	TLS           *TLSOptions       `json:"tls,omitempty"`            // how the client shakes hands
	ProxyProtocol string            `json:"proxy_protocol,omitempty"` // source address to announce
	SourceIP      string            `json:"source_ip,omitempty"`      // loopback address to connect from
	SettleMS      int               `json:"settle_ms,omitempty"`      // wait for mirrored or logged requests
	Sticky        string            `json:"sticky,omitempty"`         // replay this response cookie on repeats
	TimeoutMS     int               `json:"timeout_ms,omitempty"`
	Expect        *Expect           `json:"expect,omitempty"`
}

// TLSOptions shape the client's side of a handshake. Certificate and key name files of the case's folder.
type TLSOptions struct {
	MinVersion string   `json:"min_version,omitempty"` // v1.0 … v1.3
	MaxVersion string   `json:"max_version,omitempty"`
	Ciphers    []string `json:"ciphers,omitempty"`
	ALPN       []string `json:"alpn,omitempty"`
	ClientCert string   `json:"client_cert,omitempty"`
	ClientKey  string   `json:"client_key,omitempty"`
}

// Expect is an outcome: recorded in a case, or observed by Stage.Observe. In a recorded one, maps and lists are
// subsets: what is not mentioned is not compared.
type Expect struct {
	Error                 string             `json:"error,omitempty"` // connect | tls | closed | timeout
	Status                int                `json:"status,omitempty"`
	Backend               string             `json:"backend,omitempty"` // name.namespace of the Service that answered
	BackendPort           int                `json:"backend_port,omitempty"`
	ResponseHeaders       map[string]Values  `json:"response_headers,omitempty"`
	ResponseHeadersAbsent []string           `json:"response_headers_absent,omitempty"` // sent by the backend, kept from the client
	ResponseHeaderCase    []string           `json:"response_header_case,omitempty"`    // spellings other than lower case
	Body                  string             `json:"body,omitempty"`                    // only where no backend answered
	GRPCStatus            string             `json:"grpc_status,omitempty"`
	Upstream              *UpstreamRequest   `json:"upstream_request,omitempty"`
	Hits                  map[string]int     `json:"hits,omitempty"` // requests per backend, where not just one
	Side                  []*SideRequest     `json:"side_requests,omitempty"`
	ServerCert            string             `json:"server_cert,omitempty"` // common name
	ALPN                  string             `json:"alpn,omitempty"`
	Distribution          map[string]float64 `json:"distribution,omitempty"` // share per backend or status, 0 ≤ share ≤ 1
	Tolerance             float64            `json:"tolerance,omitempty"`    // of each share, absolute
	DistinctEndpoints     int                `json:"distinct_endpoints,omitempty"`
}

// UpstreamRequest is what the answering backend received. A header value of "*" means any value.
type UpstreamRequest struct {
	Method    string            `json:"method,omitempty"`
	Path      string            `json:"path,omitempty"`
	Authority string            `json:"authority,omitempty"`
	Protocol  string            `json:"protocol,omitempty"`
	TLS       bool              `json:"tls,omitempty"`
	TLSSNI    string            `json:"tls_sni,omitempty"`
	TLSClient string            `json:"tls_client_cert,omitempty"`
	Headers   map[string]Values `json:"headers,omitempty"`
	Absent    []string          `json:"absent,omitempty"` // sent by the client, kept from the backend
}

// SideRequest is what another backend received because of the probe: authorisation, rate limit, mirror, log.
type SideRequest struct {
	Backend string            `json:"backend"`
	Kind    string            `json:"kind"` // http | ext_authz | rate_limit | access_log | grpc
	Method  string            `json:"method,omitempty"`
	Path    string            `json:"path,omitempty"`
	Host    string            `json:"authority,omitempty"`
	Headers map[string]Values `json:"headers,omitempty"`
	Detail  map[string]string `json:"detail,omitempty"`
}

// Values is a header's values. In JSON one value is written as a plain string.
type Values []string

// UnmarshalJSON reads a string or a list of strings.
func (v *Values) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*v = Values{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(raw, &many); err != nil {
		return err
	}
	*v = many
	return nil
}

// String returns the values in one line.
func (v Values) String() string { return strings.Join(v, " | ") }

type target struct{ scheme, authority, path string }

// splitURL keeps the path exactly as written, which net/url would not.
func splitURL(raw string) (target, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return target{}, fmt.Errorf("url %q has no scheme", raw)
	}
	i := strings.IndexAny(rest, "/?")
	if i < 0 {
		return target{scheme, rest, "/"}, nil
	}
	path := rest[i:]
	if path[0] == '?' {
		path = "/" + path
	}
	return target{scheme, rest[:i], path}, nil
}

// MarshalJSON writes one value as a plain string and several as a list.
func (v Values) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return json.Marshal(v[0])
	}
	return json.Marshal([]string(v))
}
