package cache

import (
	"maps"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector"
)

// Front is one way to a route table: a chain of a listener that routes by it.
type Front struct {
	Listener string
	Address  string // IP that the listener binds
	Port     uint32
	UDP      bool // QUIC
	TLS      bool
	// ServerName is one SNI that leads here, "" for any. Of "*.example.com" it
	// is a name below it.
	ServerName string
	// ClientCert says that the chain wants a certificate of the client.
	ClientCert bool
	// ProxyProtocol says that connections begin with a PROXY header.
	ProxyProtocol bool
	Table         string
}

// Fronts returns the ways to all route tables, in no order.
func (g *Generation) Fronts() []Front { return g.fronts().list }

// tables returns the names of the route tables that listeners refer to.
func (g *Generation) tables() []string { return g.fronts().tables }

type fronts struct {
	list   []Front
	tables []string
}

func readFronts(wire *projector.Snapshot) *fronts {
	f := &fronts{}
	tables := map[string]struct{}{}
	for r := range wire.All(projector.Listeners) {
		for _, front := range frontsOf(r) {
			f.list = append(f.list, front)
			tables[front.Table] = struct{}{}
		}
	}
	f.tables = slices.Sorted(maps.Keys(tables))
	return f
}

// frontsOf reads a listener. What does not parse is left out: the Envoy
// refuses it and says why.
func frontsOf(r projector.Resource) []Front {
	var l listenerv3.Listener
	if proto.Unmarshal(r.Bytes, &l) != nil {
		return nil
	}
	socket := l.GetAddress().GetSocketAddress()
	base := Front{
		Listener: r.Name, Address: socket.GetAddress(), Port: socket.GetPortValue(),
		UDP: l.GetUdpListenerConfig() != nil,
	}
	for _, f := range l.GetListenerFilters() {
		if f.GetName() == "envoy.filters.listener.proxy_protocol" {
			base.ProxyProtocol = true
		}
	}
	var out []Front
	chains := l.GetFilterChains()
	if d := l.GetDefaultFilterChain(); d != nil {
		chains = append(chains, d)
	}
	for _, c := range chains {
		front := base
		if names := c.GetFilterChainMatch().GetServerNames(); len(names) > 0 {
			front.ServerName = names[0]
			if rest, ok := cutWildcard(names[0]); ok {
				front.ServerName = "chancery-probe" + rest
			}
		}
		if c.GetTransportSocket() != nil {
			front.TLS = true
			var tls tlsv3.DownstreamTlsContext
			if c.GetTransportSocket().GetTypedConfig().UnmarshalTo(&tls) == nil {
				front.ClientCert = tls.GetRequireClientCertificate().GetValue()
			}
		}
		for _, f := range c.GetFilters() {
			var m hcmv3.HttpConnectionManager
			if any := f.GetTypedConfig(); any.MessageIs(&m) && any.UnmarshalTo(&m) == nil && m.GetRds() != nil {
				front.Table = m.GetRds().GetRouteConfigName()
				out = append(out, front)
			}
		}
	}
	return out
}

func cutWildcard(name string) (string, bool) {
	if len(name) > 1 && name[0] == '*' && name[1] == '.' {
		return name[1:], true
	}
	return "", false
}
