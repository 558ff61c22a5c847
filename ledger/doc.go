// Package ledger is the ordered, Merkle-hashed record of everything that
// Chancery was told and everything that it decided.
//
// It is the pure core: what an event is and how it is written down, which
// events may be appended (Admission), how a record is hashed, and what a
// checkpoint says. It promises that the same prefix of a stream gives the same
// ledger, byte for byte, on every replica. Nothing here reads a clock, a disk
// or a network; storing records is left to ledger/boltstore, carrying them to
// ledger/natsstream.
package ledger
