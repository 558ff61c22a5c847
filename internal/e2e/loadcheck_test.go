package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
)

// TestLoadNotices feeds the load with what it exists to notice.
func TestLoadNotices(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(http.ResponseWriter){
		"a status": func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"another backend": func(w http.ResponseWriter) {
			_, _ = fmt.Fprintln(w, "intruder") // the client is gone
		},
		"a connection that ends without an answer": func(w http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"an idle connection that ends": func(w http.ResponseWriter) {
			// The answer is whole, and then the connection is closed without a word.
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ngood\n") // the client is gone
			_ = conn.Close()                                                              // meant
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			var n atomic.Int32
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if n.Add(1)%10 == 0 {
					fault(w)
					return
				}
				_, _ = fmt.Fprintln(w, "good") // the client is gone
			})}
			done := make(chan error, 1)
			go func() { done <- srv.Serve(l) }()
			defer func() {
				_ = srv.Close() // the test is over
				if err := <-done; !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			}()
			load := startLoad(t, func(bool) string { return l.Addr().String() }, nil, 200, 2, Route{Name: "r", Host: "h", Path: "/", Expect: []string{"good"}})
			load.More(50)
			load.stop()
			if sent, failed := load.Sent(), len(load.Failed()); failed < sent/10-2 || failed > sent/5 {
				t.Errorf("%d of %d requests were counted as failed, want about every tenth", failed, sent)
			}
		})
	}
}
