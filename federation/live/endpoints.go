package live

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Endpoints is the answer to an ir.EndpointSet.
type Endpoints struct {
	ir.Endpoints
	Version ledger.Digest // of the addresses
}

// NewEndpoints returns the answer with its version.
func NewEndpoints(e ir.Endpoints) Endpoints {
	b, err := json.Marshal(e.Addresses)
	if err != nil {
		panic(fmt.Sprintf("live: addresses of %s: %v", e.Name, err)) // strings and numbers always marshal
	}
	return Endpoints{Endpoints: e, Version: ledger.DigestOf(b)}
}

// addresses returns the endpoints of the port that is named so: the ready
// ones, or, where there is none, those that still serve while they terminate.
// The order depends on the addresses only.
func addresses(from []slice, portName string) []ir.Endpoint {
	type spot struct {
		ip   netip.Addr
		port uint32
	}
	ready, draining := map[spot]ir.Endpoint{}, map[spot]ir.Endpoint{}
	for _, s := range from {
		port, ok := s.ports[portName]
		if !ok || port == 0 || port > 65535 {
			continue
		}
		for _, m := range s.endpoints {
			into := ready
			if m.draining {
				into = draining
			} else if !m.ready {
				continue
			}
			at := spot{m.ip, port}
			e := ir.Endpoint{IP: m.ip.String(), Port: port, Zone: m.zone, Node: m.node, Draining: m.draining}
			// Slices may overlap while they are rewritten; the choice must
			// not depend on their order.
			if old, ok := into[at]; !ok || old.Zone+"\x00"+old.Node < e.Zone+"\x00"+e.Node {
				into[at] = e
			}
		}
	}
	use := ready
	if len(ready) == 0 {
		use = draining
	}
	spots := slices.SortedFunc(maps.Keys(use), func(a, b spot) int {
		return cmp.Or(a.ip.Compare(b.ip), cmp.Compare(a.port, b.port))
	})
	out := make([]ir.Endpoint, len(spots))
	for i, at := range spots {
		out[i] = use[at]
	}
	return out
}

// portNames returns the names of the ports of the slices, for people.
func portNames(from []slice) []string {
	names := map[string]bool{}
	for _, s := range from {
		for n := range s.ports {
			names[n] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
