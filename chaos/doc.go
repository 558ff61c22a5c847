// Package chaos runs the whole of Chancery in one goroutine, breaks it in every
// way that it must survive, and says when it did not.
//
// Run simulates sites, collectors, the stream, ledger replicas, decision-makers
// and edges as steps on one heap of events, in virtual time, from one seed. The
// parts that decide are the real ones: collector.Normaliser and collector.Core,
// ledger.Take and what it admits, projector.Projection, compile.Compiler,
// federation.State, Next, Author and Tally, projector.OpenHead and
// xds.Applies. The shells around them (goroutines, sockets, files) are modelled
// here, as the packages document them; each model says what a crash leaves.
//
// What goes wrong: messages are lost, late, doubled and overtaken, and the hub's
// word to a collector comes a minute after it stopped being true; a publish is
// stored and its acknowledgement lost, or stored in part; a write to an outbox
// fails, or succeeds and says that it failed; processes stop at any step and
// come back with what they had made durable, or, for an outbox, with nothing;
// the stream is wiped, or set back to an older copy of itself; two
// decision-makers believe that they lead; a decision-maker sleeps through the
// end of its term; Envoys refuse snapshots; files cannot be read; people delete
// most of a site.
//
// What must hold, at every step:
//
//   - I1: no acknowledged event is lost. An event that a quorum of replicas had
//     recorded is in the same place of every ledger that is long enough, a
//     quorum is always long enough, and an event that left its outbox is
//     recorded or on its way.
//   - I2: the same prefix gives the same fingerprint: every replica that folds
//     and compiles the prefix of a recorded candidate gets the candidate's
//     fingerprint, incrementally and from nothing.
//   - I3: an edge never goes back: what it serves only rises in term and
//     generation, over crashes as well, and is a head that was recorded and
//     signed.
//   - I6: after the faults end everything converges: the ledgers are equal,
//     they hold what the directories hold, and the edges serve the newest head.
//
// It promises that the same Options give the same steps, the same trace digest
// and the same violation, on every machine. It plants a bug for each invariant
// on demand, so that the checks are seen to fail.
//
// Not modelled: torn and damaged files (ledger/boltstore and the soak tests do
// that on real ones), messages that age out of the stream before a replica read
// them, a replica that is lost for ever, more than one fleet or ring, an Envoy's
// own behaviour, endpoints and private keys, and time that jumps. An opening of
// the stream hears every replica first.
package chaos
