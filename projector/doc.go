// Package projector turns the ledger's events into Envoy configuration.
//
// The root package holds what everything downstream speaks of: the Projection
// (all objects as of a seq), the Overlay and the Settings that a compile reads
// beside it, the Report on each object, and the Snapshot, named by its content.
// It is pure. The stages have packages of their own: projector/ir is the model
// between the APIs and the proxy, projector/emissary reads Emissary's
// resources into it, projector/envoy writes it as Envoy resources,
// projector/compile runs the stages incrementally, projector/shelf keeps
// snapshots on disk.
package projector
