package process

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options say which Envoy to run.
type Options struct {
	// Binary is the path of the Envoy.
	Binary string
	// Dir is the directory of this one Envoy: bootstrap, log and record are in
	// it. It is made with mode 0700.
	Dir string
	// Bootstrap is the configuration as JSON.
	Bootstrap []byte
	// Concurrency is the number of worker threads, 0 for one for each CPU.
	Concurrency int
	// Keep leaves the Envoy running when Run's context ends.
	Keep bool
	// MaxLogBytes bounds the log; the log before it is kept beside it as .1.
	// Zero means DefaultMaxLogBytes.
	MaxLogBytes int64
	// StopLimit is how long a stopped Envoy may take before it is killed. Zero
	// means DefaultStopLimit.
	StopLimit time.Duration
	// Log receives starts, adoptions, ends. Nil: slog.Default.
	Log *slog.Logger
}

// The defaults of Options.
const (
	DefaultMaxLogBytes = 8 << 20
	DefaultStopLimit   = 5 * time.Second
)

// The wait before a dead Envoy is started again: doubled from firstWait to
// lastWait, and from firstWait again after it stayed up for steady.
const (
	firstWait = 100 * time.Millisecond
	lastWait  = 10 * time.Second
	steady    = 30 * time.Second
)

// tick is how often a running Envoy's log is measured, and how soon its end is
// noticed at the latest.
const tick = 250 * time.Millisecond

// record is what the next keeper knows the Envoy by (Dir/envoy.json).
type record struct {
	PID int `json:"pid"`
	// Started is the process's start in clock ticks since boot, which tells it
	// from a later one with the same PID.
	Started   uint64 `json:"started"`
	Binary    string `json:"binary"`
	Bootstrap string `json:"bootstrap"` // SHA-256
}

// Process is one Envoy and its keeper.
type Process struct {
	opts Options

	mu      sync.Mutex // guards what follows
	now     record     // PID 0: none runs
	adopted bool
	starts  int
	changed chan struct{} // closed when now changes
}

// New returns the keeper of an Envoy that Run starts or adopts.
func New(opts Options) (*Process, error) {
	if opts.Binary == "" || opts.Dir == "" || len(opts.Bootstrap) == 0 {
		return nil, errors.New("envoy: Binary, Dir and Bootstrap must be given")
	}
	abs, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	opts.Dir = abs
	if opts.Binary, err = exec.LookPath(opts.Binary); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if opts.Binary, err = filepath.Abs(opts.Binary); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if opts.MaxLogBytes == 0 {
		opts.MaxLogBytes = DefaultMaxLogBytes
	}
	if opts.StopLimit == 0 {
		opts.StopLimit = DefaultStopLimit
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	return &Process{opts: opts, changed: make(chan struct{})}, nil
}

func (p *Process) path(name string) string { return filepath.Join(p.opts.Dir, name) }

// LogPath returns the path of the Envoy's log.
func (p *Process) LogPath() string { return p.path("envoy.log") }

// State returns the running Envoy's PID, 0 if none runs, whether it was
// adopted, and how many Envoys this keeper started. The channel is closed when
// that changes.
func (p *Process) State() (pid int, adopted bool, starts int, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now.PID, p.adopted, p.starts, p.changed
}

func (p *Process) set(r record, adopted, started bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.adopted = r, adopted
	if started {
		p.starts++
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// Run keeps the Envoy running until ctx ends; then it stops it, unless it is
// to be kept. It fails only if the directory or the binary cannot be used.
func (p *Process) Run(ctx context.Context) error {
	if err := os.MkdirAll(p.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("envoy: %w", err)
	}
	lock, err := p.lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }() // the lock ends with it
	wait := firstWait
	for ctx.Err() == nil {
		var exited <-chan struct{} // nil of one that was adopted: it is no child of ours
		r, err := p.adopt()
		adopted := err == nil
		if !adopted {
			if r, exited, err = p.start(); err != nil {
				return err
			}
		}
		p.set(r, adopted, !adopted)
		p.opts.Log.InfoContext(ctx, "envoy runs", slog.Int("pid", r.PID), slog.Bool("adopted", adopted), slog.String("dir", p.opts.Dir))
		began := time.Now()
		alive, err := p.watch(ctx, r, exited)
		if err != nil {
			return err
		}
		if alive {
			if !p.opts.Keep {
				p.stop(r, exited)
				p.set(record{}, false, false)
			}
			return nil
		}
		p.set(record{}, false, false)
		if time.Since(began) > steady {
			wait = firstWait
		}
		p.opts.Log.ErrorContext(ctx, "envoy ended, starting another", slog.Int("pid", r.PID), slog.Duration("wait", wait), slog.String("log", p.LogPath()))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastWait)
	}
	return nil
}

// lock makes sure that a directory has one keeper.
func (p *Process) lock() (*os.File, error) {
	f, err := os.OpenFile(p.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, fmt.Errorf("envoy in %s is kept by another process already: %w", p.opts.Dir, err)
	}
	return f, nil
}

// arguments are what the Envoy is started with. The path of the bootstrap is
// in them, which makes its process recognisable.
func (p *Process) arguments() []string {
	args := []string{"-c", p.path("bootstrap.json"), "--disable-hot-restart", "--log-level", "warning"}
	if p.opts.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(p.opts.Concurrency))
	}
	return args
}

// start starts an Envoy. exited is closed when it ended and was reaped. A
// crash of the keeper before the record is written leaves an Envoy that adopt
// finds by its arguments.
func (p *Process) start() (r record, exited <-chan struct{}, err error) {
	if err := writeFile(p.path("bootstrap.json"), p.opts.Bootstrap); err != nil {
		return r, nil, fmt.Errorf("envoy: bootstrap: %w", err)
	}
	log, err := os.OpenFile(p.LogPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return r, nil, fmt.Errorf("envoy: log: %w", err)
	}
	defer func() { _ = log.Close() }() // the Envoy has its own descriptor
	cmd := exec.Command(p.opts.Binary, p.arguments()...)
	cmd.Dir = p.opts.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return r, nil, fmt.Errorf("envoy: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	r = record{PID: cmd.Process.Pid, Binary: p.opts.Binary, Bootstrap: digest(p.opts.Bootstrap)}
	// A process that is gone already is found out by watch.
	r.Started, _ = started(r.PID)
	b, err := json.Marshal(r)
	if err == nil {
		err = writeFile(p.path("envoy.json"), b)
	}
	if err != nil {
		p.stop(r, done)
		return r, nil, fmt.Errorf("envoy: record: %w", err)
	}
	return r, done, nil
}

var errNone = errors.New("no envoy runs")

// adopt finds a running Envoy of this directory.
func (p *Process) adopt() (record, error) {
	var r record
	b, err := os.ReadFile(p.path("envoy.json"))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil || !r.runs() || !p.ours(r.PID) {
		if r, err = p.search(); err != nil {
			return r, err
		}
		if _, err := os.Stat(p.path("bootstrap.json")); errors.Is(err, fs.ErrNotExist) {
			// Its directory was removed, and its sockets with it.
			p.opts.Log.Warn("an envoy of a directory that was removed is stopped", slog.Int("pid", r.PID), slog.String("dir", p.opts.Dir))
			p.stop(r, nil)
			return record{}, errNone
		}
	}
	if r.Bootstrap != "" && r.Bootstrap != digest(p.opts.Bootstrap) {
		p.opts.Log.Warn("the running envoy has another bootstrap; restart it to use the new one", slog.Int("pid", r.PID), slog.String("dir", p.opts.Dir))
	}
	return r, nil
}

// runs reports whether the process of the record still runs.
func (r record) runs() bool {
	if r.PID <= 0 {
		return false
	}
	s, err := started(r.PID)
	return err == nil && s == r.Started
}

// ours reports whether a process runs Envoy with our bootstrap.
func (p *Process) ours(pid int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	// After an upgrade in place the link ends in " (deleted)".
	base := strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	resolved, err := filepath.EvalSymlinks(p.opts.Binary)
	if err != nil || base != filepath.Base(resolved) {
		return false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(cmdline), "\x00"+p.path("bootstrap.json")+"\x00")
}

// search looks for an Envoy whose record was not written.
func (p *Process) search() (record, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return record{}, fmt.Errorf("envoy: %w", err)
	}
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !p.ours(pid) {
			continue
		}
		if s, err := started(pid); err == nil {
			return record{PID: pid, Started: s}, nil
		}
	}
	return record{}, errNone
}

// started returns when a process was started, in clock ticks since boot (field
// 22 of proc_pid_stat(5)). A zombie is not running.
func started(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field, the name in parentheses, may contain anything.
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return 0, fmt.Errorf("process %d: malformed stat", pid)
	}
	fields := strings.Fields(string(b[i+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, fmt.Errorf("process %d: not running", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// watch waits for the Envoy's end or the context's, and keeps the log small.
// It reports whether the Envoy is still alive.
func (p *Process) watch(ctx context.Context, r record, exited <-chan struct{}) (alive bool, err error) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return r.runs(), nil
		case <-exited:
			return false, nil
		case <-t.C:
			if exited == nil && !r.runs() { // not our child
				return false, nil
			}
			if err := p.trim(); err != nil {
				return true, err
			}
		}
	}
}

// trim moves a log that is too long aside. The Envoy appends, and so goes on
// at the new end; lines that it writes in between are lost.
func (p *Process) trim() error {
	info, err := os.Stat(p.LogPath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("envoy: log: %w", err)
	}
	if info.Size() <= p.opts.MaxLogBytes {
		return nil
	}
	b, err := os.ReadFile(p.LogPath())
	if err != nil {
		return fmt.Errorf("envoy: log: %w", err)
	}
	b = b[max(0, int64(len(b))-p.opts.MaxLogBytes):]
	if err := os.WriteFile(p.LogPath()+".1", b, 0o600); err != nil {
		return fmt.Errorf("envoy: log: %w", err)
	}
	if err := os.Truncate(p.LogPath(), 0); err != nil {
		return fmt.Errorf("envoy: log: %w", err)
	}
	return nil
}

// stop asks the Envoy to end, and kills it when it does not.
func (p *Process) stop(r record, exited <-chan struct{}) {
	ended := func() bool {
		if exited == nil {
			return !r.runs()
		}
		select {
		case <-exited:
			return true
		default:
			return false
		}
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if ended() {
			return
		}
		// The group is the Envoy's own. An error means that it is gone.
		_ = unix.Kill(-r.PID, sig)
		for deadline := time.Now().Add(p.opts.StopLimit); !ended() && time.Now().Before(deadline); {
			select {
			case <-exited:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// Restart ends the running Envoy, if one runs, and waits for Run to start
// another.
func (p *Process) Restart(ctx context.Context) error {
	pid, _, _, changed := p.State()
	if pid != 0 {
		p.mu.Lock()
		r := p.now
		p.mu.Unlock()
		if r.runs() {
			_ = unix.Kill(-r.PID, unix.SIGKILL) // gone is what it is to be
		}
	}
	for old := pid; pid == old || pid == 0; pid, _, _, changed = p.State() {
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("restart envoy: %w", context.Cause(ctx))
		}
	}
	return nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// writeFile replaces a file whole.
func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
