package compile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/emissary"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// readModule reads the one Module "ambassador" that counts in a cluster.
func (c *Compiler) readModule(cluster ledger.ClusterName) {
	var first *emissary.UnitKey
	for _, e := range c.x.modules.bucket(cluster) {
		switch {
		case e.key.Name == "tls":
			c.notServed(e.value, "use a Host's tlsSecret, or a TLSContext")
			continue
		case e.key.Name != "ambassador":
			c.report(e.key.Object, "module", e.key.String(), []projector.Finding{{
				Code: projector.CodeNoEffect, Severity: projector.Warning, Path: "metadata.name",
				Message: "only a Module named ambassador has an effect",
			}})
			continue
		case first != nil:
			other := first.Object
			c.report(e.key.Object, "module", e.key.String(), []projector.Finding{{
				Code: projector.CodeDuplicate, Severity: projector.Error, Other: &other,
				Message: fmt.Sprintf("%s is the Module of this cluster; this one is ignored: remove one of the two", first),
			}})
			c.setState(e.key.Object, "module", e.key.String(), state{State: projector.Rejected})
			continue
		}
		key := e.key
		first = &key
		// A Module with faults is replaced by its last good version; without
		// one, what can be read of it counts.
		var partly *emissary.Module
		mod, ok := read(c, "module", e.value, func(w world, u emissary.Unit) (*emissary.Module, []projector.Finding, bool) {
			m, found := emissary.ReadModule(u.Resource.(*getambassador.Module), w.Settings())
			if partly == nil {
				partly = m
			}
			return m, found, !slices.ContainsFunc(found, func(f projector.Finding) bool { return f.Severity == projector.Error })
		})
		if !ok {
			mod = partly
		}
		if mod == nil {
			continue
		}
		c.t.mappingDefaults.put(cluster, &mod.Mappings)
		c.t.module.put(cluster, mod)
		c.t.remoteAddress.put(cluster, mod.HTTP.UseRemoteAddress)
	}
}

func (c *Compiler) moduleOf(cluster ledger.ClusterName) *emissary.Module {
	if m, ok := c.t.module.get(cluster); ok {
		return m
	}
	return defaultModule
}

func (c *Compiler) readContext(k emissary.UnitKey, u emissary.Unit) {
	ctx, ok := read(c, "context", u, func(w world, u emissary.Unit) (*emissary.Context, []projector.Finding, bool) {
		return emissary.ReadContext(w, u.Key, u.Resource.(*getambassador.TLSContext))
	})
	if ok {
		c.t.contexts.put(k, ctx)
	}
}

func (c *Compiler) readListener(k emissary.UnitKey, u emissary.Unit) {
	l, ok := read(c, "listener", u, func(w world, u emissary.Unit) (*emissary.Listener, []projector.Finding, bool) {
		return emissary.ReadListener(w, u)
	})
	if ok {
		c.t.listeners.put(k, l)
	}
}

// bind lists the Listeners of one address: one per cluster, the first seen
// first.
func (c *Compiler) bind(b emissary.Bound) {
	var row boundRow
	seen := map[ledger.ClusterName]emissary.UnitKey{}
	for _, e := range c.x.listenersAt.bucket(b) {
		if first, ok := seen[e.key.Object.Cluster]; ok {
			other := first.Object
			c.report(e.key.Object, "bound address", e.key.String(), []projector.Finding{{
				Code: projector.CodeSamePort, Severity: projector.Error, Path: "spec.port", Other: &other,
				Message: fmt.Sprintf("%s has port %d already; this Listener is not served", first, b.Port),
			}})
			c.setState(e.key.Object, "bound address", e.key.String(), state{State: projector.Rejected})
			continue
		}
		seen[e.key.Object.Cluster] = e.key
		row.listeners = append(row.listeners, e.value)
	}
	slices.SortStableFunc(row.listeners, func(a, b *emissary.Listener) int {
		return cmp.Or(cmp.Compare(a.FirstSeq, b.FirstSeq), a.Key.Compare(b.Key))
	})
	c.t.bounds.put(b, row)
}

func (c *Compiler) readHost(k emissary.UnitKey, u emissary.Unit) {
	h, ok := read(c, "host", u, func(w world, u emissary.Unit) (*emissary.Host, []projector.Finding, bool) {
		return emissary.ReadHost(w, u)
	})
	if ok {
		c.t.hosts.put(k, h)
	}
}

// implyHost gives a cluster that has Listeners and no Host at all the Host
// that Emissary would. One unusable Host is enough for there being none
// (DESIGN: a bad certificate must not open everything in cleartext).
func (c *Compiler) implyHost(cluster ledger.ClusterName) {
	if c.x.presence.empty(cluster) {
		h := emissary.ImpliedHost(world{c, cluster})
		c.t.hosts.put(h.Key, h)
	}
}

func (c *Compiler) listSelectors(cluster ledger.ClusterName) {
	var out []map[string]string
	for _, e := range c.x.selectorHosts.bucket(cluster) {
		out = append(out, e.value.Selector)
	}
	c.t.selectors.put(cluster, out)
}

func (c *Compiler) readMapping(k emissary.UnitKey, u emissary.Unit) {
	m, ok := read(c, "mapping", u, func(w world, u emissary.Unit) (*emissary.Mapping, []projector.Finding, bool) {
		return emissary.ReadMapping(w, u)
	})
	if ok {
		c.t.mappings.put(k, m)
	}
}

func (c *Compiler) buildGroup(k named) {
	bucket := c.x.mappingsOf.bucket(k)
	mappings := make([]*emissary.Mapping, len(bucket))
	for i, e := range bucket {
		mappings[i] = e.value
	}
	g, found := emissary.BuildGroup(mappings)
	for _, unit := range slices.SortedFunc(maps.Keys(found), emissary.UnitKey.Compare) {
		c.report(unit.Object, "group", unit.String(), found[unit])
		if g == nil || !slices.Contains(g.Members, unit) {
			if slices.ContainsFunc(found[unit], func(f projector.Finding) bool { return f.Severity == projector.Error }) {
				c.setState(unit.Object, "group", unit.String(), state{State: projector.Rejected})
			}
		}
	}
	if g == nil {
		return
	}
	c.t.groups.put(k, g)
	user := string(k.cluster) + "/" + k.name
	seen := map[string]bool{}
	for _, n := range g.Needed {
		if seen[n.Upstream.Name] {
			continue
		}
		seen[n.Upstream.Name] = true
		c.t.upstreamUses.put(useKey{n.Upstream.Name, user}, upstreamUse{needed: n, by: g.Members})
	}
}

// place finds out whether any Host takes a group, and says so if none does.
func (c *Compiler) place(k named, g *emissary.Group) {
	if c.taken(g) {
		return
	}
	why := fmt.Sprintf("no Host takes hostname %q", g.Host)
	if g.Host == "" {
		why = "it has no hostname, and no Host selects its labels"
	}
	for _, m := range g.Members {
		c.report(m.Object, "placement", m.String(), []projector.Finding{{
			Code: projector.CodeNoHost, Severity: projector.Warning, Path: "spec.hostname",
			Message: why + ": give it a hostname that a Host covers, or the labels of a Host's mappingSelector",
		}})
	}
}

func (c *Compiler) taken(g *emissary.Group) bool {
	takes := func(es []entry[emissary.UnitKey, *emissary.Host]) bool {
		return slices.ContainsFunc(es, func(e entry[emissary.UnitKey, *emissary.Host]) bool { return e.value.Takes(g) })
	}
	switch {
	case g.Host == "":
		for _, k := range slices.Sorted(maps.Keys(g.Labels)) {
			if takes(c.x.hostsLabel.bucket(label{g.Cluster, k, g.Labels[k]})) {
				return true
			}
		}
		return false
	case !g.HostRegex && !emissary.IsGlob(g.Host):
		return takes(c.x.hostsNamed.bucket(named{g.Cluster, g.Host})) || takes(c.x.hostsGlob.bucket(g.Cluster))
	}
	return takes(c.x.hostsAll.bucket(g.Cluster))
}

// attach binds a Host to the Listeners of its cluster.
func (c *Compiler) attach(k emissary.UnitKey, h *emissary.Host) {
	cluster := k.Object.Cluster
	remote, ok := c.t.remoteAddress.get(cluster)
	if !ok {
		remote = true
	}
	bound := map[emissary.Bound]bool{}
	attached := false
	for _, e := range c.x.listenersOf.bucket(cluster) {
		if bound[e.value.Bound] {
			continue // not the first on its port
		}
		bound[e.value.Bound] = true
		for _, a := range e.value.Attach(h, remote) {
			key := chainKey{bound: e.value.Bound, tls: a.TLS}
			if a.TLS {
				key.sni = strings.ToLower(h.SNI())
			}
			attached = true
			c.t.attachments.put(attachKey{hostKey{key, strings.ToLower(h.Hostname)}, k}, a)
		}
	}
	if !attached && !h.Implied {
		c.report(k.Object, "attach", k.String(), []projector.Finding{{
			Code: projector.CodeNoListener, Severity: projector.Warning,
			Message: "no Listener's hostBinding takes the Host; create one that does",
		}})
	}
}

// firstCluster returns the cluster that a name belongs to: the first seen.
func firstCluster(es []entry[attachKey, emissary.Attachment]) ledger.ClusterName {
	best := es[0]
	for _, e := range es[1:] {
		if e.value.Host.FirstSeq < best.value.Host.FirstSeq {
			best = e
		}
	}
	return best.key.unit.Object.Cluster
}

// chooseChain decides whose certificate a server name has.
func (c *Compiler) chooseChain(k chainKey) {
	es := c.x.tlsAttachments.bucket(k)
	cluster := ownerOf(es)
	var winner *emissary.Host
	for _, e := range es {
		h := e.value.Host
		if e.key.unit.Object.Cluster != cluster {
			continue
		}
		if winner == nil {
			winner = h
			continue
		}
		if h.Context != winner.Context {
			other := winner.Key.Object
			c.report(h.Key.Object, "chain", h.Key.String()+" "+k.table(), []projector.Finding{{
				Code: projector.CodeHostTLS, Severity: projector.Error, Path: "spec.hostname", Other: &other,
				Message: fmt.Sprintf("%s has server name %q with other TLS settings and counts; this Host is not served by TLS", winner.Key, k.sni),
			}})
		}
	}
	for _, e := range es {
		if e.key.unit.Object.Cluster != cluster && !e.value.Host.Implied {
			c.hostTaken(e.key, "chain", winner)
		}
	}
	c.t.chains.put(k, chainRow{key: k, host: winner, sni: winner.SNI()})
	for _, s := range winner.Secrets {
		c.t.secretUses.put(useKey{s.Name, "chain " + k.table()}, secretUse{ref: s, by: winner.Key})
	}
}

func (c *Compiler) hostTaken(k attachKey, rule string, winner *emissary.Host) {
	other := winner.Key.Object
	c.report(k.unit.Object, rule, k.unit.String()+" "+k.host.chain.table(), []projector.Finding{{
		Code: projector.CodeHostTaken, Severity: projector.Error, Path: "spec.hostname", Other: &other,
		Message: fmt.Sprintf("%q belongs to %s of cluster %s, which had it first; use another hostname, or make a HostClaim", k.host.hostname, winner.Key, winner.Key.Object.Cluster),
	}})
	c.setState(k.unit.Object, rule, k.unit.String()+" "+k.host.chain.table(), state{State: projector.Rejected})
}

// loseHost reports a Host that another cluster's keeps from being served, or
// the Mappings of a cluster without Hosts.
func (c *Compiler) loseHost(k hostKey, e entry[attachKey, emissary.Attachment], winner *emissary.Host) {
	if !e.value.Host.Implied {
		c.hostTaken(e.key, "virtual host", winner)
		return
	}
	for _, g := range c.groupsOf(e.value.Host) {
		c.groupTaken(k, g, winner.Key)
	}
}

func (c *Compiler) groupTaken(k hostKey, g *emissary.Group, winner emissary.UnitKey) {
	for _, m := range g.Members {
		other := winner.Object
		about := m.String() + " " + k.chain.table()
		c.report(m.Object, "virtual host", about, []projector.Finding{{
			Code: projector.CodeHostTaken, Severity: projector.Error, Path: "spec.hostname", Other: &other,
			Message: fmt.Sprintf("hostname %q belongs to %s of cluster %s, which had it first; use another hostname, or make a HostClaim", g.Host, winner, winner.Object.Cluster),
		}})
		c.setState(m.Object, "virtual host", about, state{State: projector.Rejected})
	}
}

// writeHost decides which Host has a hostname on a chain, and writes it.
func (c *Compiler) writeHost(k hostKey) {
	es := c.x.hostAttached.bucket(k)
	if k.chain.tls {
		chain, ok := c.t.chains.get(k.chain)
		if !ok {
			return
		}
		es = slices.DeleteFunc(slices.Clone(es), func(e entry[attachKey, emissary.Attachment]) bool {
			return e.key.unit.Object.Cluster != chain.host.Key.Object.Cluster || e.value.Host.Context != chain.host.Context
		})
		if len(es) == 0 {
			return
		}
	}
	if len(es) > 1 && !slices.ContainsFunc(es, func(e entry[attachKey, emissary.Attachment]) bool { return !e.value.Host.Implied }) {
		c.writeImplied(k, es)
		return
	}
	cluster := ownerOf(es)
	var winner entry[attachKey, emissary.Attachment]
	for _, e := range es {
		if e.key.unit.Object.Cluster == cluster {
			winner = e // of equal hostnames in one cluster the last one counts
		}
	}
	for _, e := range es {
		switch {
		case e.key == winner.key:
		case e.key.unit.Object.Cluster != cluster:
			c.loseHost(k, e, winner.value.Host)
		default:
			other := winner.key.unit.Object
			c.report(e.key.unit.Object, "virtual host", e.key.unit.String()+" "+k.chain.table(), []projector.Finding{{
				Code: projector.CodeSameHost, Severity: projector.Warning, Path: "spec.hostname", Other: &other,
				Message: fmt.Sprintf("%s has hostname %q as well and counts; merge the two", winner.key.unit, k.hostname),
			}})
		}
	}
	a := winner.value
	ok, without := c.protected(k.chain, cluster)
	if !ok {
		c.unprotected(winner.key.unit, k)
		return
	}
	a.Unauthenticated = without
	c.putHost(k, a, c.groupsOf(a.Host), []emissary.UnitKey{winner.key.unit})
}

// protected reports whether a cluster's routes keep their protections on a
// chain. Cleartext of several clusters shares one chain, with the filters of
// the cluster that had the port first; without says that those do not include
// an authentication of the other cluster's own.
func (c *Compiler) protected(chain chainKey, cluster ledger.ClusterName) (ok, without bool) {
	row, has := c.t.bounds.get(chain.bound)
	if chain.tls || !has || row.listeners[0].Key.Object.Cluster == cluster {
		return true, false
	}
	owner := row.listeners[0].Key.Object.Cluster
	theirs, hasTheirs := c.t.auth.get(owner)
	mine, hasMine := c.t.auth.get(cluster)
	if hasMine && (!hasTheirs || !deep(mine, theirs)) {
		return false, false
	}
	limit, limits := c.t.rateLimits.get(cluster)
	if ownerLimit, _ := c.t.rateLimits.get(owner); limits && !deep(limit, ownerLimit) {
		return false, false
	}
	lists := addressLists(c.moduleOf(cluster))
	if len(lists) > 0 && !deep(lists, addressLists(c.moduleOf(owner))) {
		return false, false
	}
	return true, hasTheirs && !hasMine
}

func addressLists(m *emissary.Module) []ir.Filter {
	return slices.DeleteFunc(slices.Clone(m.Before), func(f ir.Filter) bool { return f.Name != "ip-allow" && f.Name != "ip-deny" })
}

func (c *Compiler) unprotected(u emissary.UnitKey, k hostKey) {
	about := u.String() + " " + k.chain.table()
	c.report(u.Object, "virtual host", about, []projector.Finding{{
		Code: projector.CodeProtection, Severity: projector.Error,
		Message: fmt.Sprintf("cleartext on port %d is shared with another cluster, whose AuthService, RateLimitService or address lists are not this one's: %q is not served there; give the clusters ports of their own", k.chain.bound.Port, k.hostname),
	}})
	c.setState(u.Object, "virtual host", about, state{State: projector.Rejected})
}

// ownerOf lets a Host that someone wrote win over one that
// is only implied.
func ownerOf(es []entry[attachKey, emissary.Attachment]) ledger.ClusterName {
	own := slices.DeleteFunc(slices.Clone(es), func(e entry[attachKey, emissary.Attachment]) bool { return e.value.Host.Implied })
	if len(own) > 0 {
		return firstCluster(own)
	}
	return firstCluster(es)
}

// writeImplied merges the Mappings of clusters that have no Hosts: a hostname
// belongs to the cluster whose Mapping gave it first.
func (c *Compiler) writeImplied(k hostKey, es []entry[attachKey, emissary.Attachment]) {
	owner := map[string]*emissary.Group{}
	var all []*emissary.Group
	for _, e := range es {
		for _, g := range c.groupsOf(e.value.Host) {
			all = append(all, g)
			name := claimOf(g)
			if o := owner[name]; o == nil || g.FirstSeq < o.FirstSeq {
				owner[name] = g
			}
		}
	}
	var groups []*emissary.Group
	for _, g := range all {
		o := owner[claimOf(g)]
		if ok, without := c.protected(k.chain, g.Cluster); !ok || without {
			// The implied Host is one for all: it cannot tell their routes apart.
			for _, m := range g.Members {
				c.unprotected(m, k)
			}
			continue
		}
		if o.Cluster == g.Cluster {
			groups = append(groups, g)
			continue
		}
		c.groupTaken(k, g, o.First)
	}
	slices.SortStableFunc(groups, (*emissary.Group).Compare)
	a := es[0].value
	host := *a.Host
	host.Key.Object.Cluster = ledger.ClusterName("all")
	a.Host = &host
	var units []emissary.UnitKey
	for _, e := range es {
		units = append(units, e.key.unit)
	}
	c.putHost(k, a, groups, units)
}

func claimOf(g *emissary.Group) string {
	if g.HostRegex {
		return "~" + g.Host
	}
	return strings.ToLower(g.Host)
}

func (c *Compiler) putHost(k hostKey, a emissary.Attachment, groups []*emissary.Group, units []emissary.UnitKey) {
	about := k.chain.table() + " " + k.hostname
	row, bad, err := c.assemble(a, groups)
	if err != nil {
		c.unwritable(units, "virtual host", about, err)
		return
	}
	for _, g := range groups {
		if err := bad[g]; err != nil {
			c.unwritable(g.Members, "virtual host", about+" "+g.ID, err)
		}
	}
	c.reportShadowed(groups, about, k.hostname)
	row.key, row.hosts, row.groups = k, units, make([]named, 0, len(groups))
	for _, g := range groups {
		if bad[g] == nil {
			row.groups = append(row.groups, named{g.Cluster, g.ID})
		}
	}
	c.t.vhosts.put(k, row)
}

func (c *Compiler) reportShadowed(groups []*emissary.Group, about, hostname string) {
	shadowed := emissary.Shadowed(groups)
	for _, g := range groups {
		by := shadowed[g]
		if by == nil {
			continue
		}
		for _, m := range g.Members {
			other := by.First.Object
			c.report(m.Object, "shadowed", about+" "+m.String(), []projector.Finding{{
				Code: projector.CodeShadowed, Severity: projector.Warning, Path: "spec.precedence", Other: &other,
				Message: fmt.Sprintf("%s comes first and takes all of its requests for %q; raise the precedence or change the match", by.First, hostname),
			}})
		}
	}
}

// groupsOf returns the groups that a Host takes, in the order of their routes.
func (c *Compiler) groupsOf(h *emissary.Host) []*emissary.Group {
	cluster := h.Key.Object.Cluster
	var out []*emissary.Group
	take := func(es []entry[named, *emissary.Group]) {
		for _, e := range es {
			if h.Takes(e.value) {
				out = append(out, e.value)
			}
		}
	}
	switch {
	case h.Selector != nil:
		take(c.x.groupsLabel.bucket(firstLabel(cluster, h.Selector)))
		return out
	case h.Hostname == "*":
		take(c.x.groupsAll.bucket(cluster))
		return out
	}
	take(c.x.groupsHost.bucket(named{cluster, h.Hostname}))
	take(c.x.groupsRegex.bucket(cluster))
	other := func(patterns []entry[named, struct{}]) {
		for _, p := range patterns {
			if p.key.name != h.Hostname && emissary.GlobsOverlap(h.Hostname, p.key.name) {
				take(c.x.groupsHost.bucket(p.key))
			}
		}
	}
	other(c.x.patternsGlob.bucket(cluster))
	if emissary.IsGlob(h.Hostname) {
		exact := c.x.patternsAll.bucket(cluster)
		if strings.HasPrefix(h.Hostname, "*.") {
			exact = c.x.patternsSuffix.bucket(named{cluster, h.Hostname[1:]})
		}
		for _, p := range exact {
			if !emissary.IsGlob(p.key.name) && emissary.GlobsOverlap(h.Hostname, p.key.name) {
				take(c.x.groupsHost.bucket(p.key))
			}
		}
	}
	slices.SortStableFunc(out, (*emissary.Group).Compare)
	return out
}

func (c *Compiler) writeTable(name string) {
	es := c.x.vhostsOfTable.bucket(name)
	hosts := make([][]byte, len(es))
	for i, e := range es {
		hosts[i] = e.value.bytes
	}
	c.t.resources.put(resourceKey{projector.Routes, name}, envoy.RouteTable(name, hosts, true, 0))
}

// writeListener writes a bound listener with all its chains.
func (c *Compiler) writeListener(b emissary.Bound, row boundRow) {
	first := row.listeners[0]
	mod := c.moduleOf(first.Key.Object.Cluster)
	l := ir.Listener{
		Name: b.Name(), Address: b.Address, Port: b.Port, UDP: b.UDP, ProxyProto: first.Proxy, BufferLimit: mod.BufferLimit,
	}
	listeners := map[ledger.ClusterName]*emissary.Listener{}
	for _, o := range row.listeners {
		listeners[o.Key.Object.Cluster] = o
		l.InspectTLS = l.InspectTLS || o.TLS && !b.UDP
		if o.Proxy != first.Proxy {
			other := first.Key.Object
			c.report(o.Key.Object, "bound listener", o.Key.String()+" proxy", []projector.Finding{{
				Code: projector.CodeSamePort, Severity: projector.Warning, Path: "spec.protocolStack", Other: &other,
				Message: fmt.Sprintf("%s of cluster %s had port %d first, and reads the PROXY protocol otherwise: its way counts; make the stacks agree", first.Key, other.Cluster, b.Port),
			}})
		}
	}
	altSvc := ""
	if !b.UDP {
		udp := b
		udp.UDP = true
		if _, ok := c.t.bounds.get(udp); ok {
			altSvc = `h3=":443"; ma=86400, h3-29=":443"; ma=86400`
		}
	}
	for _, e := range c.x.chainsOfBound.bucket(b) {
		ch := e.value
		owner := listeners[ch.host.Key.Object.Cluster]
		if owner == nil || c.x.vhostsOfTable.empty(e.key.table()) {
			continue // nothing to route
		}
		chain := ir.Chain{Name: e.key.table(), TLSOnly: true, TLS: ch.host.TLS, HTTP: c.http(owner, e.key.table(), altSvc)}
		if ch.sni != "*" {
			chain.ServerNames = []string{strings.ToLower(ch.sni)}
		}
		l.Chains = append(l.Chains, chain)
	}
	if !c.x.vhostsOfTable.empty(b.Name()) {
		l.Chains = append(l.Chains, ir.Chain{Name: b.Name(), HTTP: c.http(first, b.Name(), altSvc)})
	}
	if len(l.Chains) == 0 {
		for _, o := range row.listeners {
			c.report(o.Key.Object, "bound listener", o.Key.String(), []projector.Finding{{
				Code: projector.CodeIdle, Severity: projector.Warning,
				Message: "no Host matches the hostBinding, so the port is not opened; create a Host that it covers",
			}})
		}
		return
	}
	r, err := envoy.Listener(l)
	if err != nil {
		units := make([]emissary.UnitKey, 0, len(row.listeners))
		for _, o := range row.listeners {
			units = append(units, o.Key)
		}
		c.unwritable(units, "bound listener", b.Name(), err)
		return
	}
	c.t.resources.put(resourceKey{projector.Listeners, b.Name()}, r)
}

// http is the connection manager of a chain: the Module's of the Listener's
// cluster, with its filters in Emissary's order.
func (c *Compiler) http(l *emissary.Listener, routes, altSvc string) *ir.HTTP {
	mod := c.moduleOf(l.Key.Object.Cluster)
	h := mod.HTTP
	h.Routes, h.StatsPrefix, h.TrustedHops, h.HTTP3, h.AltSvc = routes, l.StatsPrefix(), l.Depth, l.Bound.UDP, altSvc
	h.Filters = append(slices.Clone(mod.Before), ir.Filter{Name: "cors"})
	if auth, ok := c.t.auth.get(l.Key.Object.Cluster); ok {
		h.Filters = append(h.Filters, auth.filter)
	}
	if limit, ok := c.t.rateLimits.get(l.Key.Object.Cluster); ok {
		h.Filters = append(h.Filters, limit.filter)
	}
	return &h
}

// readAuth makes the one authentication filter of a cluster.
func (c *Compiler) readAuth(cluster ledger.ClusterName) {
	var units []emissary.Unit
	var keys []emissary.UnitKey
	for _, e := range c.x.auths.bucket(cluster) {
		units = append(units, e.value)
		keys = append(keys, e.key)
	}
	a := emissary.ReadAuth(world{c, cluster}, units)
	for _, u := range slices.SortedFunc(maps.Keys(a.Findings), emissary.UnitKey.Compare) {
		c.report(u.Object, "auth", u.String(), a.Findings[u])
	}
	c.t.auth.put(cluster, authRow{filter: a.Filter})
	if a.Needed != nil {
		c.t.upstreamUses.put(useKey{a.Needed.Upstream.Name, "auth " + string(cluster)}, upstreamUse{needed: *a.Needed, by: keys})
	}
}

// readRateLimit makes the one rate limit filter of a cluster.
func (c *Compiler) readRateLimit(cluster ledger.ClusterName) {
	var units []emissary.Unit
	var keys []emissary.UnitKey
	for _, e := range c.x.limiters.bucket(cluster) {
		units = append(units, e.value)
		keys = append(keys, e.key)
	}
	r := emissary.ReadRateLimit(world{c, cluster}, units)
	for _, u := range slices.SortedFunc(maps.Keys(r.Findings), emissary.UnitKey.Compare) {
		c.report(u.Object, "rate limit", u.String(), r.Findings[u])
		if r.Filter == nil {
			c.setState(u.Object, "rate limit", u.String(), state{State: projector.Rejected})
		}
	}
	if r.Filter == nil {
		return
	}
	c.t.rateLimits.put(cluster, limitRow{domain: r.Domain, filter: *r.Filter})
	c.t.upstreamUses.put(useKey{r.Needed.Upstream.Name, "rate limit " + string(cluster)}, upstreamUse{needed: *r.Needed, by: keys})
}
