package measure_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// pollPause is how long a poller waits after each answer.
const pollPause = 200 * time.Microsecond

// poller asks one listener for one path, over one connection that is kept.
type poller struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

// startPoller connects once the listener answers with want.
func startPoller(tb testing.TB, e *estate, port int, want string) *poller {
	tb.Helper()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		p, err := connect(e, port)
		var got string
		if err == nil {
			if got, err = p.ask(); err == nil && got == want {
				tb.Cleanup(func() { _ = p.conn.Close() })
				return p
			}
			_ = p.conn.Close()
		}
		if time.Now().After(deadline) {
			tb.Fatalf("port %d answers %q (%v), want %q", port, got, err, want)
		}
		nap(5 * time.Millisecond)
	}
}

func connect(e *estate, port int) (*poller, error) {
	dialer := &net.Dialer{Timeout: time.Second}
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	host := e.hostOf(e.changing())
	var conn net.Conn
	var err error
	if e.tls {
		// The certificate is the benchmark's own.
		d := tls.Dialer{NetDialer: dialer, Config: &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}}}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err = d.DialContext(ctx, "tcp", address)
	} else {
		conn, err = dialer.Dial("tcp", address)
	}
	if err != nil {
		return nil, err
	}
	return &poller{conn: conn, r: bufio.NewReader(conn), request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", e.path(), host)}, nil
}

func (p *poller) ask() (string, error) {
	if err := p.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return "", err
	}
	if _, err := p.conn.Write(p.request); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %.80s", resp.StatusCode, b)
	}
	return string(b), err
}

// until asks until the answer is want, and returns when it came. Any answer but
// want and the one before fails the benchmark: nothing may be lost meanwhile.
func (p *poller) until(tb testing.TB, want, before string) time.Time {
	tb.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, err := p.ask()
		now := time.Now()
		switch {
		case err != nil:
			tb.Fatalf("request while a change is under way: %v", err)
		case got == want:
			return now
		case got != before:
			tb.Fatalf("answer %q while a change is under way, want %q or %q", got, want, before)
		case now.After(deadline):
			tb.Fatalf("the change is not served after 30 s")
		}
		nap(pollPause)
	}
}

// nap sleeps with the resolution of the kernel: the runtime's timers are as
// coarse as a millisecond in an idle process.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil)
}
