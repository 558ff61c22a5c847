// Package measure holds the benchmarks that need the whole chain: the program
// `chancery serve` with a real Envoy, from the rename of a file in a site's
// directory to the first request that the new configuration answers.
//
// It promises that every figure stands beside its floor, taken in the same run
// and in turns with it, and that what counts is a request answered, never an
// acknowledgement. It asserts nothing: what the figures were, on which machine,
// and how to take them again is in docs/performance.md. Benchmarks of one part
// are with that part.
package measure
