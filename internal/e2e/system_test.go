package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/xds/process"
)

// Patience is how long a test waits for something that has to come: generous,
// for a slow machine.
const Patience = 60 * time.Second

// System is one `chancery serve` with its sites, its Envoy and its backends, on
// loopback addresses of its own.
type System struct {
	TB    testing.TB
	Data  string // directory of serve
	Flags []string
	// Envoy is the path of the binary, "" for none.
	Envoy string

	dir      string // all of the test
	net      string // "127.a.b."
	sites    []string
	roots    *Trust
	admin    *process.Admin
	cmd      *exec.Cmd     // nil: not running
	ended    chan struct{} // closed when cmd ended
	backends int
	last     func() error // done at the end, before the directory is removed; nil for nothing

	mu       sync.Mutex      // guards what follows
	client   *console.Client // nil before the first use
	clientOf string          // the client.yaml that it is of
}

// networks counts the systems of this test binary: each has a /24 of 127/8.
var networks atomic.Int32

// newSystem makes a system with a site for each name, which does not run yet.
func newSystem(tb testing.TB, sites ...string) *System {
	tb.Helper()
	envoy := testbed.Envoy(tb)
	dir, err := os.MkdirTemp("", "chy-") //nolint:usetesting // tb.TempDir is too long for the path of a socket
	must(tb, err)
	s := &System{
		TB: tb, Data: filepath.Join(dir, "data"), Envoy: envoy, dir: dir, sites: sites, roots: newTrust(tb),
		// Other runs on this machine have other second bytes, mostly; a clash is
		// found when the first backend listens.
		net: fmt.Sprintf("127.%d.%d.", 64+os.Getpid()%190, 1+networks.Add(1)%250),
	}
	for _, name := range sites {
		must(tb, os.MkdirAll(s.SitePath(name, ""), 0o700))
	}
	s.admin = process.NewAdmin(filepath.Join(s.Data, "edge", "envoy", "admin.sock"))
	tb.Cleanup(s.cleanup)
	return s
}

// cleanup ends all that was started, and shows the log of a failed test.
func (s *System) cleanup() {
	if s.TB.Failed() && s.cmd != nil {
		st, err := s.Status()
		b, _ := json.MarshalIndent(st, "", " ") // for a person
		s.TB.Logf("status: %s %v", b, err)
	}
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
		select {
		case <-s.ended:
		case <-time.After(20 * time.Second):
			s.TB.Errorf("serve did not end within 20 s of SIGTERM")
			_ = s.cmd.Process.Kill()
			<-s.ended
		}
		s.cmd = nil
	}
	s.admin.Close()
	for _, pid := range s.envoys() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
	}
	if s.TB.Failed() {
		s.TB.Logf("the end of serve's log:\n%s", tail(s.Log(), 12<<10))
	}
	if s.last != nil {
		must(s.TB, s.last())
	}
	if err := os.RemoveAll(s.dir); err != nil {
		s.TB.Logf("left behind: %v", err)
	}
}

func tail(text string, limit int) string {
	if len(text) > limit {
		return "…" + text[len(text)-limit:]
	}
	return text
}

// envoys returns the pids of the Envoys whose bootstrap is in this system's
// data directory.
func (s *System) envoys() []int {
	procs, err := os.ReadDir("/proc")
	must(s.TB, err)
	var pids []int
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", p.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte("\x00"+s.Data+"/")) && bytes.Contains(line, []byte("bootstrap.json")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// EnvoyPID returns the pid of the Envoy that serves, as its keeper recorded it.
func (s *System) EnvoyPID() int {
	s.TB.Helper()
	b, err := os.ReadFile(filepath.Join(s.Data, "edge", "envoy", "envoy.json"))
	must(s.TB, err)
	var record struct {
		PID int `json:"pid"`
	}
	must(s.TB, json.Unmarshal(b, &record))
	return record.PID
}

// Admin returns the Envoy's admin interface.
func (s *System) Admin() *process.Admin { return s.admin }

// IP returns an address of the system's own network.
func (s *System) IP(last int) string { return s.net + strconv.Itoa(last) }

func (s *System) address(secure bool) string {
	if secure {
		return s.IP(1) + ":8443"
	}
	return s.IP(1) + ":8080"
}

// arguments are those of serve.
func (s *System) arguments() []string {
	args := []string{
		"serve", "--data", s.Data, "--bind", s.IP(1), "--concurrency", "1", "--soak", "200ms", "--api", "127.0.0.1:0", "--xds", "",
		"--probes", s.IP(2) + ":8081", "--metrics", s.IP(2) + ":19001",
	}
	if s.Envoy != "" {
		args = append(args, "--envoy", s.Envoy)
	}
	for _, name := range s.sites {
		args = append(args, "--site", name+"=dir:"+s.SitePath(name, ""))
	}
	return append(args, s.Flags...)
}

// Start starts serve and does not wait until it serves.
func (s *System) Start() {
	s.TB.Helper()
	if s.cmd != nil {
		s.TB.Fatal("serve runs already")
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(s.TB, err)
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd := exec.Command(binary, s.arguments()...)
	cmd.Stdout, cmd.Stderr = log, log
	must(s.TB, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // ProcessState has it
	}()
	s.cmd, s.ended = cmd, ended
}

// Ready waits until serve answers its readiness probe.
func (s *System) Ready() {
	s.TB.Helper()
	s.Eventually("serve is ready", func() error {
		select {
		case <-s.ended:
			s.TB.Fatalf("serve ended with %s:\n%s", s.cmd.ProcessState, tail(s.Log(), 4<<10))
		default:
		}
		res, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + s.IP(2) + ":8081/readyz")
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }() // only its status counts
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return nil
	})
}

// Running reports whether serve has not ended.
func (s *System) Running() bool {
	select {
	case <-s.ended:
		return false
	default:
		return s.cmd != nil
	}
}

// Kill ends serve with SIGKILL.
func (s *System) Kill() { s.signal(syscall.SIGKILL) }

// Stop ends serve with SIGTERM.
func (s *System) Stop() {
	s.TB.Helper()
	s.signal(syscall.SIGTERM)
}

func (s *System) signal(sig syscall.Signal) {
	s.TB.Helper()
	must(s.TB, s.cmd.Process.Signal(sig))
	s.await()
}

// await waits for serve's end and returns its exit code.
func (s *System) await() int {
	s.TB.Helper()
	select {
	case <-s.ended:
	case <-time.After(Patience):
		s.TB.Fatalf("serve did not end within %s", Patience)
	}
	code := s.cmd.ProcessState.ExitCode()
	s.cmd = nil
	return code
}

// Refused starts serve, which must end by itself, and returns its exit code and
// what it wrote.
func (s *System) Refused() (code int, output string) {
	s.TB.Helper()
	before := len(s.Log())
	s.Start()
	code = s.await()
	return code, s.Log()[before:]
}

// Run runs another command of the binary and returns what it wrote.
func (s *System) Run(args ...string) (stdout, stderr string, code int) {
	s.TB.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "--data", s.Data)...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.TB.Fatalf("chancery %q: %v", args, err)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

func (s *System) logPath() string { return filepath.Join(s.dir, "serve.log") }

// Log returns what every serve of this system has written.
func (s *System) Log() string {
	b, err := os.ReadFile(s.logPath())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.TB.Fatal(err)
	}
	return string(b)
}

// Eventually waits until the condition holds; its last error is why it does
// not.
func (s *System) Eventually(what string, condition func() error) {
	s.TB.Helper()
	deadline := time.Now().Add(Patience)
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			s.TB.Fatalf("not within %s: %s: %v", Patience, what, err)
		}
		<-tick.C
	}
}

// Served waits until the route is answered as it expects.
func (s *System) Served(r Route) {
	s.TB.Helper()
	s.Eventually(fmt.Sprintf("%s is served by %q", r.Name, r.Expect), func() error { return s.Get(r).Err })
}

// Gone waits until the route is answered with 404.
func (s *System) Gone(r Route) {
	s.TB.Helper()
	s.Eventually(r.Name+" is gone", func() error {
		if o := s.Get(r); o.Status != http.StatusNotFound {
			return errors.New(o.answer())
		}
		return nil
	})
}

// Backend starts an echo server that answers with its name, on an address of
// its own and port 8080, and returns the address without the port. It runs
// until the test ends.
func (s *System) Backend(name string) string {
	s.TB.Helper()
	s.backends++
	ip := s.IP(10 + s.backends)
	l, err := net.Listen("tcp", ip+":8080")
	must(s.TB, err)
	srv := &http.Server{
		ReadHeaderTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, "%s\n%s %s\n", name, r.Method, r.URL.Path) // the client is gone
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends when it is closed
	}()
	s.TB.Cleanup(func() {
		_ = srv.Close() // the test is over
		<-done
	})
	return ip
}

// SitePath returns the path of a file of a site.
func (s *System) SitePath(site, file string) string { return filepath.Join(s.dir, "sites", site, file) }

// Write puts a file into a site's directory, whole, by a rename.
func (s *System) Write(site, file, text string) {
	s.TB.Helper()
	must(s.TB, replace(s.SitePath(site, file), text))
}

// Remove removes a file from a site's directory.
func (s *System) Remove(site, file string) {
	s.TB.Helper()
	must(s.TB, os.Remove(s.SitePath(site, file)))
}

func replace(path, text string) error {
	// A name that the collector does not read.
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// join makes one YAML file of several documents.
func join(documents ...string) string { return strings.Join(documents, "---\n") }
