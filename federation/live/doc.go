// Package live answers what a snapshot needs and does not contain: the
// addresses behind a Service, and the certificates and trust anchors behind a
// Secret. These change by themselves, at any time, and never pass through the
// ledger; private keys are never written anywhere by this package.
//
// Plane is a pure fold: it is given full views of each cluster's objects, the
// needs, and the time, and returns answers, recomputing those that changed.
// It promises that
//
//   - unknown is never empty: what cannot be read keeps its last answer;
//   - a certificate goes live only when it parses, its key is its own, and it
//     is no worse than the one being served, which is otherwise kept, also for
//     KeepDeleted after its Secret was deleted;
//   - no key appears in an error, a problem, a log line or JSON: Object and
//     Secret print as "redacted".
//
// Run is the shell around a Plane: one goroutine that owns it. Reading a
// cluster is left to the Source, serving the answers to xds, keeping them on
// disk to the edge.
package live
