// Package natsstream carries records over NATS JetStream: from a collector or
// the decision-maker into one total order, and from there to every replica of
// the ledger.
//
// It promises that a publisher learns one of three things (stored, certainly
// not stored, unknown), that a follower hands its store every message of the
// stream in order or says that it cannot, and that an embedded server
// acknowledges only what is on disk. The stream is transport and buffer, never
// the record: what may be appended is decided by package ledger, what is kept
// by a store such as ledger/boltstore.
package natsstream
