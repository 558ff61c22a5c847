// Package xds serves snapshots to Envoys and proves that they are served.
//
// Server speaks delta ADS to Envoys, on Unix sockets and by mutual TLS. Edge
// receives heads, fetches what they name, keeps it on disk (Store), serves it
// through a cache.Cache and says what became of it: acknowledged, refused, or
// served, which means proven by a request through the real listener.
//
// It promises that a head is applied only if it is signed by the hub and newer
// than what is served, that an edge with nothing but its own disk serves what
// it served last, and that no connection's fleet is taken from what the client
// says of itself.
//
// It leaves the decision what is served to federation, the answers of the live
// plane to their sources, and Envoy processes to xds/process.
package xds
