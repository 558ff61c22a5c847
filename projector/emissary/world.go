package emissary

import (
	"github.com/chancery-dev/chancery/projector"
)

// World is what a resource may look up, all of it of the resource's own
// cluster. Whoever implements it sees what was looked up.
type World interface {
	Settings() projector.Settings
	// Cluster is the name that upstreams, endpoints and secrets carry.
	Cluster() string
	MappingDefaults() *MappingDefaults
	// Resolver returns the kind of the resolver of that name.
	Resolver(name string) (kind string, ok bool)
	// Context returns the TLSContext that the name means.
	Context(name string) (*Context, bool)
	Service(namespace, name string) (*Service, bool)
	Secret(namespace, name string) (*Secret, bool)
	// Selectors returns the mapping selectors of the cluster's Hosts, in the
	// order of the Hosts.
	Selectors() []map[string]string
	// RateLimitDomain is the domain of the cluster's RateLimitService, "" if it
	// has none that can be asked.
	RateLimitDomain() string
}

// findings collects what there is to say about one resource.
type findings struct {
	list []projector.Finding
}

func (f *findings) add(severity projector.Severity, code projector.Code, path, message string) {
	f.list = append(f.list, projector.Finding{Code: code, Severity: severity, Path: path, Message: message})
}

func (f *findings) errorf(code projector.Code, path, message string) {
	f.add(projector.Error, code, path, message)
}

func (f *findings) warnf(code projector.Code, path, message string) {
	f.add(projector.Warning, code, path, message)
}

// noEffect says that a field is read and changes nothing.
func (f *findings) noEffect(path, message string) {
	f.add(projector.Info, projector.CodeNoEffect, path, message)
}
