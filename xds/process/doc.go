// Package process keeps an Envoy running that outlives its keeper.
//
// The Envoy runs in a session of its own, so that neither a signal to the
// keeper's process group nor a kill -9 of the keeper reaches it: it goes on
// serving what it has. The next keeper with the same directory finds it and
// adopts it. An Envoy that dies is started again, ever more slowly while it
// does not stay up. It is stopped only when its keeper is asked to.
//
// The package is for Linux: it knows processes by /proc and pidfd. What the
// Envoy is told to serve is its bootstrap's and its edge's business.
package process
