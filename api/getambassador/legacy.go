package getambassador

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// onlyHubPrefix marks, in a stored v2 object, the ambassador_id of an object
// that was written in v3alpha1, so that older readers pass over it.
const onlyHubPrefix = "--apiVersion-v3alpha1-only--"

// noHostname marks, in a stored v2 object, a v3alpha1 Mapping without a
// hostname, so that older readers do not take it for one of every host.
const noHostname = "_skip_mapping_with_empty_host_"

// presence is the regular expression that stands for "the header or parameter
// is there, whatever its value".
const presence = ".*"

func (l *StringList) decode(d *decoder, path fieldPath, raw any) {
	*l = d.stringList(path, raw)
}

func (a *AmbassadorID) decode(d *decoder, path fieldPath, raw any) {
	ids := d.stringList(path, raw)
	if d.legacy {
		for i, id := range ids {
			ids[i] = strings.TrimPrefix(id, onlyHubPrefix)
		}
	}
	*a = ids
}

// stringList reads a list of strings or, as a list of one, a bare string.
func (d *decoder) stringList(path fieldPath, raw any) []string {
	switch v := raw.(type) {
	case string:
		if !d.legacy {
			d.warnf(path, "wants a list of strings, has string %q: read as a list of one", shorten(v))
		}
		return []string{v}
	case []any:
		out := make([]string, 0, len(v))
		for i, item := range v {
			s, ok := item.(string)
			if !ok {
				d.wants(path.index(i), "a string", item)
				continue
			}
			out = append(out, s)
		}
		return out
	}
	if d.legacy {
		d.wants(path, "a string or a list of strings", raw)
	} else {
		d.wants(path, "a list", raw)
	}
	return nil
}

func (h *AddedHeader) decode(d *decoder, path fieldPath, raw any) {
	if d.legacy {
		switch v := raw.(type) {
		case nil:
			return
		case string:
			h.Value = v
			return
		case map[string]any:
		default:
			d.wants(path, "a string or an object", raw)
			return
		}
	}
	d.object(path, raw, addressable(h))
}

func (l *LabelSpecifier) decode(d *decoder, path fieldPath, raw any) {
	if d.legacy {
		if s, ok := raw.(string); ok {
			*l = labelOf(s)
			return
		}
		m, ok := raw.(map[string]any)
		if !ok {
			d.wants(path, "a string or an object", raw)
			return
		}
		if l.fromV2Map(d, path, m) {
			return
		}
	}
	d.object(path, raw, addressable(l))
}

// labelOf returns what a bare string stands for.
func labelOf(s string) LabelSpecifier {
	switch s {
	case "source_cluster":
		return LabelSpecifier{SourceCluster: &LabelSourceCluster{Key: s}}
	case "destination_cluster":
		return LabelSpecifier{DestinationCluster: &LabelDestinationCluster{Key: s}}
	case "remote_address":
		return LabelSpecifier{RemoteAddress: &LabelRemoteAddress{Key: s}}
	}
	shorthand := true
	return LabelSpecifier{GenericKey: &LabelGenericKey{Value: s, V2Shorthand: &shorthand}}
}

// fromV2Map reads the two forms of a map that only v1 and v2 have, and says
// whether it was one: {generic_key: value} and
// {key: {header: name, omit_if_not_present: bool}}.
func (l *LabelSpecifier) fromV2Map(d *decoder, path fieldPath, m map[string]any) bool {
	if len(m) != 1 {
		d.errorf(path, "wants exactly one key, has %d", len(m))
		return true
	}
	for key, raw := range m {
		at := path.key(key)
		if s, ok := raw.(string); ok && key == "generic_key" {
			l.GenericKey = &LabelGenericKey{Value: s}
			return true
		}
		header, ok := raw.(map[string]any)
		if !ok {
			if isLabelField(key) {
				return false
			}
			d.wants(at, "an object with a header", raw)
			return true
		}
		name, has := header["header"]
		if !has {
			if isLabelField(key) {
				return false
			}
			d.errorf(at.field("header"), "is required")
			return true
		}
		out := &LabelRequestHeaders{Key: key}
		d.value(at.field("header"), name, addressable(&out.HeaderName), &noChecks)
		d.value(at.field("omit_if_not_present"), header["omit_if_not_present"], addressable(&out.OmitIfNotPresent), &noChecks)
		for _, other := range slices.Sorted(maps.Keys(header)) {
			if other != "header" && other != "omit_if_not_present" {
				d.unknown(at, other)
			}
		}
		if out.HeaderName == "" {
			d.errorf(at.field("header"), "must not be empty")
		}
		l.RequestHeaders = out
	}
	return true
}

// isLabelField says whether v3alpha1 has a label of this name.
func isLabelField(name string) bool { return schemas[reflect.TypeFor[LabelSpecifier]()].hub[name] }

func (s *MappingSpec) fromV2(d *decoder, path fieldPath, raw map[string]any) {
	s.TLS, s.Service = d.legacyTLS(path, raw["tls"], s.Service)
	headers := d.matches(path.field("headers"), raw["headers"], s.RegexHeaders)
	s.Headers, s.RegexHeaders, s.V2BoolHeaders = headers.exact, headers.regex, headers.present
	params := d.matches(path.field("query_parameters"), raw["query_parameters"], s.RegexQueryParameters)
	s.QueryParameters, s.RegexQueryParameters, s.V2BoolQueryParameters = params.exact, params.regex, params.present

	regex := s.HostRegex != nil && *s.HostRegex
	switch {
	case s.Host == noHostname:
		s.Host = ""
	case s.Host != "" && !regex:
		s.Hostname, s.Host = s.Host, ""
	case s.Host == "" && s.Headers[":authority"] == "":
		// With an :authority header that is the host, and "*" would hide it.
		s.Hostname = "*"
	}
}

func (s *TCPMappingSpec) fromV2(d *decoder, path fieldPath, raw map[string]any) {
	s.TLS, s.Service = d.legacyTLS(path, raw["tls"], s.Service)
}

func (s *AuthServiceSpec) fromV2(d *decoder, path fieldPath, raw map[string]any) {
	s.TLS, s.AuthService = d.legacyTLS(path, raw["tls"], s.AuthService)
}

func (s *RateLimitServiceSpec) fromV2(d *decoder, path fieldPath, raw map[string]any) {
	s.TLS, s.Service = d.legacyTLS(path, raw["tls"], s.Service)
}

// fromV2 makes up the config that v3alpha1 requires.
func (s *ModuleSpec) fromV2(*decoder, fieldPath, map[string]any) {
	if s.Config == nil {
		s.Config = map[string]any{}
	}
}

// fromV2 splits the origins of a v1 or v2 policy at commas if they are one
// string.
func (c *CORS) fromV2(d *decoder, path fieldPath, raw map[string]any) {
	at := path.field("origins")
	switch v := raw["origins"].(type) {
	case nil:
	case string:
		commas := true
		c.V2CommaSeparatedOrigins = &commas
		c.Origins = StringList{}
		for origin := range strings.SplitSeq(v, ",") {
			if origin = strings.TrimSpace(origin); origin != "" {
				c.Origins = append(c.Origins, origin)
			}
		}
	default:
		c.Origins = d.stringList(at, v)
	}
}

// legacyTLS reads a v1 or v2 tls field, which is the name of a TLSContext or
// a boolean. It returns the TLSContext's name and the service: with true the
// service gets https as its scheme; false leaves it, because a service with
// https as its scheme originated TLS all the same.
func (d *decoder) legacyTLS(path fieldPath, raw any, service string) (tls, _ string) {
	switch v := raw.(type) {
	case nil:
	case string:
		return v, service
	case bool:
		if v && service != "" && !hasScheme(service, "https://") {
			if hasScheme(service, "http://") {
				service = service[len("http://"):]
			}
			service = "https://" + service
		}
	default:
		d.wants(path.field("tls"), "a string or a boolean", raw)
	}
	return "", service
}

// hasScheme says whether the service starts with the scheme, in any case.
func hasScheme(service, scheme string) bool {
	return len(service) >= len(scheme) && strings.EqualFold(service[:len(scheme)], scheme)
}

// splitMatches holds a v1 or v2 map of header or parameter matches, taken apart.
// present is sorted.
type splitMatches struct {
	exact, regex map[string]string
	present      []string
}

// matches takes apart a map whose values are strings, matched exactly, or
// true: the key must be there. regex is what the object's own map of regular
// expressions says; it wins for a key that stands in both.
func (d *decoder) matches(path fieldPath, raw any, regex map[string]string) splitMatches {
	out := splitMatches{regex: regex}
	if raw == nil {
		return out
	}
	m, ok := raw.(map[string]any)
	if !ok {
		d.wants(path, "an object", raw)
		return out
	}
	out.exact = make(map[string]string, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		switch v := m[key].(type) {
		case string:
			out.exact[key] = v
		case bool:
			if !v {
				// To leave the match out would widen the route.
				d.errorf(path.key(key), "wants a string or true, has boolean false: absence cannot be matched")
				continue
			}
			if out.regex == nil {
				out.regex = map[string]string{}
			}
			if _, has := out.regex[key]; !has {
				out.regex[key] = presence
			}
			out.present = append(out.present, key)
		default:
			d.wants(path.key(key), "a string or a boolean", m[key])
		}
	}
	return out
}
