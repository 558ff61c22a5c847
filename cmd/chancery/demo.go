package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/examples"
	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/hub"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
)

// demoCommand runs the guided tour.
func demoCommand() *cobra.Command {
	var d demo
	cmd := &cobra.Command{
		Use:   "demo [--envoy PATH | --no-envoy] [--script]",
		Short: "Run everything on two pretend clusters and walk through a change, a rollback and a mistake",
		Long: `Run everything in one process: two pretend clusters (directories), echo
backends, the control plane and a real Envoy. It prints a curl that works, then
walks through a change, a rollback, its release, and a broken Mapping.

On a terminal each step waits for Enter, and everything is left running until
Ctrl-C. With --script the steps follow each other, each must be observed through
Envoy, and the exit code says whether all were.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if d.data, err = cmd.Flags().GetString("data"); err != nil {
				return err
			}
			switch {
			case d.noEnvoy && d.script:
				return usageError("demo --script needs an Envoy: each step is observed through it")
			case !d.noEnvoy && d.envoy == "":
				return usageError("demo needs --envoy PATH (make demo installs one), or --no-envoy to compile only")
			case !d.noEnvoy:
				if err := checkEnvoy(d.envoy); err != nil {
					return usageError(err.Error())
				}
			}
			d.out = cmd.OutOrStdout()
			d.interactive = !d.script && isatty.IsTerminal(os.Stdin.Fd())
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return d.run(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&d.envoy, "envoy", os.Getenv("CHANCERY_ENVOY"), "path of the Envoy")
	f.BoolVar(&d.noEnvoy, "no-envoy", false, "compile only: no Envoy, no requests")
	f.BoolVar(&d.script, "script", false, "walk without waiting for Enter, and exit")
	f.BoolVar(&d.verbose, "verbose", false, "log what the parts do")
	return cmd
}

// demo is the guided tour.
type demo struct {
	data, envoy              string
	noEnvoy, script, verbose bool
	interactive              bool
	out                      io.Writer

	sites   string // directory of the two clusters' copies
	started time.Time
	in      *install
}

// The addresses of the demo: of the Envoy, and of the backends as
// examples/demo names them.
const (
	demoHTTP  = "127.0.0.1:8080"
	demoHTTPS = "127.0.0.1:8443"
)

var demoBackends = map[string]string{
	"127.10.0.1:8080": "quote v1", "127.10.0.2:8080": "quote v2", "127.10.0.3:8080": "orders",
}

func (d *demo) say(format string, args ...any) { _, _ = fmt.Fprintf(d.out, format+"\n", args...) }

func (d *demo) run(ctx context.Context) error {
	d.started = time.Now()
	if d.data == "" {
		dir, err := os.MkdirTemp("", "chancery-demo-")
		if err != nil {
			return fmt.Errorf("demo: %w", err)
		}
		defer func() { _ = os.RemoveAll(dir) }() // nothing of value is in it
		d.data = dir
	}
	d.sites = filepath.Join(d.data, "sites")
	if err := d.makeSites(); err != nil {
		return err
	}
	if !d.noEnvoy {
		for _, a := range []string{demoHTTP, demoHTTPS} {
			l, err := net.Listen("tcp", a)
			if err != nil {
				return fmt.Errorf("demo: Envoy is to listen on %s: %w; stop what uses the port and start the demo again", a, err)
			}
			_ = l.Close()
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	ctx, end := context.WithCancel(ctx)
	defer end()
	if err := d.startBackends(ctx, g); err != nil {
		end()
		return errors.Join(err, g.Wait())
	}
	level := slog.LevelError
	if d.verbose {
		level = slog.LevelDebug
	}
	settings := federation.DefaultSettings()
	settings.Compile.BindAddress = "127.0.0.1"
	settings.Rollout.Soak = 200 * time.Millisecond
	ready := make(chan *install, 1)
	d.say("Chancery %s: two pretend clusters, east and west, one Envoy", buildVersion())
	d.say("  objects     %s (plain Kubernetes YAML; edit it while this runs)", d.sites)
	g.Go(func() error {
		return serve(ctx, serveConfig{
			Data:  d.data,
			Sites: []site{{Cluster: "east", Path: filepath.Join(d.sites, "east")}, {Cluster: "west", Path: filepath.Join(d.sites, "west")}},
			Envoy: d.envoyPath(), Concurrency: 1, Settings: settings, Build: buildVersion(), API: "127.0.0.1:0",
			Log:   slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
			Ready: func(in *install) { ready <- in },
		})
	})
	g.Go(func() error {
		select {
		case d.in = <-ready:
		case <-ctx.Done():
			return nil
		}
		defer func() {
			if d.script || d.noEnvoy && !d.interactive {
				end()
			}
		}()
		if err := d.tour(ctx); err != nil {
			end()
			return ended(ctx, err)
		}
		return nil
	})
	err := g.Wait()
	if err == nil && d.script {
		d.say("\nAll steps were observed. Stopped.")
	}
	return err
}

func (d *demo) envoyPath() string {
	if d.noEnvoy {
		return ""
	}
	return d.envoy
}

// makeSites copies examples/demo and makes east's certificate.
func (d *demo) makeSites() error {
	err := fs.WalkDir(examples.Demo, "demo", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(d.sites, filepath.FromSlash(strings.TrimPrefix(p, "demo")))
		if e.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		if path.Dir(p) == "demo" {
			return nil
		}
		b, err := fs.ReadFile(examples.Demo, p)
		if err != nil {
			return err
		}
		return replaceFile(to, b)
	})
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	cert, key, err := selfSigned("east.example.com")
	if err != nil {
		return err
	}
	secret, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
		"metadata": map[string]any{"name": "east-tls", "namespace": "default"},
		"data":     map[string][]byte{"tls.crt": cert, "tls.key": key},
	})
	if err != nil {
		return fmt.Errorf("demo certificate: %w", err)
	}
	return replaceFile(filepath.Join(d.sites, "east", "tls.json"), secret)
}

// replaceFile writes a file beside its place and moves it there, as editors do.
func replaceFile(to string, b []byte) error {
	tmp := to + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, to)
}

func selfSigned(host string) (cert, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("demo certificate: %w", err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, private.Public(), private)
	if err != nil {
		return nil, nil, fmt.Errorf("demo certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, fmt.Errorf("demo certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

// startBackends starts the echo backends that the demo's Services name.
func (d *demo) startBackends(ctx context.Context, g *errgroup.Group) error {
	for address, name := range demoBackends {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("demo backend %s: %w; stop what uses the address and start the demo again", name, err)
		}
		g.Go(func() error {
			return serveHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = fmt.Fprintf(w, "%s answers %s %s\n", name, r.Method, r.URL.Path)
			}))
		})
	}
	return nil
}

// tour says what runs and walks through the steps.
func (d *demo) tour(ctx context.Context) error {
	if d.noEnvoy {
		return d.compileOnly(ctx)
	}
	if err := d.observe(ctx, "east.example.com", "/quote/", "quote v1"); err != nil {
		return err
	}
	d.say("  API         --data %s (for the chancery command line)", d.data)
	d.say("  first routed request after %.1f s\n", time.Since(d.started).Seconds())
	d.say("Try it:\n  curl -H 'Host: east.example.com' http://%s/quote/\n  curl -H 'Host: west.example.com' http://%s/orders/", demoHTTP, demoHTTP)
	d.say("  curl -k --connect-to ::%s https://east.example.com/quote/", demoHTTPS)
	if !d.script && !d.interactive {
		d.say("\nLeft running until Ctrl-C. Run it on a terminal for the walk, or with --script.")
		return nil
	}
	for i, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Change a Mapping: east's quote goes to version 2", d.change},
		{"Roll back: pin the fleet to what it served before", d.rollback},
		{"Release the hold: the fleet follows its source again", d.release},
		{"Break the Mapping: its last good version and everything else stay", d.breakIt},
	} {
		d.say("\n%d. %s", i+1, step.title)
		if d.interactive && !d.enter(ctx) {
			return nil
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	if !d.script {
		d.say("\nThat is the tour. Everything is left running until Ctrl-C.")
	}
	return nil
}

// enter waits for the Enter key; false says that the visitor leaves.
func (d *demo) enter(ctx context.Context) bool {
	d.say("   [Enter]")
	line := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(os.Stdin).ReadString('\n')
		line <- err
	}()
	select {
	case err := <-line:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

func (d *demo) quoteFile() string { return filepath.Join(d.sites, "east", "quote.yaml") }

// edit replaces text in east's quote.yaml.
func (d *demo) edit(old, replacement string) error {
	b, err := os.ReadFile(d.quoteFile())
	if err != nil {
		return err
	}
	if !bytes.Contains(b, []byte(old)) {
		return fmt.Errorf("%s has no %q any more; start the demo again", d.quoteFile(), old)
	}
	d.say("   edit %s: %s → %s", d.quoteFile(), strings.TrimSpace(old), strings.Join(strings.Fields(replacement), " "))
	return replaceFile(d.quoteFile(), bytes.Replace(b, []byte(old), []byte(replacement), 1))
}

func (d *demo) change(ctx context.Context) error {
	// What was never proved to be served is nothing to go back to.
	if err := d.until(ctx, "the first revision to be proved", func(i hub.Inside) bool { return i.Fleet.Served > 0 }); err != nil {
		return err
	}
	if err := d.edit("service: quote-v1:8080", "service: quote-v2:8080"); err != nil {
		return err
	}
	if err := d.observe(ctx, "east.example.com", "/quote/", "quote v2"); err != nil {
		return err
	}
	return d.history()
}

// operator is who the demo acts as.
var operator = ledger.Actor{Name: "visitor", Source: "operator"}

func (d *demo) rollback(ctx context.Context) error {
	a, err := d.in.hub.Do(ctx, hub.Request{Actor: operator, Reason: "trying it out", Pin: &hub.PinRequest{}})
	if err != nil {
		return err
	}
	d.say("   chancery rollback --pin --reason 'trying it out'\n   %s", a.Message)
	return d.observe(ctx, "east.example.com", "/quote/", "quote v1")
}

func (d *demo) release(ctx context.Context) error {
	var hold string
	if err := d.in.hub.Inspect(ctx, func(i hub.Inside) {
		if p := i.Fleet.Pinned(); p != nil {
			hold = p.ID
		}
	}); err != nil {
		return err
	}
	a, err := d.in.hub.Do(ctx, hub.Request{Actor: operator, Release: &hub.ReleaseRequest{ID: hold}})
	if err != nil {
		return err
	}
	d.say("   chancery hold release %s\n   %s", hold, a.Message)
	return d.observe(ctx, "east.example.com", "/quote/", "quote v2")
}

func (d *demo) breakIt(ctx context.Context) error {
	key := ledger.ObjectKey{Cluster: "east", Group: "getambassador.io", Kind: "Mapping", Namespace: "default", Name: "quote"}
	if err := d.until(ctx, "the Mapping as a last good version", func(i hub.Inside) bool {
		return i.Fleet.LastGood > 0 && i.Fleet.LastGood == i.Fleet.Head.Revision
	}); err != nil {
		return err
	}
	if err := d.edit("prefix: /quote/", "prefix: /quote/\n  timeout_ms: soon"); err != nil {
		return err
	}
	var report projector.ObjectReport
	if err := d.until(ctx, "the Mapping to be rejected", func(i hub.Inside) bool {
		report, _ = i.Compiler.Report(key)
		return report.State == projector.Rejected
	}); err != nil {
		return err
	}
	d.say("   %s is %s:", key, report.State)
	for _, f := range report.Findings {
		d.say("     %s: %s", strings.TrimSpace(string(f.Code)+" "+f.Path), f.Message)
	}
	if report.Serving.IsZero() {
		return fmt.Errorf("%s is served by no version", key)
	}
	d.say("   served meanwhile: its last good version, %s", report.Serving.Short())
	if err := d.observe(ctx, "east.example.com", "/quote/", "quote v2"); err != nil {
		return err
	}
	return d.observe(ctx, "west.example.com", "/orders/", "orders")
}

// compileOnly shows what two clusters compile to without an Envoy.
func (d *demo) compileOnly(ctx context.Context) error {
	return d.until(ctx, "a compiled snapshot", func(i hub.Inside) bool {
		n := i.Fleet.Newest()
		if n == nil {
			return false
		}
		d.say("  compiled r%d: %d listeners, %d routes, %s", n.Revision, n.Listeners, n.Routes, n.Fingerprint.Short())
		d.say("  without an Envoy nothing is served; install one with make envoy and name it with --envoy")
		return true
	})
}

// stepLimit bounds the wait for one effect.
const stepLimit = 60 * time.Second

// until waits for the hub to get somewhere.
func (d *demo) until(ctx context.Context, what string, done func(hub.Inside) bool) error {
	limited, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	for {
		updated := d.in.store.Updated()
		ok := false
		if err := d.in.hub.Inspect(limited, func(i hub.Inside) { ok = done(i) }); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-updated:
		case <-time.After(50 * time.Millisecond):
		case <-limited.Done():
			return fmt.Errorf("waited %s for %s; run the demo with --verbose to see why", stepLimit, what)
		}
	}
}

// observe asks through Envoy until the answer begins with want.
func (d *demo) observe(ctx context.Context, host, urlPath, want string) error {
	limited, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	started, last := time.Now(), ""
	for limited.Err() == nil {
		req, err := http.NewRequestWithContext(limited, http.MethodGet, "http://"+demoHTTP+urlPath, nil)
		if err != nil {
			return err
		}
		req.Host = host
		resp, err := client.Do(req)
		if err == nil {
			b, readErr := io.ReadAll(io.LimitReader(resp.Body, 4096))
			_ = resp.Body.Close()
			last, err = fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(b))), readErr
			if err == nil && resp.StatusCode == http.StatusOK && strings.HasPrefix(string(b), want) {
				d.say("   GET %s%s → %s (after %d ms)", host, urlPath, last, time.Since(started).Milliseconds())
				return nil
			}
		}
		if err != nil {
			last = err.Error()
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-limited.Done():
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("GET %s%s through Envoy did not give %q in %s; last: %s", host, urlPath, want, stepLimit, last)
}

// history shows the newest change as chancery history does.
func (d *demo) history() error {
	size := d.in.store.Size()
	for seq := size; seq > 0 && seq+20 > size; seq-- {
		entries, err := d.in.store.Read(seq, 1)
		if err != nil || len(entries) == 0 {
			return err
		}
		e, err := ledger.DecodeEvent(entries[0].Record.Event)
		if err != nil {
			return err
		}
		if e.Type == ledger.ObjectPut && e.Object.Kind == "Mapping" {
			d.say("   history: seq %d  %s  put %s  by %s (%s)", seq, e.Time.Format(time.TimeOnly), e.Object, e.Actor.Name, e.Actor.Source)
			return nil
		}
	}
	return errors.New("the change is not in history")
}
