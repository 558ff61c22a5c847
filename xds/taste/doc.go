// Package taste has an Envoy judge a snapshot before any Envoy serves it.
//
// A resident Envoy is fed each candidate by the same delta protocol and cache
// as those that serve; it binds no port, asks no name server and probes
// nothing (projector/envoy.Tasteable), and has certificates that prove nothing.
// That it acknowledges everything with nothing left warming is the taste. What
// it refuses is named, and it is put back to what it took last. An Envoy that
// dies of a snapshot has refused it too.
//
// It finds what Envoy refuses: bad regular expressions, duplicate domains,
// addresses and filter chains, missing or mismatched keys. It does not find
// what Envoy takes and should not, such as routes to upstreams that nobody
// has: that is the checker's in projector/envoy.
package taste
