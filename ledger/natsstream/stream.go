package natsstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chancery-dev/chancery/ledger"
)

// StreamName is the name of the stream.
const StreamName = "CHANCERY"

// metaIncarnation is the key in the stream's metadata under which its
// incarnation stands.
const metaIncarnation = "chancery.dev/incarnation"

// StreamOptions say what the stream is to be.
type StreamOptions struct {
	// Replicas is 1 on an embedded server and 3 on a cluster; 0 means 1.
	Replicas int
	// MaxAge and MaxBytes bound what is kept; the oldest goes first. 0 means 72
	// hours and 8 GiB.
	MaxAge   time.Duration
	MaxBytes int64
	// Duplicates is for how long a message id is remembered; 0 means two minutes.
	Duplicates time.Duration
}

// ErrStreamSettings says that the stream is there with settings that Chancery
// cannot work with.
var ErrStreamSettings = errors.New("stream has other settings")

func (o StreamOptions) config() jetstream.StreamConfig {
	if o.Replicas <= 0 {
		o.Replicas = 1
	}
	if o.MaxAge <= 0 {
		o.MaxAge = 72 * time.Hour
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 8 << 30
	}
	if o.Duplicates <= 0 {
		o.Duplicates = 2 * time.Minute
	}
	return jetstream.StreamConfig{
		Name:               StreamName,
		Description:        "Chancery: what happened, on its way to the ledger",
		Subjects:           ledger.StreamSubjects,
		Storage:            jetstream.FileStorage,
		Retention:          jetstream.LimitsPolicy,
		Discard:            jetstream.DiscardOld,
		Replicas:           o.Replicas,
		MaxAge:             o.MaxAge,
		MaxBytes:           o.MaxBytes,
		MaxMsgSize:         maxPayloadBytes,
		Duplicates:         min(o.Duplicates, o.MaxAge),
		AllowDirect:        true,
		AllowAtomicPublish: true,
		Metadata:           map[string]string{metaIncarnation: newIncarnation()},
	}
}

func newIncarnation() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// EnsureStream makes the stream when it is not there and returns its
// incarnation. The limits of an existing stream are brought to what the options
// say; where another setting is not what Chancery needs the error is an
// ErrStreamSettings that names each.
func EnsureStream(ctx context.Context, conn *Conn, o StreamOptions) (incarnation string, err error) {
	js, err := jetstream.New(conn.Conn)
	if err != nil {
		return "", fmt.Errorf("stream %s: %w", StreamName, err)
	}
	want := o.config()
	s, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s, err = js.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = js.Stream(ctx, StreamName) // another replica was faster
		}
	}
	if err != nil {
		return "", fmt.Errorf("stream %s: %w", StreamName, err)
	}
	have := s.CachedInfo().Config
	if wrong := differences(have, want); len(wrong) > 0 {
		return "", fmt.Errorf("stream %s: %w: %s; correct them, or delete the stream (nats stream rm %s) to have it made anew and filled again", StreamName, ErrStreamSettings, strings.Join(wrong, "; "), StreamName)
	}
	if have.MaxAge != want.MaxAge || have.MaxBytes != want.MaxBytes || have.Duplicates != want.Duplicates || have.Replicas != want.Replicas {
		have.MaxAge, have.MaxBytes, have.Duplicates, have.Replicas = want.MaxAge, want.MaxBytes, want.Duplicates, want.Replicas
		if _, err := js.UpdateStream(ctx, have); err != nil {
			return "", fmt.Errorf("stream %s: set its limits: %w", StreamName, err)
		}
	}
	return have.Metadata[metaIncarnation], nil
}

// differences names the settings that are not what they must be.
func differences(have, want jetstream.StreamConfig) []string {
	var out []string
	check := func(name string, ok bool, have, want any) {
		if !ok {
			out = append(out, fmt.Sprintf("%s is %v, want %v", name, have, want))
		}
	}
	subjects := slices.Sorted(slices.Values(have.Subjects))
	check("subjects", slices.Equal(subjects, slices.Sorted(slices.Values(want.Subjects))), have.Subjects, want.Subjects)
	check("storage", have.Storage == want.Storage, have.Storage, want.Storage)
	check("retention", have.Retention == want.Retention, have.Retention, want.Retention)
	check("discard", have.Discard == want.Discard, have.Discard, want.Discard)
	check("max_msgs", have.MaxMsgs <= 0, have.MaxMsgs, "no limit")
	check("max_msgs_per_subject", have.MaxMsgsPerSubject <= 0, have.MaxMsgsPerSubject, "no limit")
	check("max_msg_size", have.MaxMsgSize <= 0 || have.MaxMsgSize >= want.MaxMsgSize, have.MaxMsgSize, want.MaxMsgSize)
	check("allow_direct", have.AllowDirect, have.AllowDirect, true)
	check("allow_atomic", have.AllowAtomicPublish, have.AllowAtomicPublish, true)
	check("persist_mode", have.PersistMode == jetstream.DefaultPersistMode, have.PersistMode, "default: another acknowledges what is not on disk")
	check("no_ack", !have.NoAck, have.NoAck, false)
	check("sealed", !have.Sealed, have.Sealed, false)
	check("mirror", have.Mirror == nil && len(have.Sources) == 0, "of other streams", "none")
	check("subject_transform", have.SubjectTransform == nil, "set", "none")
	check("metadata "+metaIncarnation, have.Metadata[metaIncarnation] != "", `""`, "the id that Chancery gives a stream that it makes")
	return out
}

// Opening says on what an incarnation of the stream is opened.
type Opening struct {
	// Size and Root are the base: the largest size that a quorum of the replicas
	// holds, and the root there.
	Size ledger.Seq
	Root ledger.Digest
	// Renew gives the stream a new incarnation first, for one that lost messages
	// and kept its name.
	Renew bool
	// Sign makes the record of the decision.
	Sign func(ledger.StreamBegunData) (ledger.Record, error)
}

// Bootstrap opens the stream's incarnation: it publishes the StreamBegun that
// every replica waits for before it consumes. Only the decision-maker calls it.
// Of two the first in the stream holds. It returns the incarnation; after
// ErrUnknown it may be called again.
func Bootstrap(ctx context.Context, conn *Conn, pub *Publisher, o Opening) (incarnation string, err error) {
	js, err := jetstream.New(conn.Conn)
	if err != nil {
		return "", fmt.Errorf("open stream %s: %w", StreamName, err)
	}
	s, err := js.Stream(ctx, StreamName)
	if err != nil {
		return "", fmt.Errorf("open stream %s: %w", StreamName, err)
	}
	config := s.CachedInfo().Config
	if o.Renew {
		config.Metadata[metaIncarnation] = newIncarnation()
		if _, err := js.UpdateStream(ctx, config); err != nil {
			return "", fmt.Errorf("renew stream %s: %w", StreamName, err)
		}
	}
	incarnation = config.Metadata[metaIncarnation]
	if incarnation == "" {
		return "", fmt.Errorf("open stream %s: %w: it has no incarnation", StreamName, ErrStreamSettings)
	}
	rec, err := o.Sign(ledger.StreamBegunData{Incarnation: incarnation, BaseSize: o.Size, BaseRoot: o.Root})
	if err != nil {
		return "", fmt.Errorf("open stream %s: %w", StreamName, err)
	}
	_, err = pub.Publish(ctx, Message{
		Record:  rec,
		Subject: ledger.DecisionSubject(ledger.InstallScope),
		MsgID:   fmt.Sprintf("stream-begin/%s/%d", incarnation, o.Size),
	})
	if err != nil {
		return "", fmt.Errorf("open stream %s: %w", StreamName, err)
	}
	return incarnation, nil
}
