package envoy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// EndpointNeed writes what the live plane must know to bring the endpoints.
func EndpointNeed(e ir.EndpointSet) (projector.Resource, error) { return need(e.Name, e) }

// SecretNeed writes what the live plane must know to bring the secret.
func SecretNeed(s ir.SecretRef) (projector.Resource, error) {
	if s.Use != ir.UseCertificate && s.Use != ir.UseCA {
		return projector.Resource{}, fmt.Errorf("secret %s: use %q is neither %s nor %s", s.Name, s.Use, ir.UseCertificate, ir.UseCA)
	}
	return need(s.Name, s)
}

func need(name string, v any) (projector.Resource, error) {
	if name == "" {
		return projector.Resource{}, fmt.Errorf("a need without a name: %+v", v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return projector.Resource{}, fmt.Errorf("need %s: %w", name, err)
	}
	return projector.NewResource(name, b), nil
}

// ReadEndpointNeed reads what EndpointNeed wrote.
func ReadEndpointNeed(r projector.Resource) (ir.EndpointSet, error) {
	return readNeed[ir.EndpointSet](r)
}

// ReadSecretNeed reads what SecretNeed wrote.
func ReadSecretNeed(r projector.Resource) (ir.SecretRef, error) { return readNeed[ir.SecretRef](r) }

func readNeed[T any](r projector.Resource) (T, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(r.Bytes))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("need %s: %w; use a newer chancery", r.Name, err)
	}
	return v, nil
}

// Endpoints writes an Envoy cluster load assignment: addresses by zone, in an
// order that depends on the content only, each once. Draining addresses get no
// new requests, unless there are no others.
func Endpoints(e ir.Endpoints) (projector.Resource, error) {
	for _, a := range e.Addresses {
		if _, err := netip.ParseAddr(a.IP); err != nil {
			return projector.Resource{}, fmt.Errorf("endpoints %s: %q is no IP address", e.Name, a.IP)
		}
	}
	return resource("endpoints", e.Name, loadAssignment(e))
}

func loadAssignment(e ir.Endpoints) *endpointv3.ClusterLoadAssignment {
	order := slices.Clone(e.Addresses)
	slices.SortFunc(order, func(a, b ir.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Zone, b.Zone), cmp.Compare(a.IP, b.IP), cmp.Compare(a.Port, b.Port))
	})
	ready := slices.ContainsFunc(order, func(a ir.Endpoint) bool { return !a.Draining })
	m := &endpointv3.ClusterLoadAssignment{ClusterName: e.Name}
	seen := map[ir.HostPort]*endpointv3.LbEndpoint{}
	for _, a := range order {
		key := ir.HostPort{Host: a.IP, Port: a.Port}
		if before := seen[key]; before != nil {
			if !a.Draining { // ready by one account is ready
				before.HealthStatus = corev3.HealthStatus_UNKNOWN
			}
			continue
		}
		if n := len(m.Endpoints); n == 0 || m.Endpoints[n-1].Locality.GetZone() != a.Zone {
			l := &endpointv3.LocalityLbEndpoints{}
			if a.Zone != "" {
				l.Locality = &corev3.Locality{Zone: a.Zone}
			}
			m.Endpoints = append(m.Endpoints, l)
		}
		lb := &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
			Endpoint: &endpointv3.Endpoint{Address: socketAddress(a.IP, a.Port, false)},
		}}
		if a.Draining && ready {
			lb.HealthStatus = corev3.HealthStatus_DRAINING
		}
		seen[key] = lb
		l := m.Endpoints[len(m.Endpoints)-1]
		l.LbEndpoints = append(l.LbEndpoints, lb)
	}
	return m
}

// Secret writes an Envoy secret of the use. The result holds a private key:
// never log, record or gossip it.
func Secret(s ir.Secret, use ir.SecretUse) (projector.Resource, error) {
	m := &tlsv3.Secret{Name: s.Name}
	switch use {
	case ir.UseCertificate:
		if len(s.Chain) == 0 || len(s.Key) == 0 {
			return projector.Resource{}, fmt.Errorf("secret %s: a certificate needs both a chain and a key", s.Name)
		}
		m.Type = &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inlineBytes(s.Chain), PrivateKey: inlineBytes(s.Key),
		}}
	case ir.UseCA:
		if len(s.CA) == 0 {
			return projector.Resource{}, fmt.Errorf("secret %s: there are no trust anchors in it", s.Name)
		}
		v := &tlsv3.CertificateValidationContext{TrustedCa: inlineBytes(s.CA)}
		if len(s.CRL) > 0 {
			v.Crl = inlineBytes(s.CRL)
		}
		m.Type = &tlsv3.Secret_ValidationContext{ValidationContext: v}
	default:
		return projector.Resource{}, fmt.Errorf("secret %s: use %q is neither %s nor %s", s.Name, use, ir.UseCertificate, ir.UseCA)
	}
	if err := m.Validate(); err != nil { // without the value, which may be a key
		return projector.Resource{}, fmt.Errorf("secret %s: it is not valid", s.Name)
	}
	b, err := marshal(m)
	if err != nil {
		return projector.Resource{}, fmt.Errorf("secret %s: it cannot be marshalled", s.Name)
	}
	return projector.NewResource(s.Name, b), nil
}

// ReadEndpoints reads what Endpoints wrote.
func ReadEndpoints(r projector.Resource) (ir.Endpoints, error) {
	var m endpointv3.ClusterLoadAssignment
	if err := proto.Unmarshal(r.Bytes, &m); err != nil {
		return ir.Endpoints{}, fmt.Errorf("endpoints %s: %w", r.Name, err)
	}
	out := ir.Endpoints{Name: r.Name}
	for _, l := range m.GetEndpoints() {
		for _, lb := range l.GetLbEndpoints() {
			a := lb.GetEndpoint().GetAddress().GetSocketAddress()
			out.Addresses = append(out.Addresses, ir.Endpoint{
				IP: a.GetAddress(), Port: a.GetPortValue(), Zone: l.GetLocality().GetZone(),
				Draining: lb.GetHealthStatus() == corev3.HealthStatus_DRAINING,
			})
		}
	}
	return out, nil
}

// ReadSecret reads what Secret wrote. The error does not show it.
func ReadSecret(r projector.Resource) (ir.Secret, error) {
	var m tlsv3.Secret
	if err := proto.Unmarshal(r.Bytes, &m); err != nil {
		return ir.Secret{}, fmt.Errorf("secret %s: it cannot be read", r.Name)
	}
	c, v := m.GetTlsCertificate(), m.GetValidationContext()
	return ir.Secret{
		Name: r.Name, Chain: c.GetCertificateChain().GetInlineBytes(), Key: c.GetPrivateKey().GetInlineBytes(),
		CA: v.GetTrustedCa().GetInlineBytes(), CRL: v.GetCrl().GetInlineBytes(),
	}, nil
}
