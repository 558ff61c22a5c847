package corpus

import (
	"bufio"
	"crypto/sha1" // RFC 6455 asks for it
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
)

const (
	maxRequestHeaderBytes = 4 << 20
	maxRequestBodyBytes   = 64 << 20
	maxResponseBodyBytes  = 16 << 20
)

// A backend stands for one upstream address. On one port it answers HTTP/1, HTTP/2, TLS, WebSocket, gRPC, and Envoy's
// services for authorisation, rate limits and access logs, told apart by what arrives. Request headers steer the
// answer; README.md lists them.
type backend struct {
	stage    *Stage
	name     string // as Expect.Backend
	port     int
	endpoint string // the upstream address
	address  string // where it listens
	services *grpc.Server
	http     *http.Server
	split    *split
}

func startBackend(s *Stage, name string, port int, endpoint string) (*backend, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{stage: s, name: name, port: port, endpoint: endpoint, address: ln.Addr().String(), services: grpc.NewServer()}
	authv3.RegisterAuthorizationServer(b.services, &authorization{b: b})
	ratelimitv3.RegisterRateLimitServiceServer(b.services, &rateLimit{b: b})
	accesslogv3.RegisterAccessLogServiceServer(b.services, &accessLog{b: b})
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	b.http = &http.Server{
		Handler:        b,
		Protocols:      &protocols,
		ErrorLog:       log.New(io.Discard, "", 0), // clients that hang up are part of the cases
		MaxHeaderBytes: maxRequestHeaderBytes,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{s.cert},
			ClientAuth:   tls.RequestClientCert,
			NextProtos:   []string{"h2", "http/1.1"},
		},
	}
	b.split = newSplit(ln)
	s.serving.Go(b.split.run)
	s.serving.Go(func() { _ = b.http.Serve(b.split.plain) })             // ends with close
	s.serving.Go(func() { _ = b.http.ServeTLS(b.split.secure, "", "") }) // ends with close
	return b, nil
}

func (b *backend) close() error {
	err := b.split.close()
	b.services.Stop()
	return errors.Join(err, b.http.Close())
}

func (b *backend) newHit(kind string) *hit {
	return &hit{kind: kind, backend: b.name, port: b.port, endpoint: b.endpoint}
}

// ServeHTTP answers a request, or hands it to one of Envoy's services.
func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !b.stage.enter() {
		return
	}
	defer b.stage.serving.Done()
	isGRPC := strings.HasPrefix(r.Header.Get("content-type"), "application/grpc")
	switch {
	case isGRPC && strings.HasPrefix(r.URL.Path, "/envoy.service."):
		b.services.ServeHTTP(w, r)
		return
	case strings.Contains(r.UserAgent(), "Envoy/HC"): // a health check is no request of a client
		return
	}
	body, _ := io.Copy(io.Discard, io.LimitReader(r.Body, maxRequestBodyBytes)) // a body that breaks off counts as far as it came
	answer := steer(r)
	h := b.hitOf(r, int(body))
	if isGRPC {
		h.kind = "grpc"
	}
	h.responded = answer.names()
	earlier := b.stage.record(h)
	if earlier < answer.failFirst {
		answer.status = answer.failStatus
	}
	b.stage.pause(r.Context(), answer.delay)
	for _, line := range answer.headers {
		w.Header().Add(line.name, line.value)
	}
	w.Header().Set("x-echo-id", h.id)
	switch {
	case strings.EqualFold(r.Header.Get("upgrade"), "websocket") && r.ProtoMajor == 1:
		b.upgrade(w, r, h)
	case isGRPC:
		answer.writeGRPC(w, r)
	default:
		b.write(w, r, h, answer, int(body))
	}
}

func (b *backend) hitOf(r *http.Request, bodyBytes int) *hit {
	h := b.newHit("http")
	h.method, h.path, h.host, h.proto = r.Method, r.RequestURI, r.Host, r.Proto
	h.headers = headerValues(r.Header)
	if len(r.TransferEncoding) > 0 {
		h.headers["transfer-encoding"] = Values(r.TransferEncoding)
	}
	h.detail = map[string]string{"body_bytes": strconv.Itoa(bodyBytes)}
	if r.TLS != nil {
		h.tls, h.sni = true, r.TLS.ServerName
		if len(r.TLS.PeerCertificates) > 0 {
			h.client = certificateName(r.TLS.PeerCertificates[0])
		}
	}
	return h
}

func headerValues(h http.Header) map[string]Values {
	out := map[string]Values{}
	for name, values := range h {
		out[strings.ToLower(name)] = append(Values(nil), values...)
	}
	return out
}

// A header is one line of a request or a response.
type header struct{ name, value string }

// An answer is what the request's headers asked for.
type answer struct {
	status     int
	failFirst  int // so many requests get failStatus
	failStatus int
	delay      time.Duration
	headers    []header
	bodyBytes  int // < 0: a description of the request
	grpcStatus string
}

func steer(r *http.Request) answer {
	a := answer{
		status:     number(r.Header.Get("x-echo-status"), http.StatusOK),
		failStatus: http.StatusServiceUnavailable,
		delay:      time.Duration(number(r.Header.Get("x-echo-delay-ms"), 0)) * time.Millisecond,
		bodyBytes:  min(number(r.Header.Get("x-echo-body-bytes"), -1), maxResponseBodyBytes),
		grpcStatus: r.Header.Get("x-echo-grpc-status"),
	}
	if first, status, _ := strings.Cut(r.Header.Get("x-echo-fail-first"), ":"); first != "" {
		a.failFirst, a.failStatus = number(first, 0), number(status, a.failStatus)
	}
	for _, list := range r.Header["X-Echo-Reflect"] {
		for name := range strings.SplitSeq(list, ",") {
			name = strings.TrimSpace(name)
			for _, v := range r.Header.Values(name) {
				a.headers = append(a.headers, header{name, v})
			}
		}
	}
	a.headers = append(a.headers, pairs(r.Header.Get("x-echo-set"))...)
	if l := r.Header.Get("x-echo-location"); l != "" {
		a.headers = append(a.headers, header{"location", l})
	}
	a.headers = append(a.headers, cookies(r.Header.Get("x-echo-cookie"))...)
	return a
}

func (a answer) names() []string {
	var names []string
	for _, line := range a.headers {
		names = append(names, strings.ToLower(line.name))
	}
	return names
}

func number(s string, otherwise int) int {
	if n, err := strconv.Atoi(s); err == nil {
		return n
	}
	return otherwise
}

// pairs reads "k=v;k=v".
func pairs(s string) []header {
	var out []header
	for token := range strings.SplitSeq(s, ";") {
		if k, v, ok := strings.Cut(strings.TrimSpace(token), "="); ok {
			out = append(out, header{k, v})
		}
	}
	return out
}

// cookies reads a comma-separated list of names; each is its own value.
func cookies(s string) []header {
	var out []header
	for name := range strings.SplitSeq(s, ",") {
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, header{"set-cookie", name + "=" + name})
		}
	}
	return out
}

func (a answer) writeGRPC(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("content-type", r.Header.Get("content-type"))
	w.Header().Set("trailer", "grpc-status")
	status := a.grpcStatus
	if status == "" {
		status = "0"
	}
	w.WriteHeader(a.status)
	if status == "0" {
		_, _ = w.Write([]byte{0, 0, 0, 0, 0}) // an empty message; a client that went away sees itself
	}
	w.Header().Set("grpc-status", status)
}

func (b *backend) write(w http.ResponseWriter, r *http.Request, h *hit, a answer, bodyBytes int) {
	payload := []byte(strings.Repeat("x", max(a.bodyBytes, 0)))
	if a.bodyBytes < 0 {
		var err error
		payload, err = json.Marshal(map[string]any{
			"backend": b.name, "port": b.port, "method": h.method, "path": h.path,
			"authority": h.host, "headers": h.headers, "body_bytes": bodyBytes,
		})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	if w.Header().Get("content-type") == "" {
		w.Header().Set("content-type", "application/json")
	}
	w.Header().Set("content-length", strconv.Itoa(len(payload)))
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(payload) // a client that went away sees itself
	}
}

// upgrade answers a WebSocket handshake and echoes bytes until the client goes.
func (b *backend) upgrade(w http.ResponseWriter, r *http.Request, h *hit) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	done := make(chan struct{})
	defer close(done)
	b.stage.serving.Go(func() { // the server no longer closes what was taken from it
		select {
		case <-done:
		case <-b.stage.closing:
			_ = conn.Close()
		}
	})
	sum := sha1.Sum([]byte(r.Header.Get("sec-websocket-key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nx-echo-id: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(sum[:]), h.id)
	if rw.Flush() != nil {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.Copy(conn, rw) // ends with either side
}

// A split hands each accepted connection to the plain or the secure listener by its first byte.
type split struct {
	ln            net.Listener
	plain, secure *half
	closing       chan struct{}
	once          sync.Once
	peeking       sync.WaitGroup
}

// A half is one of the two listeners of a split.
type half struct {
	split *split
	conns chan net.Conn
}

type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

func newSplit(ln net.Listener) *split {
	s := &split{ln: ln, closing: make(chan struct{})}
	s.plain = &half{split: s, conns: make(chan net.Conn)}
	s.secure = &half{split: s, conns: make(chan net.Conn)}
	return s
}

func (s *split) run() {
	defer s.peeking.Wait()
	for {
		conn, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.peeking.Go(func() { s.sort(conn) })
	}
}

func (s *split) sort(conn net.Conn) {
	const handshake = 0x16
	done := make(chan struct{})
	defer close(done)
	s.peeking.Go(func() { // a client that never says anything must not keep us
		select {
		case <-done:
		case <-s.closing:
			_ = conn.Close()
		}
	})
	r := bufio.NewReader(conn)
	first, err := r.Peek(1)
	if err != nil {
		_ = conn.Close()
		return
	}
	to := s.plain
	if first[0] == handshake {
		to = s.secure
	}
	select {
	case to.conns <- &peeked{conn, r}:
	case <-s.closing:
		_ = conn.Close()
	}
}

func (s *split) close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		err = s.ln.Close()
	})
	return err
}

// Accept returns the next connection of this half.
func (h *half) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.split.closing:
		return nil, net.ErrClosed
	}
}

// Close ends both halves.
func (h *half) Close() error { return h.split.close() }

// Addr returns the address of the listener that is split.
func (h *half) Addr() net.Addr { return h.split.ln.Addr() }
