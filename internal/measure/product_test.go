package measure_test

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/projector"
)

// binaryVariable names a chancery binary to measure, in place of one that is
// built from this tree.
const binaryVariable = "CHANCERY_BINARY"

// built is the path of the binary, once it is built.
var built string

// binary returns the chancery to measure.
func binary(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv(binaryVariable); path != "" {
		return path
	}
	if built == "" {
		path := filepath.Join(testbed.ModuleRoot(tb), "bin", "chancery-measured")
		cmd := exec.CommandContext(tb.Context(), "go", "build", "-buildvcs=false", "-o", path, "./cmd/chancery")
		cmd.Dir = testbed.ModuleRoot(tb)
		if out, err := cmd.CombinedOutput(); err != nil {
			tb.Fatalf("build chancery: %v\n%s", err, out)
		}
		built = path
	}
	return built
}

// product is a `chancery serve` on a site of its own, with its own Envoys.
type product struct {
	e      *estate
	site   string
	data   string
	port   int
	cmd    *exec.Cmd
	exited chan error
	*poller
	change int
	log    []moment
}

// moment is when something happened to a change.
type moment struct {
	change           int
	renamed, visible time.Time
}

func startProduct(tb testing.TB, e *estate) *product {
	tb.Helper()
	dir := shortDir(tb)
	p := &product{e: e, site: filepath.Join(dir, "site"), data: filepath.Join(dir, "data"), port: freePort(tb), exited: make(chan error, 1)}
	if err := os.Mkdir(p.site, 0o700); err != nil {
		tb.Fatal(err)
	}
	e.write(tb, p.site, p.port)
	p.cmd = exec.Command(binary(tb), "serve", "--data", p.data, "--site", "east=dir:"+p.site, "--envoy", testbed.Envoy(tb), //nolint:noctx // it is stopped by a signal
		"--stop-envoy", "--concurrency", "1", "--bind", "127.0.0.1", "--api", "127.0.0.1:0", "--xds", "", "--probes", "", "--metrics", "", "--verbose")
	logFile, err := os.Create(p.logPath())
	if err != nil {
		tb.Fatal(err)
	}
	p.cmd.Stderr = logFile
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() { p.exited <- p.cmd.Wait() }()
	tb.Cleanup(func() {
		p.stop(tb)
		_ = logFile.Close()
		if tb.Failed() {
			if b, err := os.ReadFile(p.logPath()); err == nil {
				tb.Logf("the end of the log:\n%s", b[max(0, len(b)-4000):])
			}
		}
	})
	p.poller = startPoller(tb, e, p.port, e.answer(0))
	return p
}

func (p *product) logPath() string { return p.site + ".log" }

// stop ends the process and its Envoys.
func (p *product) stop(tb testing.TB) {
	tb.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		tb.Error(err)
	}
	select {
	case err := <-p.exited:
		if err != nil {
			tb.Errorf("serve: %v", err)
		}
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		tb.Error("serve does not end")
	}
}

// next makes the next change and returns how long it took from the rename of
// the file to the first request that it answered.
func (p *product) next(tb testing.TB) time.Duration {
	tb.Helper()
	before := p.e.answer(p.change)
	p.change++
	written := filepath.Join(p.site, "."+changingFile)
	put(tb, written, p.e.manifest(p.change))
	m := moment{change: p.change, renamed: time.Now()}
	if err := os.Rename(written, filepath.Join(p.site, changingFile)); err != nil {
		tb.Fatal(err)
	}
	m.visible = p.until(tb, p.e.answer(p.change), before)
	p.log = append(p.log, m)
	return m.visible.Sub(m.renamed)
}

// stages are the parts of a change's way, in order; each ends with what it is
// named for.
var stages = []string{"event", "candidate", "head", "recorded", "offered", "visible"}

// breakdown stops the product and returns how long each stage of the changes
// from the given one on took, by stage. The times are those in the ledger and
// in the log of the process.
func (p *product) breakdown(tb testing.TB, from int) map[string][]time.Duration {
	tb.Helper()
	p.stop(tb)
	authority, err := pki.Init(filepath.Join(p.data, "pki"))
	if err != nil {
		tb.Fatal(err)
	}
	hub := authority.DecisionKey().Public().(ed25519.PublicKey)
	store, err := boltstore.Open(filepath.Join(p.data, "ledger.db"), boltstore.Options{Hub: hub, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	logged := p.logged(tb)
	byChange := map[int]map[string]time.Time{}
	var current map[string]time.Time
	for seq := ledger.Seq(1); seq <= store.Size(); seq++ {
		entries, err := store.Read(seq, 1)
		if err != nil {
			tb.Fatal(err)
		}
		ev, err := ledger.DecodeEvent(entries[0].Record.Event)
		if err != nil {
			tb.Fatal(err)
		}
		switch {
		case ev.Type == ledger.ObjectPut:
			if change, ok := changeOf(ev.Data); ok {
				current = map[string]time.Time{"event": ev.Time}
				byChange[change] = current
			}
		case current == nil || !ev.Type.IsDecision():
		case ev.Type.Decision() == federation.CandidateDecision && current["candidate"].IsZero():
			current["candidate"] = ev.Time
		case ev.Type.Decision() == projector.HeadDecision && current["head"].IsZero():
			current["head"] = ev.Time
			h, err := projector.OpenHead(entries[0].Record, seq, hub)
			if err != nil {
				tb.Fatal(err)
			}
			current["recorded"], current["offered"] = logged["head"][h.Head.Generation], logged[`"serving a new head"`][h.Head.Generation]
		}
	}
	out := map[string][]time.Duration{}
	for _, m := range p.log {
		at := byChange[m.change]
		if m.change < from || at == nil {
			continue
		}
		at["visible"] = m.visible
		last := m.renamed
		for _, s := range stages {
			if at[s].IsZero() {
				continue
			}
			out[s] = append(out[s], at[s].Sub(last))
			last = at[s]
		}
	}
	return out
}

// changeOf returns which change a version of the changing Mapping is.
func changeOf(object []byte) (int, bool) {
	_, after, ok := bytes.Cut(object, []byte(`"x-change":{"value":"`))
	if !ok {
		return 0, false
	}
	digits, _, _ := bytes.Cut(after, []byte(`"`))
	n, err := strconv.Atoi(string(digits))
	return n, err == nil
}

// logged returns when the process said something, by message and generation.
func (p *product) logged(tb testing.TB) map[string]map[uint64]time.Time {
	tb.Helper()
	f, err := os.Open(p.logPath())
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out := map[string]map[uint64]time.Time{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		at, ok := field(line, "time=")
		generation, ok2 := field(line, " generation=")
		_, message, ok3 := strings.Cut(line, " msg=")
		if !ok || !ok2 || !ok3 {
			continue
		}
		if strings.HasPrefix(message, `"`) {
			message = message[:strings.Index(message[1:], `"`)+2]
		} else {
			message, _, _ = strings.Cut(message, " ")
		}
		when, err := time.Parse(time.RFC3339Nano, at)
		n, err2 := strconv.ParseUint(generation, 10, 64)
		if err != nil || err2 != nil {
			continue
		}
		if out[message] == nil {
			out[message] = map[uint64]time.Time{}
		}
		out[message][n] = when
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return out
}

// field returns the value behind a key of a line of text logging.
func field(line, key string) (string, bool) {
	_, after, ok := strings.Cut(line, key)
	value, _, _ := strings.Cut(after, " ")
	return value, ok
}
