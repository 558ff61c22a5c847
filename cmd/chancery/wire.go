package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/federation/pki"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/ledger/boltstore"
	"github.com/chancery-dev/chancery/ledger/natsstream"
)

// dataFormat is the version of the data directory's layout. A directory of a
// newer version is refused.
const dataFormat = 1

// site is a source of objects, as --site names it.
type site struct {
	Cluster ledger.ClusterName
	Path    string // of the directory
}

// String returns the site in the form of the flag.
func (s site) String() string { return "dir:" + s.Path }

// parseSites reads NAME=dir:PATH flags.
func parseSites(flags []string) ([]site, error) {
	var out []site
	seen := map[ledger.ClusterName]bool{}
	for _, f := range flags {
		name, where, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("--site %q: want NAME=dir:PATH", f)
		}
		kind, path, ok := strings.Cut(where, ":")
		switch {
		case !ok || path == "":
			return nil, fmt.Errorf("--site %q: want NAME=dir:PATH", f)
		case kind != "dir":
			return nil, fmt.Errorf("--site %q: this version reads directories only: NAME=dir:PATH", f)
		}
		s := site{Cluster: ledger.ClusterName(name), Path: path}
		if err := s.Cluster.Validate(); err != nil {
			return nil, fmt.Errorf("--site %q: %w", f, err)
		}
		if seen[s.Cluster] {
			return nil, fmt.Errorf("--site %q: the name %s is taken by another --site", f, name)
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("--site %q: %w", f, err)
		}
		if !info.IsDir() {
			return nil, fmt.Errorf("--site %q: %s is not a directory", f, path)
		}
		seen[s.Cluster] = true
		out = append(out, s)
	}
	return out, nil
}

// serveConfig says what one process runs.
type serveConfig struct {
	Data     string // directory
	Sites    []site
	Settings federation.Settings
	Envoy    string // path of the binary, "" for none
	// KeepEnvoy leaves the Envoy serving when the process ends.
	KeepEnvoy   bool
	Concurrency int
	// Addresses, "" for not at all.
	API, XDS, Probes, Metrics, NATS string
	Build                           string
	Log                             *slog.Logger
	// Ready is told once, when everything runs. Nil: nobody is.
	Ready func(*install)
}

// install is one process that runs every part on a data directory.
type install struct {
	cfg       serveConfig
	log       *slog.Logger
	lock      *os.File
	authority *pki.Authority
	instance  string
	registry  *prometheus.Registry
	nats      *natsstream.Server
	store     *boltstore.Store
	verified  bool // the whole of store, at the start
	hub       *hubParts
	edge      *edgeParts
	api       net.Listener
}

// serve runs every part on a data directory until ctx ends.
func serve(ctx context.Context, cfg serveConfig) (err error) {
	in := &install{cfg: cfg, log: cfg.Log, registry: prometheus.NewRegistry(), instance: newInstance()}
	in.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := in.open(ctx); err != nil {
		return errors.Join(err, in.close())
	}
	defer func() { err = errors.Join(err, in.close()) }()

	g, ctx := errgroup.WithContext(ctx)
	if err := in.openEdge(ctx); err != nil {
		return stopped(g, err)
	}
	if err := in.startHub(ctx, g); err != nil {
		return stopped(g, err)
	}
	in.verifyBehind(ctx, g)
	if err := in.startEdge(ctx, g); err != nil {
		return stopped(g, err)
	}
	if err := in.startSites(ctx, g); err != nil {
		return stopped(g, err)
	}
	if err := in.startServers(ctx, g); err != nil {
		return stopped(g, err)
	}
	if cfg.Ready != nil {
		cfg.Ready(in)
	}
	return g.Wait()
}

// stopped ends what was started and returns why.
func stopped(g *errgroup.Group, err error) error {
	g.Go(func() error { return err })
	return g.Wait()
}

func newInstance() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// open takes the data directory and opens what is on disk.
func (in *install) open(ctx context.Context) error {
	// Envoys run in folders of their own: what they are told is absolute.
	data, err := filepath.Abs(in.cfg.Data)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	in.cfg.Data = data
	if in.cfg.Envoy != "" {
		if in.cfg.Envoy, err = filepath.Abs(in.cfg.Envoy); err != nil {
			return fmt.Errorf("--envoy: %w", err)
		}
	}
	if len(data) > maxDataPath {
		return fmt.Errorf("data directory %s: its path has %d bytes, and the sockets in it leave room for %d; use a shorter one", data, len(data), maxDataPath)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if in.lock, err = lockData(data); err != nil {
		return err
	}
	if err := checkFormat(data); err != nil {
		return err
	}
	if in.authority, err = pki.Init(filepath.Join(data, "pki")); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	in.store, err = boltstore.Open(filepath.Join(data, "ledger.db"), boltstore.Options{
		Hub: in.hubKey(), Install: in.authority.Install(), Logger: in.log,
		Check: boltstore.CheckInChild(self, checkLedgerCommand),
	})
	if err != nil {
		return err
	}
	if in.verified, err = verifyFirst(ctx, in.store); err != nil {
		return err
	}
	server := natsstream.ServerOptions{StoreDir: filepath.Join(data, "nats"), Logger: in.log}
	if in.cfg.NATS != "" {
		keeper, err := in.authority.Keep(pki.Hub, "nats", localNames(in.cfg.NATS), certLifetime)
		if err != nil {
			return err
		}
		server.Listen, server.TLS = in.cfg.NATS, keeper.ServerTLS(pki.Hub, pki.Collector, pki.Edge)
		server.Authorize = natsIdentity
	}
	if in.nats, err = natsstream.StartServer(server); err != nil {
		return err
	}
	if in.nats.Damaged != "" {
		in.log.WarnContext(ctx, "the stream's store was damaged and moved away; the stream begins anew, the ledger is the record", slog.String("moved_to", in.nats.Damaged))
	}
	return nil
}

func (in *install) hubKey() ed25519.PublicKey {
	return in.authority.DecisionKey().Public().(ed25519.PublicKey)
}

func (in *install) close() error {
	var errs []error
	if in.edge != nil {
		errs = append(errs, in.edge.close())
	}
	if in.hub != nil {
		errs = append(errs, in.hub.close())
	}
	if in.nats != nil {
		in.nats.Shutdown()
	}
	if in.store != nil {
		errs = append(errs, in.store.Close())
	}
	if in.lock != nil {
		errs = append(errs, in.lock.Close())
	}
	return errors.Join(errs...)
}

// maxDataPath is the longest path of a data directory, in bytes: a Unix socket's
// path has at most 107.
const maxDataPath = 80

// errDataInUse says that another process has the data directory.
var errDataInUse = errors.New("data directory in use")

// lockData takes the data directory for this process; the lock ends with it.
func lockData(data string) (*os.File, error) {
	path := filepath.Join(data, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path) // a hint only
		_ = f.Close()
		return nil, fmt.Errorf("%w: %s is held by another chancery (process %s); stop that one, or use another --data", errDataInUse, data, strings.TrimSpace(string(holder)))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0) // a hint only
	}
	return f, nil
}

// checkFormat refuses a data directory of a newer version and marks a new one.
func checkFormat(data string) error {
	path := filepath.Join(data, "format")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(path, []byte(strconv.Itoa(dataFormat)+"\n"), 0o600); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	have, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("data directory %s: the file format holds %q, not a number; if the directory is Chancery's, write %d into it", data, strings.TrimSpace(string(b)), dataFormat)
	}
	if have > dataFormat {
		return fmt.Errorf("data directory %s has format %d, this chancery knows %d: use the newer chancery that wrote it, or another --data", data, have, dataFormat)
	}
	return nil
}

const certLifetime = 90 * 24 * time.Hour

// localNames returns the names that a server on the address is reached by.
func localNames(address string) []string {
	names := []string{"localhost", "127.0.0.1", "::1"}
	if host, _, err := net.SplitHostPort(address); err == nil && host != "" {
		if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() && !ip.IsLoopback() {
			names = append(names, host)
		}
	}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		names = append(names, host)
	}
	return names
}

// listen opens a TCP listener; what it is for is in the error.
func listen(what, flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is in use by another process; stop it or choose another address with %s", what, address, flag)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; choose another address with %s", what, err, flag)
	}
	return l, nil
}

// serveHTTP serves until ctx ends, then lets requests finish for a while.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := srv.Shutdown(limited); err != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// serveTLS is serveHTTP with mutual TLS: operators, edges and hubs may connect.
func serveTLS(ctx context.Context, l net.Listener, k *pki.Keeper, h http.Handler) error {
	return serveHTTP(ctx, tls.NewListener(l, k.ServerTLS(pki.Operator, pki.Edge, pki.Hub)), h)
}
