package cache

import (
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// urls are the types' names on the wire.
var urls = [numTypes]string{
	projector.Upstreams:     resource.ClusterType,
	projector.Listeners:     resource.ListenerType,
	projector.Routes:        resource.RouteType,
	projector.EndpointNeeds: resource.EndpointType,
	projector.SecretNeeds:   resource.SecretType,
}

// TypeURL returns the name of a resource type in the xDS protocol.
func TypeURL(t projector.ResourceType) string { return urls[t] }

// typeOf returns the type with a name of the xDS protocol.
func typeOf(url string) (projector.ResourceType, bool) {
	for t, u := range urls {
		if u == url {
			return projector.ResourceType(t), true
		}
	}
	return 0, false
}

// version returns a resource's version as it goes over the wire: 32 characters
// tell versions of one name apart.
func version(d ledger.Digest) string { return d.String()[len("sha256:"):][:32] }

// change is a resource to send: its name and its encoding as an element of a
// DeltaDiscoveryResponse, tag included.
type change struct {
	name string
	wire []byte
}

// delta is what leads from one set of resources of a type to another.
type delta struct {
	changed []change
	removed []string
	// endpoints names the endpoint resources of the changed upstreams.
	endpoints []string
	// all is the concatenation of changed, for streams that get all of it.
	all []byte
}

// Field numbers of DeltaDiscoveryResponse and of Resource
// (envoy/service/discovery/v3/discovery.proto).
const (
	responseResources = 2
	responseRemoved   = 6
	resourceVersion   = 1
	resourceBody      = 2
	resourceName      = 3
	anyURL            = 1
	anyValue          = 2
)

// encode appends a resource as an element of a response.
func encode(b []byte, t projector.ResourceType, r projector.Resource) []byte {
	v := version(r.Version)
	body := protowire.SizeTag(anyURL) + protowire.SizeBytes(len(urls[t])) +
		protowire.SizeTag(anyValue) + protowire.SizeBytes(len(r.Bytes))
	size := protowire.SizeTag(resourceVersion) + protowire.SizeBytes(len(v)) +
		protowire.SizeTag(resourceBody) + protowire.SizeBytes(body) +
		protowire.SizeTag(resourceName) + protowire.SizeBytes(len(r.Name))
	b = protowire.AppendTag(b, responseResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = protowire.AppendTag(b, resourceVersion, protowire.BytesType)
	b = protowire.AppendString(b, v)
	b = protowire.AppendTag(b, resourceBody, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(body))
	b = protowire.AppendTag(b, anyURL, protowire.BytesType)
	b = protowire.AppendString(b, urls[t])
	b = protowire.AppendTag(b, anyValue, protowire.BytesType)
	b = protowire.AppendBytes(b, r.Bytes)
	b = protowire.AppendTag(b, resourceName, protowire.BytesType)
	return protowire.AppendString(b, r.Name)
}

// appendRemoved appends a name as an element of a response's removals.
func appendRemoved(b []byte, name string) []byte {
	b = protowire.AppendTag(b, responseRemoved, protowire.BytesType)
	return protowire.AppendString(b, name)
}

// transition is the deltas between two sets of resources, each computed and
// encoded when first asked for.
type transition struct {
	from, to *projector.Snapshot
	diff     func() []projector.Update
	deltas   [numTypes]func() *delta
}

func newTransition(from, to *projector.Snapshot) *transition {
	tr := &transition{from: from, to: to}
	tr.diff = sync.OnceValue(func() []projector.Update { return projector.Diff(from, to) })
	for t := range tr.deltas {
		tr.deltas[t] = sync.OnceValue(func() *delta { return newDelta(tr.diff(), projector.ResourceType(t)) })
	}
	return tr
}

func newDelta(updates []projector.Update, t projector.ResourceType) *delta {
	d := &delta{}
	var ends []int
	for _, u := range updates {
		if u.Type != t {
			continue
		}
		if u.Resource == nil {
			d.removed = append(d.removed, u.Name)
			continue
		}
		d.all = encode(d.all, t, *u.Resource)
		d.changed = append(d.changed, change{name: u.Name})
		ends = append(ends, len(d.all))
		if t == projector.Upstreams {
			if name, ok := endpointsOf(*u.Resource); ok {
				d.endpoints = append(d.endpoints, name)
			}
		}
	}
	start := 0
	for i, end := range ends {
		d.changed[i].wire = d.all[start:end:end]
		start = end
	}
	return d
}

// maxTransitions bounds the transitions that are remembered. Streams of one
// fleet are in few places at once; one that is elsewhere pays for its own.
const maxTransitions = 16

// transitions remembers the deltas last used.
type transitions struct {
	mu   sync.Mutex
	last []*transition // oldest first, at most maxTransitions
}

// between returns the delta of a type. It may be shared: it is read only.
func (ts *transitions) between(from, to *projector.Snapshot, t projector.ResourceType) *delta {
	return ts.get(from, to).deltas[t]()
}

func (ts *transitions) get(from, to *projector.Snapshot) *transition {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, tr := range ts.last {
		if tr.from == from && tr.to == to {
			return tr
		}
	}
	tr := newTransition(from, to)
	if len(ts.last) == maxTransitions {
		ts.last = append(ts.last[:0], ts.last[1:]...)
	}
	ts.last = append(ts.last, tr)
	return tr
}
