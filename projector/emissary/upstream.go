package emissary

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Kinds of resolvers, by the kind of the resource that makes them.
const (
	ServiceResolver  = "KubernetesServiceResolver"
	EndpointResolver = "KubernetesEndpointResolver"
	ConsulResolver   = "ConsulResolver"
)

// DefaultResolver is the name of the resolver that is used if none is named.
const DefaultResolver = "kubernetes-service"

// BuiltinResolvers are the resolvers that exist without a resource.
var BuiltinResolvers = map[string]string{
	"kubernetes-service": ServiceResolver, "endpoint": EndpointResolver, "kubernetes-endpoint": EndpointResolver,
	"consul": ConsulResolver, "consul-endpoint": ConsulResolver,
}

// Needed is an upstream with what the live plane has to give for it.
type Needed struct {
	Upstream  ir.Upstream
	Endpoints *ir.EndpointSet
	Secrets   []ir.SecretRef
}

// target is a service to reach: what upstream needs to know of a resource.
type target struct {
	path      string // of the field, for findings
	service   string
	namespace string
	tls       string // name of a TLSContext
	resolver  string
	stat      string // stats_name
	tag       string // cluster_tag
	policy    ir.Upstream
}

// upstream resolves a service. It is not ok if the resource cannot be served.
func upstream(w World, f *findings, t target) (Needed, ServiceName, bool) {
	name, complaint := ParseService(t.service)
	if complaint != "" {
		severity := projector.Warning
		if name.Host == "" {
			severity = projector.Error
		}
		f.add(severity, projector.CodeServiceName, t.path, complaint)
	}
	if name.Host == "" {
		return Needed{}, name, false
	}
	resolver := cmp.Or(t.resolver, w.MappingDefaults().Resolver)
	kind, ok := w.Resolver(resolver)
	if !ok {
		f.errorf(projector.CodeNoResolver, "spec.resolver", fmt.Sprintf("there is no resolver %q; create a KubernetesEndpointResolver or KubernetesServiceResolver of that name", resolver))
		return Needed{}, name, false
	}
	if kind == ConsulResolver {
		f.errorf(projector.CodeNotServed, "spec.resolver", fmt.Sprintf("resolver %q is a ConsulResolver, which this version does not serve", resolver))
		return Needed{}, name, false
	}
	name.Host = Qualify(name.Host, t.namespace, w)

	n := Needed{Upstream: t.policy}
	u := &n.Upstream
	if name.Scheme == "https" {
		u.TLS = &ir.ClientTLS{}
	}
	if t.tls != "" {
		if name.Scheme == "http" {
			f.errorf(projector.CodeServiceName, t.path, fmt.Sprintf("service %q says http but tls names a TLSContext: TLS is used; write https", t.service))
		}
		if ctx, ok := w.Context(t.tls); ok {
			u.TLS, n.Secrets = ctx.Originate(w.Cluster())
		} else {
			f.errorf(projector.CodeNoContext, "spec.tls", fmt.Sprintf("TLSContext %q is not defined; the upstream is reached without it", t.tls))
		}
	}
	if name.Port == 0 {
		name.Port = 80
		if u.TLS != nil {
			name.Port = 443
		}
	}
	discover(w, f, &n, t, kind, name)
	nameUpstream(w, &n, t, name)
	return n, name, true
}

// discover says how the upstream's addresses are found (DESIGN, Projector).
func discover(w World, f *findings, n *Needed, t target, kind string, name ServiceName) {
	u := &n.Upstream
	if isIP(name.Host) {
		u.DNS = nil
		u.Discovery, u.Hosts = ir.DiscoverStatic, []ir.HostPort{{Host: name.Host, Port: name.Port}}
		return
	}
	ns, svc, kubernetes := kubernetesName(name.Host, w.Settings().Namespace, w.Settings().ClusterDomain)
	var service *Service
	if kubernetes && name.Host != "localhost" {
		service, _ = w.Service(ns, svc)
	}
	useDNS := func() {
		if u.Discovery != ir.DiscoverLogicalDNS {
			u.Discovery = ir.DiscoverDNS
		}
		u.Hosts = []ir.HostPort{{Host: name.Host, Port: name.Port}}
	}
	switch {
	case service == nil:
		switch {
		case !kubernetes || name.Host == "localhost":
			useDNS()
		case kind == EndpointResolver:
			f.warnf(projector.CodeNoService, t.path, fmt.Sprintf("there is no Service %s/%s in cluster %s, so there are no endpoints; create it or correct the name", ns, svc, w.Cluster()))
			u.DNS = nil
			endpoints(w, n, ns, svc, ServicePort{Port: name.Port})
		default:
			f.warnf(projector.CodeNoService, t.path, fmt.Sprintf("there is no Service %s/%s in cluster %s; the name %q is left to DNS", ns, svc, w.Cluster(), name.Host))
			useDNS()
		}
	case service.Type == "ExternalName":
		useDNS()
	case kind == EndpointResolver:
		u.DNS = nil
		port, ok := service.port(name.Port)
		if !ok {
			f.warnf(projector.CodeNoPort, t.path, fmt.Sprintf("Service %s/%s has no port %d; there will be no endpoints", ns, svc, name.Port))
		}
		endpoints(w, n, ns, svc, port)
	case service.ClusterIP == "None":
		u.DNS = nil
		port, ok := service.port(name.Port)
		if !ok {
			f.warnf(projector.CodeNoPort, t.path, fmt.Sprintf("Service %s/%s has no port %d; there will be no endpoints", ns, svc, name.Port))
		}
		endpoints(w, n, ns, svc, port)
	case isIP(service.ClusterIP):
		u.DNS = nil
		if !service.has(name.Port) {
			f.warnf(projector.CodeNoPort, t.path, fmt.Sprintf("Service %s/%s has no port %d", ns, svc, name.Port))
		}
		u.Discovery, u.Hosts = ir.DiscoverStatic, []ir.HostPort{{Host: service.ClusterIP, Port: name.Port}}
	default:
		useDNS()
	}
}

func endpoints(w World, n *Needed, ns, svc string, port ServicePort) {
	set := &ir.EndpointSet{
		Name:    w.Cluster() + "/" + ns + "/" + svc + "/" + strconv.FormatUint(uint64(port.Port), 10),
		Cluster: w.Cluster(), Namespace: ns, Service: svc, PortName: port.Name, Port: port.Port,
	}
	n.Endpoints = set
	n.Upstream.Discovery, n.Upstream.Endpoints = ir.DiscoverEndpoints, set.Name
}

func (s *Service) has(port uint32) bool {
	for _, p := range s.Ports {
		if p.Port == port {
			return true
		}
	}
	return len(s.Ports) == 0
}

// port finds the port that a service name means: by number, or the only one.
func (s *Service) port(number uint32) (ServicePort, bool) {
	for _, p := range s.Ports {
		if p.Port == number {
			return p, true
		}
	}
	if len(s.Ports) == 1 {
		return s.Ports[0], true
	}
	return ServicePort{Port: number}, false
}

// nameUpstream names an upstream by what it means: cluster, service, policy.
func nameUpstream(w World, n *Needed, t target, name ServiceName) {
	u := &n.Upstream
	u.Name = ""
	u.AltStat = ""
	host := name.Host
	byName := u.Discovery == ir.DiscoverDNS || u.Discovery == ir.DiscoverLogicalDNS
	if isIP(host) {
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
	} else if ns, svc, ok := kubernetesName(host, w.Settings().Namespace, w.Settings().ClusterDomain); ok && !byName {
		host = svc + "." + ns // every way of writing a Service that is looked up
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s/%s:%d", w.Cluster(), host, name.Port)
	plain := ir.Upstream{
		Discovery: u.Discovery, Hosts: u.Hosts, Endpoints: u.Endpoints, DNS: u.DNS,
		Connect: 3 * time.Second, TLS: u.TLS, HTTP2: u.HTTP2, LB: u.LB,
	}
	switch {
	case u.TLS != nil && t.tls != "":
		b.WriteString("/tls=" + t.tls)
	case u.TLS != nil:
		b.WriteString("/tls")
	}
	if u.HTTP2 {
		b.WriteString("/h2")
	}
	if u.Discovery == ir.DiscoverEndpoints {
		b.WriteString("/endpoints")
	}
	if u.LB.Policy != "" {
		b.WriteString("/" + u.LB.Policy)
	}
	dnsDefault := u.DNS == nil || *u.DNS == ir.DNS{V4: true}
	if !reflect.DeepEqual(plain, *u) || u.Discovery == ir.DiscoverLogicalDNS || !dnsDefault || t.tag != "" || t.stat != "" {
		// The rest of the policy is in the name by its digest, so that equal
		// upstreams are one and others are not.
		sum := sha256.Sum256([]byte(asJSON(u) + "\x00" + t.tag + "\x00" + t.stat))
		b.WriteString("/" + hex.EncodeToString(sum[:5]))
	}
	u.AltStat = sanitize(cmp.Or(t.stat, t.service))
	if t.stat == "" {
		// Two ways of writing one service are one upstream, with one name.
		u.AltStat = sanitize(strings.TrimSuffix(host, "."+w.Settings().Namespace))
		if name.Port != 80 && name.Port != 443 || u.TLS != nil && name.Port == 80 || u.TLS == nil && name.Port == 443 {
			u.AltStat += "_" + strconv.FormatUint(uint64(name.Port), 10)
		}
		if u.TLS != nil {
			u.AltStat = "https___" + u.AltStat
		}
	}
	u.Name = b.String()
}

func sanitize(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, s)
}
