package emissary

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// RateLimit is the rate limit filter of a cluster. Without a usable service
// there is none, as in Emissary: nothing is limited then.
type RateLimit struct {
	Filter   *ir.Filter
	Needed   *Needed
	Domain   string
	Findings MemberFindings
}

// ReadRateLimit reads the RateLimitServices of a cluster, of which there may
// be one.
func ReadRateLimit(w World, units []Unit) RateLimit {
	r := RateLimit{Findings: MemberFindings{}}
	if len(units) > 1 {
		for _, u := range units {
			other := units[0].Key
			if other == u.Key {
				other = units[1].Key
			}
			r.Findings.add(u.Key, projector.Error, projector.CodeDuplicate, "", fmt.Sprintf("%s is a RateLimitService as well, so that none is asked and nothing is limited: remove one of the two", other), &other)
		}
		return r
	}
	u := units[0]
	o := u.Resource.(*getambassador.RateLimitService)
	s := &o.Spec
	f := &findings{}
	defer func() { r.Findings[u.Key] = append(r.Findings[u.Key], f.list...) }()
	if s.ProtocolVersion != "v3" {
		f.errorf(projector.CodeInvalid, "spec.protocol_version", "must be v3; the default v2 is not spoken any more, so that nothing is limited")
		return r
	}
	policy := ir.Upstream{Connect: 3 * time.Second, HTTP2: true, DNS: &ir.DNS{V4: true}}
	needed, _, ok := upstream(w, f, target{
		path: "spec.service", service: s.Service, namespace: o.Namespace, tls: s.TLS, stat: s.StatsName, policy: policy,
	})
	if !ok {
		f.errorf(projector.CodeServiceName, "spec.service", "the service cannot be asked, so that nothing is limited")
		return r
	}
	service := &ir.RateLimitService{
		Upstream: needed.Upstream.Name, Domain: cmp.Or(s.Domain, w.MappingDefaults().LabelDomain), Timeout: 20 * time.Millisecond,
		FailClosed:            s.FailureModeDeny != nil && *s.FailureModeDeny,
		ResourceExhaustedCode: s.GRPC != nil && s.GRPC.UseResourceExhaustedCode != nil && *s.GRPC.UseResourceExhaustedCode,
	}
	if s.TimeoutMs != nil {
		if d, ok := f.ms("spec.timeout_ms", *s.TimeoutMs); ok {
			service.Timeout = *d
		}
	}
	r.Needed, r.Domain = &needed, service.Domain
	r.Filter = &ir.Filter{Name: "rate-limit", RateLimit: service}
	return r
}

// rateLimits turns a Mapping's labels, with the Module's before them, into
// descriptors of the domain.
func rateLimits(w World, f *findings, labels getambassador.MappingLabels) []ir.RateLimit {
	domain := w.RateLimitDomain()
	if domain == "" {
		if len(labels) > 0 {
			f.warnf(projector.CodeNotServed, "spec.labels", "there is no RateLimitService in the cluster, so that the labels limit nothing")
		}
		return nil
	}
	for _, d := range slices.Sorted(maps.Keys(labels)) {
		if d != domain {
			f.noEffect("spec.labels["+d+"]", fmt.Sprintf("the RateLimitService is asked in domain %q only", domain))
		}
	}
	first := actions(w.MappingDefaults().DefaultLabels[domain])
	var out []ir.RateLimit
	for _, group := range labels[domain] {
		for _, name := range slices.Sorted(maps.Keys(group)) {
			if a := append(slices.Clone(first), actions(group[name])...); len(a) > 0 {
				out = append(out, ir.RateLimit{Actions: a})
			}
		}
	}
	if len(out) == 0 && len(first) > 0 {
		out = []ir.RateLimit{{Actions: first}}
	}
	return out
}

func actions(labels []getambassador.LabelSpecifier) []ir.RateLimitAction {
	var out []ir.RateLimitAction
	for _, l := range labels {
		switch {
		case l.SourceCluster != nil:
			out = append(out, ir.RateLimitAction{SourceCluster: true})
		case l.DestinationCluster != nil:
			out = append(out, ir.RateLimitAction{DestinationCluster: true})
		case l.RemoteAddress != nil:
			out = append(out, ir.RateLimitAction{RemoteAddress: true})
		case l.GenericKey != nil:
			out = append(out, ir.RateLimitAction{GenericKey: &ir.KeyValue{Key: cmp.Or(l.GenericKey.Key, "generic_key"), Value: l.GenericKey.Value}})
		case l.RequestHeaders != nil:
			out = append(out, ir.RateLimitAction{Header: &ir.HeaderEntry{Key: l.RequestHeaders.Key, Header: l.RequestHeaders.HeaderName}})
		}
	}
	return out
}
