package emissary

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Auth is the authentication filter of a cluster.
type Auth struct {
	Filter   ir.Filter
	Needed   *Needed // the service's upstream, nil if the filter refuses everything
	Findings MemberFindings
}

// Headers that Emissary always lets through to an authentication service, and
// back from it.
var (
	authRequestHeaders = []string{
		"authorization", "cookie", "from", "proxy-authorization", "user-agent", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
	}
	authResponseHeaders = []string{"authorization", "location", "proxy-authenticate", "set-cookie", "www-authenticate"}
)

// ReadAuth reads the AuthServices of a cluster. Anything wrong with them makes
// every request fail: an authentication that cannot be asked never lets
// anybody through.
func ReadAuth(w World, units []Unit) Auth {
	a := Auth{Findings: MemberFindings{}}
	f := &findings{}
	u := units[len(units)-1] // the last one loaded counts
	ok := true
	for _, other := range units[:len(units)-1] {
		ok = false
		a.Findings.add(other.Key, projector.Error, projector.CodeFailClosed, "", fmt.Sprintf("%s is an AuthService as well; this version serves one: every request is answered 500 until one is removed", u.Key), &u.Key)
	}
	filter, needed, good := readAuthService(w, f, u.Resource.(*getambassador.AuthService))
	a.Findings[u.Key] = append(a.Findings[u.Key], f.list...)
	if !ok || !good {
		a.Findings.add(u.Key, projector.Error, projector.CodeFailClosed, "", "the AuthService cannot be used: every request is answered 500 until it is corrected or removed", nil)
		a.Filter = ir.Filter{Name: "ext-authz", Direct: &ir.Direct{Status: 500, Body: `{"message":"the authentication service is misconfigured"}`}}
		return a
	}
	a.Filter, a.Needed = ir.Filter{Name: "ext-authz", ExtAuthz: filter}, needed
	return a
}

func readAuthService(w World, f *findings, o *getambassador.AuthService) (*ir.ExtAuthz, *Needed, bool) {
	s := &o.Spec
	x := &ir.ExtAuthz{
		GRPC: s.Proto == "grpc", PathPrefix: s.PathPrefix, Timeout: 5 * time.Second, ClearRouteCache: true,
		FailOpen: s.FailureModeAllow != nil && *s.FailureModeAllow,
	}
	if x.GRPC && s.ProtocolVersion != "v3" {
		f.errorf(projector.CodeInvalid, "spec.protocol_version", "must be v3 for proto grpc; the default v2 is not spoken any more")
		return nil, nil, false
	}
	if s.TimeoutMs != nil {
		d, ok := f.ms("spec.timeout_ms", *s.TimeoutMs)
		if !ok {
			return nil, nil, false
		}
		x.Timeout = *d
	}
	if s.StatusOnError != nil && s.StatusOnError.Code != nil {
		x.ErrorStatus = uint32(*s.StatusOnError.Code)
	}
	if s.IncludeBody != nil {
		x.BodyBytes, x.PartialBody = uint32(max(s.IncludeBody.MaxBytes, 0)), s.IncludeBody.AllowPartial
		if s.AllowRequestBody != nil {
			f.errorf(projector.CodeInvalid, "spec.allow_request_body", "include_body is set as well and counts alone")
		}
	} else if s.AllowRequestBody != nil && *s.AllowRequestBody {
		x.BodyBytes, x.PartialBody = 4096, true
	}
	if !x.GRPC {
		x.AllowedRequest = union(authRequestHeaders, s.AllowedRequestHeaders)
		x.AllowedUpstream = union(authResponseHeaders, s.AllowedAuthorizationHeaders)
		x.AllowedClient = x.AllowedUpstream
	}
	for _, name := range slices.Sorted(maps.Keys(s.AddAuthHeaders)) {
		x.AddAuthHeaders = append(x.AddAuthHeaders, ir.HeaderValue{Name: name, Value: s.AddAuthHeaders[name]})
	}
	policy := ir.Upstream{Connect: 3 * time.Second, HTTP2: x.GRPC, DNS: &ir.DNS{V4: true}}
	for _, b := range s.CircuitBreakers {
		policy.Breakers = append(policy.Breakers, ir.Breaker{
			High: b.Priority == "high", Connections: seconds(b.MaxConnections), Pending: seconds(b.MaxPendingRequests),
			Requests: seconds(b.MaxRequests), Retries: seconds(b.MaxRetries),
		})
	}
	needed, name, ok := upstream(w, f, target{
		path: "spec.auth_service", service: s.AuthService, namespace: o.Namespace, tls: s.TLS, stat: s.StatsName, policy: policy,
	})
	if !ok {
		return nil, nil, false
	}
	x.Upstream = needed.Upstream.Name
	x.HostHeader = fmt.Sprintf("%s:%d", name.Host, name.Port)
	linkerd := w.MappingDefaults().LinkerdHeaders
	if s.AddLinkerdHeaders != nil {
		linkerd = *s.AddLinkerdHeaders
	}
	if linkerd {
		x.AddAuthHeaders = append(x.AddAuthHeaders, ir.HeaderValue{Name: "l5d-dst-override", Value: "extauth:80"})
	}
	return x, &needed, true
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		out = append(out, strings.ToLower(s))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
