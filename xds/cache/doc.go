// Package cache serves one fleet's configuration to its Envoys by delta ADS.
//
// It is an implementation of go-control-plane's cache.Cache made for many
// Envoys that differ little: generations are immutable and share what they
// have in common, a delta between two generations is computed and marshalled
// once whatever the number of streams, and a stream remembers where it is
// instead of what it was sent. A generation joins a snapshot with the answers
// of the live plane (endpoints and certificates).
//
// It promises: versions are digests of content, so that an Envoy that
// reconnects to a restarted server is sent only what differs; the version of
// an endpoint resource covers the upstreams that use it, so that a changed
// upstream gets its endpoints at once; additions come before what refers to
// them and removals after, each step when the one before was acknowledged
// (Next); a refused generation is followed by the last good one; a stream
// queues nothing, for what arrives while it is busy is one next generation.
//
// It leaves to others which snapshot is to be served, who may connect, and the
// proof that what was acknowledged is served (package xds).
package cache
