package corpus

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// object is the part of a Service, Endpoints or EndpointSlice that says which upstream address stands for what.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name      string            `json:"name"`
		Namespace string            `json:"namespace"`
		Labels    map[string]string `json:"labels"`
	} `json:"metadata"`
	Spec struct {
		ClusterIP    string        `json:"clusterIP"`
		ExternalName string        `json:"externalName"`
		Ports        []servicePort `json:"ports"`
	} `json:"spec"`
	Subsets []struct { // of Endpoints
		Addresses []struct {
			IP string `json:"ip"`
		} `json:"addresses"`
		Ports []endpointPort `json:"ports"`
	} `json:"subsets"`
	Endpoints []struct { // of an EndpointSlice
		Addresses []string `json:"addresses"`
	} `json:"endpoints"`
	Ports []endpointPort `json:"ports"`
}

type servicePort struct {
	Name       string `json:"name"`
	Port       int    `json:"port"`
	TargetPort any    `json:"targetPort"` // a number, a name, or nothing
}

type endpointPort struct {
	Name string `json:"name"`
	Port int    `json:"port"`
}

// parseObjects returns the Services, Endpoints and EndpointSlices among the documents of raw.
func parseObjects(raw []byte) ([]object, error) {
	var objects []object
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		var head struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			return nil, err
		}
		if !slices.Contains([]string{"Service", "Endpoints", "EndpointSlice"}, head.Kind) {
			continue
		}
		var o object
		if err := yaml.Unmarshal(document, &o); err != nil {
			return nil, fmt.Errorf("%s: %w", head.Kind, err)
		}
		if o.Metadata.Namespace == "" {
			o.Metadata.Namespace = "default"
		}
		objects = append(objects, o)
	}
}

// backendFor names the Service that an upstream address stands for (name.namespace), and the Service port. An address
// that stands for none keeps its own name and port.
func (c *Case) backendFor(host string, port int) (string, int) {
	if o := c.serviceNamed(host); o != nil {
		return o.Metadata.Name + "." + o.Metadata.Namespace, port
	}
	for _, o := range c.objects {
		ports := o.portsAt(host)
		for _, p := range ports {
			if p.Port == port {
				name, ns := o.serviceName(), o.Metadata.Namespace
				return name + "." + ns, c.servicePort(name, ns, p, len(ports) == 1)
			}
		}
	}
	return host, port
}

// serviceNamed finds the Service that a host names: name.namespace with or without the cluster's domain, an address
// of its own, an external name, or a bare name, preferred in namespace default.
func (c *Case) serviceNamed(host string) *object {
	short := strings.TrimSuffix(strings.TrimSuffix(host, "."), ".svc.cluster.local")
	short = strings.TrimSuffix(short, ".svc")
	name, ns, dotted := strings.Cut(short, ".")
	var bare *object
	for i := range c.objects {
		o := &c.objects[i]
		if o.Kind != "Service" {
			continue
		}
		if dotted && o.Metadata.Name == name && o.Metadata.Namespace == ns {
			return o
		}
		if o.Spec.ClusterIP == host || (o.Spec.ExternalName != "" && o.Spec.ExternalName == host) {
			return o
		}
		if !dotted && o.Metadata.Name == short && (bare == nil || o.Metadata.Namespace == "default") {
			bare = o
		}
	}
	return bare
}

// portsAt returns the ports that Endpoints or an EndpointSlice has at an address.
func (o *object) portsAt(ip string) []endpointPort {
	var ports []endpointPort
	for _, s := range o.Subsets {
		for _, a := range s.Addresses {
			if a.IP == ip {
				ports = append(ports, s.Ports...)
			}
		}
	}
	for _, e := range o.Endpoints {
		if slices.Contains(e.Addresses, ip) {
			ports = append(ports, o.Ports...)
		}
	}
	return ports
}

func (o *object) serviceName() string {
	if name := o.Metadata.Labels["kubernetes.io/service-name"]; o.Kind == "EndpointSlice" && name != "" {
		return name
	}
	return o.Metadata.Name
}

// servicePort returns the Service port that an endpoint's port belongs to; only says that the endpoint has no other.
func (c *Case) servicePort(name, ns string, ep endpointPort, only bool) int {
	for _, o := range c.objects {
		if o.Kind != "Service" || o.Metadata.Name != name || o.Metadata.Namespace != ns {
			continue
		}
		for _, p := range o.Spec.Ports {
			number, isNumber := p.TargetPort.(float64)
			if (isNumber && int(number) == ep.Port) || (ep.Name != "" && p.Name == ep.Name) || (p.TargetPort == nil && p.Port == ep.Port) {
				return p.Port
			}
		}
		if len(o.Spec.Ports) == 1 && only {
			return o.Spec.Ports[0].Port
		}
	}
	return ep.Port
}
