package emissary

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/chancery-dev/chancery/api/getambassador"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// Limits on one object, counted and never timed.
const (
	MaxObjectBytes = 512 << 10 // of its canonical JSON
	MaxUnits       = 500       // resources in one annotation
	MaxMatches     = 100       // header and query matches of one Mapping
)

// UnitKey identifies one getambassador.io resource: an object of its own, or a
// document of another object's annotation.
type UnitKey struct {
	Object                ledger.ObjectKey
	Kind, Namespace, Name string
}

// Rkey is the name by which Emissary sorts resources.
func (k UnitKey) Rkey() string { return k.Name + "." + k.Namespace }

// Compare orders units as Emissary loads them, and by cluster first.
func (k UnitKey) Compare(o UnitKey) int {
	if c := strings.Compare(string(k.Object.Cluster), string(o.Object.Cluster)); c != 0 {
		return c
	}
	if c := strings.Compare(k.Rkey(), o.Rkey()); c != 0 {
		return c
	}
	if c := strings.Compare(k.Kind, o.Kind); c != 0 {
		return c
	}
	return k.Object.Compare(o.Object)
}

// String returns "Kind namespace/name", for people.
func (k UnitKey) String() string { return k.Kind + " " + k.Namespace + "/" + k.Name }

// Source returns what the ir says of where something comes from.
func (k UnitKey) Source() ir.Source {
	return ir.Source{Cluster: string(k.Object.Cluster), Kind: k.Kind, Namespace: k.Namespace, Name: k.Name}
}

// Unit is one decoded resource.
type Unit struct {
	Key      UnitKey
	FirstSeq ledger.Seq // of its object
	Digest   ledger.Digest
	Resource getambassador.Object
	Ours     bool // its ambassador_id names this installation
}

// Service is what the compiler reads of a Service.
type Service struct {
	Type         string
	ClusterIP    string // "None" for a headless one
	ExternalName string
	Ports        []ServicePort
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name   string
	Port   uint32
	Target string
}

// Secret is what the compiler knows of a Secret: no values, only which keys it
// has and what is wrong with it.
type Secret struct {
	Type     string
	Keys     []string // sorted
	Problems []string
}

// Has reports whether the Secret has the key.
func (s *Secret) Has(key string) bool {
	_, ok := slices.BinarySearch(s.Keys, key)
	return ok
}

// Decoded is what one version of an object holds.
type Decoded struct {
	Units    []Unit
	Service  *Service
	Secret   *Secret
	Findings []projector.Finding
	// Bad says that the object, or a part of it, cannot be used.
	Bad bool
}

// Decode reads one version of an object.
func Decode(o *projector.Object, ambassadorID string) Decoded {
	switch {
	case o.TooLarge > 0:
		return bad(projector.CodeTooLarge, "", fmt.Sprintf("the object has %d bytes, more than an event holds; split it", o.TooLarge))
	case len(o.Raw) > MaxObjectBytes:
		return bad(projector.CodeLimit, "", fmt.Sprintf("the object has %d bytes, more than %d; split it", len(o.Raw), MaxObjectBytes))
	}
	switch {
	case o.Key.Group == getambassador.Group:
		return decodeResource(o, ambassadorID)
	case o.Key.Group == "" && o.Key.Kind == "Service":
		return decodeService(o, ambassadorID)
	case o.Key.Group == "" && o.Key.Kind == "Secret":
		return decodeSecret(o)
	case o.Key.Group == "networking.k8s.io" && o.Key.Kind == "Ingress":
		return decodeIngress(o, ambassadorID)
	}
	return Decoded{}
}

func bad(code projector.Code, path, message string) Decoded {
	return Decoded{Bad: true, Findings: []projector.Finding{{Code: code, Severity: projector.Error, Path: path, Message: message}}}
}

func decodeResource(o *projector.Object, ambassadorID string) Decoded {
	resource, problems, err := getambassador.Decode(o.Raw)
	d := Decoded{Findings: fieldFindings("", problems)}
	if err != nil {
		d.Bad = true
		if len(d.Findings) == 0 || !errors.Is(err, getambassador.ErrInvalid) {
			d.Findings = append(d.Findings, projector.Finding{Code: projector.CodeMalformed, Severity: projector.Error, Message: err.Error()})
		}
		return d
	}
	d.Units = []Unit{{
		Key:      UnitKey{Object: o.Key, Kind: o.Key.Kind, Namespace: o.Key.Namespace, Name: o.Key.Name},
		FirstSeq: o.FirstSeq, Digest: o.Digest, Resource: resource,
		Ours: getambassador.ServedBy(resource.AmbassadorIDs(), ambassadorID),
	}}
	return d
}

func fieldFindings(prefix string, problems []getambassador.FieldProblem) []projector.Finding {
	var out []projector.Finding
	for _, p := range problems {
		f := projector.Finding{Code: projector.CodeField, Severity: projector.Warning, Path: p.Path, Message: prefix + p.Message}
		if p.Severity == getambassador.Error {
			f.Code, f.Severity = projector.CodeInvalid, projector.Error
		}
		out = append(out, f)
	}
	return out
}

type serviceObject struct {
	Metadata struct {
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		Type         string `json:"type"`
		ClusterIP    string `json:"clusterIP"`
		ExternalName string `json:"externalName"`
		Ports        []struct {
			Name       string          `json:"name"`
			Port       uint32          `json:"port"`
			TargetPort json.RawMessage `json:"targetPort"`
		} `json:"ports"`
	} `json:"spec"`
}

func decodeService(o *projector.Object, ambassadorID string) Decoded {
	var s serviceObject
	if err := json.Unmarshal(o.Raw, &s); err != nil {
		return bad(projector.CodeMalformed, "", "the Service cannot be read: "+err.Error())
	}
	d := Decoded{Service: &Service{Type: s.Spec.Type, ClusterIP: s.Spec.ClusterIP, ExternalName: s.Spec.ExternalName}}
	for _, p := range s.Spec.Ports {
		d.Service.Ports = append(d.Service.Ports, ServicePort{Name: p.Name, Port: p.Port, Target: strings.Trim(string(p.TargetPort), `"`)})
	}
	decodeAnnotation(&d, o, ambassadorID, s.Metadata.Annotations[getambassador.AnnotationKey], s.Metadata.Labels)
	return d
}

// decodeIngress reads an Ingress's annotation. What the Ingress itself says is
// not served yet, and said so where it names a class.
func decodeIngress(o *projector.Object, ambassadorID string) Decoded {
	var i struct {
		Metadata struct {
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Spec struct {
			IngressClassName string `json:"ingressClassName"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(o.Raw, &i); err != nil {
		return bad(projector.CodeMalformed, "", "the Ingress cannot be read: "+err.Error())
	}
	var d Decoded
	if i.Spec.IngressClassName != "" || i.Metadata.Annotations["kubernetes.io/ingress.class"] == "ambassador" {
		d.Findings = []projector.Finding{{
			Code: projector.CodeNotServed, Severity: projector.Warning,
			Message: "Ingress is not served by this version: use a Host and Mappings",
		}}
	}
	decodeAnnotation(&d, o, ambassadorID, i.Metadata.Annotations[getambassador.AnnotationKey], i.Metadata.Labels)
	return d
}

func decodeAnnotation(d *Decoded, o *projector.Object, ambassadorID, text string, labels map[string]string) {
	if text == "" {
		return
	}
	parent := getambassador.Parent{Kind: o.Key.Kind, Namespace: o.Key.Namespace, Name: o.Key.Name, Labels: labels}
	raws, problems := getambassador.FromAnnotations(parent, text)
	for _, p := range problems {
		d.Bad = true
		d.Findings = append(d.Findings, projector.Finding{
			Code: projector.CodeAnnotation, Severity: projector.Error,
			Path: "metadata.annotations[" + getambassador.AnnotationKey + "]", Message: p.String(),
		})
	}
	if len(raws) > MaxUnits {
		d.Bad = true
		d.Findings = append(d.Findings, projector.Finding{
			Code: projector.CodeLimit, Severity: projector.Error,
			Path:    "metadata.annotations[" + getambassador.AnnotationKey + "]",
			Message: fmt.Sprintf("the annotation holds %d resources, more than %d; only the first are read", len(raws), MaxUnits),
		})
		raws = raws[:MaxUnits]
	}
	seen := map[UnitKey]bool{}
	for _, raw := range raws {
		key := UnitKey{Object: o.Key, Kind: raw.Kind, Namespace: raw.Namespace, Name: raw.Name}
		where := fmt.Sprintf("annotation document %d, %s: ", raw.Document, key)
		resource, fields, err := getambassador.Decode(raw.JSON)
		d.Findings = append(d.Findings, fieldFindings(where, fields)...)
		if err != nil {
			d.Bad = true
			if len(fields) == 0 {
				d.Findings = append(d.Findings, projector.Finding{Code: projector.CodeAnnotation, Severity: projector.Error, Message: where + err.Error()})
			}
			continue
		}
		if seen[key] {
			d.Findings = append(d.Findings, projector.Finding{
				Code: projector.CodeDuplicate, Severity: projector.Error,
				Message: where + "the annotation has a resource of this name already; the later one counts",
			})
			d.Units = slices.DeleteFunc(d.Units, func(u Unit) bool { return u.Key == key })
		}
		seen[key] = true
		d.Units = append(d.Units, Unit{
			Key: key, FirstSeq: o.FirstSeq, Digest: o.Digest, Resource: resource,
			Ours: getambassador.ServedBy(resource.AmbassadorIDs(), ambassadorID),
		})
	}
}

type secretObject struct {
	Type  string `json:"type"`
	Facts *struct {
		Keys     map[string]json.RawMessage `json:"keys"`
		Problems []string                   `json:"problems"`
	} `json:"facts"`
}

func decodeSecret(o *projector.Object) Decoded {
	var s secretObject
	if err := json.Unmarshal(o.Raw, &s); err != nil {
		return bad(projector.CodeMalformed, "", "the Secret cannot be read: "+err.Error())
	}
	if s.Facts == nil {
		return bad(projector.CodeMalformed, "facts", "the Secret came without its facts; update the collector")
	}
	secret := &Secret{Type: s.Type, Problems: s.Facts.Problems}
	for k := range s.Facts.Keys {
		secret.Keys = append(secret.Keys, k)
	}
	slices.Sort(secret.Keys)
	return Decoded{Secret: secret}
}
