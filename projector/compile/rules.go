package compile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/emissary"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// The keys of tables and indexes.
type (
	placed struct {
		cluster         ledger.ClusterName
		namespace, name string
	}
	named struct {
		cluster ledger.ClusterName
		name    string
	}
	label struct {
		cluster    ledger.ClusterName
		key, value string
	}
	identity struct {
		cluster               ledger.ClusterName
		kind, namespace, name string
	}
	resourceKey struct {
		Type projector.ResourceType
		Name string
	}
	// A remark on an object belongs to the node that made it: what moves from
	// one group to another is remarked on by both for a moment.
	findingKey struct {
		object ledger.ObjectKey
		rule   string
		about  string
		node   uint64
	}
	stateKey findingKey
	useKey   struct{ name, user string }
	// chainKey is a way into a bound listener: a server name, or cleartext.
	chainKey struct {
		bound emissary.Bound
		tls   bool
		sni   string
	}
	hostKey struct {
		chain    chainKey
		hostname string // lower case
	}
	attachKey struct {
		host hostKey
		unit emissary.UnitKey
	}
)

func (k chainKey) table() string { return emissary.TableName(k.bound, k.sni, k.tls) }

// state is what a rule made of an object.
type state struct {
	State   projector.State
	Serving ledger.Digest
}

// upstreamUse is one group's use of an upstream.
type upstreamUse struct {
	needed emissary.Needed
	by     []emissary.UnitKey
}

// bound is a bound address and the Listeners that share it, the first seen
// first.
type boundRow struct {
	listeners []*emissary.Listener
}

// chain is a TLS chain: whose Host and context has the server name.
type chainRow struct {
	key  chainKey
	host *emissary.Host
	sni  string
}

// vhostRow is a written virtual host.
type vhostRow struct {
	key    hostKey
	name   string
	bytes  []byte
	routes int
	hosts  []emissary.UnitKey
	groups []named
}

// authRow is a cluster's authentication filter.
type authRow struct {
	filter ir.Filter
}

// limitRow is a cluster's rate limit filter.
type limitRow struct {
	domain string
	filter ir.Filter
}

type tables struct {
	settings *table[struct{}, projector.Settings]
	slots    *table[ledger.ObjectKey, slot]
	lastGood *table[ledger.ObjectKey, *projector.Object]

	findings *table[findingKey, []projector.Finding]
	states   *table[stateKey, state]

	services *table[placed, *emissary.Service]
	secrets  *table[placed, *emissary.Secret]
	// Units by kind, those with our ambassador_id only.
	ids       *table[emissary.UnitKey, emissary.UnitKey]
	presence  *table[emissary.UnitKey, struct{}] // of Hosts, unusable ones too
	modules   *table[emissary.UnitKey, emissary.Unit]
	resolvers *table[emissary.UnitKey, emissary.Unit]
	tlsUnits  *table[emissary.UnitKey, emissary.Unit]
	hostUnits *table[emissary.UnitKey, emissary.Unit]
	lstUnits  *table[emissary.UnitKey, emissary.Unit]
	mapUnits  *table[emissary.UnitKey, emissary.Unit]
	authUnits *table[emissary.UnitKey, emissary.Unit]
	rateUnits *table[emissary.UnitKey, emissary.Unit]

	mappingDefaults *table[ledger.ClusterName, *emissary.MappingDefaults]
	module          *table[ledger.ClusterName, *emissary.Module]
	remoteAddress   *table[ledger.ClusterName, bool]
	contexts        *table[emissary.UnitKey, *emissary.Context]
	listeners       *table[emissary.UnitKey, *emissary.Listener]
	bounds          *table[emissary.Bound, boundRow]
	hosts           *table[emissary.UnitKey, *emissary.Host]
	selectors       *table[ledger.ClusterName, []map[string]string]
	mappings        *table[emissary.UnitKey, *emissary.Mapping]
	groups          *table[named, *emissary.Group]
	patterns        *table[named, struct{}]
	auth            *table[ledger.ClusterName, authRow]
	rateLimits      *table[ledger.ClusterName, limitRow]

	attachments  *table[attachKey, emissary.Attachment]
	chains       *table[chainKey, chainRow]
	vhosts       *table[hostKey, vhostRow]
	upstreamUses *table[useKey, upstreamUse]
	endpointUses *table[useKey, ir.EndpointSet]
	secretUses   *table[useKey, secretUse]
	resources    *table[resourceKey, projector.Resource]
}

type indexes struct {
	findingsOf     *index[ledger.ObjectKey, findingKey, []projector.Finding]
	statesOf       *index[ledger.ObjectKey, stateKey, state]
	idsOf          *index[identity, emissary.UnitKey, emissary.UnitKey]
	presence       *index[ledger.ClusterName, emissary.UnitKey, struct{}]
	modules        *index[ledger.ClusterName, emissary.UnitKey, emissary.Unit]
	resolversNamed *index[named, emissary.UnitKey, emissary.Unit]
	contextsNamed  *index[named, emissary.UnitKey, *emissary.Context]
	auths          *index[ledger.ClusterName, emissary.UnitKey, emissary.Unit]
	limiters       *index[ledger.ClusterName, emissary.UnitKey, emissary.Unit]
	listenersOf    *index[ledger.ClusterName, emissary.UnitKey, *emissary.Listener]
	listenersAt    *index[emissary.Bound, emissary.UnitKey, *emissary.Listener]
	selectorHosts  *index[ledger.ClusterName, emissary.UnitKey, *emissary.Host]
	hostsNamed     *index[named, emissary.UnitKey, *emissary.Host]
	hostsGlob      *index[ledger.ClusterName, emissary.UnitKey, *emissary.Host]
	hostsAll       *index[ledger.ClusterName, emissary.UnitKey, *emissary.Host]
	hostsLabel     *index[label, emissary.UnitKey, *emissary.Host]
	mappingsOf     *index[named, emissary.UnitKey, *emissary.Mapping]
	groupsHost     *index[named, named, *emissary.Group] // by host pattern
	groupsRegex    *index[ledger.ClusterName, named, *emissary.Group]
	groupsAll      *index[ledger.ClusterName, named, *emissary.Group]
	groupsLabel    *index[label, named, *emissary.Group]
	patternsGlob   *index[ledger.ClusterName, named, struct{}]
	patternsSuffix *index[named, named, struct{}]
	patternsAll    *index[ledger.ClusterName, named, struct{}]
	tlsAttachments *index[chainKey, attachKey, emissary.Attachment]
	hostAttached   *index[hostKey, attachKey, emissary.Attachment]
	chainsOfBound  *index[emissary.Bound, chainKey, chainRow]
	vhostsOfTable  *index[string, hostKey, vhostRow]
	upstreamUses   *index[string, useKey, upstreamUse]
	endpointUses   *index[string, useKey, ir.EndpointSet]
	secretUses     *index[string, useKey, secretUse]
}

func compareNamed(a, b named) int {
	return cmp.Or(cmp.Compare(a.cluster, b.cluster), strings.Compare(a.name, b.name))
}

func byUnit[V any](a, b entry[emissary.UnitKey, V]) int { return a.key.Compare(b.key) }
func byNamed[V any](a, b entry[named, V]) int           { return compareNamed(a.key, b.key) }
func byUse[V any](a, b entry[useKey, V]) int            { return strings.Compare(a.key.user, b.key.user) }

func byAttachment(a, b entry[attachKey, emissary.Attachment]) int {
	return cmp.Or(strings.Compare(a.key.host.hostname, b.key.host.hostname), a.key.unit.Compare(b.key.unit))
}

func byRoute(a, b entry[named, *emissary.Group]) int {
	return cmp.Or(a.value.Compare(b.value), compareNamed(a.key, b.key))
}

func clusterOf[V any](k emissary.UnitKey, _ V) ledger.ClusterName { return k.Object.Cluster }

func (c *Compiler) makeTables() {
	g, t := c.g, &c.t
	units := func(name string) *table[emissary.UnitKey, emissary.Unit] {
		return newTable[emissary.UnitKey](g, name, func(a, b emissary.Unit) bool {
			return a.Digest == b.Digest && a.FirstSeq == b.FirstSeq
		})
	}
	t.settings = newTable[struct{}](g, "settings", deep[projector.Settings])
	t.slots = newTable[ledger.ObjectKey](g, "slots", sameSlot)
	t.lastGood = newTable[ledger.ObjectKey](g, "last good", sameObject)
	t.findings = newTable[findingKey](g, "findings", deep[[]projector.Finding])
	t.states = newTable[stateKey](g, "states", deep[state])
	t.services = newTable[placed](g, "services", deep[*emissary.Service])
	t.secrets = newTable[placed](g, "secrets", deep[*emissary.Secret])
	t.ids = newTable[emissary.UnitKey](g, "ids", deep[emissary.UnitKey])
	t.presence = newTable[emissary.UnitKey](g, "presence", deep[struct{}])
	t.modules, t.resolvers, t.tlsUnits = units("modules"), units("resolvers"), units("tls contexts")
	t.hostUnits, t.lstUnits, t.mapUnits, t.authUnits, t.rateUnits = units("hosts"), units("listeners"), units("mappings"), units("auth services"), units("rate limit services")
	t.mappingDefaults = newTable[ledger.ClusterName](g, "mapping defaults", deep[*emissary.MappingDefaults])
	t.module = newTable[ledger.ClusterName](g, "module", deep[*emissary.Module])
	t.remoteAddress = newTable[ledger.ClusterName](g, "remote address", deep[bool])
	t.contexts = newTable[emissary.UnitKey](g, "contexts", deep[*emissary.Context])
	t.listeners = newTable[emissary.UnitKey](g, "read listeners", deep[*emissary.Listener])
	t.bounds = newTable[emissary.Bound](g, "bound addresses", deep[boundRow])
	t.hosts = newTable[emissary.UnitKey](g, "read hosts", deep[*emissary.Host])
	t.selectors = newTable[ledger.ClusterName](g, "selectors", deep[[]map[string]string])
	t.mappings = newTable[emissary.UnitKey](g, "read mappings", deep[*emissary.Mapping])
	t.groups = newTable[named](g, "groups", deep[*emissary.Group])
	t.patterns = newTable[named](g, "patterns", deep[struct{}])
	t.auth = newTable[ledger.ClusterName](g, "auth", deep[authRow])
	t.rateLimits = newTable[ledger.ClusterName](g, "rate limits", deep[limitRow])
	t.attachments = newTable[attachKey](g, "attachments", deep[emissary.Attachment])
	t.chains = newTable[chainKey](g, "chains", deep[chainRow])
	t.vhosts = newTable[hostKey](g, "virtual hosts", func(a, b vhostRow) bool {
		return string(a.bytes) == string(b.bytes) && a.name == b.name && slices.Equal(a.hosts, b.hosts) && slices.Equal(a.groups, b.groups)
	})
	t.upstreamUses = newTable[useKey](g, "upstream uses", deep[upstreamUse])
	t.endpointUses = newTable[useKey](g, "endpoint uses", deep[ir.EndpointSet])
	t.secretUses = newTable[useKey](g, "secret uses", deep[secretUse])
	t.resources = newTable[resourceKey](g, "resources", func(a, b projector.Resource) bool { return a.Version == b.Version })

	c.makeIndexes()
	t.resources.watches = append(t.resources.watches, func(k resourceKey, _, _ *row[resourceKey, projector.Resource]) {
		c.changed[k] = struct{}{}
	})
	t.vhosts.watches = append(t.vhosts.watches, func(_ hostKey, old, now *row[hostKey, vhostRow]) {
		if old != nil {
			c.routes -= old.value.routes
		}
		if now != nil {
			c.routes += now.value.routes
		}
	})
	t.groups.watches = append(t.groups.watches, func(k named, _, now *row[named, *emissary.Group]) {
		if now == nil {
			delete(c.pieces, k)
		}
	})
	t.findings.watches = append(t.findings.watches, func(k findingKey, _, _ *row[findingKey, []projector.Finding]) {
		c.reports[k.object] = struct{}{}
	})
	t.slots.watches = append(t.slots.watches, func(k ledger.ObjectKey, _, _ *row[ledger.ObjectKey, slot]) {
		c.reports[k] = struct{}{}
	})
	t.states.watches = append(t.states.watches, func(k stateKey, _, now *row[stateKey, state]) {
		c.reports[k.object] = struct{}{}
		if now != nil && now.value.State == projector.Rejected && !now.value.Serving.IsZero() {
			c.kept[k] = keptVersion{k.object, now.value.Serving}
		} else {
			delete(c.kept, k)
		}
	})
}

func (c *Compiler) makeIndexes() {
	t, x := &c.t, &c.x
	x.findingsOf = newIndex(t.findings, one(func(k findingKey, _ []projector.Finding) ledger.ObjectKey { return k.object }),
		func(a, b entry[findingKey, []projector.Finding]) int {
			return cmp.Or(strings.Compare(a.key.rule, b.key.rule), strings.Compare(a.key.about, b.key.about), cmp.Compare(a.key.node, b.key.node))
		})
	x.statesOf = newIndex(t.states, one(func(k stateKey, _ state) ledger.ObjectKey { return k.object }),
		func(a, b entry[stateKey, state]) int {
			return cmp.Or(strings.Compare(a.key.rule, b.key.rule), strings.Compare(a.key.about, b.key.about), cmp.Compare(a.key.node, b.key.node))
		})
	x.idsOf = newIndex(t.ids, one(func(k, _ emissary.UnitKey) identity {
		return identity{k.Object.Cluster, k.Kind, k.Namespace, k.Name}
	}), byUnit)
	x.presence = newIndex(t.presence, one(clusterOf[struct{}]), byUnit)
	x.modules = newIndex(t.modules, one(clusterOf[emissary.Unit]), byUnit)
	x.resolversNamed = newIndex(t.resolvers, one(func(k emissary.UnitKey, _ emissary.Unit) named { return named{k.Object.Cluster, k.Name} }), byUnit)
	x.contextsNamed = newIndex(t.contexts, one(func(k emissary.UnitKey, _ *emissary.Context) named { return named{k.Object.Cluster, k.Name} }), byUnit)
	x.auths = newIndex(t.authUnits, one(clusterOf[emissary.Unit]), byUnit)
	x.limiters = newIndex(t.rateUnits, one(clusterOf[emissary.Unit]), byUnit)
	x.listenersOf = newIndex(t.listeners, one(clusterOf[*emissary.Listener]), byUnit)
	x.listenersAt = newIndex(t.listeners, one(func(_ emissary.UnitKey, l *emissary.Listener) emissary.Bound { return l.Bound }), byUnit)

	x.selectorHosts = newIndex(t.hosts, func(k emissary.UnitKey, h *emissary.Host) []ledger.ClusterName {
		if h.Selector == nil {
			return nil
		}
		return []ledger.ClusterName{k.Object.Cluster}
	}, func(a, b entry[emissary.UnitKey, *emissary.Host]) int {
		return cmp.Or(strings.Compare(a.value.Hostname, b.value.Hostname), a.key.Compare(b.key))
	})
	x.hostsNamed = newIndex(t.hosts, one(func(k emissary.UnitKey, h *emissary.Host) named { return named{k.Object.Cluster, h.Hostname} }), byUnit)
	x.hostsGlob = newIndex(t.hosts, func(k emissary.UnitKey, h *emissary.Host) []ledger.ClusterName {
		if !emissary.IsGlob(h.Hostname) {
			return nil
		}
		return []ledger.ClusterName{k.Object.Cluster}
	}, byUnit)
	x.hostsAll = newIndex(t.hosts, one(clusterOf[*emissary.Host]), byUnit)
	x.hostsLabel = newIndex(t.hosts, func(k emissary.UnitKey, h *emissary.Host) []label {
		if h.Selector == nil {
			return nil
		}
		return []label{firstLabel(k.Object.Cluster, h.Selector)}
	}, byUnit)

	x.mappingsOf = newIndex(t.mappings, one(func(k emissary.UnitKey, m *emissary.Mapping) named { return named{k.Object.Cluster, m.GroupID} }), byUnit)
	x.groupsHost = newIndex(t.groups, func(_ named, g *emissary.Group) []named {
		if g.HostRegex || g.Host == "" {
			return nil
		}
		return []named{{g.Cluster, g.Host}}
	}, byRoute)
	x.groupsRegex = newIndex(t.groups, func(_ named, g *emissary.Group) []ledger.ClusterName {
		if !g.HostRegex {
			return nil
		}
		return []ledger.ClusterName{g.Cluster}
	}, byRoute)
	x.groupsAll = newIndex(t.groups, one(func(_ named, g *emissary.Group) ledger.ClusterName { return g.Cluster }), byRoute)
	x.groupsLabel = newIndex(t.groups, func(_ named, g *emissary.Group) []label {
		out := make([]label, 0, len(g.Labels))
		for k, v := range g.Labels {
			out = append(out, label{g.Cluster, k, v})
		}
		return out
	}, byRoute)
	x.patternsGlob = newIndex(t.patterns, func(k named, _ struct{}) []ledger.ClusterName {
		if !emissary.IsGlob(k.name) {
			return nil
		}
		return []ledger.ClusterName{k.cluster}
	}, byNamed)
	x.patternsSuffix = newIndex(t.patterns, func(k named, _ struct{}) []named {
		if emissary.IsGlob(k.name) {
			return nil
		}
		var out []named
		for i := 1; i < len(k.name); i++ {
			if k.name[i] == '.' {
				out = append(out, named{k.cluster, k.name[i:]})
			}
		}
		return out
	}, byNamed)
	x.patternsAll = newIndex(t.patterns, one(func(k named, _ struct{}) ledger.ClusterName { return k.cluster }), byNamed)

	x.tlsAttachments = newIndex(t.attachments, func(k attachKey, _ emissary.Attachment) []chainKey {
		if !k.host.chain.tls {
			return nil
		}
		return []chainKey{k.host.chain}
	}, byAttachment)
	x.hostAttached = newIndex(t.attachments, one(func(k attachKey, _ emissary.Attachment) hostKey { return k.host }), byAttachment)
	x.chainsOfBound = newIndex(t.chains, one(func(k chainKey, _ chainRow) emissary.Bound { return k.bound }),
		func(a, b entry[chainKey, chainRow]) int { return strings.Compare(a.key.sni, b.key.sni) })
	x.vhostsOfTable = newIndex(t.vhosts, one(func(k hostKey, _ vhostRow) string { return k.chain.table() }),
		func(a, b entry[hostKey, vhostRow]) int {
			return cmp.Or(strings.Compare(a.value.name, b.value.name), strings.Compare(a.key.hostname, b.key.hostname))
		})
	x.upstreamUses = newIndex(t.upstreamUses, one(func(k useKey, _ upstreamUse) string { return k.name }), byUse)
	x.endpointUses = newIndex(t.endpointUses, one(func(k useKey, _ ir.EndpointSet) string { return k.name }), byUse)
	x.secretUses = newIndex(t.secretUses, one(func(k useKey, _ secretUse) string { return k.name }), byUse)
}

// firstLabel picks the label of a selector by which it is found.
func firstLabel(cluster ledger.ClusterName, selector map[string]string) label {
	first := label{cluster: cluster}
	for k, v := range selector {
		if first.key == "" || k < first.key {
			first.key, first.value = k, v
		}
	}
	return first
}

// makeRules lists the rules in order: each reads what those before it write.
func (c *Compiler) makeRules() {
	t, x := &c.t, &c.x
	onObject := func(r *rule, object func(key any) ledger.ObjectKey, about func(key any) string) {
		r.onPanic = func(key, recovered any) {
			o := object(key)
			c.report(o, r.name, about(key), []projector.Finding{contained(recovered)})
			c.setState(o, r.name, about(key), state{State: projector.Rejected})
		}
	}
	unitObject := func(key any) ledger.ObjectKey { return key.(emissary.UnitKey).Object }
	unitAbout := func(key any) string { return key.(emissary.UnitKey).String() }

	onObject(each(t.slots, "decode", c.decode), func(key any) ledger.ObjectKey { return key.(ledger.ObjectKey) }, func(any) string { return "" })
	eachBucket(x.modules, "module", c.readModule)
	onObject(each(t.tlsUnits, "context", c.readContext), unitObject, unitAbout)
	onObject(each(t.lstUnits, "listener", c.readListener), unitObject, unitAbout)
	eachBucket(x.listenersAt, "bound address", c.bind)
	onObject(each(t.hostUnits, "host", c.readHost), unitObject, unitAbout)
	eachBucket(x.listenersOf, "implied host", c.implyHost)
	eachBucket(x.selectorHosts, "selectors", c.listSelectors)
	eachBucket(x.limiters, "rate limit", c.readRateLimit)
	onObject(each(t.mapUnits, "mapping", c.readMapping), unitObject, unitAbout)
	c.onGroup(eachBucket(x.mappingsOf, "group", c.buildGroup))
	eachBucket(x.groupsHost, "pattern", func(k named) { t.patterns.put(k, struct{}{}) })
	each(t.groups, "placement", c.place)
	eachBucket(x.auths, "auth", c.readAuth)
	onObject(each(t.hosts, "attach", c.attach), unitObject, unitAbout)
	eachBucket(x.tlsAttachments, "chain", c.chooseChain)
	c.onHost(eachBucket(x.hostAttached, "virtual host", c.writeHost))
	eachBucket(x.vhostsOfTable, "route table", c.writeTable)
	each(t.bounds, "bound listener", c.writeListener)
	eachBucket(x.upstreamUses, "upstream", c.writeUpstream)
	eachBucket(x.endpointUses, "endpoints", c.writeEndpoints)
	eachBucket(x.secretUses, "secret", c.writeSecret)
}

func (c *Compiler) onGroup(r *rule) {
	r.onPanic = func(key, recovered any) {
		for _, e := range c.x.mappingsOf.bucket(key.(named)) {
			c.report(e.key.Object, r.name, e.key.String(), []projector.Finding{contained(recovered)})
			c.setState(e.key.Object, r.name, e.key.String(), state{State: projector.Rejected})
		}
	}
}

func (c *Compiler) onHost(r *rule) {
	r.onPanic = func(key, recovered any) {
		for _, e := range c.x.hostAttached.bucket(key.(hostKey)) {
			about := e.key.unit.String() + " " + e.key.host.chain.table()
			c.report(e.key.unit.Object, r.name, about, []projector.Finding{contained(recovered)})
			c.setState(e.key.unit.Object, r.name, about, state{State: projector.Rejected})
		}
	}
}

func (c *Compiler) report(o ledger.ObjectKey, rule, about string, f []projector.Finding) {
	if len(f) > 0 {
		c.t.findings.put(findingKey{o, rule, about, c.g.current.id}, f)
	}
}

func (c *Compiler) setState(o ledger.ObjectKey, rule, about string, s state) {
	c.t.states.put(stateKey{o, rule, about, c.g.current.id}, s)
}

// decode reads the version of an object that counts: a held one, the source,
// or the last good one where the source cannot be used.
func (c *Compiler) decode(k ledger.ObjectKey, s slot) {
	settings := world{c, k.Cluster}.Settings()
	o := s.source
	st := state{State: projector.Accepted}
	var notes []projector.Finding
	if s.isHeld {
		o = s.held
		st.State = projector.Held
		message := "a hold serves the object as if it were deleted"
		if o != nil {
			st.Serving = o.Digest
			message = "a hold serves version " + o.Digest.Short()
		}
		notes = append(notes, projector.Finding{Code: projector.CodeHeld, Severity: projector.Info, Message: message + "; chancery hold release ends it"})
	}
	if o == nil {
		if s.isHeld {
			c.setState(k, "decode", "", st)
			c.report(k, "decode", "", notes)
		}
		return
	}
	d := c.decodeVersion(o, settings.AmbassadorID)
	if s.refused.Digest == o.Digest {
		// What it configures is refused; what is known of a Service or a Secret
		// is still so.
		d.Bad, d.Units = true, nil
		d.Findings = []projector.Finding{{Code: projector.CodeRefused, Severity: projector.Error, Message: "Envoy refused this version: " + s.refused.Message}}
	}
	if d.Bad {
		st = state{State: projector.Rejected}
		if good, ok := c.t.lastGood.get(k); ok && good.Digest != o.Digest {
			if old := c.decodeVersion(good, settings.AmbassadorID); !old.Bad {
				st.Serving = good.Digest
				notes = append(notes, servedInstead(good))
				d = withLastGood(d, old)
			}
		}
	}
	if good, ok := c.t.lastGood.get(k); ok && d.Secret != nil && good.Digest != o.Digest {
		if old := c.decodeVersion(good, settings.AmbassadorID).Secret; old != nil && d.Secret.Worse(old) {
			st = state{State: projector.Rejected, Serving: good.Digest}
			d.Findings = append(d.Findings, projector.Finding{
				Code: projector.CodeBadSecret, Severity: projector.Error, Message: "has no certificate with its key any more, or a damaged one",
			})
			notes = append(notes, servedInstead(good))
			d.Secret = old
		}
	}
	if k.Kind == "Host" && len(d.Units) == 0 && k.Group != "" {
		c.t.presence.put(emissary.UnitKey{Object: k, Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}, struct{}{})
	}
	if d.Service != nil {
		c.t.services.put(placed{k.Cluster, k.Namespace, k.Name}, d.Service)
	}
	if d.Secret != nil {
		c.t.secrets.put(placed{k.Cluster, k.Namespace, k.Name}, d.Secret)
	}
	ours := len(d.Units) == 0
	for _, u := range d.Units {
		if u.Ours {
			ours = true
			c.putUnit(u)
		}
	}
	if !ours && st.State == projector.Accepted {
		st.State = projector.Ignored
		d.Findings = nil
	}
	c.setState(k, "decode", "", st)
	c.report(k, "decode", "", append(d.Findings, notes...))
}

// decodeVersion decodes one version of an object; a panic is a fault of that
// version.
func (c *Compiler) decodeVersion(o *projector.Object, ambassadorID string) (d emissary.Decoded) {
	if f := attempt(func() {
		if c.fault != nil {
			c.fault(o)
		}
		d = emissary.Decode(o, ambassadorID)
	}); f != nil {
		return emissary.Decoded{Bad: true, Findings: []projector.Finding{*f}}
	}
	return d
}

// attempt runs what reads one version of an object. If it panics, the version
// is at fault, and the finding says so.
func attempt(f func()) (fault *projector.Finding) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(broken); ok {
				panic(p)
			}
			found := contained(p)
			fault = &found
		}
	}()
	f()
	return nil
}

func servedInstead(good *projector.Object) projector.Finding {
	return projector.Finding{Code: projector.CodeLastGood, Severity: projector.Info, Message: "version " + good.Digest.Short() + ", the last good one, is served in its place"}
}

// withLastGood adds to a bad version what an older one has beyond it.
func withLastGood(d, old emissary.Decoded) emissary.Decoded {
	for _, u := range old.Units {
		if !slices.ContainsFunc(d.Units, func(v emissary.Unit) bool { return v.Key == u.Key }) {
			d.Units = append(d.Units, u)
		}
	}
	if d.Service == nil {
		d.Service = old.Service
	}
	if d.Secret == nil {
		d.Secret = old.Secret
	}
	return d
}

func (c *Compiler) putUnit(u emissary.Unit) {
	t := &c.t
	t.ids.put(u.Key, u.Key)
	switch u.Key.Kind {
	case "Module":
		t.modules.put(u.Key, u)
	case "KubernetesServiceResolver", "KubernetesEndpointResolver", "ConsulResolver":
		t.resolvers.put(u.Key, u)
		if u.Key.Kind == "ConsulResolver" {
			c.notServed(u, "Mappings that name it are not served")
		}
	case "TLSContext":
		t.tlsUnits.put(u.Key, u)
	case "Host":
		t.presence.put(u.Key, struct{}{})
		t.hostUnits.put(u.Key, u)
	case "Listener":
		t.lstUnits.put(u.Key, u)
	case "Mapping":
		t.mapUnits.put(u.Key, u)
	case "RateLimitService":
		t.rateUnits.put(u.Key, u)
	case "AuthService":
		t.authUnits.put(u.Key, u)
	default:
		c.notServed(u, "it has no effect")
	}
}

func (c *Compiler) notServed(u emissary.Unit, effect string) {
	c.report(u.Key.Object, "kinds", u.Key.String(), []projector.Finding{{
		Code: projector.CodeNotServed, Severity: projector.Warning,
		Message: u.Key.Kind + " is not served by this version: " + effect,
	}})
}

// read reads a unit, and its last good version where that is needed.
func read[T any](c *Compiler, rule string, u emissary.Unit, f func(w world, u emissary.Unit) (T, []projector.Finding, bool)) (T, bool) {
	w := world{c, u.Key.Object.Cluster}
	about := u.Key.String()
	same := c.x.idsOf.bucket(identity{u.Key.Object.Cluster, u.Key.Kind, u.Key.Namespace, u.Key.Name})
	if last := same[len(same)-1].key; last != u.Key {
		other := last.Object
		c.report(u.Key.Object, rule, about, []projector.Finding{{
			Code: projector.CodeDuplicate, Severity: projector.Error, Other: &other,
			Message: fmt.Sprintf("%s is also defined by %s, which counts: remove or rename one of the two", about, other),
		}})
		c.setState(u.Key.Object, rule, about, state{State: projector.Rejected})
		var zero T
		return zero, false
	}
	safely := func(u emissary.Unit) (v T, found []projector.Finding, ok bool) {
		if fault := attempt(func() { v, found, ok = f(w, u) }); fault != nil {
			return v, []projector.Finding{*fault}, false
		}
		return v, found, ok
	}
	v, found, ok := safely(u)
	if ok {
		c.report(u.Key.Object, rule, about, found)
		return v, true
	}
	st := state{State: projector.Rejected}
	if good, has := c.t.lastGood.get(u.Key.Object); has && good.Digest != u.Digest {
		old := c.decodeVersion(good, w.Settings().AmbassadorID)
		for _, o := range old.Units {
			if o.Key != u.Key || !o.Ours {
				continue
			}
			if oldV, _, oldOK := safely(o); oldOK {
				v, ok = oldV, true
				st.Serving = good.Digest
				found = append(found, servedInstead(good))
			}
		}
	}
	c.report(u.Key.Object, rule, about, found)
	c.setState(u.Key.Object, rule, about, st)
	return v, ok
}

func (c *Compiler) writeUpstream(name string) {
	uses := c.x.upstreamUses.bucket(name)
	n := uses[0].value.needed
	r, err := envoy.Upstream(n.Upstream)
	if err != nil {
		c.unwritable(uses[0].value.by, "upstream", name, err)
		return
	}
	c.t.resources.put(resourceKey{projector.Upstreams, name}, r)
	if n.Endpoints != nil {
		c.t.endpointUses.put(useKey{n.Endpoints.Name, name}, *n.Endpoints)
	}
	for _, s := range n.Secrets {
		c.t.secretUses.put(useKey{s.Name, name}, secretUse{ref: s})
	}
}

func (c *Compiler) writeEndpoints(name string) {
	set := c.x.endpointUses.bucket(name)[0]
	r, err := envoy.EndpointNeed(set.value)
	if err != nil {
		panic(broken(err.Error()))
	}
	c.t.resources.put(resourceKey{projector.EndpointNeeds, name}, r)
}

func (c *Compiler) writeSecret(name string) {
	uses := c.x.secretUses.bucket(name)
	ref := uses[0].value.ref
	var hosts []string
	for _, u := range uses {
		hosts = append(hosts, u.value.ref.Hosts...)
	}
	slices.Sort(hosts)
	ref.Hosts = slices.Compact(hosts)
	r, err := envoy.SecretNeed(ref)
	if err != nil {
		panic(broken(err.Error()))
	}
	c.t.resources.put(resourceKey{projector.SecretNeeds, name}, r)
}

// unwritable reports what the Envoy writer refuses, on the units behind it.
func (c *Compiler) unwritable(units []emissary.UnitKey, rule, about string, err error) {
	done := map[ledger.ObjectKey]bool{}
	for _, u := range units {
		if done[u.Object] {
			continue
		}
		done[u.Object] = true
		c.report(u.Object, rule, about, []projector.Finding{{
			Code: projector.CodeInvalid, Severity: projector.Error,
			Message: "it cannot be written for Envoy: " + err.Error(),
		}})
		c.setState(u.Object, rule, about, state{State: projector.Rejected})
	}
}
