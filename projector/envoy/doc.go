// Package envoy writes the model of projector/ir as Envoy resources.
//
// Upstream, Listener, VirtualHost and RouteTable each turn one value into the
// bytes of one resource; EndpointNeed and SecretNeed write what the live plane
// has to bring, Endpoints and Secret what it brought. BootstrapStatic and
// BootstrapADS write a whole bootstrap. Checker is our own reference check,
// which finds what Envoy accepts and should not; Tasteable rewrites updates for
// an Envoy that only has to judge them.
//
// It promises that equal values give equal bytes, in every process and on every
// machine, and that every field of the ir has the effect that its comment says
// or is an error that names it. It is pure, and it decides nothing: names,
// order, defaults and which object wins are the compiler's. An error from here
// is about one resource; the others can still be written.
package envoy
