package envoy

import (
	"fmt"

	mutationrulesv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

var escapedSlashes = map[string]hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction{
	"":                  hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT,
	"keep":              hcmv3.HttpConnectionManager_KEEP_UNCHANGED,
	"reject":            hcmv3.HttpConnectionManager_REJECT_REQUEST,
	"unescape-redirect": hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT,
	"unescape-forward":  hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD,
}

var underscores = map[string]corev3.HttpProtocolOptions_HeadersWithUnderscoresAction{
	"":       corev3.HttpProtocolOptions_ALLOW,
	"allow":  corev3.HttpProtocolOptions_ALLOW,
	"reject": corev3.HttpProtocolOptions_REJECT_REQUEST,
	"drop":   corev3.HttpProtocolOptions_DROP_HEADER,
}

// connectionManager writes the network filter that terminates HTTP.
func connectionManager(h *ir.HTTP) (*hcmv3.HttpConnectionManager, error) {
	m := &hcmv3.HttpConnectionManager{
		StatPrefix:                h.StatsPrefix,
		ServerName:                h.ServerName,
		UseRemoteAddress:          wrapperspb.Bool(h.UseRemoteAddress),
		XffNumTrustedHops:         h.TrustedHops,
		NormalizePath:             wrapperspb.Bool(true),
		MergeSlashes:              h.MergeSlashes,
		StripMatchingHostPort:     h.StripMatchingPort,
		PreserveExternalRequestId: h.PreserveRequestID,
		MaxRequestHeadersKb:       positive32(h.MaxRequestHeadersKiB),
		StreamIdleTimeout:         duration(h.StreamIdle),
		RequestTimeout:            duration(h.RequestTimeout),
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
			Rds: &hcmv3.Rds{ConfigSource: ads(), RouteConfigName: h.Routes},
		},
	}
	if m.StatPrefix == "" {
		m.StatPrefix = "ingress_http"
	}
	for _, u := range h.Upgrades {
		m.UpgradeConfigs = append(m.UpgradeConfigs, &hcmv3.HttpConnectionManager_UpgradeConfig{UpgradeType: u})
	}
	var ok bool
	if m.PathWithEscapedSlashesAction, ok = escapedSlashes[h.EscapedSlashes]; !ok {
		return nil, fmt.Errorf("escaped slashes: %q is none of reject, unescape-redirect, unescape-forward and keep", h.EscapedSlashes)
	}
	if err := clientCertificate(m, h); err != nil {
		return nil, err
	}
	if err := protocols(m, h); err != nil {
		return nil, err
	}
	if err := filters(m, h); err != nil {
		return nil, err
	}
	var err error
	if m.AccessLog, err = accessLogs(h.AccessLogs); err != nil {
		return nil, err
	}
	if m.Tracing, err = tracing(h.Tracing); err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	if h.RouteReplies {
		return m, nil // they are in the filter then: Envoy's own means would have the last word over routes
	}
	if m.LocalReplyConfig, err = localReplies(h.LocalReplies); err != nil {
		return nil, err
	}
	return m, nil
}

func clientCertificate(m *hcmv3.HttpConnectionManager, h *ir.HTTP) error {
	forward, err := enumOf(hcmv3.HttpConnectionManager_ForwardClientCertDetails_value, "client certificate forwarding", h.ForwardClientCert)
	if err != nil {
		return err
	}
	m.ForwardClientCertDetails = hcmv3.HttpConnectionManager_ForwardClientCertDetails(forward)
	if c := h.SetClientCert; c != nil {
		m.SetCurrentClientCertDetails = &hcmv3.HttpConnectionManager_SetCurrentClientCertDetails{
			Cert: c.Cert, Chain: c.Chain, Dns: c.DNS, Uri: c.URI,
		}
		if c.Subject {
			m.SetCurrentClientCertDetails.Subject = wrapperspb.Bool(true)
		}
	}
	return nil
}

// protocols writes the options of HTTP/1, 2 and 3.
func protocols(m *hcmv3.HttpConnectionManager, h *ir.HTTP) error {
	action, ok := underscores[h.Underscores]
	if !ok {
		return fmt.Errorf("headers with underscores: %q is none of allow, reject and drop", h.Underscores)
	}
	if h.ConnectionIdle != nil || h.Underscores != "" {
		m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{
			IdleTimeout: duration(h.ConnectionIdle), HeadersWithUnderscoresAction: action,
		}
	}
	if h.AcceptHTTP10 || h.AllowChunkedLength || h.ProperCase || len(h.HeaderCases) > 0 {
		o := &corev3.Http1ProtocolOptions{AcceptHttp_10: h.AcceptHTTP10, AllowChunkedLength: h.AllowChunkedLength}
		switch {
		case h.ProperCase:
			o.HeaderKeyFormat = &corev3.Http1ProtocolOptions_HeaderKeyFormat{
				HeaderFormat: &corev3.Http1ProtocolOptions_HeaderKeyFormat_ProperCaseWords_{
					ProperCaseWords: &corev3.Http1ProtocolOptions_HeaderKeyFormat_ProperCaseWords{},
				},
			}
		case len(h.HeaderCases) > 0: // Envoy restores no names of ours; it can leave all names as they came
			format, err := preservedCase()
			if err != nil {
				return err
			}
			o.HeaderKeyFormat = format
		}
		m.HttpProtocolOptions = o
	}
	if h.MaxConcurrentStreams != 0 {
		m.Http2ProtocolOptions = &corev3.Http2ProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(h.MaxConcurrentStreams)}
	}
	if h.HTTP3 {
		m.CodecType = hcmv3.HttpConnectionManager_HTTP3
		m.Http3ProtocolOptions = &corev3.Http3ProtocolOptions{}
		if h.MaxConcurrentStreams != 0 {
			m.Http3ProtocolOptions.QuicProtocolOptions = &corev3.QuicProtocolOptions{MaxConcurrentStreams: wrapperspb.UInt32(h.MaxConcurrentStreams)}
		}
	}
	return nil
}

// filters writes the chain: ours that must see every reply, those of the ir in
// their order, the router.
func filters(m *hcmv3.HttpConnectionManager, h *ir.HTTP) error {
	add := func(f *hcmv3.HttpFilter, err error) error {
		if err != nil {
			return err
		}
		for _, other := range m.HttpFilters {
			if other.Name == f.Name {
				return fmt.Errorf("filter %s is twice in the chain", f.Name)
			}
		}
		m.HttpFilters = append(m.HttpFilters, f)
		return nil
	}
	if h.AltSvc != "" {
		if err := add(namedFilter(headerMutationFilter, &headermutationv3.HeaderMutation{Mutations: &headermutationv3.Mutations{
			ResponseMutations: []*mutationrulesv3.HeaderMutation{{Action: &mutationrulesv3.HeaderMutation_Append{
				Append: &corev3.HeaderValueOption{
					Header:       &corev3.HeaderValue{Key: "alt-svc", Value: h.AltSvc},
					AppendAction: corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
				},
			}}},
		}})); err != nil {
			return err
		}
	}
	if h.RouteReplies {
		replies := &customresponsev3.CustomResponse{}
		if len(h.LocalReplies) > 0 {
			var err error
			if replies, err = replyMatcher(h.LocalReplies); err != nil {
				return err
			}
		}
		if err := add(namedFilter(customResponseFilter, replies)); err != nil {
			return err
		}
	}
	for _, f := range h.Filters {
		if err := add(httpFilter(f)); err != nil {
			return err
		}
	}
	return add(namedFilter(routerFilter, &routerv3.Router{SuppressEnvoyHeaders: h.SuppressEnvoyHeaders}))
}
