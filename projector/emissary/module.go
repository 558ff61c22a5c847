package emissary

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// DefaultTimeoutMs is how long a request may take if nothing else is said.
const DefaultTimeoutMs = 3000

// MappingDefaults is the part of the Module "ambassador" that Mappings read.
type MappingDefaults struct {
	AmbassadorNamespace bool
	SecretNaming        getambassador.SecretNaming
	Resolver            string
	RequestTimeoutMs    int
	ClusterIdleMs       *int
	MaxLifetimeMs       *int
	EnableIPv4          *bool
	EnableIPv6          *bool
	LinkerdHeaders      bool
	Breakers            []getambassador.CircuitBreaker
	LoadBalancer        *getambassador.LoadBalancer
	KeepAlive           *getambassador.KeepAlive
	CORS                *getambassador.CORS
	Retry               *getambassador.RetryPolicy
	AddRequest          map[string]getambassador.AddedHeader
	AddResponse         map[string]getambassador.AddedHeader
	RemoveRequest       []string
	RemoveResponse      []string
	LabelDomain         string // of rate limits
	DefaultLabels       map[string][]getambassador.LabelSpecifier
}

// Module is what the Module "ambassador" says.
type Module struct {
	Mappings MappingDefaults
	// HTTP holds the connection manager's settings, without routes.
	HTTP ir.HTTP
	// Before and After are the HTTP filters before and after authentication.
	Before      []ir.Filter
	BufferLimit uint32
}

// DefaultAccessLog is Emissary's access log format.
const DefaultAccessLog = `ACCESS [%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

// DefaultModule is what holds without a Module.
func DefaultModule() *Module {
	return &Module{
		Mappings: MappingDefaults{
			SecretNaming: getambassador.DefaultSecretNaming, Resolver: DefaultResolver, RequestTimeoutMs: DefaultTimeoutMs,
			LabelDomain: "ambassador",
		},
		HTTP: ir.HTTP{
			UseRemoteAddress: true, ServerName: "envoy",
			AccessLogs: []ir.AccessLog{{Path: "/dev/fd/1", Text: DefaultAccessLog}},
		},
	}
}

// deadModule lists the fields of a Module that have no effect in Emissary.
var deadModule = []string{
	"service_port", "use_proxy_proto", "x_forwarded_proto_redirect", "xff_num_trusted_hops", "auth_enabled", "debug_mode",
	"prune_unreachable_routes", "regex_type", "diag_port", "statsd",
}

// laterModule lists those that have an effect in Emissary, but not yet here.
var laterModule = []string{
	"error_response_overrides", "runtime_flags", "envoy_validation_timeout",
}

// knownModule lists all other fields that are read or need no word.
var knownModule = []string{
	"add_linkerd_headers", "admin_port", "allow_chunked_length", "buffer", "buffer_limit_bytes", "circuit_breakers", "load_balancer",
	"keepalive", "cors", "retry_policy", "resolver", "cluster_idle_timeout_ms", "cluster_max_connection_lifetime_ms",
	"cluster_request_timeout_ms", "defaults", "diagnostics", "liveness_probe", "readiness_probe", "enable_grpc_http11_bridge",
	"enable_grpc_web", "grpc_stats", "enable_http10", "enable_ipv4", "enable_ipv6", "envoy_log_type", "envoy_log_path",
	"envoy_log_format", "forward_client_cert_details", "set_current_client_cert_details", "gzip", "headers_with_underscores_action",
	"max_request_headers_kb", "merge_slashes", "reject_requests_with_escaped_slashes", "strip_matching_host_port",
	"preserve_external_request_id", "proper_case", "header_case_overrides", "server_name", "suppress_envoy_headers",
	"use_remote_address", "listener_idle_timeout_ms", "ip_allow", "ip_deny", "lua_scripts", "regex_max_size",
	"use_ambassador_namespace_for_service_resolution", "default_labels", "default_label_domain",
}

// config reads a Module's untyped settings and says what it could not read.
type config struct {
	findings
	m map[string]any
}

func (c *config) wrong(key, want string, v any) {
	c.errorf(projector.CodeInvalid, "spec.config."+key, fmt.Sprintf("wants %s, has %v; the default holds", want, v))
}

// as reads a value of the config. It is not ok if there is none, or one of another type, which is said.
func as[T any](c *config, key, want string) (T, bool) {
	v, ok := c.m[key].(T)
	if !ok && c.m[key] != nil {
		c.wrong(key, want, c.m[key])
	}
	return v, ok
}

func (c *config) boolean(key string, dst *bool) {
	if b, ok := as[bool](c, key, "a boolean"); ok {
		*dst = b
	}
}

func (c *config) optionalBool(key string) *bool {
	if c.m[key] == nil {
		return nil
	}
	var b bool
	c.boolean(key, &b)
	return &b
}

func number(v any) (int, bool) {
	switch n := v.(type) {
	case int64:
		return int(n), true
	case float64:
		return int(n), n == float64(int(n))
	case int:
		return n, true
	}
	return 0, false
}

func (c *config) number(key string) *int {
	v, ok := c.m[key]
	if !ok || v == nil {
		return nil
	}
	n, ok := number(v)
	if !ok || n < 0 {
		c.wrong(key, "a number", v)
		return nil
	}
	if strings.HasSuffix(key, "_ms") && n > maxMs {
		c.wrong(key, fmt.Sprintf("at most %d", maxMs), v)
		return nil
	}
	return &n
}

func (c *config) text(key string, dst *string) {
	if s, ok := as[string](c, key, "text"); ok {
		*dst = s
	}
}

func (c *config) object(key string) *config {
	if m, ok := as[map[string]any](c, key, "an object"); ok {
		return &config{m: m}
	}
	return nil
}

func (c *config) strings(key string) []string {
	v, ok := c.m[key]
	if !ok || v == nil {
		return nil
	}
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, it := range v {
			s, ok := it.(string)
			if !ok {
				c.wrong(key, "a list of text", v)
				return nil
			}
			out = append(out, s)
		}
		return out
	}
	c.wrong(key, "a list of text", v)
	return nil
}

// ReadModule reads the Module "ambassador". What is wrong leaves the default
// in place.
func ReadModule(o *getambassador.Module, settings projector.Settings) (*Module, []projector.Finding) {
	c := &config{m: o.Spec.Config}
	mod := DefaultModule()
	for _, key := range slices.Sorted(maps.Keys(c.m)) {
		switch {
		case slices.Contains(deadModule, key):
			c.noEffect("spec.config."+key, "has no effect in Emissary and is ignored")
		case slices.Contains(laterModule, key):
			c.warnf(projector.CodeNotServed, "spec.config."+key, "is not served by this version")
		case !slices.Contains(knownModule, key):
			c.warnf(projector.CodeField, "spec.config."+key, "is not a field of the Module ambassador; it has no effect")
		}
	}
	readMappingDefaults(c, mod, o)
	readHTTP(c, mod)
	readFilters(c, mod, settings)
	return mod, c.list
}

func readMappingDefaults(c *config, mod *Module, o *getambassador.Module) {
	d := &mod.Mappings
	d.SecretNaming = o.SecretNaming()
	c.boolean("use_ambassador_namespace_for_service_resolution", &d.AmbassadorNamespace)
	c.text("resolver", &d.Resolver)
	if n := c.number("cluster_request_timeout_ms"); n != nil {
		d.RequestTimeoutMs = *n
	}
	d.ClusterIdleMs = c.number("cluster_idle_timeout_ms")
	d.MaxLifetimeMs = c.number("cluster_max_connection_lifetime_ms")
	d.EnableIPv4, d.EnableIPv6 = c.optionalBool("enable_ipv4"), c.optionalBool("enable_ipv6")
	c.boolean("add_linkerd_headers", &d.LinkerdHeaders)

	spec := c.asMapping("", c.m, "circuit_breakers", "load_balancer", "keepalive", "cors", "retry_policy")
	d.Breakers, d.LoadBalancer, d.KeepAlive, d.CORS, d.Retry = spec.CircuitBreakers, spec.LoadBalancer, spec.KeepAlive, spec.CORS, spec.RetryPolicy
	c.text("default_label_domain", &d.LabelDomain)
	readDefaultLabels(c, d)
	if defaults := c.object("defaults"); defaults != nil {
		headers := maps.Clone(defaults.m)
		if own := defaults.object("httpmapping"); own != nil {
			maps.Copy(headers, own.m)
		}
		keys := []string{"add_request_headers", "add_response_headers", "remove_request_headers", "remove_response_headers"}
		spec := c.asMapping("defaults.", headers, keys...)
		d.AddRequest, d.AddResponse = spec.AddRequestHeaders, spec.AddResponseHeaders
		d.RemoveRequest, d.RemoveResponse = spec.RemoveRequestHeaders, spec.RemoveResponseHeaders
	}
}

// readDefaultLabels reads the labels that come before those of every Mapping.
func readDefaultLabels(c *config, d *MappingDefaults) {
	domains := c.object("default_labels")
	if domains == nil {
		return
	}
	labels := map[string]any{}
	for _, domain := range slices.Sorted(maps.Keys(domains.m)) {
		one := domains.object(domain)
		if one == nil || one.m["defaults"] == nil {
			continue
		}
		labels[domain] = []any{map[string]any{"defaults": one.m["defaults"]}}
	}
	c.list = append(c.list, domains.list...)
	spec := c.asMapping("default_", map[string]any{"labels": labels}, "labels")
	d.DefaultLabels = map[string][]getambassador.LabelSpecifier{}
	for domain, groups := range spec.Labels {
		for _, g := range groups {
			d.DefaultLabels[domain] = g["defaults"]
		}
	}
}

// asMapping reads settings that a Module and a Mapping share, as a Mapping's.
func (c *config) asMapping(path string, m map[string]any, keys ...string) getambassador.MappingSpec {
	spec := map[string]any{"prefix": "/", "service": "none", "hostname": "*"}
	for _, k := range keys {
		v, ok := m[k]
		if !ok || v == nil {
			continue
		}
		switch k {
		case "add_request_headers", "add_response_headers":
			v = headersAsObjects(v)
		case "keepalive":
			if ka, ok := v.(map[string]any); ok && ka["time"] != nil { // what Emissary's code reads
				ka = maps.Clone(ka)
				ka["idle_time"] = ka["time"]
				delete(ka, "time")
				v = ka
			}
		}
		spec[k] = v
	}
	o, problems, err := getambassador.DecodeValue(map[string]any{
		"apiVersion": getambassador.APIVersion, "kind": "Mapping", "metadata": map[string]any{"name": "module"}, "spec": spec,
	})
	for _, f := range fieldFindings("", problems) {
		f.Path = "spec.config." + path + trimSpec(f.Path)
		c.list = append(c.list, f)
	}
	if err != nil {
		if len(keys) == 1 {
			return getambassador.MappingSpec{}
		}
		// Leave out only what is wrong: read the keys one by one.
		var out getambassador.MappingSpec
		quiet := &config{m: c.m}
		for _, k := range keys {
			one := quiet.asMapping(path, m, k)
			merge(&out, &one, k)
		}
		return out
	}
	return o.(*getambassador.Mapping).Spec
}

func merge(out, in *getambassador.MappingSpec, key string) {
	switch key {
	case "circuit_breakers":
		out.CircuitBreakers = in.CircuitBreakers
	case "load_balancer":
		out.LoadBalancer = in.LoadBalancer
	case "keepalive":
		out.KeepAlive = in.KeepAlive
	case "cors":
		out.CORS = in.CORS
	case "retry_policy":
		out.RetryPolicy = in.RetryPolicy
	case "add_request_headers":
		out.AddRequestHeaders = in.AddRequestHeaders
	case "add_response_headers":
		out.AddResponseHeaders = in.AddResponseHeaders
	case "remove_request_headers":
		out.RemoveRequestHeaders = in.RemoveRequestHeaders
	case "remove_response_headers":
		out.RemoveResponseHeaders = in.RemoveResponseHeaders
	}
}

func trimSpec(path string) string {
	if len(path) > 5 && path[:5] == "spec." {
		return path[5:]
	}
	return path
}

func headersAsObjects(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, v := range m {
		if s, ok := v.(string); ok {
			v = map[string]any{"value": s}
		}
		out[k] = v
	}
	return out
}

func readHTTP(c *config, mod *Module) {
	h := &mod.HTTP
	c.boolean("use_remote_address", &h.UseRemoteAddress)
	c.text("server_name", &h.ServerName)
	c.boolean("strip_matching_host_port", &h.StripMatchingPort)
	c.boolean("merge_slashes", &h.MergeSlashes)
	c.boolean("preserve_external_request_id", &h.PreserveRequestID)
	c.boolean("enable_http10", &h.AcceptHTTP10)
	c.boolean("allow_chunked_length", &h.AllowChunkedLength)
	c.boolean("proper_case", &h.ProperCase)
	c.boolean("suppress_envoy_headers", &h.SuppressEnvoyHeaders)
	if !h.ProperCase {
		h.HeaderCases = c.strings("header_case_overrides")
	}
	var reject bool
	c.boolean("reject_requests_with_escaped_slashes", &reject)
	if reject {
		h.EscapedSlashes = "reject"
	}
	var underscores string
	c.text("headers_with_underscores_action", &underscores)
	switch underscores {
	case "":
	case "ALLOW":
		h.Underscores = "allow"
	case "REJECT_REQUEST":
		h.Underscores = "reject"
	case "DROP_HEADER":
		h.Underscores = "drop"
	default:
		c.wrong("headers_with_underscores_action", "ALLOW, REJECT_REQUEST or DROP_HEADER", underscores)
	}
	if n := c.number("max_request_headers_kb"); n != nil {
		h.MaxRequestHeadersKiB = uint32(*n)
	}
	if n := c.number("listener_idle_timeout_ms"); n != nil {
		h.ConnectionIdle = ms(*n)
	}
	if n := c.number("buffer_limit_bytes"); n != nil {
		mod.BufferLimit = uint32(*n)
	}
	var forward string
	c.text("forward_client_cert_details", &forward)
	switch forward {
	case "":
	case "SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY":
		h.ForwardClientCert = map[string]string{
			"SANITIZE": "sanitize", "FORWARD_ONLY": "forward_only", "APPEND_FORWARD": "append_forward",
			"SANITIZE_SET": "sanitize_set", "ALWAYS_FORWARD_ONLY": "always_forward_only",
		}[forward]
	default:
		c.wrong("forward_client_cert_details", "one of Envoy's values", forward)
	}
	if set := c.object("set_current_client_cert_details"); set != nil {
		h.SetClientCert = &ir.ClientCertDetails{}
		set.boolean("subject", &h.SetClientCert.Subject)
		set.boolean("cert", &h.SetClientCert.Cert)
		set.boolean("chain", &h.SetClientCert.Chain)
		set.boolean("dns", &h.SetClientCert.DNS)
		set.boolean("uri", &h.SetClientCert.URI)
		c.list = append(c.list, set.list...)
	}
	readAccessLog(c, mod)
}

func readAccessLog(c *config, mod *Module) {
	log := &mod.HTTP.AccessLogs[0]
	kind := "text"
	c.text("envoy_log_type", &kind)
	c.text("envoy_log_path", &log.Path)
	format := c.m["envoy_log_format"]
	switch kind {
	case "text":
		if s, ok := format.(string); ok {
			log.Text = s + "\n"
		} else if format != nil {
			c.wrong("envoy_log_format", "text", format)
		}
	case "json", "typed_json":
		log.Text, log.Typed = "", kind == "typed_json"
		fields, ok := format.(map[string]any)
		if format != nil && !ok {
			c.wrong("envoy_log_format", "an object", format)
		}
		if len(fields) == 0 {
			fields = defaultJSONLog()
		}
		log.JSON = fields
	default:
		c.wrong("envoy_log_type", "text, json or typed_json", kind)
	}
}

func defaultJSONLog() map[string]any {
	return map[string]any{
		"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
		"protocol": "%PROTOCOL%", "response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%",
		"bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%", "duration": "%DURATION%",
		"upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
		"user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%",
		"upstream_host": "%UPSTREAM_HOST%", "upstream_cluster": "%UPSTREAM_CLUSTER%",
		"upstream_local_address": "%UPSTREAM_LOCAL_ADDRESS%", "downstream_local_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
		"downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "requested_server_name": "%REQUESTED_SERVER_NAME%",
		"istio_policy_status": "%DYNAMIC_METADATA(istio.mixer:status)%", "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
	}
}

func readFilters(c *config, mod *Module, settings projector.Settings) {
	add := func(f ir.Filter) { mod.Before = append(mod.Before, f) }
	if _, ok := c.m["enable_grpc_http11_bridge"]; ok { // that it is there is what counts
		add(ir.Filter{Name: "grpc-http1-bridge"})
	}
	if _, ok := c.m["enable_grpc_web"]; ok {
		add(ir.Filter{Name: "grpc-web"})
	}
	if stats := c.object("grpc_stats"); stats != nil {
		s := &ir.GRPCStats{}
		stats.boolean("all_methods", &s.AllMethods)
		stats.boolean("upstream_stats", &s.UpstreamStats)
		if list, ok := stats.m["services"].([]any); ok {
			for _, it := range list {
				if m, ok := it.(map[string]any); ok {
					one := &config{m: m}
					service := ir.GRPCService{Methods: one.strings("method_names")}
					one.text("name", &service.Name)
					s.Services = append(s.Services, service)
				}
			}
		}
		c.list = append(c.list, stats.list...)
		add(ir.Filter{Name: "grpc-stats", GRPCStats: s})
	}
	var lua string
	c.text("lua_scripts", &lua)
	if lua != "" {
		if settings.AllowLua {
			add(ir.Filter{Name: "lua", Lua: lua})
		} else {
			c.warnf(projector.CodeNotServed, "spec.config.lua_scripts", "Lua from resources does not run unless the operator allows it; start with --allow-lua")
		}
	}
	if gz := c.object("gzip"); gz != nil {
		add(ir.Filter{Name: "gzip", Gzip: readGzip(gz)})
		c.list = append(c.list, gz.list...)
	}
	if buffer := c.object("buffer"); buffer != nil {
		if n := buffer.number("max_request_bytes"); n != nil {
			add(ir.Filter{Name: "buffer", Buffer: uint32(*n)})
		} else {
			c.errorf(projector.CodeInvalid, "spec.config.buffer.max_request_bytes", "is required; requests are not buffered")
		}
	}
	allow, deny := c.cidrs("ip_allow"), c.cidrs("ip_deny")
	switch {
	case allow != nil && deny != nil:
		c.errorf(projector.CodeInvalid, "spec.config.ip_deny", "ip_allow is set as well; ip_deny is ignored, use one of them")
		add(ir.Filter{Name: "ip-allow", IP: allow})
	case allow != nil:
		add(ir.Filter{Name: "ip-allow", IP: allow})
	case deny != nil:
		add(ir.Filter{Name: "ip-deny", IP: deny})
	}
}

func readGzip(c *config) *ir.Gzip {
	g := &ir.Gzip{ContentTypes: c.strings("content_type")}
	small := func(key string, dst *uint32) {
		if n := c.number(key); n != nil {
			*dst = uint32(*n)
		}
	}
	small("memory_level", &g.MemoryLevel)
	small("window_bits", &g.WindowBits)
	small("min_content_length", &g.MinLength)
	c.text("compression_level", &g.Level)
	c.text("compression_strategy", &g.Strategy)
	c.boolean("disable_on_etag_header", &g.DisableOnETag)
	c.boolean("remove_accept_encoding_header", &g.RemoveAcceptEncoding)
	return g
}

// cidrs returns nil if the key is absent.
func (c *config) cidrs(key string) []ir.CIDR {
	v, ok := c.m[key]
	if !ok || v == nil {
		return nil
	}
	list, ok := v.([]any)
	if !ok {
		c.wrong(key, "a list", v)
		return nil
	}
	out := []ir.CIDR{}
	for i, it := range list {
		path := fmt.Sprintf("spec.config.%s[%d]", key, i)
		m, _ := it.(map[string]any)
		if len(m) != 1 {
			c.errorf(projector.CodeInvalid, path, "wants exactly one of peer and remote; the entry is skipped")
			continue
		}
		for kind, r := range m {
			text, _ := r.(string)
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				if a, aerr := netip.ParseAddr(text); aerr == nil {
					prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
				}
			}
			if err != nil || kind != "peer" && kind != "remote" {
				c.errorf(projector.CodeInvalid, path, fmt.Sprintf("%s %v is not an address range; the entry is skipped", kind, r))
				continue
			}
			out = append(out, ir.CIDR{Range: prefix.String(), Remote: kind == "remote"})
		}
	}
	return out
}

// maxMs bounds a time in milliseconds: a hundred years. Envoy refuses times
// that it cannot count in nanoseconds, and so do we.
const maxMs = 100 * 365 * 24 * 3600 * 1000

func ms(n int) *time.Duration {
	d := time.Duration(n) * time.Millisecond
	return &d
}

// ms reads a time in milliseconds. It is not ok if it is none, which is said.
func (f *findings) ms(path string, n int) (*time.Duration, bool) {
	if n < 0 || n > maxMs {
		f.errorf(projector.CodeInvalid, path, fmt.Sprintf("%d is no time: want 0 to %d milliseconds", n, maxMs))
		return new(time.Duration), false
	}
	return ms(n), true
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("marshal %T: %v", v, err))
	}
	return string(b)
}
