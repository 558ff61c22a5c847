package chaos

import (
	"errors"
	"fmt"
	"time"

	"github.com/chancery-dev/chancery/ledger"
)

// message is one record on its way to the stream.
type message struct {
	record  ledger.Record
	subject string
	id      string // the stream drops what has the id of something it knows
}

// stream is the model of CHANCERY: one total order, message ids, and an
// incarnation that is new when it is made anew. What it acknowledged it may
// still lose.
type stream struct {
	w           *world
	incarnation string
	made        int
	regressed   bool   // ever set back
	first       uint64 // sequence of messages[0]
	messages    []message
	ids         map[string]time.Duration // until when they are remembered
}

func newStream(w *world) *stream {
	s := &stream{w: w}
	s.make()
	return s
}

func (s *stream) make() {
	s.name()
	s.first, s.messages, s.ids = 1, nil, map[string]time.Duration{}
}

func (s *stream) name() {
	s.made++
	s.incarnation = fmt.Sprintf("inc-%d", s.made)
}

func (s *stream) last() uint64 { return s.first + uint64(len(s.messages)) - 1 }

func (s *stream) get(seq uint64) (message, bool) {
	if seq < s.first || seq > s.last() {
		return message{}, false
	}
	return s.messages[seq-s.first], true
}

// wipe makes the stream anew.
func (s *stream) wipe() {
	s.w.stats.Wipes++
	s.w.note("stream %s wiped with %d messages", s.incarnation, len(s.messages))
	s.make()
}

// regress sets the stream back to what it was some messages ago.
func (s *stream) regress() {
	n := min(1+s.w.rng.IntN(20), len(s.messages))
	s.w.stats.Wipes++
	s.regressed = true
	s.w.note("stream %s set back by %d messages to %d", s.incarnation, n, s.last()-uint64(n))
	for _, m := range s.messages[len(s.messages)-n:] {
		delete(s.ids, m.id)
	}
	s.messages = s.messages[: len(s.messages)-n : len(s.messages)-n]
}

// renew gives the stream a new incarnation if it still has the given one. What
// is in it stays.
func (s *stream) renew(incarnation string) {
	if s.incarnation == incarnation {
		s.name()
		s.w.note("stream %s renewed as %s", incarnation, s.incarnation)
	}
}

// store takes messages in order, all but those that it knows.
func (s *stream) store(ms []message) {
	for _, m := range ms {
		if until, ok := s.ids[m.id]; ok && s.w.now < until {
			continue
		}
		s.ids[m.id] = s.w.now + rememberIDs
		s.messages = append(s.messages, m)
	}
	s.age()
}

// rememberIDs is for how long a message id is remembered.
const rememberIDs = 2 * time.Minute

// keepMessages is about how many messages the stream keeps that every replica
// has consumed.
const keepMessages = 300

// age forgets old messages that every replica has consumed, and their ids.
func (s *stream) age() {
	if len(s.messages) < 2*keepMessages {
		return
	}
	to := s.last() - keepMessages
	for _, p := range s.w.procs {
		c := p.disk.cursor
		if c.Incarnation != s.incarnation || p.disk.admission.Incarnation() != s.incarnation {
			return
		}
		to = min(to, c.StreamSeq)
	}
	if to < s.first {
		return
	}
	n := to - s.first + 1
	for _, m := range s.messages[:n] {
		delete(s.ids, m.id)
	}
	s.messages = append([]message(nil), s.messages[n:]...)
	s.first += n
}

var (
	errUnavailable = errors.New("stream unavailable")
	errUnknown     = errors.New("outcome of publish unknown")
)

// publishTimeout is how long a publisher waits for an acknowledgement.
const publishTimeout = 2 * time.Second

// publish sends messages as one batch. done is called once: with nil when the
// stream has them, with errUnavailable when it has none, with errUnknown when
// it may have any, and may get them later still.
func (w *world) publish(who string, ms []message, done func(error)) {
	answered := false
	answer := func(err error) {
		if !answered {
			answered = true
			done(err)
		}
	}
	if w.hit(FaultLoss) && w.rng.IntN(2) == 0 {
		w.after(w.latency(), "unavailable "+who, func() { answer(errUnavailable) })
		return
	}
	w.send("publish "+who, func() {
		part := ms
		torn := w.hit(FaultUnknown)
		if torn && w.rng.IntN(2) == 0 {
			part = ms[:w.rng.IntN(len(ms)+1)]
		}
		w.stream.store(part)
		if !torn {
			w.send("ack "+who, func() { answer(nil) })
		}
	})
	w.after(publishTimeout, "timeout "+who, func() { answer(errUnknown) })
}
