package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/chancery-dev/chancery/federation/pki"
)

// The errors that a client's caller decides on.
var (
	// ErrRefused: the install will not do it as things are.
	ErrRefused = errors.New("refused")
	// ErrNotFound: there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrTimeout: there was no answer in time; the outcome of a command is unknown.
	ErrTimeout = errors.New("timed out")
	// ErrInvalid: the request makes no sense.
	ErrInvalid = errors.New("invalid request")
)

// failure is what an API answered instead of what was asked for.
type failure struct {
	kind   error
	detail string
}

func (f *failure) Error() string { return f.detail }
func (f *failure) Unwrap() error { return f.kind }

// Client asks an API. It is safe for concurrent use.
type Client struct {
	base string
	http *http.Client
}

// NewClient returns a client of the API that a configuration names.
func NewClient(c pki.ClientConfig) (*Client, error) {
	keeper, err := pki.Hold(c.Credentials, time.Now)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: keeper.ClientTLS(pki.Hub), ForceAttemptHTTP2: true,
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: requestLimit + writeLimit, MaxResponseHeaderBytes: 64 << 10,
	}
	return &Client{base: strings.TrimRight(c.Server, "/"), http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// maxAnswer bounds what is read of one answer.
const maxAnswer = 256 << 20

// maxStreamLine bounds one event of a stream.
const maxStreamLine = 4 << 20

// Get asks for a path under /v1 and decodes the answer into out.
func (c *Client) Get(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, out)
}

// Post sends a command and decodes the answer into out.
func (c *Client) Post(ctx context.Context, path string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	return c.call(ctx, http.MethodPost, path, nil, b, out)
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, in []byte, out any) error {
	resp, err := c.send(ctx, method, path, query, in)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // all was read, or is of no interest
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.broken(err)
	}
	if len(b) > maxAnswer {
		return fmt.Errorf("%s answered %s with more than %d MiB; narrow the request", c.base, path, maxAnswer>>20)
	}
	if raw, ok := out.(*[]byte); ok {
		*raw = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%s does not answer %s as a Chancery of this version does: %w; compare chancery version on both sides", c.base, path, err)
	}
	return nil
}

// send returns an answer of status 200; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, in []byte) (*http.Response, error) {
	u := c.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, u, bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.broken(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }() // the answer is an error already
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return nil, c.broken(err)
	}
	return nil, failureOf(resp.StatusCode, b)
}

func failureOf(status int, b []byte) error {
	f := &failure{detail: problemOf(b)}
	if f.detail == "" {
		f.detail = fmt.Sprintf("the API answered %d %s; is --server the address of a Chancery API?", status, http.StatusText(status))
	}
	switch status {
	case http.StatusConflict, http.StatusForbidden, http.StatusUnauthorized:
		f.kind = ErrRefused
	case http.StatusNotFound:
		f.kind = ErrNotFound
	case http.StatusGatewayTimeout:
		f.kind = ErrTimeout
	case http.StatusUnprocessableEntity, http.StatusBadRequest:
		f.kind = ErrInvalid
	}
	return f
}

// broken says what a failed exchange means.
func (c *Client) broken(err error) error {
	var timeout net.Error
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err // the address is said below
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return &failure{kind: ErrTimeout, detail: fmt.Sprintf("%s did not answer in time: %v; look at its log, or try again", c.base, err)}
	}
	return fmt.Errorf("reach %s: %w; is chancery serve running? --data DIR or --server URL name another", c.base, err)
}

// follow calls each with the events of a stream until it ends.
func (c *Client) follow(ctx context.Context, method, path string, query url.Values, each func(name string, data []byte) error) error {
	resp, err := c.send(ctx, method, path, query, []byte("{}"))
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // all was read, or is of no interest
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxStreamLine)
	name := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "data":
			if name == "error" {
				return failureOf(http.StatusInternalServerError, []byte(value))
			}
			if err := each(name, []byte(value)); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil && ctx.Err() == nil {
		return c.broken(err)
	}
	return nil
}

// Status asks how the install is.
func (c *Client) Status(ctx context.Context, fleet string) (Status, error) {
	var out Status
	return out, c.Get(ctx, "/v1/status", values("fleet", fleet), &out)
}

// History asks for events.
func (c *Client) History(ctx context.Context, q url.Values) (List[Event], error) {
	var out List[Event]
	return out, c.Get(ctx, "/v1/history", q, &out)
}

// errStreamEnded says that a stream that has no end ended.
var errStreamEnded = errors.New("the server ended the stream; start again")

// FollowHistory calls each with what is recorded, oldest first, until ctx ends
// or each returns an error.
func (c *Client) FollowHistory(ctx context.Context, q url.Values, each func(Event) error) error {
	q.Set("watch", "true")
	err := c.follow(ctx, http.MethodGet, "/v1/history", q, func(_ string, data []byte) error {
		var e Event
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("event cannot be read: %w", err)
		}
		return each(e)
	})
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it ended as asked
	case err == nil:
		return errStreamEnded
	}
	return err
}

// Verify has the whole ledger verified; progress is told how far it is.
func (c *Client) Verify(ctx context.Context, progress func(Progress)) (Verified, error) {
	var out *Verified
	err := c.follow(ctx, http.MethodPost, "/v1/verify", nil, func(name string, data []byte) error {
		switch name {
		case "progress":
			var p Progress
			if err := json.Unmarshal(data, &p); err != nil {
				return err
			}
			progress(p)
		case "result":
			return json.Unmarshal(data, &out)
		}
		return nil
	})
	if err == nil && out == nil {
		if err = ctx.Err(); err == nil {
			err = errStreamEnded
		}
	}
	if err != nil {
		return Verified{}, err
	}
	return *out, nil
}

// Plan asks what a pin would change; to 0 means the previous revision.
func (c *Client) Plan(ctx context.Context, fleet string, to uint64) (Plan, error) {
	q := values("fleet", fleet)
	if to > 0 {
		q.Set("to", strconv.FormatUint(to, 10))
	}
	var out Plan
	return out, c.Get(ctx, "/v1/plan", q, &out)
}

// Pin pins the fleet to an older revision.
func (c *Client) Pin(ctx context.Context, p PinCommand) (Answer, error) {
	var out Answer
	return out, c.Post(ctx, "/v1/holds", p, &out)
}

// Release ends a hold.
func (c *Client) Release(ctx context.Context, id string, p ReleaseCommand) (Answer, error) {
	var out Answer
	return out, c.Post(ctx, "/v1/holds/"+url.PathEscape(id)+"/release", p, &out)
}

// Confirm lets withheld removals through.
func (c *Client) Confirm(ctx context.Context, p ConfirmCommand) (Answer, error) {
	var out Answer
	return out, c.Post(ctx, "/v1/confirm", p, &out)
}

// values returns a query of pairs, without those whose value is empty.
func values(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

// direct answers requests by a handler of this process.
type direct struct{ handler http.Handler }

// RoundTrip calls the handler and returns its answer, which is as long as the
// handler lets it be.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	pr, pw := io.Pipe()
	w := &pipeWriter{header: http.Header{}, body: pw, ready: make(chan struct{})}
	go func() {
		d.handler.ServeHTTP(w, r)
		w.WriteHeader(http.StatusOK)
		_ = pw.Close() // never fails
	}()
	select {
	case <-w.ready:
	case <-r.Context().Done():
		_ = pr.CloseWithError(r.Context().Err()) // never fails
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: w.status, Status: http.StatusText(w.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: pr, ContentLength: -1, Request: r,
	}, nil
}

// pipeWriter is the answer of a handler as it is written.
type pipeWriter struct {
	header http.Header
	status int
	body   *io.PipeWriter
	ready  chan struct{} // closed once status is set
}

// Header returns the headers, which count until the status is written.
func (p *pipeWriter) Header() http.Header { return p.header }

// WriteHeader sets the status, the first time.
func (p *pipeWriter) WriteHeader(status int) {
	if p.status == 0 {
		p.status = status
		close(p.ready)
	}
}

// Write waits until the client has read b.
func (p *pipeWriter) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	return p.body.Write(b)
}

// Flush does nothing: nothing is kept back.
func (p *pipeWriter) Flush() {}
