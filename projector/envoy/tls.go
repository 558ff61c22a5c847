package envoy

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	quicv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/quic/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector/ir"
)

// SystemCAFile is where ClientTLS.SystemCA finds the system's trust anchors, as
// Debian, Ubuntu and Envoy's own images have it. Envoy has a field for them
// (system_root_certs) that it accepts and then verifies nothing; a file that is
// missing it refuses.
const SystemCAFile = "/etc/ssl/certs/ca-certificates.crt"

const (
	tlsSocket  = "envoy.transport_sockets.tls"
	quicSocket = "envoy.transport_sockets.quic"
)

// serverTLS writes the transport socket that terminates TLS, or QUIC.
func serverTLS(t *ir.ServerTLS, quic bool) (*corev3.TransportSocket, error) {
	params, err := tlsParameters(t.MinVersion, t.MaxVersion, t.Ciphers, t.Curves)
	if err != nil {
		return nil, err
	}
	common := &tlsv3.CommonTlsContext{TlsParams: params, AlpnProtocols: t.ALPN}
	for _, name := range t.Certificates {
		common.TlsCertificateSdsSecretConfigs = append(common.TlsCertificateSdsSecretConfigs, sds(name))
	}
	switch {
	case t.ClientCA != "":
		if err := validatePeer(common, t.ClientCA, t.ClientSANs); err != nil {
			return nil, err
		}
	case len(t.ClientSANs) > 0:
		return nil, fmt.Errorf("client SANs are restricted without a CA that vouches for them; name a ClientCA")
	}
	ctx := &tlsv3.DownstreamTlsContext{CommonTlsContext: common}
	if t.RequireCert {
		ctx.RequireClientCertificate = wrapperspb.Bool(true)
	}
	if quic {
		return transportSocket(quicSocket, &quicv3.QuicDownstreamTransport{DownstreamTlsContext: ctx})
	}
	return transportSocket(tlsSocket, ctx)
}

// clientTLS writes the transport socket that originates TLS.
func clientTLS(t *ir.ClientTLS) (*corev3.TransportSocket, error) {
	params, err := tlsParameters(t.MinVersion, t.MaxVersion, t.Ciphers, t.Curves)
	if err != nil {
		return nil, err
	}
	common := &tlsv3.CommonTlsContext{TlsParams: params, AlpnProtocols: t.ALPN}
	if t.Certificate != "" {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{sds(t.Certificate)}
	}
	switch {
	case t.CA != "" && t.SystemCA:
		return nil, fmt.Errorf("both a CA and the system's are to verify the peer; choose one")
	case t.CA != "":
		if err := validatePeer(common, t.CA, t.SANs); err != nil {
			return nil, err
		}
	case t.SystemCA:
		sans, err := subjectAltNames(t.SANs)
		if err != nil {
			return nil, err
		}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa:                 file(SystemCAFile),
			MatchTypedSubjectAltNames: sans,
		}}
	case len(t.SANs) > 0:
		return nil, fmt.Errorf("SANs are checked without a CA that vouches for them; name a CA")
	}
	return transportSocket(tlsSocket, &tlsv3.UpstreamTlsContext{CommonTlsContext: common, Sni: t.SNI})
}

func transportSocket(name string, m message) (*corev3.TransportSocket, error) {
	a, err := packAny(m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: a}}, nil
}

func sds(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: ads()}
}

// validatePeer verifies the peer's chain by the trust anchors named ca, and
// its names where sans restrict them.
func validatePeer(common *tlsv3.CommonTlsContext, ca string, sans []ir.StringMatch) error {
	if len(sans) == 0 {
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: sds(ca)}
		return nil
	}
	names, err := subjectAltNames(sans)
	if err != nil {
		return err
	}
	common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: names},
			ValidationContextSdsSecretConfig: sds(ca),
		},
	}
	return nil
}

// subjectAltNames lets each match a DNS name or a URI: one that matches is
// enough.
func subjectAltNames(sans []ir.StringMatch) ([]*tlsv3.SubjectAltNameMatcher, error) {
	var out []*tlsv3.SubjectAltNameMatcher
	for _, s := range sans {
		m, err := stringMatcher(s)
		if err != nil {
			return nil, fmt.Errorf("subject alternative name: %w", err)
		}
		if s.Invert || s.Present || s.MatchEmpty {
			return nil, fmt.Errorf("subject alternative name: inverted, present and empty matches have no meaning here; name a value")
		}
		for _, kind := range []tlsv3.SubjectAltNameMatcher_SanType{tlsv3.SubjectAltNameMatcher_DNS, tlsv3.SubjectAltNameMatcher_URI} {
			out = append(out, &tlsv3.SubjectAltNameMatcher{SanType: kind, Matcher: m})
		}
	}
	return out, nil
}

var tlsVersions = map[string]tlsv3.TlsParameters_TlsProtocol{
	"":    tlsv3.TlsParameters_TLS_AUTO,
	"1.0": tlsv3.TlsParameters_TLSv1_0,
	"1.1": tlsv3.TlsParameters_TLSv1_1,
	"1.2": tlsv3.TlsParameters_TLSv1_2,
	"1.3": tlsv3.TlsParameters_TLSv1_3,
}

func tlsParameters(low, high string, ciphers, curves []string) (*tlsv3.TlsParameters, error) {
	if low == "" && high == "" && len(ciphers) == 0 && len(curves) == 0 {
		return nil, nil
	}
	for _, v := range [...]string{low, high} {
		if _, ok := tlsVersions[v]; !ok {
			return nil, fmt.Errorf("TLS version %q is none of 1.0, 1.1, 1.2 and 1.3", v)
		}
	}
	if low != "" && high != "" && low > high {
		return nil, fmt.Errorf("TLS versions from %s to %s leave none", low, high)
	}
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsVersions[low],
		TlsMaximumProtocolVersion: tlsVersions[high],
		CipherSuites:              ciphers,
		EcdhCurves:                curves,
	}, nil
}
