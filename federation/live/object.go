package live

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/chancery-dev/chancery/ledger"
)

// maxObjectBytes bounds an object that is read. Kubernetes allows 1.5 MiB.
const maxObjectBytes = 4 << 20

// Object is a raw Kubernetes object of one cluster. It may hold a private key
// and prints as its name only.
type Object struct {
	Kind      string // Service, EndpointSlice, Endpoints, Secret; others are ignored
	Namespace string
	Name      string

	raw func() []byte // a function, for fmt can print pointers' content
}

// NewObject returns the object with its JSON, which must not be changed
// afterwards.
func NewObject(kind, namespace, name string, raw []byte) Object {
	return Object{Kind: kind, Namespace: namespace, Name: name, raw: func() []byte { return raw }}
}

// Format writes the object's kind and name, whatever the verb.
func (o Object) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "%s %s/%s (redacted)", o.Kind, o.Namespace, o.Name)
}

// String returns the object's kind and name.
func (o Object) String() string { return fmt.Sprint(o) }

// MarshalJSON writes the object's kind and name.
func (o Object) MarshalJSON() ([]byte, error) { return json.Marshal(o.String()) }

func (o Object) bytes() []byte {
	if o.raw == nil {
		return nil
	}
	return o.raw()
}

func (o Object) ref() ref { return ref{o.Kind, o.Namespace, o.Name} }

func (o Object) key(c ledger.ClusterName) ledger.ObjectKey { return o.ref().key(c) }

// ref names an object within its cluster.
type ref struct{ kind, namespace, name string }

func (r ref) key(c ledger.ClusterName) ledger.ObjectKey {
	group := ""
	if r.kind == kindSlice {
		group = "discovery.k8s.io"
	}
	return ledger.ObjectKey{Cluster: c, Group: group, Kind: r.kind, Namespace: r.namespace, Name: r.name}
}

const (
	kindService   = "Service"
	kindSlice     = "EndpointSlice"
	kindEndpoints = "Endpoints"
	kindSecret    = "Secret"

	labelService = "kubernetes.io/service-name"
)

// slice is what an EndpointSlice, or one subset of an Endpoints, says.
type slice struct {
	service   string
	ports     map[string]uint32 // by name, "" for an unnamed one
	endpoints []member
	skipped   int // addresses that are no IP address
}

// member is one endpoint of a slice.
type member struct {
	ip         netip.Addr
	zone, node string
	ready      bool
	draining   bool // not ready, but serving while it terminates
}

var errTooLarge = errors.New("larger than 4 MiB")

// readSlice reads a discovery.k8s.io/v1 EndpointSlice.
func readSlice(raw []byte) ([]slice, error) {
	var in struct {
		Metadata struct {
			Labels map[string]string
		}
		AddressType string
		Ports       []struct {
			Name     string
			Port     *uint32
			Protocol string
		}
		Endpoints []struct {
			Addresses  []string
			Conditions struct{ Ready, Serving, Terminating *bool }
			NodeName   string
			Zone       string
		}
	}
	if err := unmarshal(raw, &in); err != nil {
		return nil, err
	}
	out := slice{service: in.Metadata.Labels[labelService], ports: map[string]uint32{}}
	for _, p := range in.Ports {
		// A port without number stands for all ports, which no proxy can use.
		if p.Port != nil && tcp(p.Protocol) {
			out.ports[p.Name] = *p.Port
		}
	}
	for _, e := range in.Endpoints {
		// A condition that is absent is true, but for terminating
		// (k8s.io/api/discovery/v1, EndpointConditions).
		ready := e.Conditions.Ready == nil || *e.Conditions.Ready
		serving := e.Conditions.Serving == nil || *e.Conditions.Serving
		terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
		m := member{zone: e.Zone, node: e.NodeName, ready: ready, draining: !ready && serving && terminating}
		for _, a := range e.Addresses {
			out.add(a, m)
		}
	}
	return []slice{out}, nil
}

// readEndpoints reads a v1 Endpoints: a slice for each subset.
func readEndpoints(raw []byte) ([]slice, error) {
	type address struct {
		IP       string
		NodeName string
	}
	var in struct {
		Metadata struct{ Name string }
		Subsets  []struct {
			Addresses []address
			Ports     []struct {
				Name     string
				Port     uint32
				Protocol string
			}
		}
	}
	if err := unmarshal(raw, &in); err != nil {
		return nil, err
	}
	var out []slice
	for _, sub := range in.Subsets {
		s := slice{service: in.Metadata.Name, ports: map[string]uint32{}}
		for _, p := range sub.Ports {
			if tcp(p.Protocol) {
				s.ports[p.Name] = p.Port
			}
		}
		for _, a := range sub.Addresses {
			s.add(a.IP, member{node: a.NodeName, ready: true})
		}
		out = append(out, s)
	}
	return out, nil
}

func tcp(protocol string) bool { return protocol == "" || protocol == "TCP" }

func (s *slice) add(address string, m member) {
	ip, err := netip.ParseAddr(address)
	if err != nil || ip.Zone() != "" {
		s.skipped++
		return
	}
	m.ip = ip.Unmap()
	s.endpoints = append(s.endpoints, m)
}

// readSecret reads a v1 Secret's data, with stringData over it as the API
// server would have merged it. Its errors hold no byte of the secret.
func readSecret(raw []byte) (map[string][]byte, error) {
	var in struct {
		Data       map[string][]byte
		StringData map[string]string
	}
	if err := unmarshal(raw, &in); err != nil {
		if errors.Is(err, errTooLarge) {
			return nil, err
		}
		// What encoding/json says may quote a value.
		return nil, errors.New("its data is not a map of base64 strings")
	}
	if in.Data == nil {
		in.Data = map[string][]byte{}
	}
	for k, v := range in.StringData {
		in.Data[k] = []byte(v)
	}
	return in.Data, nil
}

func unmarshal(raw []byte, v any) error {
	if len(raw) > maxObjectBytes {
		return errTooLarge
	}
	return json.Unmarshal(raw, v)
}

func equal(a, b Object) bool { return bytes.Equal(a.bytes(), b.bytes()) }

// Problem is something wrong with an object, or with what was read of it. It
// holds no secret.
type Problem struct {
	Object ledger.ObjectKey `json:"object"`
	// Need is the EndpointSet or SecretRef that is concerned, "" for none.
	Need string `json:"need,omitempty"`
	// Text says what is wrong and what is served meanwhile.
	Text string `json:"text"`
	// Remedy says what to do.
	Remedy string `json:"remedy,omitempty"`
}

// String returns the problem as one line.
func (p Problem) String() string {
	s := p.Object.String() + ": " + p.Text
	if p.Remedy != "" {
		s += "; " + p.Remedy
	}
	return s
}

func (p Problem) compare(o Problem) int {
	if c := p.Object.Compare(o.Object); c != 0 {
		return c
	}
	if c := strings.Compare(p.Need, o.Need); c != 0 {
		return c
	}
	return strings.Compare(p.Text, o.Text)
}
