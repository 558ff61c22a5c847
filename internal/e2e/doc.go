// Package e2e tests the program from outside: the real binary, a real Envoy,
// echo backends, files in a directory, and a constant load while things happen.
//
// It promises that a request counts as failed whenever a client would have
// noticed: the load's client neither retries nor reconnects behind the test's
// back, and each request is kept with its outcome. It promises that what a test
// started is ended by its pid, also the Envoys that outlive their keeper.
//
// CI runs small counts; CHANCERY_SOAK=1 runs the full ones. What happens inside
// a package is left to that package's own tests.
package e2e
