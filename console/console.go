package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// Hub is what the API asks of the decision-maker.
type Hub interface {
	// Inspect lends what the hub knows to look, which keeps copies only.
	Inspect(ctx context.Context, look func(hub.Inside)) error
	// Do carries out a command and returns when its decision is recorded. An
	// error that wraps hub.ErrRefused says why it cannot be done.
	Do(ctx context.Context, r hub.Request) (hub.Answer, error)
}

// Ledger is the record as the API shows it.
type Ledger interface {
	Install() string
	Size() ledger.Seq
	Root(size ledger.Seq) (ledger.Digest, error)
	Read(from ledger.Seq, limit int) ([]ledger.Entry, error)
	Updated() <-chan struct{}
	Checkpoints(limit int) ([][]byte, error)
	Verify(ctx context.Context, from ledger.Seq, progress func(ledger.Seq)) error
}

// Shelf is where snapshots are kept by fingerprint.
type Shelf interface {
	Get(fp projector.Fingerprint) (*projector.Snapshot, error)
	Manifest(fp projector.Fingerprint) ([]byte, error)
	Chunk(d ledger.Digest) ([]byte, error)
}

// Config is what the API needs. Hub, Ledger and Shelf are required.
type Config struct {
	Hub    Hub
	Ledger Ledger
	Shelf  Shelf
	Build  string           // version, for the OpenAPI document
	Logger *slog.Logger     // nil: slog.Default
	Now    func() time.Time // nil: time.Now
}

// The bounds on requests.
const (
	maxBody      = 64 << 10
	maxRequests  = 128 // at once
	maxStreams   = 32  // of them, that follow something
	requestLimit = 30 * time.Second
	// decideLimit bounds the wait for a decision to be recorded.
	decideLimit = 25 * time.Second
	// inspectLimit bounds the wait for the hub.
	inspectLimit = 10 * time.Second
	writeLimit   = 30 * time.Second // of one write to a stream
)

type server struct {
	Config
	requests  chan struct{} // a place for each request
	streams   chan struct{} // a place for each stream
	verifying chan struct{} // one verification at a time
}

// New returns the API. It belongs behind a server that asks for certificates
// (pki.Keeper.ServerTLS): who is at the other end decides what is answered.
func New(cfg Config) http.Handler {
	s := newServer(cfg)
	return s.bound(s.authorize(s.routes()))
}

// Local returns a client that asks an API of this very process, as an operator
// with the given name, without a network.
func Local(cfg Config, name string) *Client {
	s := newServer(cfg)
	h := s.routes()
	return &Client{base: "http://local", http: &http.Client{Transport: direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(withPeer(r.Context(), pki.Identity{Role: pki.Operator, Name: name})))
	})}}}
}

func newServer(cfg Config) *server {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &server{
		Config: cfg, requests: make(chan struct{}, maxRequests), streams: make(chan struct{}, maxStreams), verifying: make(chan struct{}, 1),
	}
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, fmt.Sprintf("there is no %s %.200q here; /openapi.json lists what there is", r.Method, r.URL.Path))
	})
	config := huma.DefaultConfig("Chancery", s.Build)
	config.CreateHooks = nil // no $schema in answers
	config.DocsPath, config.SchemasPath = "", ""
	config.RejectUnknownQueryParameters = true
	api := humago.New(mux, config)
	s.registerReads(api)
	s.registerHistory(api)
	s.registerCommands(api)
	s.registerVerify(api)
	s.registerContent(api)
	return mux
}

// problem writes an RFC 9457 problem.
func problem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(huma.ErrorModel{Title: http.StatusText(status), Status: status, Detail: detail}) // the client is gone
}

// bound limits the size, number and duration of requests.
func (s *server) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.requests <- struct{}{}:
			defer func() { <-s.requests }()
		default:
			w.Header().Set("Retry-After", "1")
			problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d requests are being answered; try again in a second", maxRequests))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		control := http.NewResponseController(w)
		_ = control.SetReadDeadline(time.Now().Add(requestLimit)) // where the server can
		if follows(r) {
			select {
			case s.streams <- struct{}{}:
				defer func() { <-s.streams }()
			default:
				w.Header().Set("Retry-After", "5")
				problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d clients follow already; end one (a history -w or verify), or poll", maxStreams))
				return
			}
		} else {
			_ = control.SetWriteDeadline(time.Now().Add(requestLimit + writeLimit)) // where the server can
			ctx, cancel := context.WithTimeout(r.Context(), requestLimit)
			defer cancel()
			r = r.WithContext(ctx)
		}
		next.ServeHTTP(w, r)
	})
}

// follows reports whether a request has an answer without a foreseeable end.
func follows(r *http.Request) bool {
	return r.URL.Path == "/v1/verify" || r.URL.Path == "/v1/history" && r.URL.Query().Get("watch") == "true"
}

type peerKey struct{}

func withPeer(ctx context.Context, id pki.Identity) context.Context {
	return context.WithValue(ctx, peerKey{}, id)
}

func peer(ctx context.Context) pki.Identity {
	id, _ := ctx.Value(peerKey{}).(pki.Identity)
	return id
}

// authorize lets operators do everything, and edges and hubs fetch what is
// named by its content.
func (s *server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			problem(w, http.StatusUnauthorized, "the API is reached by mutual TLS only; use the certificate in client.yaml of the data directory, or one from: chancery pki issue --role operator")
			return
		}
		id, err := pki.PeerOf(*r.TLS)
		if err != nil {
			problem(w, http.StatusUnauthorized, fmt.Sprintf("%v; issue a certificate with: chancery pki issue --role operator", err))
			return
		}
		switch {
		case id.Role == pki.Operator:
		case (id.Role == pki.Edge || id.Role == pki.Hub) && content(r.URL.Path):
		default:
			problem(w, http.StatusForbidden, fmt.Sprintf("role %s may not use %.200s; issue a certificate with: chancery pki issue --role operator", id.Role, r.URL.Path))
			return
		}
		next.ServeHTTP(w, r.WithContext(withPeer(r.Context(), id)))
	})
}

// content reports whether a path is of what edges fetch.
func content(path string) bool {
	return path == "/v1/head" || strings.HasPrefix(path, "/v1/snapshots/") || strings.HasPrefix(path, "/v1/chunks/")
}

type body[T any] struct{ Body T }

// FleetParam is the fleet that a request is about: part of the parameters of
// most operations, exported for the OpenAPI document to be made from it.
type FleetParam struct {
	Fleet string `query:"fleet" maxLength:"63" doc:"a fleet's name; needed only where there are several"`
}

func operation(id, method, path, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, MaxBodyBytes: maxBody,
		Errors: []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusUnprocessableEntity, http.StatusServiceUnavailable},
	}
}

// inspect calls look with what the hub knows of the fleet.
func (s *server) inspect(ctx context.Context, fleet string, look func(hub.Inside)) error {
	ctx, cancel := context.WithTimeout(ctx, inspectLimit)
	defer cancel()
	var wrong error
	err := s.Hub.Inspect(ctx, func(in hub.Inside) {
		if fleet != "" && fleet != string(in.Fleet.Name) {
			wrong = huma.Error404NotFound(fmt.Sprintf("there is no fleet %q here; there is %s", fleet, in.Fleet.Name))
			return
		}
		look(in)
	})
	if err != nil {
		s.Logger.WarnContext(ctx, "the hub did not answer the API", slog.Any("err", err))
		return huma.Error503ServiceUnavailable(fmt.Sprintf("%v; it may be starting, try again; if it stays so look at its log", err))
	}
	return wrong
}

// refusal turns an error of a command into a problem.
func refusal(err error) error {
	switch {
	case errors.Is(err, hub.ErrRefused):
		return huma.Error409Conflict(strings.TrimSuffix(err.Error(), ": "+hub.ErrRefused.Error()))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return huma.Error504GatewayTimeout(err.Error())
	}
	return huma.Error503ServiceUnavailable(err.Error())
}
