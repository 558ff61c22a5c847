package cache

import (
	"slices"
	"sync"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/proto"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Generation is what a cache serves from one moment to the next. It is
// immutable.
type Generation struct {
	// Serial counts the generations of this cache from 1.
	Serial uint64
	// Head says which snapshot is served, and since which decision.
	Head projector.SignedHead
	// Snapshot is what Head names.
	Snapshot *projector.Snapshot
	// wire is the snapshot with each need replaced by its answer, if there is
	// one: what goes over the wire, with the versions that go over the wire.
	wire *projector.Snapshot
	// fronts is read from the listeners when first asked for, and shared by
	// the generations that have the same.
	fronts func() *fronts
}

// Wire returns the resources as an Envoy gets them: those of the snapshot, and
// in place of each need that the live plane answered a
// ClusterLoadAssignment or a Secret. It holds private keys.
func (g *Generation) Wire() *projector.Snapshot { return g.wire }

// key tells heads apart: the same fingerprint headed again is another attempt.
type key struct {
	generation  uint64
	fingerprint projector.Fingerprint
}

func (g *Generation) key() key {
	return key{g.Head.Head.Generation, g.Snapshot.Fingerprint()}
}

// builder makes generations one after the other, each at the cost of what
// changed since the last. Its owner is the cache.
type builder struct {
	snapshot *projector.Snapshot
	live     *projector.Snapshot // all answers, under the types of their needs
	wire     *projector.Snapshot
	// endpoints holds, of each upstream that has one, the endpoint set's name;
	// owners its inverse, with the upstreams' versions.
	endpoints map[string]string
	owners    map[string]map[string]ledger.Digest
	fronts    func() *fronts // of wire
}

func newBuilder() *builder {
	empty := projector.EmptySnapshot()
	return &builder{
		snapshot: empty, live: empty, wire: empty,
		endpoints: map[string]string{},
		owners:    map[string]map[string]ledger.Digest{},
	}
}

// need is a name in one of the two live types.
type need struct {
	typ  projector.ResourceType
	name string
}

// turn goes to the snapshot and the live updates. Afterwards b.wire is what to
// serve.
func (b *builder) turn(snapshot *projector.Snapshot, live []projector.Update) {
	touched := map[need]bool{}
	for _, u := range live {
		touched[need{u.Type, u.Name}] = true
	}
	b.live = b.live.With(live)
	var updates []projector.Update
	for _, u := range projector.Diff(b.snapshot, snapshot) {
		switch u.Type {
		case projector.EndpointNeeds, projector.SecretNeeds:
			touched[need{u.Type, u.Name}] = true
			continue
		case projector.Upstreams:
			for _, name := range b.own(u) {
				touched[need{projector.EndpointNeeds, name}] = true
			}
		case projector.Listeners, projector.Routes:
		}
		updates = append(updates, u)
	}
	b.snapshot = snapshot
	for n := range touched {
		updates = append(updates, b.answer(n))
	}
	updates = slices.DeleteFunc(updates, func(u projector.Update) bool {
		had, ok := b.wire.Get(u.Type, u.Name)
		return u.Resource == nil && !ok || u.Resource != nil && ok && had.Version == u.Resource.Version
	})
	wire := b.wire.With(updates)
	if b.fronts == nil || slices.ContainsFunc(updates, func(u projector.Update) bool { return u.Type == projector.Listeners }) {
		b.fronts = sync.OnceValue(func() *fronts { return readFronts(wire) })
	}
	b.wire = wire
}

// answer returns the update of what is served for a need.
func (b *builder) answer(n need) projector.Update {
	u := projector.Update{Type: n.typ, Name: n.name}
	if _, needed := b.snapshot.Get(n.typ, n.name); !needed {
		return u
	}
	r, ok := b.live.Get(n.typ, n.name)
	if !ok {
		return u
	}
	if owners := b.owners[n.name]; n.typ == projector.EndpointNeeds && len(owners) > 0 {
		versions := make([]ledger.Digest, 0, len(owners)+1)
		for _, v := range owners {
			versions = append(versions, v)
		}
		slices.SortFunc(versions, func(x, y ledger.Digest) int { return slices.Compare(x[:], y[:]) })
		all := slices.Clone(r.Version[:])
		for _, v := range versions {
			all = append(all, v[:]...)
		}
		r.Version = ledger.DigestOf(all)
	}
	u.Resource = &r
	return u
}

// own records which endpoint set an upstream uses, and returns the sets whose
// owners changed.
func (b *builder) own(u projector.Update) []string {
	var changed []string
	if old, ok := b.endpoints[u.Name]; ok {
		delete(b.endpoints, u.Name)
		delete(b.owners[old], u.Name)
		if len(b.owners[old]) == 0 {
			delete(b.owners, old)
		}
		changed = append(changed, old)
	}
	if u.Resource == nil {
		return changed
	}
	name, ok := endpointsOf(*u.Resource)
	if !ok {
		return changed
	}
	b.endpoints[u.Name] = name
	if b.owners[name] == nil {
		b.owners[name] = map[string]ledger.Digest{}
	}
	b.owners[name][u.Name] = u.Resource.Version
	return append(changed, name)
}

// endpointsOf returns the name of the endpoint resource that an upstream asks
// for, if it asks for one.
func endpointsOf(r projector.Resource) (string, bool) {
	var c clusterv3.Cluster
	// An upstream that does not parse has no endpoints; the Envoy refuses it
	// and says why.
	if err := proto.Unmarshal(r.Bytes, &c); err != nil || c.GetType() != clusterv3.Cluster_EDS {
		return "", false
	}
	if name := c.GetEdsClusterConfig().GetServiceName(); name != "" {
		return name, true
	}
	return c.GetName(), true
}
