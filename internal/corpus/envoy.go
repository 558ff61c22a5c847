package corpus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	readyTimeout = 60 * time.Second // on a machine however slow
	readyEvery   = 20 * time.Millisecond
	stopTimeout  = 5 * time.Second // then it is killed
)

// An Envoy is a running process of ours.
type Envoy struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when the process has ended
}

// StartEnvoy runs an Envoy binary on a bootstrap and waits until it is LIVE, which means that its first listeners and
// clusters, static or from a control plane, are there. It writes its configuration and log into dir. admin is the
// bootstrap's admin address, host:port. The caller stops it.
func StartEnvoy(ctx context.Context, binary string, bootstrap []byte, admin, dir string) (*Envoy, error) {
	config, logPath := filepath.Join(dir, "envoy.json"), filepath.Join(dir, "envoy.log")
	if err := os.WriteFile(config, bootstrap, 0o600); err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	logFile, err := os.Create(logPath)
	if err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(binary, "-c", config, "--concurrency", "1", "--disable-hot-restart", "-l", "warning")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start envoy: %w", err)
	}
	e := &Envoy{cmd: cmd, log: logPath, done: make(chan struct{})}
	go func() {
		defer close(e.done)
		_ = cmd.Wait() // how it ended is in its log
	}()
	if err := e.waitLive(ctx, admin); err != nil {
		e.Stop()
		return nil, err
	}
	return e, nil
}

func (e *Envoy) waitLive(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		live, err := isLive(ctx, admin)
		if live {
			return nil
		}
		select {
		case <-e.done:
			return fmt.Errorf("envoy refused the configuration: %s", e.lastError())
		case <-ctx.Done():
			return fmt.Errorf("envoy is not ready: %w: %s", errors.Join(ctx.Err(), err), e.lastError())
		case <-tick.C:
		}
	}
}

// adminClient keeps no connection, which would outlive the Envoy.
var adminClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func isLive(ctx context.Context, admin string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/ready", nil)
	if err != nil {
		return false, err
	}
	resp, err := adminClient.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	state, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return resp.StatusCode == http.StatusOK && strings.Contains(string(state), "LIVE"), err
}

// Stop ends the process and waits for it: politely first, then by force.
func (e *Envoy) Stop() {
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-e.done:
	case <-timer.C:
		_ = e.cmd.Process.Kill()
		<-e.done
	}
}

// lastError returns the last error of the log with what follows it, shortened.
func (e *Envoy) lastError() string {
	const maxLines, maxBytes = 4, 900
	raw, err := os.ReadFile(e.log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "[critical]") || strings.Contains(lines[i], "[error]") {
			text := strings.Join(lines[i:min(i+maxLines, len(lines))], " ")
			return text[:min(len(text), maxBytes)]
		}
	}
	return lines[len(lines)-1]
}
