package process_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chancery-dev/chancery/internal/testbed"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/xds/process"
)

const patience = 30 * time.Second

// keeperVariable makes the test binary a keeper of the Envoy in the directory
// that it names, until it is killed.
const keeperVariable = "CHANCERY_TEST_KEEPER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(keeperVariable); dir != "" {
		keep(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

func keep(dir string) {
	p, err := process.New(options(dir, os.Getenv(testbed.EnvoyVariable)))
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go func() {
		for {
			pid, _, _, changed := p.State()
			fmt.Println("pid", pid)
			<-changed
		}
	}()
	if err := p.Run(context.Background()); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func options(dir, binary string) process.Options {
	bootstrap, err := envoy.BootstrapADS(envoy.ADSOptions{
		NodeID: "n", NodeCluster: "c", Socket: filepath.Join(dir, "ads.sock"),
		Admin: envoy.Admin{Socket: filepath.Join(dir, "admin.sock")}, InitialFetch: time.Second,
	})
	if err != nil {
		panic(err)
	}
	return process.Options{Binary: binary, Dir: dir, Bootstrap: bootstrap, Concurrency: 1}
}

func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "proc") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// run runs a keeper in this process.
func run(t *testing.T, o process.Options) (p *process.Process, stop func()) {
	t.Helper()
	p, err := process.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	waitFor(t, "an envoy", func() bool { pid, _, _, _ := p.State(); return pid != 0 })
	return p, stop
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestAdoption kills a keeper with -9: its Envoy goes on, and the next keeper
// adopts it, also when the record was lost.
func TestAdoption(t *testing.T) {
	dir, binary := tempDir(t), testbed.Envoy(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	keeper := exec.Command(exe)
	keeper.Env = append(os.Environ(), keeperVariable+"="+dir, testbed.EnvoyVariable+"="+binary)
	out, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "pid %d", &pid)
	}
	if pid == 0 {
		t.Fatal("the keeper started no envoy")
	}
	admin := process.NewAdmin(filepath.Join(dir, "admin.sock"))
	defer admin.Close()
	waitFor(t, "the admin interface", func() bool { _, err := admin.Warming(t.Context()); return err == nil })

	// Nobody else may keep it meanwhile.
	second, err := process.New(options(dir, binary))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "kept by another process") {
		t.Errorf("a second keeper: got %v", err)
	}

	if err := keeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = keeper.Wait() // killed
	o := options(dir, binary)
	o.Keep = true
	p, stop := run(t, o)
	if got, adopted, starts, _ := p.State(); got != pid || !adopted || starts != 0 {
		t.Errorf("got pid %d, adopted %v, %d starts; want %d", got, adopted, starts, pid)
	}
	stop()
	if !alive(pid) {
		t.Fatal("the envoy was to be kept and is gone")
	}
	if _, err := admin.Get(t.Context(), "/server_info"); err != nil {
		t.Error(err)
	}

	if err := os.Remove(filepath.Join(dir, "envoy.json")); err != nil {
		t.Fatal(err)
	}
	p, stop = run(t, options(dir, binary))
	if got, adopted, _, _ := p.State(); got != pid || !adopted {
		t.Errorf("without the record: got pid %d, adopted %v; want %d", got, adopted, pid)
	}
	stop()
	if alive(pid) {
		t.Error("the envoy was to be stopped and runs")
	}
}

// TestRecordOfAnother shows that a PID that is another process's now is left
// alone.
func TestRecordOfAnother(t *testing.T) {
	dir := tempDir(t)
	sleeper := exec.Command("sleep", "1000")
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()
	b, err := json.Marshal(map[string]any{"pid": sleeper.Process.Pid, "started": 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "envoy.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	p, stop := run(t, options(dir, testbed.Envoy(t)))
	if pid, adopted, _, _ := p.State(); adopted || pid == sleeper.Process.Pid {
		t.Errorf("adopted %d", pid)
	}
	stop()
	if !alive(sleeper.Process.Pid) {
		t.Error("another process was stopped")
	}
}

func TestDeadEnvoyIsStartedAgain(t *testing.T) {
	dir := tempDir(t)
	p, _ := run(t, options(dir, testbed.Envoy(t)))
	pid, _, _, _ := p.State()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "another envoy", func() bool {
		now, _, starts, _ := p.State()
		return now != 0 && now != pid && starts == 2
	})
}

func TestLogIsBounded(t *testing.T) {
	o := options(tempDir(t), testbed.Envoy(t))
	o.MaxLogBytes = 1000
	p, _ := run(t, o)
	f, err := os.OpenFile(p.LogPath(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteString(strings.Repeat("x", 5000)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the log to be moved aside", func() bool {
		now, err := os.Stat(p.LogPath())
		before, err2 := os.Stat(p.LogPath() + ".1")
		return err == nil && err2 == nil && now.Size() <= 1000 && before.Size() == 1000
	})
}

func TestBadOptions(t *testing.T) {
	if _, err := process.New(process.Options{}); err == nil {
		t.Error("no error without a binary")
	}
	if _, err := process.New(process.Options{Binary: "no-such-envoy", Dir: "x", Bootstrap: []byte("{}")}); err == nil {
		t.Error("no error for a binary that is not there")
	}
}
