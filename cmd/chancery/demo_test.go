package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chancery-dev/chancery/internal/testbed"
)

// program builds the program once and returns its path.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "chancery")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

// TestDemo walks the guided tour through a real Envoy, as make demo SCRIPT=1
// does: it exits 0 only if each step was observed.
func TestDemo(t *testing.T) {
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program(t), "demo", "--script", "--envoy", testbed.Envoy(t))
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("demo: %v\n%s", err, out.String())
	}
	for _, want := range []string{"first routed request after", "is pinned to r1", "h1 released", "is rejected", "All steps were observed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo does not say %q:\n%s", want, out.String())
		}
	}
}

// TestDemoSaysWhatIsMissing runs it with a port taken: it must not claim
// success.
func TestDemoSaysWhatIsMissing(t *testing.T) {
	l, err := net.Listen("tcp", demoHTTPS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	out, err := exec.CommandContext(t.Context(), program(t), "demo", "--script", "--envoy", testbed.Envoy(t)).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "8443") {
		t.Errorf("exit %v:\n%s", err, out)
	}
}

// TestEnvoyByMutualTLS runs serve without an Envoy of its own, and one that
// finds it with nothing but what pki issue and bootstrap write.
func TestEnvoyByMutualTLS(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer backend.Close()
	chancery, dir := program(t), shortDir(t)
	envoyAddress := freeAddress(t)
	_, port, err := net.SplitHostPort(envoyAddress)
	if err != nil {
		t.Fatal(err)
	}
	site, data := filepath.Join(dir, "site"), filepath.Join(dir, "data")
	if err := os.Mkdir(site, 0o700); err != nil {
		t.Fatal(err)
	}
	yaml := fmt.Sprintf(`apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: http}
spec: {port: %s, protocol: HTTP, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: web}
spec: {hostname: "*", requestPolicy: {insecure: {action: Route}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: web}
spec: {hostname: "*", prefix: /, service: %q}
`, port, backend.Listener.Addr())
	if err := os.WriteFile(filepath.Join(site, "web.yaml"), []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	xdsAddress := freeAddress(t)
	background(t, chancery, "serve", "--data", data, "--site", "home=dir:"+site, "--envoy", "", "--bind", "127.0.0.1",
		"--api", freeAddress(t), "--xds", xdsAddress, "--probes", "", "--metrics", "")
	certs := filepath.Join(dir, "certs")
	eventually(t, "a certificate", func() error {
		out, err := exec.CommandContext(t.Context(), chancery, "pki", "issue", "--role", "envoy", "--name", "far-1", "--out", certs, "--data", data).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	bootstrap, err := exec.CommandContext(t.Context(), chancery, "bootstrap", "--edge", xdsAddress, "--pki", certs, "--node", "far-1",
		"--admin", "unix:"+filepath.Join(dir, "admin.sock")).Output()
	if err != nil {
		t.Fatalf("bootstrap: %v", err)
	}
	file := filepath.Join(dir, "bootstrap.json")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, testbed.Envoy(t), "-c", file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
	eventually(t, "an answer through the Envoy", func() error {
		resp, err := http.Get("http://" + envoyAddress + "/")
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		if b, _ := io.ReadAll(resp.Body); string(b) != "hello" {
			return fmt.Errorf("%s: %q", resp.Status, b)
		}
		return nil
	})
	eventually(t, "status to say that far-1 serves", func() error {
		out, err := exec.CommandContext(t.Context(), chancery, "status", "--data", data, "-o", "json").Output()
		var status struct {
			InSync bool `json:"inSync"`
			Envoys int  `json:"envoys"`
			Served int  `json:"served"`
		}
		if err == nil {
			err = json.Unmarshal(out, &status)
		}
		if err == nil && (!status.InSync || status.Envoys != 1 || status.Served != 1) {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
}

// shortDir returns a folder whose path leaves room for the names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ch") //nolint:usetesting // t.TempDir is too long for the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// background runs a program until the test ends.
func background(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(name), out.String())
		}
	})
}

// eventually waits for something to come about.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	limit := time.After(90 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Fatalf("waited for %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
