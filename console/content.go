package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/shelf"
)

// forever is the caching of what is named by its content.
const forever = "private, max-age=31536000, immutable"

type bytesBody struct {
	ContentType  string `header:"Content-Type"`
	CacheControl string `header:"Cache-Control"`
	Body         []byte
}

// registerContent adds what edges and replicas fetch.
func (s *server) registerContent(api huma.API) {
	octets := func(op huma.Operation, contentType, what string) huma.Operation {
		op.Errors = append(op.Errors, http.StatusNotFound)
		op.Responses = map[string]*huma.Response{"200": {
			Description: what,
			Content:     map[string]*huma.MediaType{contentType: {Schema: &huma.Schema{Type: "string", Format: "binary"}}},
		}}
		return op
	}
	huma.Register(api, octets(operation("manifest", http.MethodGet, "/v1/snapshots/{fingerprint}/manifest", "The manifest of a snapshot"), "application/octet-stream", "docs/format/snapshot.md"),
		func(_ context.Context, p *struct {
			Fingerprint string `path:"fingerprint" maxLength:"71" doc:"sha256:…"`
		},
		) (*bytesBody, error) {
			d, err := parseDigest(p.Fingerprint)
			if err != nil {
				return nil, err
			}
			b, err := s.Shelf.Manifest(projector.Fingerprint(d))
			return named(b, err)
		})
	huma.Register(api, octets(operation("chunk", http.MethodGet, "/v1/chunks/{digest}", "A chunk of a snapshot"), "application/octet-stream", "docs/format/snapshot.md"),
		func(_ context.Context, p *struct {
			Digest string `path:"digest" maxLength:"71" doc:"sha256:…"`
		},
		) (*bytesBody, error) {
			d, err := parseDigest(p.Digest)
			if err != nil {
				return nil, err
			}
			b, err := s.Shelf.Chunk(d)
			return named(b, err)
		})
	huma.Register(api, operation("head", http.MethodGet, "/v1/head", "The head with the decision that made it"),
		func(ctx context.Context, p *FleetParam) (*body[SignedHead], error) { return s.head(ctx, p.Fleet) })
	huma.Register(api, octets(operation("checkpoint", http.MethodGet, "/v1/checkpoint", "The newest signed checkpoint"), "text/plain; charset=utf-8", "a C2SP signed note"),
		func(ctx context.Context, _ *struct{}) (*bytesBody, error) {
			notes, err := s.Ledger.Checkpoints(1)
			if err != nil {
				return nil, s.ledgerProblem(ctx, err)
			}
			if len(notes) == 0 {
				return nil, huma.Error404NotFound("no checkpoint has been signed yet; the hub signs one some seconds after the ledger grows")
			}
			return &bytesBody{ContentType: "text/plain; charset=utf-8", CacheControl: "no-store", Body: notes[0]}, nil
		})
}

func parseDigest(s string) (ledger.Digest, error) {
	d, err := ledger.ParseDigest(s)
	if err == nil && d.IsZero() {
		err = errors.New("an empty digest names nothing")
	}
	if err != nil {
		return d, huma.Error422UnprocessableEntity(err.Error())
	}
	return d, nil
}

// named answers with what is named by its content.
func named(b []byte, err error) (*bytesBody, error) {
	switch {
	case errors.Is(err, shelf.ErrNotFound):
		return nil, huma.Error404NotFound("it is not kept here; ask another hub, or for the newest head")
	case err != nil:
		return nil, huma.Error503ServiceUnavailable(fmt.Sprintf("%v; try another hub", err))
	}
	return &bytesBody{ContentType: "application/octet-stream", CacheControl: forever, Body: b}, nil
}

// SignedHead is a head as projector.OpenHead verifies it.
type SignedHead struct {
	Record SignedRecord `json:"record"`
	Seq    uint64       `json:"seq"`
}

// SignedRecord is the record of a decision.
type SignedRecord struct {
	Event     []byte `json:"Event"`
	Signature []byte `json:"Signature"`
}

func (s *server) head(ctx context.Context, fleet string) (*body[SignedHead], error) {
	var seq ledger.Seq
	if err := s.inspect(ctx, fleet, func(in hub.Inside) { seq = in.Fleet.HeadSeq }); err != nil {
		return nil, err
	}
	if seq == 0 {
		return nil, huma.Error404NotFound("nothing is served yet; ask again, or see chancery status")
	}
	entries, err := s.Ledger.Read(seq, 1)
	if err != nil || len(entries) == 0 {
		return nil, s.ledgerProblem(ctx, errors.Join(fmt.Errorf("event %d cannot be read", seq), err))
	}
	r := entries[0].Record
	return &body[SignedHead]{SignedHead{Record: SignedRecord{Event: r.Event, Signature: r.Signature}, Seq: uint64(seq)}}, nil
}

// progressEvery is how often a verification tells how far it is.
const progressEvery = 200 * time.Millisecond

func (s *server) registerVerify(api huma.API) {
	op := operation("verify", http.MethodPost, "/v1/verify", "Verify the whole ledger")
	op.Errors = append(op.Errors, http.StatusConflict)
	op.Responses = map[string]*huma.Response{"200": {
		Description: "server-sent events: progress (a Progress), then result (a Verified)",
		Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: "string"}}},
	}}
	huma.Register(api, op, func(_ context.Context, _ *struct{}) (*huma.StreamResponse, error) {
		select {
		case s.verifying <- struct{}{}:
		default:
			return nil, huma.Error409Conflict("a verification is under way; wait for it to end")
		}
		return stream(func(ctx context.Context, send sender) error {
			defer func() { <-s.verifying }()
			result, err := Verify(ctx, s.Ledger, func(p Progress) error { return send("progress", "", p) })
			if err != nil {
				return err
			}
			return send("result", "", result)
		}), nil
	})
}

// Verify verifies a ledger and says what it found. progress is told a few times
// a second how far it is; its error ends the verification. The error is for a
// verification that did not end; damage is in the result.
func Verify(ctx context.Context, l Ledger, progress func(Progress) error) (Verified, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	out := Verified{Size: uint64(l.Size()), Install: l.Install()}
	var told time.Time
	err := l.Verify(ctx, 1, func(at ledger.Seq) {
		out.Seq = uint64(at)
		if now := time.Now(); now.Sub(told) >= progressEvery || out.Seq == out.Size {
			told = now
			if err := progress(Progress{Seq: out.Seq, Size: out.Size}); err != nil {
				cancel(err)
			}
		}
	})
	if ctx.Err() != nil {
		return out, context.Cause(ctx)
	}
	var damage *boltstore.DamageError
	switch {
	case errors.As(err, &damage):
		out.BadSeq, out.Message = uint64(damage.Seq), damage.Error()
		return out, nil
	case err != nil:
		return out, err
	}
	root, err := l.Root(ledger.Seq(out.Size))
	if err != nil {
		return out, err
	}
	out.OK, out.Seq, out.Root = true, out.Size, root.String()
	notes, err := l.Checkpoints(1)
	if err != nil {
		return out, err
	}
	if len(notes) > 0 {
		out.Checkpoint = checkpointSize(notes[0])
	}
	return out, nil
}

// checkpointSize reads the size from a note that Verify has verified.
func checkpointSize(note []byte) uint64 {
	var origin string
	var size uint64
	if _, err := fmt.Sscanf(string(note), "%s\n%d\n", &origin, &size); err != nil {
		return 0
	}
	return size
}
