package natsstream

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/chancery-dev/chancery/ledger"
)

// MaxBatch is the most messages that one atomic batch holds; the server's limit
// is the same.
const MaxBatch = 1000

// maxBatchBytes bounds the bytes of one atomic batch, which the server holds
// until it commits.
const maxBatchBytes = 16 << 20

// HeaderSignature is the message header that carries the producer's signature
// over the body, in standard base64.
const HeaderSignature = "Chancery-Signature"

// What can become of a publish that did not succeed.
var (
	// ErrRefused: the message is not in the stream and will not be accepted as
	// it is: no permission, or too large.
	ErrRefused = errors.New("publish refused")
	// ErrUnavailable: the message is not in the stream; try again later.
	ErrUnavailable = errors.New("stream unavailable")
	// ErrUnknown: the message may be in the stream or not. Read back before
	// going on, or publish it again with the same message id.
	ErrUnknown = errors.New("outcome of publish unknown")
)

// Message is one record on its way to the stream.
type Message struct {
	Record  ledger.Record
	Subject string
	// MsgID is dropped by the stream when it saw the same within its window for
	// duplicates. A retry after ErrUnknown keeps it; a resend that the hub asked
	// for has a fresh one.
	MsgID string
}

// Ack says where messages are in the stream.
type Ack struct {
	// StreamSeq is the stream sequence of the last message. For a duplicate it is
	// what the server says, which may be 0.
	StreamSeq uint64
	// Duplicates counts messages that the stream had already.
	Duplicates int
}

// Publisher puts records into the stream. It is safe for concurrent use, but
// the order of concurrent publishes is anybody's.
type Publisher struct {
	conn    *Conn
	timeout time.Duration
}

// NewPublisher returns a publisher on a connection. A publish whose answer does
// not come within timeout is unknown; 0 means 10 seconds.
func NewPublisher(conn *Conn, timeout time.Duration) *Publisher {
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	return &Publisher{conn: conn, timeout: timeout}
}

// Publish stores one record and returns once the stream has it on disk. The
// error is ErrRefused, ErrUnavailable or ErrUnknown.
func (p *Publisher) Publish(ctx context.Context, m Message) (Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	ack, err := p.request(ctx, m.wire())
	if err != nil {
		return Ack{}, fmt.Errorf("publish %s: %w", m.MsgID, err)
	}
	out := Ack{StreamSeq: ack.Seq}
	if ack.Duplicate {
		out.Duplicates = 1
	}
	return out, nil
}

// PublishBatch stores up to MaxBatch records, all or none, and returns once
// they are on disk. When the stream has some of them already, the batch is cut:
// those are passed over one by one, and what follows is stored as a batch
// again, so that after an error a part of such a batch may be stored.
func (p *Publisher) PublishBatch(ctx context.Context, ms []Message) (Ack, error) {
	if len(ms) > MaxBatch {
		return Ack{}, fmt.Errorf("publish batch of %d: %w: at most %d", len(ms), ErrRefused, MaxBatch)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	var out Ack
	for len(ms) > 0 {
		n := fitting(ms)
		seq, err := p.batch(ctx, ms[:n])
		if err == nil {
			out.StreamSeq, ms = seq, ms[n:]
			continue
		}
		if !errors.Is(err, errDuplicateInBatch) {
			return out, fmt.Errorf("publish batch of %d from %s: %w", n, ms[0].MsgID, err)
		}
		for duplicate := true; duplicate && len(ms) > 0; ms = ms[1:] {
			ack, err := p.Publish(ctx, ms[0])
			if err != nil {
				return out, err
			}
			out.StreamSeq, duplicate = ack.StreamSeq, ack.Duplicates > 0
			out.Duplicates += ack.Duplicates
		}
	}
	return out, nil
}

// fewSingly is up to how many records PublishInOrder publishes one by one. The
// server makes a store of its own for each atomic batch, so that a batch of two
// takes as long as about a dozen single publishes.
const fewSingly = 12

// PublishInOrder stores up to MaxBatch records in their order, and returns once
// they are on disk: a few one by one, more as PublishBatch does. After an error
// the first of them may be stored.
func (p *Publisher) PublishInOrder(ctx context.Context, ms []Message) (Ack, error) {
	if len(ms) > fewSingly {
		return p.PublishBatch(ctx, ms)
	}
	var out Ack
	for _, m := range ms {
		ack, err := p.Publish(ctx, m)
		if err != nil {
			return out, err
		}
		out.StreamSeq = ack.StreamSeq
		out.Duplicates += ack.Duplicates
	}
	return out, nil
}

// fitting returns how many of the messages one batch holds, at least 1.
func fitting(ms []Message) int {
	total := 0
	for i, m := range ms {
		total += len(m.Record.Event)
		if total > maxBatchBytes && i > 0 {
			return i
		}
	}
	return len(ms)
}

// batch stores the messages atomically with the headers of ADR-50 of NATS.
func (p *Publisher) batch(ctx context.Context, ms []Message) (uint64, error) {
	if len(ms) == 1 {
		ack, err := p.request(ctx, ms[0].wire())
		return ack.Seq, err
	}
	subjects := make([]string, len(ms))
	for i, m := range ms {
		subjects[i] = m.Subject
	}
	ctx, done := p.conn.watchRefusal(ctx, subjects...)
	defer done()
	id := nuid.Next()
	for i, m := range ms {
		w := m.wire()
		w.Header["Nats-Batch-Id"] = []string{id}
		w.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		switch i {
		case len(ms) - 1:
			w.Header["Nats-Batch-Commit"] = []string{"1"}
			ack, err := p.request(ctx, w)
			if err == nil && (ack.Batch != id || ack.Count != len(ms)) {
				err = fmt.Errorf("%w: acknowledges %d of %d", ErrUnknown, ack.Count, len(ms))
			}
			return ack.Seq, err
		case 0:
			// The first answer says whether batches are taken at all, before the rest is sent.
			if _, err := p.request(ctx, w); err != nil {
				if errors.Is(err, ErrUnknown) && ctx.Err() == nil {
					err = fmt.Errorf("%w: batch not begun: %w", ErrUnavailable, err)
				}
				return 0, err
			}
		default:
			if err := p.conn.PublishMsg(w); err != nil {
				return 0, classify(err)
			}
		}
	}
	return 0, nil
}

// pubAck is the server's answer to a publish.
type pubAck struct {
	Stream    string `json:"stream"`
	Seq       uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
	Batch     string `json:"batch"`
	Count     int    `json:"count"`
	Error     *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
}

// Error codes of the server.
const (
	codeBatchIncomplete  = 10176 // a message of the batch did not arrive
	codeDuplicateInBatch = 10201 // the batch has a message id that the stream knows
)

var errDuplicateInBatch = errors.New("batch has a duplicate")

// request sends one message and waits for the answer, which is empty for a
// message that only adds to a batch.
func (p *Publisher) request(ctx context.Context, w *nats.Msg) (pubAck, error) {
	ctx, done := p.conn.watchRefusal(ctx, w.Subject)
	defer done()
	reply, err := p.conn.RequestMsgWithContext(ctx, w)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrRefused) {
			return pubAck{}, cause
		}
		return pubAck{}, classify(err)
	}
	var ack pubAck
	if len(bytes.TrimSpace(reply.Data)) == 0 {
		return ack, nil
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return pubAck{}, fmt.Errorf("%w: answer: %w", ErrUnknown, err)
	}
	switch e := ack.Error; {
	case e == nil:
		return ack, nil
	case e.ErrCode == codeDuplicateInBatch:
		return pubAck{}, errDuplicateInBatch
	case e.Code >= 500 || e.Code == 429 || e.Code == 404 || e.ErrCode == codeBatchIncomplete:
		return pubAck{}, fmt.Errorf("%w: %s (%d)", ErrUnavailable, e.Description, e.ErrCode)
	default:
		return pubAck{}, fmt.Errorf("%w: %s (%d)", ErrRefused, e.Description, e.ErrCode)
	}
}

// classify sorts the client's errors by whether the message can be in the
// stream.
func classify(err error) error {
	switch {
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
}

func (m Message) wire() *nats.Msg {
	return &nats.Msg{
		Subject: m.Subject,
		Data:    m.Record.Event,
		Header: nats.Header{
			nats.MsgIdHdr:   {m.MsgID},
			HeaderSignature: {base64.StdEncoding.EncodeToString(m.Record.Signature)},
		},
	}
}
