package collector

import (
	"slices"

	"github.com/chancery-dev/chancery/api/getambassador"
)

// GroupKind is a kind of object without its API version.
type GroupKind struct {
	Group string // "" for the core group
	Kind  string
}

// String returns "group/Kind", and "Kind" for the core group.
func (gk GroupKind) String() string {
	if gk.Group == "" {
		return gk.Kind
	}
	return gk.Group + "/" + gk.Kind
}

const (
	ambassadorGroup = getambassador.Group
	ingressGroup    = "networking.k8s.io"
)

// Kinds returns the kinds whose objects become events.
func Kinds() []GroupKind {
	kinds := []GroupKind{
		{"", "Namespace"},
		{"", "Secret"},
		{"", "Service"},
		{ingressGroup, "Ingress"},
		{ingressGroup, "IngressClass"},
	}
	for _, k := range getambassador.Kinds() {
		kinds = append(kinds, GroupKind{ambassadorGroup, k})
	}
	return kinds
}

var collected = Kinds()

// Collected reports whether objects of the kind become events.
func (gk GroupKind) Collected() bool { return slices.Contains(collected, gk) }

// Namespaced reports whether objects of the kind live in a namespace. It knows the kinds that are collected or read
// by the live plane; any other is taken to be namespaced.
func (gk GroupKind) Namespaced() bool {
	return gk != GroupKind{"", "Namespace"} && gk != GroupKind{ingressGroup, "IngressClass"}
}
