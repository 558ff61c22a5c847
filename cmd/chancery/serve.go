package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/federation"
)

// serveCommand runs every part in one process.
func serveCommand() *cobra.Command {
	settings := federation.DefaultSettings()
	var sites []string
	var stopEnvoy, verbose bool
	cfg := serveConfig{Concurrency: min(runtime.NumCPU(), 4)}
	cmd := &cobra.Command{
		Use:   "serve --data DIR --site NAME=dir:PATH [--envoy PATH]",
		Short: "Run every part in one process on a data directory",
		Long: `Run every part in one process on a data directory: embedded NATS, a collector
for each site, ledger, projector, an edge server and, with --envoy, an Envoy.

The command line finds the running server by --data DIR (it reads
DIR/client.yaml). The Envoy goes on serving when serve ends or is killed; the
next serve on the same directory adopts it. --stop-envoy stops it instead.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Data, err = cmd.Flags().GetString("data"); err != nil {
				return err
			}
			if cfg.Data == "" {
				return usageError("serve needs --data DIR, where it keeps everything")
			}
			if len(sites) == 0 {
				return usageError("serve needs at least one --site NAME=dir:PATH")
			}
			if cfg.Sites, err = parseSites(sites); err != nil {
				return usageError(err.Error())
			}
			if cfg.Envoy != "" {
				if err := checkEnvoy(cfg.Envoy); err != nil {
					return usageError(err.Error())
				}
			}
			if settings.Rollout.Soak < 0 || settings.Rollout.Soak > time.Hour {
				return usageError(fmt.Sprintf("--soak %s: want 0s to 1h", settings.Rollout.Soak))
			}
			cfg.Settings, cfg.KeepEnvoy, cfg.Build = settings, !stopEnvoy, buildVersion()
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: fullTime}))
			cfg.Ready = func(in *install) {
				in.log.Info("serving", slog.String("data", cfg.Data), slog.Int("sites", len(cfg.Sites)), slog.String("api", cfg.API))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return serve(ctx, cfg)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&sites, "site", nil, "a source of objects, NAME=dir:PATH; repeat it for more")
	f.StringVar(&cfg.Envoy, "envoy", os.Getenv("CHANCERY_ENVOY"), "path of the Envoy to run and to taste with; without it Envoys connect by --xds")
	f.BoolVar(&stopEnvoy, "stop-envoy", false, "stop the Envoy when serve ends")
	f.IntVar(&cfg.Concurrency, "concurrency", cfg.Concurrency, "worker threads of the Envoy")
	f.StringVar(&settings.Compile.AmbassadorID, "ambassador-id", settings.Compile.AmbassadorID, "serve resources with this ambassador_id")
	f.StringVar(&settings.Compile.Namespace, "namespace-of-emissary", settings.Compile.Namespace, "Emissary's own namespace, where unqualified names resolve")
	f.StringVar(&settings.Compile.BindAddress, "bind", settings.Compile.BindAddress, "IP that Listeners bind to")
	f.StringVar(&settings.Compile.ClusterDomain, "cluster-domain", settings.Compile.ClusterDomain, "ending of the DNS names of Services")
	f.DurationVar(&settings.Rollout.Soak, "soak", settings.Rollout.Soak, "how long a snapshot must be served before it counts as good")
	f.StringVar(&cfg.API, "api", "127.0.0.1:7443", "address of the API, mutual TLS")
	f.StringVar(&cfg.XDS, "xds", "127.0.0.1:18000", "address for Envoys, mutual TLS; empty for none")
	f.StringVar(&cfg.Probes, "probes", "127.0.0.1:8081", "address of /livez and /readyz; empty for none")
	f.StringVar(&cfg.Metrics, "metrics", "127.0.0.1:19001", "address of /metrics; empty for none")
	f.StringVar(&cfg.NATS, "nats-listen", "", "address of the embedded NATS for other processes, mutual TLS; empty for this process only")
	f.BoolVar(&verbose, "verbose", false, "log debugging too")
	return cmd
}

// fullTime writes times with all their digits: a change takes milliseconds.
func fullTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.String(slog.TimeKey, a.Value.Time().Format(time.RFC3339Nano))
	}
	return a
}

// checkEnvoy says why the file cannot be run.
func checkEnvoy(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("--envoy: %w; make envoy installs one, its path is in the Makefile", err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("--envoy: %s is not a program", path)
	}
	return nil
}
