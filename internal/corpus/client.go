package corpus

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

const (
	probeTimeout = 8 * time.Second // where the probe names none
	// Not 127.0.0.1: Envoy would put the machine's own address in x-forwarded-for.
	clientIP = "127.0.0.50"
)

// A response is what the client saw.
type response struct {
	err         string // as Expect.Error
	status      int
	headers     map[string]Values
	spelling    []string // header names as sent, HTTP/1 only
	body        string
	trailer     map[string]Values
	certificate string
	alpn        string
}

// A request is a probe about to be sent.
type request struct {
	*Probe
	target
	host   string
	header []header
	body   []byte
}

func (s *Stage) request(p *Probe, extra map[string]string) (request, error) {
	to, err := splitURL(p.URL)
	if err != nil {
		return request{}, err
	}
	r := request{Probe: p, target: to, host: to.authority, body: []byte(p.Body)}
	if p.BodyBytes > 0 {
		r.body = bytes.Repeat([]byte("b"), p.BodyBytes)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Headers)) {
		if strings.EqualFold(name, "host") {
			r.host = p.Headers[name][0]
			continue
		}
		for _, v := range p.Headers[name] {
			r.header = append(r.header, header{name, v})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(extra)) {
		r.header = append(r.header, header{name, extra[name]})
	}
	return r, nil
}

// do sends the probe once. What goes wrong on the way is an outcome like any other; an error is a mistake in the case.
func (s *Stage) do(ctx context.Context, p *Probe, extra map[string]string) (*response, error) {
	r, err := s.request(p, extra)
	if err != nil {
		return nil, err
	}
	var config *tls.Config
	if r.scheme == "https" || r.scheme == "wss" {
		if config, err = s.tlsConfig(r); err != nil {
			return nil, err
		}
	}
	timeout := probeTimeout
	if p.TimeoutMS > 0 {
		timeout = time.Duration(p.TimeoutMS) * time.Millisecond
	}
	source := p.SourceIP
	if source == "" {
		source = clientIP
	}
	dialer := net.Dialer{Timeout: timeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	conn, err := dialer.DialContext(ctx, "tcp", s.Address(p.Connect))
	if err != nil {
		return &response{err: "connect"}, nil
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if p.ProxyProtocol != "" {
		fmt.Fprintf(conn, "PROXY TCP4 %s 127.0.0.1 4242 %d\r\n", p.ProxyProtocol, p.Connect)
	}
	out := &response{}
	if config != nil {
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return &response{err: "tls"}, nil
		}
		state := secure.ConnectionState()
		if len(state.PeerCertificates) > 0 {
			out.certificate = certificateName(state.PeerCertificates[0])
		}
		out.alpn = state.NegotiatedProtocol
		conn = secure
	}
	if p.HTTP2 {
		r.http2(ctx, conn, timeout, out)
	} else {
		r.http1(conn, out)
	}
	return out, nil
}

var tlsVersions = map[string]uint16{"v1.0": tls.VersionTLS10, "v1.1": tls.VersionTLS11, "v1.2": tls.VersionTLS12, "v1.3": tls.VersionTLS13}

func (s *Stage) tlsConfig(r request) (*tls.Config, error) {
	host := r.authority
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	c := &tls.Config{
		InsecureSkipVerify: true, // the case looks at the certificate itself
		ServerName:         host,
		MinVersion:         tls.VersionTLS10,
		NextProtos:         []string{"http/1.1"},
	}
	if r.HTTP2 {
		c.NextProtos = []string{"h2"}
	}
	switch r.SNI {
	case "":
	case "-":
		c.ServerName = ""
	default:
		c.ServerName = r.SNI
	}
	if r.TLS == nil {
		return c, nil
	}
	if r.TLS.ALPN != nil {
		c.NextProtos = r.TLS.ALPN
	}
	for version, set := range map[string]*uint16{r.TLS.MinVersion: &c.MinVersion, r.TLS.MaxVersion: &c.MaxVersion} {
		if version == "" {
			continue
		}
		v, ok := tlsVersions[version]
		if !ok {
			return nil, fmt.Errorf("tls version %q is not known", version)
		}
		*set = v
	}
	for _, suite := range tls.CipherSuites() {
		if slices.Contains(r.TLS.Ciphers, suite.Name) {
			c.CipherSuites = append(c.CipherSuites, suite.ID)
		}
	}
	if r.TLS.ClientCert != "" {
		pair, err := tls.LoadX509KeyPair(filepath.Join(s.c.Dir, r.TLS.ClientCert), filepath.Join(s.c.Dir, r.TLS.ClientKey))
		if err != nil {
			return nil, err
		}
		// Given even where the server names other authorities: to be refused is an outcome.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c, nil
}

func (r request) http1(conn net.Conn, out *response) {
	var message bytes.Buffer
	fmt.Fprintf(&message, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.path, r.host)
	framed := false
	for _, h := range r.header {
		framed = framed || strings.EqualFold(h.name, "content-length") || strings.EqualFold(h.name, "transfer-encoding")
		fmt.Fprintf(&message, "%s: %s\r\n", h.name, h.value)
	}
	if len(r.body) > 0 && !framed {
		fmt.Fprintf(&message, "Content-Length: %d\r\n", len(r.body))
	}
	message.WriteString("\r\n")
	message.Write(r.body)
	// An early reply (413, 431) may come before all is written, and the writing then fails: so write aside, read here.
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = conn.Write(message.Bytes())
	}()
	defer func() {
		_ = conn.Close()
		<-written
	}()
	read := bufio.NewReaderSize(conn, 1<<20)
	for {
		head, spelling, err := readHead(read)
		if err != nil {
			if out.err = ioError(err); len(head) > 0 {
				out.err = "closed"
			}
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(io.MultiReader(bytes.NewReader(head), read)), &http.Request{Method: r.Method})
		if err != nil {
			out.err = "closed"
			return
		}
		if resp.StatusCode == http.StatusContinue {
			continue
		}
		out.spelling = spelling
		out.fill(resp, resp.StatusCode != http.StatusSwitchingProtocols)
		return
	}
}

// readHead reads up to the empty line, and notes how header names are spelled, which net/http would not tell.
func readHead(read *bufio.Reader) (head []byte, spelling []string, err error) {
	for {
		line, err := read.ReadBytes('\n')
		head = append(head, line...)
		if err != nil {
			return head, nil, err
		}
		text := strings.TrimRight(string(line), "\r\n")
		if text == "" {
			return head, spelling, nil
		}
		if name, _, ok := strings.Cut(text, ":"); ok && name != "" && !strings.HasPrefix(text, "HTTP/") {
			spelling = append(spelling, name)
		}
	}
}

func (r request) http2(ctx context.Context, conn net.Conn, timeout time.Duration, out *response) {
	//nolint:staticcheck // net/http speaks HTTP/2 only on what it dialled or negotiated itself
	client, err := (&http2.Transport{AllowHTTP: true, DisableCompression: true}).NewClientConn(conn)
	if err != nil {
		out.err = "closed"
		return
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req := (&http.Request{
		Method: r.Method, Host: r.host, ProtoMajor: 2,
		Header: http.Header{"User-Agent": nil},                           // nil keeps the library's own away
		URL:    &url.URL{Scheme: r.scheme, Host: r.host, Opaque: r.path}, // opaque is sent as it stands
	}).WithContext(ctx)
	for _, h := range r.header {
		name := textproto.CanonicalMIMEHeaderKey(h.name)
		req.Header[name] = append(req.Header[name], h.value)
	}
	if len(r.body) > 0 {
		req.Body = io.NopCloser(bytes.NewReader(r.body))
		req.ContentLength = int64(len(r.body))
	}
	resp, err := client.RoundTrip(req)
	if err != nil {
		out.err = ioError(err)
		return
	}
	out.fill(resp, true)
}

func (out *response) fill(resp *http.Response, withBody bool) {
	defer resp.Body.Close()
	out.status = resp.StatusCode
	out.headers = headerValues(resp.Header)
	if !withBody {
		return
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxResponseBodyBytes)) // what breaks off counts as far as it came
	out.body = string(body)
	out.trailer = headerValues(resp.Trailer)
}

func ioError(err error) string {
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout()) {
		return "timeout"
	}
	var alert tls.AlertError
	if errors.As(err, &alert) || strings.Contains(err.Error(), "remote error: tls") {
		return "tls"
	}
	return "closed"
}
