package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// KeepDeleted is how long a certificate is served on after its Secret was
// deleted.
const KeepDeleted = 24 * time.Hour

// Needs are what snapshots ask of the live plane.
type Needs struct {
	Endpoints []ir.EndpointSet
	Secrets   []ir.SecretRef
}

// Answers are what the live plane has for the needs. A need without an entry
// has no answer, which is not the same as an empty one. The maps are not
// changed afterwards and must not be by others.
type Answers struct {
	Endpoints map[string]Endpoints
	Secrets   map[string]Secret
	Problems  []Problem // sorted
	// Revision grows when anything above changed.
	Revision uint64
}

// Plane is the fold of what clusters hold and snapshots need. The zero value
// is not usable; see NewPlane. It is not safe for concurrent use.
type Plane struct {
	clusters  map[ledger.ClusterName]*cluster
	endpoints map[string]ir.EndpointSet
	secrets   map[string]ir.SecretRef

	// Which needs concern an object; for Secrets including revocation lists.
	byService map[place]map[string]bool
	bySecret  map[place]map[string]bool

	// Needs to answer again.
	dirtyEndpoints, dirtySecrets map[string]bool
	changed                      bool // the problems may be others

	held            map[string]*held // by SecretRef
	needProblems    map[string][]Problem
	answers         Answers
	endpointsShared bool // answers.Endpoints was given away
	secretsShared   bool // answers.Secrets was given away
}

// place is a namespaced name in a cluster.
type place struct {
	cluster         ledger.ClusterName
	namespace, name string
}

// cluster is what is known of one cluster.
type cluster struct {
	trouble string // why it is not read now, "" when it is
	view    uint64 // counts the views
	objects map[ref]*entry
	// Services to the objects that list their addresses.
	slices   map[place]map[ref]*entry
	problems map[ref]Problem
}

// entry is one object, with what was last read of it.
type entry struct {
	object Object
	slices []slice           // of an EndpointSlice or Endpoints
	data   map[string][]byte // of a Secret
	broken bool              // it could never be read
	at     []place           // the Services that the slices are for
	view   uint64            // the newest view that it was in
}

// held is what is served for a SecretRef, and since when its Secret is gone.
type held struct {
	answer  Secret
	deleted time.Time
	// next is when the answer or its problems change by themselves, zero for
	// never.
	next time.Time
}

// NewPlane returns a plane that knows no cluster and has no need to answer.
func NewPlane() *Plane {
	return &Plane{
		clusters:       map[ledger.ClusterName]*cluster{},
		endpoints:      map[string]ir.EndpointSet{},
		secrets:        map[string]ir.SecretRef{},
		byService:      map[place]map[string]bool{},
		bySecret:       map[place]map[string]bool{},
		dirtyEndpoints: map[string]bool{},
		dirtySecrets:   map[string]bool{},
		held:           map[string]*held{},
		needProblems:   map[string][]Problem{},
		answers:        Answers{Endpoints: map[string]Endpoints{}, Secrets: map[string]Secret{}},
	}
}

// Restore gives the plane the answers of an earlier life, to be kept for as
// long as nothing better is known. It comes before any need.
func (p *Plane) Restore(endpoints []ir.Endpoints, secrets []ir.Secret) {
	for _, e := range endpoints {
		p.answers.Endpoints[e.Name] = NewEndpoints(e)
	}
	for _, s := range secrets {
		var a Secret
		var err error
		if len(s.CA) > 0 {
			a, err = readCA(s.Name, map[string][]byte{"ca.crt": s.CA})
			if err == nil && len(s.CRL) > 0 {
				err = a.addCRL(map[string][]byte{crlKey: s.CRL})
			}
		} else {
			a, err = readCertificate(s.Name, map[string][]byte{"tls.crt": s.Chain, "tls.key": s.Key})
		}
		if err == nil { // a damaged one is as good as none
			p.held[s.Name] = &held{answer: a}
			p.answers.Secrets[s.Name] = a
		}
	}
}

// SetNeeds replaces the needs.
func (p *Plane) SetNeeds(n Needs) {
	endpoints, secrets := map[string]bool{}, map[string]bool{}
	for _, e := range n.Endpoints {
		endpoints[e.Name] = true
		p.needEndpoints(e)
	}
	for _, s := range n.Secrets {
		secrets[s.Name] = true
		p.needSecret(s)
	}
	for name := range p.endpoints {
		if !endpoints[name] {
			p.forgetEndpoints(name)
		}
	}
	for name := range p.secrets {
		if !secrets[name] {
			p.forgetSecret(name)
		}
	}
	// What was restored and is not needed after all.
	for name := range p.answers.Endpoints {
		if !endpoints[name] {
			p.forgetEndpoints(name)
		}
	}
	for name := range p.answers.Secrets {
		if !secrets[name] {
			p.forgetSecret(name)
		}
	}
}

// UpdateNeeds changes the needs as a snapshot changed (projector.Diff); other
// updates are ignored. The error names the needs that do not decode; the
// others are in effect.
func (p *Plane) UpdateNeeds(updates []projector.Update) error {
	var errs []error
	for _, u := range updates {
		switch {
		case u.Type == projector.EndpointNeeds && u.Resource == nil:
			p.forgetEndpoints(u.Name)
		case u.Type == projector.EndpointNeeds:
			var e ir.EndpointSet
			if err := decodeNeed(u, &e); err != nil {
				errs = append(errs, err)
				continue
			}
			p.needEndpoints(e)
		case u.Type == projector.SecretNeeds && u.Resource == nil:
			p.forgetSecret(u.Name)
		case u.Type == projector.SecretNeeds:
			var s ir.SecretRef
			if err := decodeNeed(u, &s); err != nil {
				errs = append(errs, err)
				continue
			}
			p.needSecret(s)
		}
	}
	return errors.Join(errs...)
}

// NeedsOf returns the needs of a snapshot.
func NeedsOf(s *projector.Snapshot) (Needs, error) {
	var n Needs
	for r := range s.All(projector.EndpointNeeds) {
		var e ir.EndpointSet
		if err := decodeNeed(projector.Update{Type: projector.EndpointNeeds, Name: r.Name, Resource: &r}, &e); err != nil {
			return Needs{}, err
		}
		n.Endpoints = append(n.Endpoints, e)
	}
	for r := range s.All(projector.SecretNeeds) {
		var ref ir.SecretRef
		if err := decodeNeed(projector.Update{Type: projector.SecretNeeds, Name: r.Name, Resource: &r}, &ref); err != nil {
			return Needs{}, err
		}
		n.Secrets = append(n.Secrets, ref)
	}
	return n, nil
}

func decodeNeed(u projector.Update, into any) error {
	if err := json.Unmarshal(u.Resource.Bytes, into); err != nil {
		return fmt.Errorf("need of %s %q: %w", u.Type, u.Name, err)
	}
	return nil
}

func (p *Plane) needEndpoints(e ir.EndpointSet) {
	old, ok := p.endpoints[e.Name]
	if ok && old == e {
		return
	}
	if ok {
		unlink(p.byService, servicePlace(old), e.Name)
	}
	p.endpoints[e.Name] = e
	link(p.byService, servicePlace(e), e.Name)
	p.dirtyEndpoints[e.Name] = true
}

func (p *Plane) forgetEndpoints(name string) {
	if e, ok := p.endpoints[name]; ok {
		unlink(p.byService, servicePlace(e), name)
	}
	delete(p.endpoints, name)
	delete(p.dirtyEndpoints, name)
	delete(p.needProblems, endpointsProblem+name)
	p.setEndpoints(name, nil)
	p.changed = true
}

func (p *Plane) needSecret(s ir.SecretRef) {
	old, ok := p.secrets[s.Name]
	if ok && sameRef(old, s) {
		return
	}
	if ok {
		for _, at := range secretPlaces(old) {
			unlink(p.bySecret, at, s.Name)
		}
	}
	p.secrets[s.Name] = s
	for _, at := range secretPlaces(s) {
		link(p.bySecret, at, s.Name)
	}
	p.dirtySecrets[s.Name] = true
}

func sameRef(a, b ir.SecretRef) bool {
	if !slices.Equal(a.Hosts, b.Hosts) {
		return false
	}
	return a.Name == b.Name && a.Cluster == b.Cluster && a.Namespace == b.Namespace && a.Secret == b.Secret &&
		a.Use == b.Use && a.CRL == b.CRL && a.CRLNamespace == b.CRLNamespace
}

func (p *Plane) forgetSecret(name string) {
	if s, ok := p.secrets[name]; ok {
		for _, at := range secretPlaces(s) {
			unlink(p.bySecret, at, name)
		}
	}
	delete(p.secrets, name)
	delete(p.dirtySecrets, name)
	delete(p.held, name)
	delete(p.needProblems, secretProblem+name)
	p.setSecret(name, nil)
	p.changed = true
}

func servicePlace(e ir.EndpointSet) place {
	return place{ledger.ClusterName(e.Cluster), e.Namespace, e.Service}
}

func secretPlaces(s ir.SecretRef) []place {
	out := []place{{ledger.ClusterName(s.Cluster), s.Namespace, s.Secret}}
	if s.CRL != "" {
		out = append(out, crlPlace(s))
	}
	return out
}

func crlPlace(s ir.SecretRef) place {
	at := place{ledger.ClusterName(s.Cluster), s.CRLNamespace, s.CRL}
	if at.namespace == "" {
		at.namespace = s.Namespace
	}
	return at
}

func link[K comparable](index map[K]map[string]bool, at K, name string) {
	if index[at] == nil {
		index[at] = map[string]bool{}
	}
	index[at][name] = true
}

func unlink[K comparable](index map[K]map[string]bool, at K, name string) {
	delete(index[at], name)
	if len(index[at]) == 0 {
		delete(index, at)
	}
}

// SetObjects gives the plane a full view of a cluster's Services,
// EndpointSlices, Endpoints and Secrets. Where stale is set the view is not to
// be trusted to be full: what it holds counts, what it lacks is kept. A view
// without any object, of a cluster that had some, is taken for stale: it is
// what a directory looks like while it is being replaced, and a cluster that is
// truly empty has nothing that routes lead to.
func (p *Plane) SetObjects(name ledger.ClusterName, objects []Object, stale bool) {
	c := p.clusters[name]
	if c == nil {
		if stale && len(objects) == 0 {
			return // as unknown as before
		}
		c = &cluster{objects: map[ref]*entry{}, slices: map[place]map[ref]*entry{}, problems: map[ref]Problem{}}
		p.clusters[name] = c
		p.touchAll(name)
	}
	c.view++
	before, seen := len(c.objects), 0
	for _, o := range objects {
		switch o.Kind {
		case kindService, kindSlice, kindEndpoints, kindSecret:
			if p.setObject(name, c, o) {
				seen++
			}
		}
	}
	trouble := ""
	switch {
	case stale:
		trouble = "it cannot be read completely now; what was last read of it is being served"
	case seen == 0 && before > 0:
		trouble = "it suddenly holds no object at all; what was last read of it is being served"
	case seen < len(c.objects):
		for r, e := range c.objects {
			if e.view != c.view {
				p.deleteObject(name, c, r)
			}
		}
	}
	if trouble != c.trouble {
		c.trouble, p.changed = trouble, true
		p.touchAll(name)
	}
}

// touchAll has every need of a cluster answered again.
func (p *Plane) touchAll(name ledger.ClusterName) {
	for n, e := range p.endpoints {
		if e.Cluster == string(name) {
			p.dirtyEndpoints[n] = true
		}
	}
	for n, s := range p.secrets {
		if s.Cluster == string(name) {
			p.dirtySecrets[n] = true
		}
	}
}

// setObject takes an object in and reports whether it is the first of its name
// in the view.
func (p *Plane) setObject(name ledger.ClusterName, c *cluster, o Object) bool {
	r := o.ref()
	old := c.objects[r]
	first := old == nil || old.view != c.view
	if old != nil && equal(old.object, o) {
		old.view = c.view
		return first
	}
	e := &entry{object: o, view: c.view}
	var err error
	switch o.Kind {
	case kindSlice:
		e.slices, err = readSlice(o.bytes())
	case kindEndpoints:
		e.slices, err = readEndpoints(o.bytes())
	case kindSecret:
		e.data, err = readSecret(o.bytes())
	}
	delete(c.problems, r)
	if err != nil {
		c.problems[r] = Problem{
			Object: o.key(name),
			Text:   fmt.Sprintf("it cannot be read: %v; its last version is being used", err),
			Remedy: "correct the object",
		}
		e.broken = old == nil || old.broken
		if old != nil {
			e.slices, e.data = old.slices, old.data
		}
	}
	skipped := 0
	for _, s := range e.slices {
		skipped += s.skipped
		if s.service != "" {
			e.at = append(e.at, place{name, o.Namespace, s.service})
		}
	}
	if skipped > 0 && err == nil {
		c.problems[r] = Problem{
			Object: o.key(name), Text: fmt.Sprintf("%d of its addresses are no IP addresses; they are left out", skipped),
			Remedy: "use addresses of type IPv4 or IPv6, or a Mapping to the DNS name",
		}
	}
	p.changed = true
	if old != nil {
		p.unfile(c, r, old)
		p.touch(name, r, old)
	}
	c.objects[r] = e
	for _, at := range e.at {
		if c.slices[at] == nil {
			c.slices[at] = map[ref]*entry{}
		}
		c.slices[at][r] = e
	}
	p.touch(name, r, e)
	return first
}

func (p *Plane) deleteObject(name ledger.ClusterName, c *cluster, r ref) {
	e := c.objects[r]
	p.unfile(c, r, e)
	delete(c.objects, r)
	delete(c.problems, r)
	p.changed = true
	p.touch(name, r, e)
}

// unfile takes an entry out of the index by Service.
func (p *Plane) unfile(c *cluster, r ref, e *entry) {
	for _, at := range e.at {
		delete(c.slices[at], r)
		if len(c.slices[at]) == 0 {
			delete(c.slices, at)
		}
		maps.Copy(p.dirtyEndpoints, p.byService[at])
	}
}

// touch has the needs that an object concerns answered again.
func (p *Plane) touch(name ledger.ClusterName, r ref, e *entry) {
	at := place{name, r.namespace, r.name}
	switch r.kind {
	case kindService:
		maps.Copy(p.dirtyEndpoints, p.byService[at])
	case kindSecret:
		maps.Copy(p.dirtySecrets, p.bySecret[at])
	default:
		for _, at := range e.at {
			maps.Copy(p.dirtyEndpoints, p.byService[at])
		}
		if e.broken { // whoever it is for; see unreadable
			for at, needs := range p.byService {
				if at.cluster == name && at.namespace == r.namespace {
					maps.Copy(p.dirtyEndpoints, needs)
				}
			}
		}
	}
}

const (
	endpointsProblem = "endpoints "
	secretProblem    = "secret "
)

// Answers returns the answers at the given time. It computes those that
// changed since, and those that time changed.
func (p *Plane) Answers(now time.Time) Answers {
	for name, h := range p.held {
		if _, needed := p.secrets[name]; needed && !h.next.IsZero() && !now.Before(h.next) {
			p.dirtySecrets[name] = true
		}
	}
	if len(p.dirtyEndpoints)+len(p.dirtySecrets) > 0 {
		p.changed = true
	}
	for name := range p.dirtyEndpoints {
		p.answerEndpoints(p.endpoints[name])
	}
	for name := range p.dirtySecrets {
		p.answerSecret(p.secrets[name], now)
	}
	clear(p.dirtyEndpoints)
	clear(p.dirtySecrets)
	if p.changed {
		if now := p.problems(); !slices.Equal(now, p.answers.Problems) {
			p.answers.Problems = now
			p.answers.Revision++
		}
		p.changed = false
	}
	p.endpointsShared, p.secretsShared = true, true
	return p.answers
}

// Next returns when Answers changes though nothing else did, zero for never.
func (p *Plane) Next() time.Time {
	var next time.Time
	for name, h := range p.held {
		if _, needed := p.secrets[name]; needed && !h.next.IsZero() && (next.IsZero() || h.next.Before(next)) {
			next = h.next
		}
	}
	return next
}

func (p *Plane) problems() []Problem {
	var out []Problem
	for name, c := range p.clusters {
		if c.trouble != "" {
			out = append(out, Problem{
				Object: ledger.ObjectKey{Cluster: name, Kind: "Cluster", Name: string(name)},
				Text:   c.trouble, Remedy: "see the site in chancery status, and its log",
			})
		}
		for _, pr := range c.problems {
			out = append(out, pr)
		}
	}
	for _, prs := range p.needProblems {
		out = append(out, prs...)
	}
	slices.SortFunc(out, Problem.compare)
	return out
}

// setEndpoints changes an answer, in a map of its own if the last one was
// given away. nil removes.
func (p *Plane) setEndpoints(name string, e *Endpoints) {
	if _, ok := p.answers.Endpoints[name]; e == nil && !ok {
		return
	}
	p.answers.Revision++
	if p.endpointsShared {
		p.answers.Endpoints, p.endpointsShared = maps.Clone(p.answers.Endpoints), false
	}
	if e == nil {
		delete(p.answers.Endpoints, name)
		return
	}
	p.answers.Endpoints[name] = *e
}

func (p *Plane) setSecret(name string, s *Secret) {
	if _, ok := p.answers.Secrets[name]; s == nil && !ok {
		return
	}
	p.answers.Revision++
	if p.secretsShared {
		p.answers.Secrets, p.secretsShared = maps.Clone(p.answers.Secrets), false
	}
	if s == nil {
		delete(p.answers.Secrets, name)
		return
	}
	p.answers.Secrets[name] = *s
}

func (p *Plane) answerEndpoints(need ir.EndpointSet) {
	at := servicePlace(need)
	service := ref{kindService, need.Namespace, need.Service}
	delete(p.needProblems, endpointsProblem+need.Name)
	problem := func(text, remedy string) {
		p.needProblems[endpointsProblem+need.Name] = []Problem{{
			Object: service.key(at.cluster), Need: need.Name, Text: text, Remedy: remedy,
		}}
	}
	c := p.clusters[at.cluster]
	if c == nil {
		problem("its cluster has not been read yet; its last known endpoints are kept, if there are any", "wait for the site, or see it in chancery status")
		return
	}
	from := c.slicesOf(at)
	out := addresses(from, need.PortName)
	old, had := p.answers.Endpoints[need.Name]
	switch ports := portNames(from); {
	case len(out) > 0:
	case c.trouble != "" || c.unreadable(at):
		if had {
			out = old.Addresses
		}
	case c.objects[service] == nil && len(from) == 0:
		problem("there is no such Service; it has no endpoints", "make the Service, or correct the name in what refers to it")
	case len(from) == 0:
		problem("it has neither EndpointSlice nor Endpoints; it has no endpoints", "see whether its selector matches any pod")
	case len(ports) > 0 && !slices.Contains(ports, need.PortName):
		problem(fmt.Sprintf("its EndpointSlices have no TCP port named %q, only %q; it has no endpoints", need.PortName, ports),
			"use the name of the Service's port there")
	}
	if len(out) == 0 && !had && (c.trouble != "" || c.unreadable(at)) {
		return // unknown, not empty
	}
	e := NewEndpoints(ir.Endpoints{Name: need.Name, Addresses: out})
	if !had || old.Version != e.Version {
		p.setEndpoints(need.Name, &e)
	}
}

// unreadable reports whether an object that seems to list addresses of the
// Service could never be read, so that an empty answer would be a guess. Who
// writes EndpointSlices names them "<service>-…".
func (c *cluster) unreadable(at place) bool {
	for r := range c.problems {
		if r.namespace != at.namespace || !c.objects[r].broken {
			continue
		}
		if r.kind == kindSlice && strings.HasPrefix(r.name, at.name) || r.kind == kindEndpoints && r.name == at.name {
			return true
		}
	}
	return false
}

// slicesOf returns what lists the addresses of a Service: its EndpointSlices,
// or, where there is none, its Endpoints.
func (c *cluster) slicesOf(at place) []slice {
	var fromSlices, fromEndpoints []slice
	for r, e := range c.slices[at] {
		for _, s := range e.slices {
			switch {
			case s.service != at.name:
			case r.kind == kindSlice:
				fromSlices = append(fromSlices, s)
			default:
				fromEndpoints = append(fromEndpoints, s)
			}
		}
	}
	if fromSlices != nil {
		return fromSlices
	}
	return fromEndpoints
}

// answerSecret decides what is served for a need: the candidate that the
// cluster holds, or what was served before.
func (p *Plane) answerSecret(need ir.SecretRef, now time.Time) {
	delete(p.needProblems, secretProblem+need.Name)
	at := secretPlaces(need)[0]
	about := ref{kindSecret, need.Namespace, need.Secret}
	problem := func(remedy, format string, args ...any) {
		p.needProblems[secretProblem+need.Name] = append(p.needProblems[secretProblem+need.Name], Problem{
			Object: about.key(at.cluster), Need: need.Name, Text: fmt.Sprintf(format, args...), Remedy: remedy,
		})
	}
	current := p.held[need.Name]
	kept := "nothing is served in its place"
	if current != nil {
		kept = fmt.Sprintf("the previous one is being served (valid until %s)", day(current.answer.NotAfter))
		current.next = time.Time{}
	}
	c := p.clusters[at.cluster]
	if c == nil {
		problem("wait for the site, or see it in chancery status", "its cluster has not been read yet; %s", kept)
		return
	}
	candidate, where, err := c.candidate(need)
	if errors.Is(err, errAbsent) && current != nil && c.trouble == "" {
		p.answerDeleted(need, current, where, now, problem)
		return
	}
	if current != nil {
		current.deleted = time.Time{}
	}
	switch {
	case errors.Is(err, errAbsent) && c.trouble != "":
		about = where
		problem("see the site in chancery status", "the Secret is not among what could be read of its cluster; %s", kept)
	case errors.Is(err, errAbsent):
		about = where
		problem("make the Secret, or correct the name in what refers to it", "there is no such Secret; %s", kept)
	case err != nil:
		about = where
		problem("correct the Secret's data", "%v; %s", err, kept)
	default:
		p.choose(need, current, candidate, now, problem)
		return
	}
	if current != nil {
		current.next = laterThan(now, current.answer.NotAfter)
	}
}

type problemFunc func(remedy, format string, args ...any)

// answerDeleted serves the previous content for KeepDeleted after the Secret
// was deleted.
func (p *Plane) answerDeleted(need ir.SecretRef, current *held, where ref, now time.Time, problem problemFunc) {
	if current.deleted.IsZero() {
		current.deleted = now
	}
	until := current.deleted.Add(KeepDeleted)
	which := strings.TrimSpace(where.namespace + "/" + where.name)
	if now.Before(until) {
		current.next = until
		problem("restore the Secret, or remove what refers to it", "Secret %s was deleted; what it held is served until %s", which, until.UTC().Format(time.RFC3339))
		return
	}
	problem("make the Secret, or remove what refers to it", "Secret %s was deleted more than %s ago; nothing is served in its place", which, KeepDeleted)
	delete(p.held, need.Name)
	p.setSecret(need.Name, nil)
}

// choose serves the candidate, unless it is worse than what is being served.
func (p *Plane) choose(need ir.SecretRef, current *held, candidate Secret, now time.Time, problem problemFunc) {
	const renew = "issue a certificate that is valid for longer"
	var missing string
	if need.Use == ir.UseCertificate {
		missing = uncovered(candidate.SANs, need.Hosts)
	}
	if current != nil && current.answer.Version != candidate.Version && need.Use == ir.UseCertificate {
		old := current.answer
		oldGood := now.Before(old.NotAfter) && uncovered(old.SANs, need.Hosts) == ""
		switch {
		case !oldGood:
		case missing != "":
			current.next = old.NotAfter
			problem("issue a certificate with that name", "the new certificate is not for %s, only for %s; the previous one is being served (valid until %s)",
				missing, strings.Join(candidate.SANs, ", "), day(old.NotAfter))
			return
		case now.Before(candidate.NotBefore):
			current.next = earlier(candidate.NotBefore, old.NotAfter)
			problem("nothing needs to be done, if the time is meant", "the new certificate is not valid before %s; the previous one is being served (valid until %s)",
				day(candidate.NotBefore), day(old.NotAfter))
			return
		case candidate.NotAfter.Before(old.NotAfter):
			current.next = old.NotAfter
			problem(renew, "the new certificate ends %s, before the previous one; that is being served until it ends, %s",
				day(candidate.NotAfter), day(old.NotAfter))
			return
		}
	}
	h := &held{answer: candidate, next: laterThan(now, candidate.NotBefore, candidate.NotAfter)}
	p.held[need.Name] = h
	if current == nil || current.answer.Version != candidate.Version {
		p.setSecret(need.Name, &candidate)
	}
	switch {
	case !now.Before(candidate.NotAfter):
		problem(renew, "the certificate ended %s; it is served, as there is no better one", day(candidate.NotAfter))
	case now.Before(candidate.NotBefore):
		problem("see whether the clocks are right", "the certificate is not valid before %s; it is served, as there is no better one", day(candidate.NotBefore))
	}
	if missing != "" {
		problem("issue a certificate with that name", "the certificate is not for %s, only for %s; it is served, as there is no better one",
			missing, strings.Join(candidate.SANs, ", "))
	}
}

var errAbsent = errors.New("there is no such Secret")

// candidate returns what the cluster's Secrets hold for a need. With an error
// it says which Secret is at fault.
func (c *cluster) candidate(need ir.SecretRef) (Secret, ref, error) {
	r := ref{kindSecret, need.Namespace, need.Secret}
	data, err := c.secretData(r)
	if err != nil {
		return Secret{}, r, err
	}
	if need.Use == ir.UseCertificate {
		s, err := readCertificate(need.Name, data)
		return s, r, err
	}
	s, err := readCA(need.Name, data)
	if err != nil || need.CRL == "" {
		return s, r, err
	}
	r = ref{kindSecret, crlPlace(need).namespace, need.CRL}
	if data, err = c.secretData(r); err == nil {
		err = s.addCRL(data)
	}
	return s, r, err
}

func (c *cluster) secretData(r ref) (map[string][]byte, error) {
	e := c.objects[r]
	switch {
	case e == nil:
		return nil, errAbsent
	case e.broken:
		return nil, errors.New("it cannot be read")
	}
	return e.data, nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// laterThan returns the first of the times that is after now, zero for none.
func laterThan(now time.Time, times ...time.Time) time.Time {
	var out time.Time
	for _, t := range times {
		if t.After(now) && (out.IsZero() || t.Before(out)) {
			out = t
		}
	}
	return out
}
