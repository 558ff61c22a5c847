package console

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
)

// objectsParams select objects; an empty field selects all.
type objectsParams struct {
	FleetParam
	Cluster   string `query:"cluster" maxLength:"63"`
	Kind      string `query:"kind" maxLength:"300" doc:"as in Kubernetes, with or without the group: Mapping, mappings, Mapping.getambassador.io"`
	Namespace string `query:"namespace" maxLength:"253"`
	Name      string `query:"name" maxLength:"253"`
	State     string `query:"state" enum:"accepted,rejected,held,ignored,unknown"`
}

func (p objectsParams) match(k ledger.ObjectKey) bool {
	return (p.Cluster == "" || p.Cluster == string(k.Cluster)) && (p.Kind == "" || kindMatches(p.Kind, k)) &&
		(p.Namespace == "" || p.Namespace == k.Namespace) && (p.Name == "" || p.Name == k.Name)
}

// kindMatches reports whether a person's word names the kind of an object.
func kindMatches(word string, k ledger.ObjectKey) bool {
	kind, group, hasGroup := strings.Cut(strings.ToLower(word), ".")
	if hasGroup && group != strings.ToLower(k.Group) {
		return false
	}
	have := strings.ToLower(k.Kind)
	return kind == have || kind == have+"s" || kind == have+"es" || strings.HasSuffix(have, "y") && kind == have[:len(have)-1]+"ies"
}

func (s *server) registerReads(api huma.API) {
	huma.Register(api, operation("status", http.MethodGet, "/v1/status", "How the install is"),
		func(ctx context.Context, p *FleetParam) (*body[Status], error) {
			var out body[Status]
			err := s.inspect(ctx, p.Fleet, func(in hub.Inside) { out.Body = statusOf(in, s.Ledger.Install()) })
			return &out, err
		})
	huma.Register(api, operation("objects", http.MethodGet, "/v1/objects", "Objects and what became of them"),
		func(ctx context.Context, p *objectsParams) (*body[List[Object]], error) { return s.objects(ctx, *p) })
	huma.Register(api, operation("object", http.MethodGet, "/v1/objects/{cluster}/{kind}/{namespace}/{name}", "One object with its report and its canonical form"),
		func(ctx context.Context, p *struct {
			FleetParam
			Cluster   string `path:"cluster" maxLength:"63"`
			Kind      string `path:"kind" maxLength:"300"`
			Namespace string `path:"namespace" maxLength:"253" doc:"_ for none"`
			Name      string `path:"name" maxLength:"253"`
		},
		) (*body[Object], error) {
			return s.object(ctx, objectsParams{FleetParam: p.FleetParam, Cluster: p.Cluster, Kind: p.Kind, Namespace: p.Namespace, Name: p.Name})
		})
	huma.Register(api, operation("findings", http.MethodGet, "/v1/findings", "What is to say about objects and sites, errors first"),
		func(ctx context.Context, p *objectsParams) (*body[List[Finding]], error) { return s.findings(ctx, *p) })
	huma.Register(api, operation("edges", http.MethodGet, "/v1/edges", "Edge servers and their Envoys"),
		func(ctx context.Context, p *FleetParam) (*body[List[Edge]], error) {
			var out body[List[Edge]]
			err := s.inspect(ctx, p.Fleet, func(in hub.Inside) { out.Body = listOf(in, edgesOf(in)) })
			return &out, err
		})
	huma.Register(api, operation("sites", http.MethodGet, "/v1/sites", "Sources of objects"),
		func(ctx context.Context, p *FleetParam) (*body[List[Site]], error) {
			var out body[List[Site]]
			err := s.inspect(ctx, p.Fleet, func(in hub.Inside) { out.Body = listOf(in, sitesOf(in)) })
			return &out, err
		})
	huma.Register(api, operation("holds", http.MethodGet, "/v1/holds", "Holds in force"),
		func(ctx context.Context, p *FleetParam) (*body[List[Hold]], error) {
			var out body[List[Hold]]
			err := s.inspect(ctx, p.Fleet, func(in hub.Inside) { out.Body = listOf(in, holdsOf(in)) })
			return &out, err
		})
	huma.Register(api, operation("revisions", http.MethodGet, "/v1/revisions", "Revisions, newest first"),
		func(ctx context.Context, p *struct {
			FleetParam
			Limit int `query:"limit" minimum:"1" maximum:"1000" default:"50"`
		},
		) (*body[List[Revision]], error) {
			var out body[List[Revision]]
			err := s.inspect(ctx, p.Fleet, func(in hub.Inside) {
				revisions := []Revision{}
				for _, r := range slices.Backward(in.Fleet.Revisions) {
					if len(revisions) == p.Limit {
						break
					}
					revisions = append(revisions, revisionOf(in.Fleet, r, false))
				}
				out.Body = listOf(in, revisions)
				out.Body.More = len(revisions) < len(in.Fleet.Revisions)
			})
			return &out, err
		})
	huma.Register(api, operation("revision", http.MethodGet, "/v1/revisions/{revision}", "One revision"),
		func(ctx context.Context, p *struct {
			FleetParam
			Revision uint64 `path:"revision" minimum:"1"`
		},
		) (*body[Revision], error) {
			var out body[Revision]
			missing := false
			err := s.inspect(ctx, p.Fleet, func(in hub.Inside) {
				r := in.Fleet.Revision(p.Revision)
				if missing = r == nil; !missing {
					out.Body = revisionOf(in.Fleet, r, true)
				}
			})
			if err == nil && missing {
				err = huma.Error404NotFound(fmt.Sprintf("there is no revision r%d; see chancery get revisions", p.Revision))
			}
			return &out, err
		})
	huma.Register(api, operation("resources", http.MethodGet, "/v1/resources", "Resources of the snapshot that is served; of one resource with its body"),
		func(ctx context.Context, p *resourcesParams) (*body[List[Resource]], error) {
			return s.resources(ctx, *p)
		})
}

func listOf[T any](in hub.Inside, items []T) List[T] {
	return List[T]{Items: items, Seq: uint64(in.State.Seq), Now: in.Now}
}

func objectOf(in hub.Inside, k ledger.ObjectKey) Object {
	o := in.Projection.Get(k)
	v := Object{
		Cluster: string(k.Cluster), Group: k.Group, Kind: k.Kind, Namespace: k.Namespace, Name: k.Name, Key: k.String(),
		State: string(unknownState), Digest: o.Digest.String(), Seq: uint64(o.Seq), At: o.Time, By: o.Actor.Name, BySource: o.Actor.Source, TooLarge: o.TooLarge,
	}
	if r, ok := in.Compiler.Report(k); ok {
		v.State = string(r.State)
		if r.Serving != r.Digest {
			v.Serving = r.Serving.String()
		}
		for _, f := range r.Findings {
			v.Findings = append(v.Findings, findingOf(f, nil))
		}
	}
	return v
}

func (s *server) objects(ctx context.Context, p objectsParams) (*body[List[Object]], error) {
	var out body[List[Object]]
	err := s.inspect(ctx, p.Fleet, func(in hub.Inside) {
		items := []Object{}
		for _, k := range in.Projection.Keys() {
			if !p.match(k) {
				continue
			}
			if o := objectOf(in, k); p.State == "" || o.State == p.State {
				items = append(items, o)
			}
		}
		out.Body = listOf(in, items)
	})
	return &out, err
}

func (s *server) object(ctx context.Context, p objectsParams) (*body[Object], error) {
	var out body[Object]
	var found []ledger.ObjectKey
	var raw json.RawMessage
	err := s.inspect(ctx, p.Fleet, func(in hub.Inside) {
		for _, k := range in.Projection.Keys() {
			ns := k.Namespace
			if ns == "" {
				ns = "_"
			}
			if string(k.Cluster) == p.Cluster && ns == p.Namespace && k.Name == p.Name && kindMatches(p.Kind, k) {
				found = append(found, k)
			}
		}
		if len(found) == 1 {
			out.Body, raw = objectOf(in, found[0]), in.Projection.Get(found[0]).Raw
		}
	})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, huma.Error404NotFound(fmt.Sprintf("there is no %.200q; see chancery get objects", p.Cluster+":"+p.Kind+"/"+p.Namespace+"/"+p.Name))
	case len(found) > 1:
		return nil, huma.Error409Conflict(fmt.Sprintf("%s names %s and %s; add the group", p.Kind, found[0], found[1]))
	}
	out.Body.Canonical, err = shown(found[0], raw)
	return &out, err
}

// secretFields are the fields of a Secret that are shown.
var secretFields = []string{"apiVersion", "kind", "type", "metadata", "facts"}

// shown returns the canonical form of an object as it may leave the process. A
// Secret is recorded without data; should that ever fail, it is not shown.
func shown(k ledger.ObjectKey, raw json.RawMessage) (json.RawMessage, error) {
	if k.Group != "" || k.Kind != "Secret" || raw == nil {
		return raw, nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, huma.Error500InternalServerError(k.String() + " is not JSON; run chancery verify")
	}
	out := map[string]json.RawMessage{}
	for _, f := range secretFields {
		if v, ok := fields[f]; ok {
			out[f] = v
		}
	}
	return json.Marshal(out)
}

func (s *server) findings(ctx context.Context, p objectsParams) (*body[List[Finding]], error) {
	var out body[List[Finding]]
	err := s.inspect(ctx, p.Fleet, func(in hub.Inside) {
		items := []Finding{}
		for _, site := range in.Projection.Sites() {
			if p.Cluster != "" && p.Cluster != string(site.Cluster) || p.Kind+p.Namespace+p.Name != "" {
				continue
			}
			for _, f := range site.Findings {
				items = append(items, Finding{Severity: string(projector.Error), Object: string(site.Cluster) + ":" + f.Where, Message: f.Message})
			}
		}
		for _, k := range in.Projection.Keys() {
			if !p.match(k) {
				continue
			}
			if r, ok := in.Compiler.Report(k); ok && (p.State == "" || p.State == string(r.State)) {
				for _, f := range r.Findings {
					items = append(items, findingOf(f, &k))
				}
			}
		}
		slices.SortStableFunc(items, func(a, b Finding) int { return severity(a) - severity(b) })
		out.Body = listOf(in, items)
	})
	return &out, err
}

func severity(f Finding) int {
	return slices.Index([]string{string(projector.Error), string(projector.Warning), string(projector.Info)}, f.Severity)
}

func revisionOf(f *federation.FleetState, r *federation.Revision, whole bool) Revision {
	v := Revision{
		Revision: r.Revision, Fleet: string(r.Fleet), Seq: uint64(r.Seq), Event: uint64(r.Event), At: r.At,
		Fingerprint: r.Fingerprint.String(), Build: r.Build, Routes: r.Routes, Listeners: r.Listeners, State: "waiting",
		Head: f.HeadSeq > 0 && f.Head.Revision == r.Revision,
	}
	if r.Tasted != nil {
		v.State, v.Taster = "ready", r.Tasted.Taster
		if !r.Tasted.OK {
			v.State, v.Message = "refused", r.Tasted.Message
		}
	}
	switch {
	case r.Nacked != nil:
		v.State, v.Message = "refused", fmt.Sprintf("by %s: %s", r.Nacked.Node, r.Nacked.Message)
	case r.Promoted:
		v.State = "good"
	case r.Served:
		v.State = "served"
	case r.Headed:
		v.State = "headed"
	}
	if whole && len(r.Kept) > 0 {
		v.Kept = map[string]string{}
		for k, d := range r.Kept {
			v.Kept[k.String()] = d.String()
		}
	}
	return v
}

// resourcesParams select resources of the head's snapshot.
type resourcesParams struct {
	FleetParam
	Type string `query:"type" enum:"upstreams,listeners,routes,endpoints,secrets"`
	Name string `query:"name" maxLength:"2000" doc:"exact; the answer has the body then"`
}

func (s *server) resources(ctx context.Context, p resourcesParams) (*body[List[Resource]], error) {
	var out body[List[Resource]]
	var head projector.Head
	served := false
	err := s.inspect(ctx, p.Fleet, func(in hub.Inside) {
		served, head, out.Body = in.Fleet.HeadSeq > 0, in.Fleet.Head, listOf(in, []Resource{})
	})
	if err != nil || !served {
		return &out, err
	}
	snapshot, err := s.Shelf.Get(head.Fingerprint)
	if err != nil {
		return nil, huma.Error404NotFound(fmt.Sprintf("the snapshot of r%d: %v; it comes back with the next change, or when chancery serve starts again", head.Revision, err))
	}
	for _, t := range projector.ResourceTypes {
		if p.Type != "" && p.Type != t.String() {
			continue
		}
		for r := range snapshot.All(t) {
			if p.Name != "" && p.Name != r.Name {
				continue
			}
			v := Resource{Type: t.String(), Name: r.Name, Version: r.Version.String(), Bytes: len(r.Bytes)}
			if p.Name != "" {
				if v.Body, err = envoy.ToJSON(r, t); err != nil {
					return nil, huma.Error500InternalServerError(fmt.Sprintf("%s %s: %v; run chancery verify", t, r.Name, err))
				}
			}
			out.Body.Items = append(out.Body.Items, v)
		}
	}
	slices.SortStableFunc(out.Body.Items, func(a, b Resource) int {
		if a.Type != b.Type {
			return 0
		}
		return strings.Compare(a.Name, b.Name)
	})
	return &out, s.sources(ctx, p.Fleet, out.Body.Items)
}

// sources adds what the newest compile says of where resources come from. What
// is served may be older: a resource that is no longer compiled has none.
func (s *server) sources(ctx context.Context, fleet string, items []Resource) error {
	types := map[string]projector.ResourceType{}
	for _, t := range projector.ResourceTypes {
		types[t.String()] = t
	}
	return s.inspect(ctx, fleet, func(in hub.Inside) {
		for i := range items {
			for _, k := range in.Compiler.Sources(types[items[i].Type], items[i].Name) {
				items[i].Sources = append(items[i].Sources, k.String())
			}
		}
	})
}
