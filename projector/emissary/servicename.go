package emissary

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// ServiceName is a parsed spec.service.
type ServiceName struct {
	Scheme string // "", "http" or "https"
	Host   string // as written, without brackets
	Port   uint32 // 0 if not written
}

// ParseService reads [scheme://]host[:port]. The complaint is "" or what is
// wrong with it; the name is usable whenever its host is not empty.
func ParseService(s string) (name ServiceName, complaint string) {
	rest := s
	if i := strings.Index(s, "://"); i >= 0 {
		scheme := strings.ToLower(s[:i])
		rest = s[i+3:]
		switch scheme {
		case "http", "https":
			name.Scheme = scheme
		default:
			complaint = fmt.Sprintf("service %q: scheme %q is neither http nor https and is ignored", s, s[:i])
		}
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		if i < len(rest)-1 || rest[i] != '/' {
			complaint = fmt.Sprintf("service %q: %q after the host has no effect; use rewrite for a path", s, rest[i:])
		}
		rest = rest[:i]
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		complaint = fmt.Sprintf("service %q: a user name has no effect", s)
		rest = rest[i+1:]
	}
	host, port := rest, ""
	if strings.HasPrefix(rest, "[") {
		end := strings.IndexByte(rest, ']')
		if end < 0 {
			return ServiceName{}, fmt.Sprintf("service %q: the bracket of the address is not closed", s)
		}
		host, port = rest[1:end], rest[end+1:]
		if port != "" && port[0] != ':' {
			return ServiceName{}, fmt.Sprintf("service %q: want a port after the address", s)
		}
		port = strings.TrimPrefix(port, ":")
	} else if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		if strings.Count(rest, ":") > 1 {
			return ServiceName{}, fmt.Sprintf("service %q: write an IPv6 address in brackets", s)
		}
		host, port = rest[:i], rest[i+1:]
	}
	if strings.ContainsRune(host, '%') {
		decoded, err := url.PathUnescape(host)
		if err != nil {
			return ServiceName{}, fmt.Sprintf("service %q: %v", s, err)
		}
		host = decoded
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n\"'<>\\^`{|}") {
		return ServiceName{}, fmt.Sprintf("service %q has no host", s)
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return ServiceName{}, fmt.Sprintf("service %q: %q is not a port", s, port)
		}
		name.Port = uint32(n)
	}
	name.Host = host
	return name, complaint
}

// isIP reports whether a host is an address.
func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

// Qualify appends a Mapping's namespace to a host without one, as Emissary
// does for Kubernetes resolvers.
func Qualify(host, mappingNamespace string, w World) string {
	if mappingNamespace == "" || mappingNamespace == w.Settings().Namespace ||
		strings.ContainsAny(host, ".:") || host == "localhost" || w.MappingDefaults().AmbassadorNamespace {
		return host
	}
	return host + "." + mappingNamespace
}

// kubernetesName splits a host that may name a Service of the cluster into
// namespace and name: name, name.ns, name.ns.svc, name.ns.svc.<domain>.
func kubernetesName(host, home, domain string) (namespace, name string, ok bool) {
	host = strings.TrimSuffix(host, ".")
	host = strings.TrimSuffix(host, "."+domain)
	parts := strings.Split(host, ".")
	switch {
	case len(parts) == 1:
		return home, parts[0], true
	case len(parts) == 2, len(parts) == 3 && parts[2] == "svc":
		return parts[1], parts[0], true
	}
	return "", "", false
}
