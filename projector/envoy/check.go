package envoy

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"github.com/chancery-dev/chancery/projector"
)

// Problem is something about a snapshot that no Envoy should get.
type Problem struct {
	Resource Ref    // the one to blame
	Message  string // what is wrong, with the names in it
	Other    *Ref   // what it needs or collides with, if there is one
}

// String returns the resource and the message.
func (p Problem) String() string { return p.Resource.String() + ": " + p.Message }

// Check is our own reference check on a whole snapshot: references that lead
// nowhere, two listeners on one address, two chains with one match, two
// virtual hosts with one domain. Envoy accepts the first of these and then
// answers 503, or waits.
func Check(s *projector.Snapshot) []Problem {
	c := NewChecker()
	c.Apply(projector.Diff(projector.EmptySnapshot(), s))
	return c.Problems()
}

// Checker is Check on a snapshot that changes, at a cost proportional to the
// changes. It is not safe for concurrent use.
type Checker struct {
	facts    map[Ref]*facts
	users    map[Ref]map[Ref]struct{}    // by what they refer to, present or not
	bound    map[string]map[Ref]struct{} // listeners by address
	problems map[Ref][]Problem
}

// NewChecker returns the checker of an empty snapshot.
func NewChecker() *Checker {
	return &Checker{
		facts: map[Ref]*facts{}, users: map[Ref]map[Ref]struct{}{},
		bound: map[string]map[Ref]struct{}{}, problems: map[Ref][]Problem{},
	}
}

// Apply takes the updates between the snapshot that the checker knows and the
// next one, as projector.Diff returns them.
func (c *Checker) Apply(updates []projector.Update) {
	dirty := map[Ref]struct{}{}
	for _, u := range updates {
		at := Ref{u.Type, u.Name}
		before := c.facts[at]
		var after *facts
		if u.Resource != nil {
			var err error
			if after, err = read(*u.Resource, u.Type, before); err != nil {
				after = &facts{problems: []string{err.Error()}}
			}
		}
		dirty[at] = struct{}{}
		if (before == nil) != (after == nil) {
			maps.Copy(dirty, c.users[at])
		}
		c.relink(at, before, after)
		if before != nil {
			delete(c.facts, at)
			if before.address != "" {
				unlink(c.bound, before.address, at)
				maps.Copy(dirty, c.bound[before.address])
			}
		}
		if after != nil {
			c.facts[at] = after
			if after.address != "" {
				maps.Copy(dirty, c.bound[after.address])
				link(c.bound, after.address, at)
			}
		}
	}
	for at := range dirty {
		if ps := c.judge(at); len(ps) > 0 {
			c.problems[at] = ps
		} else {
			delete(c.problems, at)
		}
	}
}

// relink makes at a user of what after refers to, and of nothing else that
// before did. Both lists are in order.
func (c *Checker) relink(at Ref, before, after *facts) {
	var from, to []Ref
	if before != nil {
		from = before.refs
	}
	if after != nil {
		to = after.refs
	}
	for len(from) > 0 || len(to) > 0 {
		switch {
		case len(to) == 0 || len(from) > 0 && from[0].Compare(to[0]) < 0:
			unlink(c.users, from[0], at)
			from = from[1:]
		case len(from) == 0 || to[0].Compare(from[0]) < 0:
			link(c.users, to[0], at)
			to = to[1:]
		default:
			from, to = from[1:], to[1:]
		}
	}
}

func link[K comparable](m map[K]map[Ref]struct{}, k K, r Ref) {
	if m[k] == nil {
		m[k] = map[Ref]struct{}{}
	}
	m[k][r] = struct{}{}
}

func unlink[K comparable](m map[K]map[Ref]struct{}, k K, r Ref) {
	delete(m[k], r)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}

func (c *Checker) judge(at Ref) []Problem {
	f := c.facts[at]
	if f == nil {
		return nil
	}
	var out []Problem
	for _, text := range f.problems {
		out = append(out, Problem{Resource: at, Message: text})
	}
	for _, r := range f.refs {
		if c.facts[r] == nil {
			out = append(out, Problem{Resource: at, Message: fmt.Sprintf("it refers to %s, which the snapshot does not have", r), Other: &r})
		}
	}
	if f.address != "" {
		for _, r := range slices.SortedFunc(maps.Keys(c.bound[f.address]), Ref.Compare) {
			if r.Name < at.Name {
				out = append(out, Problem{Resource: at, Message: fmt.Sprintf("it binds %s, as %s does", f.address, r), Other: &r})
				break
			}
		}
	}
	return out
}

// Problems returns what is wrong with the snapshot as it is now, in order of
// resource.
func (c *Checker) Problems() []Problem {
	var out []Problem
	for _, at := range slices.SortedFunc(maps.Keys(c.problems), Ref.Compare) {
		out = append(out, c.problems[at]...)
	}
	return out
}

// facts is what the checks need of a resource.
type facts struct {
	refs     []Ref
	problems []string
	address  string // of a listener: "tcp 0.0.0.0:8080"
	// hosts are those of a route table by the digest of their bytes, so that
	// the next version of the table reads only those that changed.
	hosts map[[sha256.Size]byte]*hostFacts
}

// read gathers a resource's facts; before are those of its previous version.
func read(r projector.Resource, t projector.ResourceType, before *facts) (*facts, error) {
	switch t {
	case projector.EndpointNeeds, projector.SecretNeeds:
		return &facts{}, nil
	case projector.Routes:
		f, err := readTable(r, before)
		if err != nil {
			return nil, wrap(r, t, err)
		}
		return f, nil
	case projector.Upstreams, projector.Listeners:
	}
	m, err := Message(r, t)
	if err != nil {
		return nil, err
	}
	f := &facts{}
	if f.refs, err = messageRefs(m); err != nil {
		return nil, wrap(r, t, err)
	}
	if l, ok := m.(*listenerv3.Listener); ok {
		a := l.GetAddress().GetSocketAddress()
		f.address = fmt.Sprintf("%s %s:%d", a.GetProtocol(), a.GetAddress(), a.GetPortValue())
		f.problems = chainProblems(l)
	}
	return f, nil
}

func readTable(r projector.Resource, before *facts) (*facts, error) {
	size := 0
	if before != nil {
		size = len(before.hosts)
	}
	f := &facts{hosts: make(map[[sha256.Size]byte]*hostFacts, size), refs: make([]Ref, 0, size)}
	names := make(map[string]bool, size)
	owners := make(map[string]string, size) // domain → virtual host
	err := eachHost(r.Bytes, func(b []byte) error {
		key := sha256.Sum256(b)
		var h *hostFacts
		if before != nil {
			h = before.hosts[key]
		}
		if h == nil {
			var err error
			if h, err = readHost(b); err != nil {
				return err
			}
		}
		f.hosts[key] = h
		f.refs = append(f.refs, h.refs...)
		if names[h.name] {
			f.problems = append(f.problems, fmt.Sprintf("it has two virtual hosts named %s", h.name))
		}
		names[h.name] = true
		for _, d := range h.domains {
			if owner, ok := owners[d]; ok {
				f.problems = append(f.problems, fmt.Sprintf("domain %s is in virtual host %s and in %s", d, owner, h.name))
				continue
			}
			owners[d] = h.name
		}
		return nil
	})
	f.refs = sortedRefs(f.refs)
	return f, err
}

// chainProblems finds chains that Envoy could not tell apart, and a listener
// without any.
func chainProblems(l *listenerv3.Listener) []string {
	if len(l.FilterChains) == 0 {
		return []string{"it has no chain, so it can treat no connection"}
	}
	var out []string
	owners := map[string]string{}
	names := map[string]bool{}
	for _, c := range l.FilterChains {
		if c.Name != "" && names[c.Name] {
			out = append(out, fmt.Sprintf("it has two chains named %s", c.Name))
		}
		names[c.Name] = true
		for _, match := range matches(c.FilterChainMatch) {
			if owner, ok := owners[match]; ok {
				out = append(out, fmt.Sprintf("chains %s and %s both match %s", owner, c.Name, match))
				continue
			}
			owners[match] = c.Name
		}
	}
	return out
}

// matches expands a match to the combinations that Envoy keys its chains by.
func matches(m *listenerv3.FilterChainMatch) []string {
	names := m.GetServerNames()
	if len(names) == 0 {
		names = []string{"any name"}
	}
	var sources []string
	for _, r := range m.GetSourcePrefixRanges() {
		sources = append(sources, fmt.Sprintf("%s/%d", r.AddressPrefix, r.GetPrefixLen().GetValue()))
	}
	if len(sources) == 0 {
		sources = []string{"anywhere"}
	}
	transport := m.GetTransportProtocol()
	if transport == "" {
		transport = "any transport"
	}
	port := "any port"
	if p := m.GetDestinationPort(); p != nil {
		port = fmt.Sprintf("port %d", p.Value)
	}
	var out []string
	for _, n := range names {
		for _, s := range sources {
			out = append(out, fmt.Sprintf("%s, %s, from %s, %s", n, transport, s, port))
		}
	}
	return out
}
