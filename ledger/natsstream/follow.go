package natsstream

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chancery-dev/chancery/ledger"
)

const (
	maxCommitBytes  = 8 << 20  // of events in one commit, the last excepted
	maxPendingBytes = 32 << 20 // of messages that the server has sent and nobody has committed
)

// Store is what a Follower needs of a ledger. ledger/boltstore has one.
type Store interface {
	Append(ctx context.Context, batch []ledger.Incoming) ([]ledger.Result, error)
	Size() ledger.Seq
	Cursor() ledger.Cursor
	Admission() *ledger.Admission
	// Updated returns a channel that is closed when the store changes.
	Updated() <-chan struct{}
	// SetAside takes the records after base out of the ledger and keeps them in a
	// file, whose path it returns.
	SetAside(ctx context.Context, base ledger.Seq, root ledger.Digest) (string, error)
}

// LossKind says how the stream and the ledger do not fit together.
type LossKind int

// The kinds of loss.
const (
	// StreamMissing: there is no stream. It has to be made (EnsureStream) and
	// opened (Bootstrap).
	StreamMissing LossKind = iota
	// NotBegun: the stream's incarnation has not begun, as far as it was read. The
	// decision-maker opens it (Bootstrap); where it did, long ago, this replica
	// needs the ledger of another.
	NotBegun
	// StreamRegressed: the stream ends before what this replica has consumed, or
	// holds something else there. It has to be renewed (Bootstrap with Renew).
	StreamRegressed
	// MessagesMissing: messages are gone that this replica has not consumed. It
	// needs the ledger of another, or the stream has to be renewed.
	MessagesMissing
	// Behind: the incarnation begins at a size that this replica does not have. It
	// needs the ledger of another.
	Behind
	// TailSetAside: the incarnation begins at a smaller size. What this replica had
	// beyond it was taken out of its ledger and is in the file Aside. The follower
	// goes on.
	TailSetAside
	// Diverged: at the size at which the incarnation begins this replica has
	// another root. Its ledger has to be moved away and rebuilt.
	Diverged
)

// String returns the kind in words.
func (k LossKind) String() string {
	return [...]string{"stream missing", "stream not begun", "stream regressed", "messages missing", "behind", "tail set aside", "diverged"}[k]
}

// Loss says that events may be lost. The follower does not go on by itself,
// except where the kind says so.
type Loss struct {
	Kind        LossKind
	Incarnation string // of the stream, "" when it is missing
	Reason      string
	Base        ledger.Seq // size at which the incarnation begins, where it is about that
	Aside       string     // for TailSetAside
}

// FollowerOptions say how a stream is followed. The callbacks run on the
// follower's goroutine, one at a time, and should not block; each may be nil.
type FollowerOptions struct {
	// MaxBatch is the most messages in one commit, 1 to ledger.MaxAppend; 0 means
	// ledger.MaxAppend.
	MaxBatch int
	// Linger is how long a commit waits for messages that the stream has and that
	// did not come yet; 0 means 2 ms. What is the stream's last message is
	// committed at once.
	Linger time.Duration
	// CheckEvery is how often the stream is compared with what was consumed; 0
	// means 2 s.
	CheckEvery time.Duration
	// OnCommit gets what became of messages, in order, once that is on disk.
	OnCommit func([]ledger.Result)
	// OnGap says which event of a cluster would be appended next, when another
	// came, when a claim was in vain (n is 0: the cluster has to claim the epoch),
	// and for every cluster when an incarnation begins. The same is not said more
	// than once per CheckEvery.
	OnGap func(cluster ledger.ClusterName, epoch, n uint64)
	// OnLoss says that events may be lost. The same is not said again before
	// something was consumed.
	OnLoss func(Loss)
	// Logger gets what an operator should know. Nil means slog.Default.
	Logger *slog.Logger
}

// Follower carries the stream into a store, in order and from where the store
// is, with many messages in one commit.
type Follower struct {
	conn  *Conn
	store Store
	o     FollowerOptions

	loss Loss // what OnLoss was last told
	lost bool // whether that still holds
	gaps map[ledger.ClusterName]toldGap
}

// toldGap is what OnGap was last told of a cluster.
type toldGap struct {
	epoch, n uint64
	at       time.Time
}

// NewFollower returns a follower of the stream that the connection reaches.
func NewFollower(conn *Conn, store Store, o FollowerOptions) *Follower {
	if o.MaxBatch <= 0 || o.MaxBatch > ledger.MaxAppend {
		o.MaxBatch = ledger.MaxAppend
	}
	if o.Linger <= 0 {
		o.Linger = 2 * time.Millisecond
	}
	if o.CheckEvery <= 0 {
		o.CheckEvery = 2 * time.Second
	}
	if o.OnCommit == nil {
		o.OnCommit = func([]ledger.Result) {}
	}
	if o.OnGap == nil {
		o.OnGap = func(ledger.ClusterName, uint64, uint64) {}
	}
	if o.OnLoss == nil {
		o.OnLoss = func(Loss) {}
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Follower{conn: conn, store: store, o: o, gaps: map[ledger.ClusterName]toldGap{}}
}

// Run follows the stream until the context ends, and then returns its error.
// What goes wrong meanwhile is reported to the callbacks and the log, and tried
// again from where the store is.
func (f *Follower) Run(ctx context.Context) error {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	backoff := least
	for ctx.Err() == nil {
		changed := f.store.Updated()
		before := f.store.Cursor()
		err := f.session(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			backoff = least
			continue
		case f.store.Cursor() != before:
			backoff = least
		}
		var l *lossError
		if !errors.As(err, &l) {
			f.o.Logger.WarnContext(ctx, "following the stream interrupted", slog.Any("err", err), slog.Duration("retry_in", backoff))
		}
		wait := time.NewTimer(backoff)
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-changed:
		}
		wait.Stop()
		backoff = min(2*backoff, most, f.o.CheckEvery)
	}
	return ctx.Err()
}

// lossError ends a session on a loss that was reported.
type lossError struct{ Loss }

func (e *lossError) Error() string { return e.Kind.String() + ": " + e.Reason }

// report tells OnLoss, unless it knows.
func (f *Follower) report(l Loss) error {
	if same := f.loss.Kind == l.Kind && f.loss.Incarnation == l.Incarnation && f.loss.Base == l.Base; !f.lost || !same {
		f.loss, f.lost = l, true
		f.o.Logger.Warn("events may be lost", slog.String("kind", l.Kind.String()), slog.String("incarnation", l.Incarnation),
			slog.String("reason", l.Reason), slog.Uint64("size", uint64(f.store.Size())))
		f.o.OnLoss(l)
	}
	return &lossError{l}
}

// session is one reading of the stream, from the store's cursor until
// something does not fit.
type session struct {
	incarnation string
	begun       bool   // the ledger has the incarnation's StreamBegun
	next        uint64 // stream sequence that must come; 0: any
	readTo      uint64 // where the stream ended when the session began
}

// session returns nil when the stream should be looked at anew at once.
func (f *Follower) session(ctx context.Context) error {
	js, err := jetstream.New(f.conn.Conn)
	if err != nil {
		return err
	}
	s, start, err := f.look(ctx, js)
	if err != nil {
		return err
	}
	cons, err := js.OrderedConsumer(ctx, StreamName, jetstream.OrderedConsumerConfig{
		DeliverPolicy:    jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:      max(start, 1),
		MaxResetAttempts: 3,
	})
	if err != nil {
		return fmt.Errorf("consume stream %s: %w", StreamName, err)
	}
	it, err := cons.Messages(jetstream.PullMaxMessagesWithBytesLimit(2*ledger.MaxAppend, maxPendingBytes))
	if err != nil {
		return fmt.Errorf("consume stream %s: %w", StreamName, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	msgs, ended := make(chan jetstream.Msg, 64), make(chan error, 1)
	var reader sync.WaitGroup
	reader.Go(func() {
		for {
			m, err := it.Next(jetstream.NextContext(ctx))
			if err != nil {
				ended <- err
				return
			}
			select {
			case msgs <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	defer func() {
		cancel()
		it.Stop()
		reader.Wait()
	}()
	return f.consume(ctx, js, s, msgs, ended)
}

// look compares the stream with what was consumed and says where to go on.
func (f *Follower) look(ctx context.Context, js jetstream.JetStream) (s session, start uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return s, 0, f.report(Loss{Kind: StreamMissing, Reason: "there is no stream " + StreamName})
	}
	if err != nil {
		return s, 0, fmt.Errorf("look at stream %s: %w", StreamName, err)
	}
	info, cur := stream.CachedInfo(), f.store.Cursor()
	s = session{
		incarnation: info.Config.Metadata[metaIncarnation],
		readTo:      info.State.LastSeq,
	}
	s.begun = s.incarnation == f.store.Admission().Incarnation()
	if s.incarnation == "" {
		return s, 0, fmt.Errorf("look at stream %s: %w: it has no incarnation", StreamName, ErrStreamSettings)
	}
	if cur.Incarnation != s.incarnation || !s.begun {
		return s, 0, nil
	}
	lost := func(k LossKind, format string, args ...any) error {
		return f.report(Loss{Kind: k, Incarnation: s.incarnation, Reason: fmt.Sprintf(format, args...)})
	}
	switch first, last := info.State.FirstSeq, info.State.LastSeq; {
	case last < cur.StreamSeq:
		return s, 0, lost(StreamRegressed, "it ends at message %d, %d was consumed", last, cur.StreamSeq)
	case first > cur.StreamSeq+1:
		return s, 0, lost(MessagesMissing, "it starts at message %d, %d was consumed", first, cur.StreamSeq)
	case first <= cur.StreamSeq && cur.StreamSeq > 0:
		m, err := stream.GetMsg(ctx, cur.StreamSeq)
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			return s, 0, fmt.Errorf("look at stream %s: message %d: %w", StreamName, cur.StreamSeq, err)
		}
		if err == nil && ledger.DigestOf(m.Data) != cur.Last {
			return s, 0, lost(StreamRegressed, "message %d is not the one that was consumed", cur.StreamSeq)
		}
	}
	s.next = cur.StreamSeq + 1
	return s, cur.StreamSeq + 1, nil
}

// consume commits messages until the session ends.
func (f *Follower) consume(ctx context.Context, js jetstream.JetStream, s session, msgs <-chan jetstream.Msg, ended <-chan error) error {
	check := time.NewTicker(f.o.CheckEvery)
	defer check.Stop()
	linger := time.NewTimer(0)
	defer linger.Stop()
	var batch []ledger.Incoming
	for {
		if !s.begun && f.caughtUp(s) {
			// Not an end: the message that begins the incarnation can come at any time.
			_ = f.report(Loss{Kind: NotBegun, Incarnation: s.incarnation, Reason: "nothing in it begins its incarnation"})
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			return fmt.Errorf("consume stream %s: %w", StreamName, err)
		case <-check.C:
			if f.moved(ctx, js, s) {
				return nil
			}
		case m := <-msgs:
			batch = batch[:0]
			bytes := 0
			linger.Reset(f.o.Linger)
			var stop error
			for more := true; more; {
				in, waiting, err := s.incoming(m)
				if err != nil && !s.begun {
					stop = err // what is passed over may go
					break
				}
				if err != nil {
					stop = f.report(Loss{Kind: MessagesMissing, Incarnation: s.incarnation, Reason: err.Error()})
					break
				}
				batch, bytes = append(batch, in), bytes+len(in.Record.Event)
				if len(batch) >= f.o.MaxBatch || bytes >= maxCommitBytes {
					break
				}
				m, more = nextOf(msgs, linger, waiting)
			}
			if again, err := f.commit(ctx, &s, batch); again || err != nil {
				return err
			}
			if stop != nil {
				return stop
			}
		}
	}
}

// nextOf returns a message that is there, or, when the stream has more, comes
// before linger ends. The last message of the stream is not held up.
func nextOf(msgs <-chan jetstream.Msg, linger *time.Timer, waiting bool) (jetstream.Msg, bool) {
	select {
	case m := <-msgs:
		return m, true
	default:
	}
	if !waiting {
		return nil, false
	}
	select {
	case m := <-msgs:
		return m, true
	case <-linger.C:
		return nil, false
	}
}

// incoming reads a message, whether the stream had more when it was sent, and
// an error when it is not the next.
func (s *session) incoming(m jetstream.Msg) (in ledger.Incoming, waiting bool, err error) {
	meta, err := m.Metadata()
	if err != nil {
		return ledger.Incoming{}, false, fmt.Errorf("message without its place in the stream: %w", err)
	}
	seq := meta.Sequence.Stream
	if s.next != 0 && seq != s.next {
		return ledger.Incoming{}, false, fmt.Errorf("message %d comes where %d should", seq, s.next)
	}
	s.next = seq + 1
	// A signature that cannot be read verifies as little as one that is wrong.
	sig, _ := base64.StdEncoding.DecodeString(m.Headers().Get(HeaderSignature))
	return ledger.Incoming{
		Record:      ledger.Record{Event: m.Data(), Signature: sig},
		Subject:     m.Subject(),
		Incarnation: s.incarnation,
		StreamSeq:   seq,
	}, meta.NumPending > 0, nil
}

// caughtUp reports whether all has been consumed that was in the stream when
// the session began.
func (f *Follower) caughtUp(s session) bool {
	c := f.store.Cursor()
	return s.readTo == 0 || c.Incarnation == s.incarnation && c.StreamSeq >= s.readTo
}

// moved reports whether the stream is no longer the one of the session.
func (f *Follower) moved(ctx context.Context, js jetstream.JetStream, s session) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, StreamName)
	if err != nil {
		return errors.Is(err, jetstream.ErrStreamNotFound) // else the consumer tells
	}
	info, cur := stream.CachedInfo(), f.store.Cursor()
	return info.Config.Metadata[metaIncarnation] != s.incarnation ||
		cur.Incarnation == s.incarnation && (info.State.LastSeq < cur.StreamSeq || s.begun && info.State.FirstSeq > cur.StreamSeq+1)
}

// commit appends a batch and tells what became of it. again says that the
// stream should be looked at anew.
func (f *Follower) commit(ctx context.Context, s *session, batch []ledger.Incoming) (again bool, err error) {
	if len(batch) == 0 {
		return false, nil
	}
	results, err := f.store.Append(ctx, batch)
	if err != nil {
		return false, err
	}
	if n := len(results); n > 0 && results[n-1].Halt {
		if n > 1 {
			f.tell(s, results[:n-1])
		}
		return f.halted(ctx, *s, results[n-1])
	}
	f.lost = f.lost && !s.begun
	f.tell(s, results)
	return len(results) < len(batch), nil
}

// tell calls the callbacks.
func (f *Follower) tell(s *session, results []ledger.Result) {
	f.o.OnCommit(results)
	for _, r := range results {
		if r.Event.Type == ledger.StreamBegun && r.Outcome == ledger.Append {
			s.begun, f.lost = true, false
			a := f.store.Admission()
			for _, c := range a.Clusters() {
				p, _ := a.Progress(c)
				f.ask(c, max(p.Epoch, 1), p.NextN)
			}
			continue
		}
		if cluster, epoch, n, ok := wanted(r); ok {
			f.ask(cluster, epoch, n)
		}
		if r.Outcome == ledger.Refuse {
			f.o.Logger.Warn("event refused", slog.String("event", r.Event.ID.String()), slog.Uint64("stream_seq", r.StreamSeq), slog.String("reason", r.Reason))
		}
	}
}

// wanted returns what a collector has to publish instead of the event.
func wanted(r ledger.Result) (cluster ledger.ClusterName, epoch, n uint64, ok bool) {
	id := r.Event.ID
	if id.Cluster == "" || id.Cluster == ledger.InstallScope || r.WantEpoch == 0 {
		return "", 0, 0, false
	}
	switch {
	case r.Outcome == ledger.Gap, r.Outcome == ledger.Refuse:
		return id.Cluster, r.WantEpoch, r.WantN, true
	case r.Outcome == ledger.Skip && id.N == 0 && r.ByOther:
		return id.Cluster, r.WantEpoch + 1, 0, true
	}
	return "", 0, 0, false
}

// ask tells OnGap, unless it was told the same a moment ago.
func (f *Follower) ask(cluster ledger.ClusterName, epoch, n uint64) {
	now := time.Now()
	told := f.gaps[cluster]
	if told.epoch == epoch && told.n == n && now.Sub(told.at) < f.o.CheckEvery {
		return
	}
	f.gaps[cluster] = toldGap{epoch: epoch, n: n, at: now}
	f.o.OnGap(cluster, epoch, n)
}

// halted deals with a StreamBegun that the ledger cannot follow.
func (f *Follower) halted(ctx context.Context, s session, r ledger.Result) (again bool, err error) {
	d, err := ledger.DecodeStreamBegun(r.Event)
	if err != nil {
		return false, err
	}
	l := Loss{Incarnation: s.incarnation, Reason: r.Reason, Base: d.BaseSize}
	switch size := f.store.Size(); {
	case d.BaseSize > size:
		l.Kind = Behind
	case d.BaseSize == size:
		l.Kind = Diverged
	default:
		path, err := f.store.SetAside(ctx, d.BaseSize, d.BaseRoot)
		if err == nil {
			l.Kind, l.Aside = TailSetAside, path
			_ = f.report(l)
			return true, nil
		}
		if !errors.Is(err, ledger.ErrOtherRoot) {
			return false, err
		}
		l.Kind, l.Reason = Diverged, err.Error()
	}
	return false, f.report(l)
}
