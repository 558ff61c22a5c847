package natsstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/chancery-dev/chancery/ledger"
)

// maxPayloadBytes bounds a message with its headers; an event of
// ledger.MaxEventBytes fits.
const maxPayloadBytes = 1 << 20

// keepDamaged is how many damaged stores are kept beside the store directory;
// the oldest is removed to make place for another.
const keepDamaged = 3

// ServerOptions say how the embedded NATS server runs.
type ServerOptions struct {
	// StoreDir holds the JetStream store. It is made when missing.
	StoreDir string
	// Listen is the host:port for other processes, such as "127.0.0.1:4222".
	// Empty: only this process can connect.
	Listen string
	// TLS is required with Listen. It must ask for and verify client certificates.
	TLS *tls.Config
	// Authorize says who a client with a verified certificate is. It is required
	// with Listen. Connections within the process may do everything.
	Authorize func(*x509.Certificate) (Identity, error)
	// MaxStoreBytes bounds the store; 0 means 16 GiB.
	MaxStoreBytes int64
	// StartTimeout bounds the start, recovery of the store included; 0 means one
	// minute.
	StartTimeout time.Duration
	// Logger gets what the server reports. Nil means slog.Default.
	Logger *slog.Logger
}

// Identity is who a client is, and so what it may do: a hub may do everything,
// the collector of a cluster may publish on the cluster's subjects and hear what
// the hub tells it.
type Identity struct {
	Hub     bool
	Cluster ledger.ClusterName // when not Hub
}

// Server is a NATS server in this process, with JetStream. It acknowledges a
// publish only when the message is on disk: with the default of a sync every
// two minutes a power cut loses acknowledged messages.
type Server struct {
	ns *server.Server
	// Damaged is where a store that the server could not start on was moved, ""
	// when there was none.
	Damaged string

	config server.JetStreamConfig // of the goroutine of heal
	stop   chan struct{}          // closed by Shutdown
	ending sync.Once
	healer sync.WaitGroup
}

// run returns the server with what keeps its store writable.
func run(ns *server.Server, o ServerOptions, moved string, broken <-chan struct{}, log *slog.Logger) *Server {
	s := &Server{ns: ns, Damaged: moved, stop: make(chan struct{})}
	s.healer.Go(func() { s.heal(o.StoreDir, broken, s.stop, log) })
	return s
}

// StartServer starts the server. When it cannot start on its store, the store
// is moved to a sibling named .damaged-N, and the server starts on an empty
// one: the ledger is the record, the stream is filled again.
func StartServer(o ServerOptions) (*Server, error) {
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	opts, err := o.natsOptions()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("nats store: %w", err)
	}
	broken := make(chan struct{}, 1)
	ns, err := start(opts, o.StartTimeout, broken, log)
	if err == nil {
		return run(ns, o, "", broken, log), nil
	}
	if errors.Is(err, errListen) {
		return nil, err
	}
	moved, moveErr := setAside(filepath.Join(o.StoreDir, "jetstream"))
	if moveErr != nil {
		return nil, errors.Join(err, moveErr)
	}
	if moved == "" {
		return nil, err // there is no store to blame
	}
	log.Error("nats store set aside", slog.String("store", o.StoreDir), slog.String("moved_to", moved), slog.Any("err", err))
	if ns, err = start(opts, o.StartTimeout, broken, log); err != nil {
		return nil, err
	}
	return run(ns, o, moved, broken, log), nil
}

// Addr returns the address for other processes, nil when there is none.
func (s *Server) Addr() net.Addr { return s.ns.Addr() }

// Shutdown stops the server and waits until its store is closed.
func (s *Server) Shutdown() {
	s.ending.Do(func() { close(s.stop) })
	s.healer.Wait()
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}

func (o ServerOptions) natsOptions() (*server.Options, error) {
	maxStore := o.MaxStoreBytes
	if maxStore <= 0 {
		maxStore = 16 << 30
	}
	opts := &server.Options{
		ServerName:             "chancery",
		DontListen:             o.Listen == "",
		JetStream:              true,
		StoreDir:               o.StoreDir,
		SyncAlways:             true,
		JetStreamMaxStore:      maxStore,
		JetStreamMaxMemory:     64 << 20,
		MaxPayload:             maxPayloadBytes,
		MaxPending:             64 << 20,
		NoSigs:                 true,
		NoLog:                  true,
		DisableJetStreamBanner: true,
		PingInterval:           10 * time.Second,
		MaxPingsOut:            3,
	}
	if o.Listen == "" {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, fmt.Errorf("nats listen address %q: %w", o.Listen, err)
	}
	if opts.Port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("nats listen address %q: port: %w", o.Listen, err)
	}
	if opts.Port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	if o.TLS == nil || o.TLS.ClientAuth != tls.RequireAndVerifyClientCert || o.Authorize == nil {
		return nil, fmt.Errorf("nats listen address %q: other processes are let in only with verified client certificates", o.Listen)
	}
	opts.Host = host
	opts.TLS, opts.TLSVerify, opts.TLSConfig = true, true, o.TLS
	opts.TLSTimeout = 10
	opts.CustomClientAuthentication = authenticator(o.Authorize)
	return opts, nil
}

// authenticator decides over clients by their certificate.
type authenticator func(*x509.Certificate) (Identity, error)

// Check lets a client in and says what it may do.
func (a authenticator) Check(c server.ClientAuthentication) bool {
	state := c.GetTLSConnectionState()
	if state == nil {
		// Only a connection within the process has none: the listener requires one.
		_, network := c.RemoteAddress().(*net.TCPAddr)
		return !network
	}
	if len(state.VerifiedChains) == 0 {
		return false
	}
	who, err := a(state.VerifiedChains[0][0])
	switch {
	case err != nil:
		return false
	case who.Hub:
		return true
	case who.Cluster.Validate() != nil:
		return false
	}
	c.RegisterUser(&server.User{Username: string(who.Cluster), Permissions: collectorPermissions(who.Cluster)})
	return true
}

// collectorPermissions are what the collector of a cluster may do.
func collectorPermissions(c ledger.ClusterName) *server.Permissions {
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			"chancery.event." + string(c) + ".>", ledger.SyncSubject(c),
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{
			inboxPrefix(c) + ".>", "chancery.to." + string(c) + ".>",
		}},
	}
}

// errListen says that the start did not come as far as the store.
var errListen = errors.New("nats server cannot listen")

// start returns a server whose JetStream works. Recovery reads damaged files in
// this process, so a panic counts as damage.
func start(opts *server.Options, timeout time.Duration, broken chan<- struct{}, log *slog.Logger) (ns *server.Server, err error) {
	if timeout <= 0 {
		timeout = time.Minute
	}
	if !opts.DontListen && opts.Port > 0 {
		// The server calls a port in use fatal, which leaves nothing to report.
		l, err := net.Listen("tcp", net.JoinHostPort(opts.Host, strconv.Itoa(opts.Port)))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errListen, err)
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("%w: %w", errListen, err)
		}
	}
	ns, err = server.NewServer(opts.Clone())
	if err != nil {
		return nil, fmt.Errorf("nats server: %w", err)
	}
	logs := &logger{log: log, broken: broken}
	ns.SetLogger(logs, false, false)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("nats server: panic on its store %s: %v", opts.StoreDir, p)
		}
		if err != nil {
			ns.Shutdown()
		}
	}()
	ns.Start()
	// Start has recovered the store when it returns, or called it fatal.
	if logs.isFatal() || !ns.JetStreamEnabled() {
		return nil, fmt.Errorf("nats server: no JetStream on its store %s: %s", opts.StoreDir, logs.last())
	}
	if !ns.ReadyForConnections(timeout) {
		return nil, fmt.Errorf("nats server: not ready after %s: %s", timeout, logs.last())
	}
	return ns, nil
}

// setAside moves a directory to a sibling that says that it is damaged, and
// returns where, or "" when there is no such directory.
func setAside(dir string) (string, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	name := func(n int) string { return dir + ".damaged-" + strconv.Itoa(n) }
	taken := func(n int) bool { _, err := os.Lstat(name(n)); return err == nil }
	n := 1
	for n <= keepDamaged && taken(n) {
		n++
	}
	if n > keepDamaged {
		if err := os.RemoveAll(name(1)); err != nil {
			return "", fmt.Errorf("remove the oldest damaged nats store: %w", err)
		}
		for n = 1; n < keepDamaged; n++ {
			if err := os.Rename(name(n+1), name(n)); err != nil {
				return "", fmt.Errorf("set a damaged nats store aside: %w", err)
			}
		}
	}
	if err := os.Rename(dir, name(n)); err != nil {
		return "", fmt.Errorf("set a damaged nats store aside: %w", err)
	}
	return name(n), nil
}
