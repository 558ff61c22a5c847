// Package collector turns what a site holds into signed events.
//
// A site is a directory of YAML or a Kubernetes cluster; it hands over objects as it finds them. Normaliser makes
// them canonical, Core compares them with what the ledger was told before and says which events to record, and Run
// is the loop around both: site → Core → outbox → stream.
//
// Normaliser and Core are pure: no clock, disk, network, goroutine or randomness. Time enters Core as a value, and
// what it wants done comes back as Effects.
//
// Promises. An event is on disk before it is published. Events are published in order and without gaps, as often as
// the hub asks. A delete is sent only on positive evidence; what could not be read is unknown, and an unknown object
// stays what it was. Nothing of a key or a certificate's body leaves this package: see SecretFacts.
//
// Left to others: what the objects mean (projector), whether an event is recorded (ledger), when an event may be
// forgotten here (the hub says so).
package collector
