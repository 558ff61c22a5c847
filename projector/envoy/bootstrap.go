package envoy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	minimumclustersv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/config/validators/minimum_clusters/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamhttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/chancery-dev/chancery/projector/ir"
)

// Admin is where Envoy's admin interface listens: a Unix socket or a loopback
// address, since whoever reaches it can stop the proxy. The zero value is none.
type Admin struct {
	Socket  string // path of a Unix socket
	Address string // "127.0.0.1" or "::1"
	Port    uint32
}

func (a Admin) message() (*bootstrapv3.Admin, error) {
	switch {
	case a == (Admin{}):
		return nil, nil
	case a.Socket != "" && a.Address != "":
		return nil, fmt.Errorf("admin: both the socket %s and the address %s are given; choose one", a.Socket, a.Address)
	case a.Socket != "":
		return &bootstrapv3.Admin{Address: pipeAddress(a.Socket)}, nil
	}
	ip, err := netip.ParseAddr(a.Address)
	if err != nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("admin: %q is no loopback address; use 127.0.0.1, ::1 or a Unix socket", a.Address)
	}
	return &bootstrapv3.Admin{Address: socketAddress(a.Address, a.Port, false)}, nil
}

// MutualTLS are files on the Envoy's machine by which it and its edge know
// each other.
type MutualTLS struct {
	CertFile, KeyFile string // PEM
	CAFile            string // PEM: who signed the edges' certificates
	// ServerName is asked for by SNI and must be a DNS name in the edge's
	// certificate; "" for neither.
	ServerName string
	// CertificateSDS and CASDS are where the two documents of FileSecrets were
	// put: with them Envoy reads the files again whenever their folder has
	// something moved into it. Without, it reads them once, when it starts.
	CertificateSDS, CASDS string
}

// The names of the secrets in the documents of FileSecrets.
const (
	certificateSecret = "chancery_xds_certificate"
	caSecret          = "chancery_xds_ca"
)

// FileSecrets writes the two documents, as JSON, by which Envoy follows the
// files of t as they are renewed. A renewal must move files into their folder,
// as a mounted Secret does, not write them in place.
func FileSecrets(t MutualTLS) (certificate, ca []byte, err error) {
	if err := t.check(); err != nil {
		return nil, nil, err
	}
	watch := func(path string) *corev3.WatchedDirectory {
		return &corev3.WatchedDirectory{Path: folder(path)}
	}
	if certificate, err = secretDocument(&tlsv3.Secret{Name: certificateSecret, Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
		CertificateChain: file(t.CertFile), PrivateKey: file(t.KeyFile), WatchedDirectory: watch(t.CertFile),
	}}}); err != nil {
		return nil, nil, err
	}
	validation := t.validation()
	validation.WatchedDirectory = watch(t.CAFile)
	ca, err = secretDocument(&tlsv3.Secret{Name: caSecret, Type: &tlsv3.Secret_ValidationContext{ValidationContext: validation}})
	return certificate, ca, err
}

func secretDocument(s *tlsv3.Secret) ([]byte, error) {
	a, err := packAny(s)
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return messageJSON(&discoveryv3.DiscoveryResponse{Resources: []*anypb.Any{a}})
}

// folder returns what comes before the last element of a path with slashes.
func folder(path string) string {
	switch i := strings.LastIndexByte(path, '/'); i {
	case -1:
		return "."
	case 0:
		return "/"
	default:
		return path[:i]
	}
}

func (t MutualTLS) check() error {
	if t.CertFile == "" || t.KeyFile == "" || t.CAFile == "" {
		return fmt.Errorf("TLS: CertFile, KeyFile and CAFile are all needed")
	}
	if (t.CertificateSDS == "") != (t.CASDS == "") {
		return fmt.Errorf("TLS: CertificateSDS and CASDS go together")
	}
	return nil
}

func (t MutualTLS) validation() *tlsv3.CertificateValidationContext {
	v := &tlsv3.CertificateValidationContext{TrustedCa: file(t.CAFile)}
	if t.ServerName != "" {
		v.MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{{
			SanType: tlsv3.SubjectAltNameMatcher_DNS,
			Matcher: &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: t.ServerName}},
		}}
	}
	return v
}

// ADSOptions says how an Envoy finds its edge.
type ADSOptions struct {
	NodeID      string // names the Envoy in verdicts
	NodeCluster string // the fleet, for people: the edge trusts its registry, not this

	// Edges are the edges' addresses, tried in turn; Socket is the path of an
	// edge's Unix socket. One of the two is set.
	Edges  []ir.HostPort
	Socket string
	TLS    *MutualTLS // nil: none, as on a Unix socket

	Admin Admin
	// MinimumClusters is the number of upstreams below which Envoy refuses an
	// update, as a last defence against an empty one; 0 for no such check.
	MinimumClusters uint32
	// InitialFetch bounds the wait for the first listeners and upstreams before
	// Envoy calls itself ready without; 0 waits for ever.
	InitialFetch time.Duration
	// FewStats keeps only the statistics of the process and of its managers of
	// upstreams and listeners, for an Envoy that serves nobody.
	FewStats bool
}

// XDSUpstream is the name of the upstream through which Envoy reaches its edge.
const XDSUpstream = "chancery_xds"

// BootstrapADS writes the bootstrap, as JSON, of an Envoy that gets everything
// from its edge by one delta stream.
func BootstrapADS(o ADSOptions) ([]byte, error) {
	if o.NodeID == "" || o.NodeCluster == "" {
		return nil, fmt.Errorf("bootstrap: NodeID %q and NodeCluster %q must both be given", o.NodeID, o.NodeCluster)
	}
	b, err := base(o.Admin)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if o.FewStats {
		b.StatsConfig = &metricsv3.StatsConfig{StatsMatcher: fewStats()}
	}
	b.Node = &corev3.Node{Id: o.NodeID, Cluster: o.NodeCluster}
	xds, err := xdsCluster(o)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	b.StaticResources = &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{xds}}
	stream := &corev3.ApiConfigSource{
		ApiType:                   corev3.ApiConfigSource_DELTA_GRPC,
		TransportApiVersion:       corev3.ApiVersion_V3,
		SetNodeOnFirstMessageOnly: true,
		GrpcServices:              []*corev3.GrpcService{edgeService()},
	}
	if o.MinimumClusters > 0 {
		v, err := extension("envoy.config.validators.minimum_clusters_validator", &minimumclustersv3.MinimumClustersValidator{MinClustersNum: o.MinimumClusters})
		if err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
		stream.ConfigValidators = []*corev3.TypedExtensionConfig{v}
	}
	source := ads()
	source.InitialFetchTimeout = durationpb.New(o.InitialFetch)
	b.DynamicResources = &bootstrapv3.Bootstrap_DynamicResources{LdsConfig: source, CdsConfig: source, AdsConfig: stream}
	return bootstrapJSON(b)
}

func bootstrapJSON(b *bootstrapv3.Bootstrap) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	out, err := messageJSON(b)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	return out, nil
}

// The stream's keepalive: an edge that is gone without a word is noticed in
// interval + timeout.
const (
	keepaliveInterval = 10 * time.Second
	keepaliveTimeout  = 5 * time.Second
)

func xdsCluster(o ADSOptions) (*clusterv3.Cluster, error) {
	options, err := packAny(&upstreamhttpv3.HttpProtocolOptions{
		UpstreamProtocolOptions: explicitHTTP(&upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &upstreamhttpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{
				Http2ProtocolOptions: &corev3.Http2ProtocolOptions{ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(keepaliveInterval), Timeout: durationpb.New(keepaliveTimeout),
				}},
			},
		}),
	})
	if err != nil {
		return nil, err
	}
	u := ir.Upstream{Name: XDSUpstream, Hosts: o.Edges}
	for _, h := range o.Edges {
		if _, err := netip.ParseAddr(h.Host); err != nil {
			u.Discovery, u.DNS = ir.DiscoverDNS, &ir.DNS{V4: true, V6: true}
		}
	}
	c := &clusterv3.Cluster{
		Name:                          XDSUpstream,
		ConnectTimeout:                durationpb.New(5 * time.Second),
		TypedExtensionProtocolOptions: map[string]*anypb.Any{httpOptions: options},
	}
	if err := discovery(c, u); err != nil {
		return nil, err
	}
	switch {
	case (len(o.Edges) > 0) == (o.Socket != ""):
		return nil, fmt.Errorf("one of Edges and Socket says where the edge is")
	case o.Socket != "":
		c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: XDSUpstream, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: pipeAddress(o.Socket)},
			}}},
		}}}
	}
	if o.TLS != nil {
		if c.TransportSocket, err = mutualTLS(*o.TLS); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// How long an Envoy waits before it connects to an edge again. Its own default
// of up to 30 s would hold back what changes after an edge's restart.
const (
	reconnectBase = 200 * time.Millisecond
	reconnectMax  = 2 * time.Second
)

func edgeService() *corev3.GrpcService {
	s := grpcService(XDSUpstream, "", 0)
	s.GetEnvoyGrpc().RetryPolicy = &corev3.RetryPolicy{RetryBackOff: &corev3.BackoffStrategy{
		BaseInterval: durationpb.New(reconnectBase), MaxInterval: durationpb.New(reconnectMax),
	}}
	return s
}

func mutualTLS(t MutualTLS) (*corev3.TransportSocket, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	common := &tlsv3.CommonTlsContext{
		AlpnProtocols: []string{"h2"},
		// Edges take TLS 1.3 only, which an Envoy does not offer as a client by itself.
		TlsParams: &tlsv3.TlsParameters{
			TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
		},
	}
	if t.CertificateSDS == "" {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: file(t.CertFile), PrivateKey: file(t.KeyFile)}}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: t.validation()}
	} else {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{fileSDS(certificateSecret, t.CertificateSDS)}
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: fileSDS(caSecret, t.CASDS),
		}
	}
	return transportSocket(tlsSocket, &tlsv3.UpstreamTlsContext{Sni: t.ServerName, CommonTlsContext: common})
}

func fileSDS(name, path string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_PathConfigSource{PathConfigSource: &corev3.PathConfigSource{Path: path}},
		ResourceApiVersion:    corev3.ApiVersion_V3,
	}}
}

// base is what both bootstraps have.
func base(a Admin) (*bootstrapv3.Bootstrap, error) {
	admin, err := a.message()
	if err != nil {
		return nil, err
	}
	layer, err := structpb.NewStruct(map[string]any{
		"re2.max_program_size.error_level": 200, // as Emissary has it
	})
	if err != nil {
		return nil, err
	}
	return &bootstrapv3.Bootstrap{
		Admin: admin,
		LayeredRuntime: &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
			Name: "static_layer", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: layer},
		}}},
		StatsConfig: &metricsv3.StatsConfig{StatsMatcher: statsMatcher()},
	}, nil
}

// keptStats are the statistics of each upstream that Envoy keeps: those that
// gates, status and common dashboards read. The others are most of Envoy's
// start time and much of its memory where there are thousands of upstreams.
// Whatever is not an upstream's is kept whole.
var keptStats = []string{
	"membership_(total|healthy|degraded)",
	"upstream_cx_(active|total|connect_fail|connect_timeout|destroy_with_active_rq|overflow)",
	"upstream_rq_(active|total|completed|timeout|pending_active|pending_overflow|retry|retry_success|retry_overflow|rx_reset|time)",
	"upstream_rq_[1-5](xx|[0-9][0-9])",
	`health_check\.(name\..*\.)?(failure|success)`,
	`outlier_detection\.ejections_active`,
	`ssl\.(fail_verify_error|fail_verify_san|connection_error)`,
}

func statsMatcher() *metricsv3.StatsMatcher {
	pattern := func(regex string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: regex}}}
	}
	return &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: &matcherv3.ListStringMatcher{
		Patterns: []*matcherv3.StringMatcher{
			pattern(without("cluster.") + ".*"),
			pattern(`cluster\.` + XDSUpstream + `\..*`),
			pattern(`cluster\..*\.(` + strings.Join(keptStats, "|") + ")"),
		},
	}}}
}

// fewStats keeps what does not grow with what is configured.
func fewStats() *metricsv3.StatsMatcher {
	list := &matcherv3.ListStringMatcher{}
	for _, prefix := range []string{"server.", "main_thread.", "cluster_manager.", "listener_manager.", "control_plane.", "cluster." + XDSUpstream + "."} {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: prefix}})
	}
	return &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: list}}
}

// without writes an RE2 pattern, which knows no looking ahead, of what does
// not begin with the prefix: the characters before the first that differs.
func without(prefix string) string {
	alternatives := make([]string, 0, len(prefix))
	for i, c := range prefix {
		alternatives = append(alternatives, strings.ReplaceAll(prefix[:i], ".", `\.`)+"[^"+string(c)+"]")
	}
	return "(" + strings.Join(alternatives, "|") + ")"
}
