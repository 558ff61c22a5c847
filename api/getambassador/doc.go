// Package getambassador holds the getambassador.io resources as Go types and
// turns any of their published versions into one: v3alpha1, the hub version.
//
// It promises that [Decode] never panics, that it reports what it did not
// understand by the path of the field, that a field that the v3alpha1 schema
// names is never dropped in silence, and that v1 and v2 objects mean after
// conversion what they meant before. An unknown field is a warning, because an
// API server would have pruned it; a wrong type, a value out of its
// enumeration or a missing required field makes the object invalid.
//
// It leaves to others what fields mean together: defaults, references between
// objects, service names, route order. Fields that have no effect (documented
// so by Emissary) are decoded all the same, so that a report can name them.
//
// Everything here is a function of its arguments: no clock, disk, network,
// randomness or goroutine.
package getambassador
