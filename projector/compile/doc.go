// Package compile turns a projection into a snapshot, incrementally.
//
// A Compiler holds every intermediate result in tables: objects, decoded
// resources, groups, virtual hosts, Envoy resources. A rule makes rows of later
// tables from one row, or from one bucket of an index, of an earlier one.
// Whatever a rule looks up is recorded as it is looked up, rows that are not
// there included, so that a change re-runs exactly the rules that saw what it
// changed, and an equal result stops there. The cost of a change is that of
// what it touches, not of the whole.
//
// It promises that the outcome depends on the objects, the overlay and the
// settings only, never on the order in which they came: an incremental compile
// is equal, byte for byte, to a full one. It promises that an object that is
// bad, or that makes the compiler panic, costs nobody else their
// configuration. What resources mean is left to projector/emissary, how
// resources are written to projector/envoy.
package compile
