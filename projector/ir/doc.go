// Package ir is the model between the configuration APIs and the proxy: what
// Emissary's resources, Ingress and Gateway API all compile to, and what the
// Envoy writer reads.
//
// It has the words of HTTP and TLS, not those of any API or proxy. Values are
// immutable once built; two values that are deeply equal mean the same
// configuration. References between values go by name, so that each can be
// compiled, compared and shipped alone. It promises no defaults: a zero field
// means what its comment says.
package ir
