package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/federation"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// adsFlags are the flags that say how an Envoy finds its edge.
type adsFlags struct {
	edges         []string
	node, pki     string
	cert, key, ca string
	serverName    string
	admin         string
	minimum       uint32
	initialFetch  time.Duration
}

func (a *adsFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&a.edges, "edge", nil, "an edge: HOST:PORT, or unix:PATH; repeat it for more")
	f.StringVar(&a.node, "node", "envoy", "the Envoy's name, for verdicts")
	f.StringVar(&a.pki, "pki", "", "folder on the Envoy's machine with tls.crt, tls.key and ca.crt, as chancery pki issue writes them")
	f.StringVar(&a.cert, "cert", "", "the Envoy's certificate, a file on its machine")
	f.StringVar(&a.key, "key", "", "its private key")
	f.StringVar(&a.ca, "ca", "", "who signed the edges' certificates")
	f.StringVar(&a.serverName, "server-name", "edge.chancery", "name in the edges' certificates")
	f.StringVar(&a.admin, "admin", "127.0.0.1:9901", "the Envoy's admin interface: a loopback HOST:PORT, unix:PATH, or none")
	f.Uint32Var(&a.minimum, "minimum-clusters", 0, "upstreams below which Envoy refuses an update, 0 for no such check")
	f.DurationVar(&a.initialFetch, "initial-fetch", 15*time.Second, "how long Envoy waits for its first configuration, 0 for ever")
}

// options reads the flags.
func (a *adsFlags) options(fleet string) (envoy.ADSOptions, error) {
	if fleet == "" {
		fleet = string(federation.DefaultFleet)
	}
	o := envoy.ADSOptions{NodeID: a.node, NodeCluster: fleet, MinimumClusters: a.minimum, InitialFetch: a.initialFetch}
	if len(a.edges) == 0 {
		return o, usageError("--edge is missing: HOST:PORT of an edge (18000 is its usual port), or unix:PATH")
	}
	for _, e := range a.edges {
		if path, ok := strings.CutPrefix(e, "unix:"); ok {
			if len(a.edges) > 1 || path == "" {
				return o, usageError("--edge unix:PATH stands alone")
			}
			o.Socket = path
			continue
		}
		host, port, err := hostPort(e)
		if err != nil {
			return o, usageError(fmt.Sprintf("--edge %q: %v", e, err))
		}
		o.Edges = append(o.Edges, ir.HostPort{Host: host, Port: port})
	}
	if err := a.tls(&o); err != nil {
		return o, err
	}
	switch path, isPath := strings.CutPrefix(a.admin, "unix:"); {
	case a.admin == "none" || a.admin == "":
	case isPath:
		o.Admin.Socket = path
	default:
		host, port, err := hostPort(a.admin)
		if err != nil {
			return o, usageError(fmt.Sprintf("--admin %q: %v, unix:PATH or none", a.admin, err))
		}
		o.Admin.Address, o.Admin.Port = host, port
	}
	return o, nil
}

// tls says by which files Envoy and edge know each other. A Unix socket needs
// none; a network has to have them.
func (a *adsFlags) tls(o *envoy.ADSOptions) error {
	if a.pki != "" {
		if a.cert+a.key+a.ca != "" {
			return usageError("--pki stands for --cert, --key and --ca: give one or the others")
		}
		a.cert, a.key, a.ca = filepath.Join(a.pki, "tls.crt"), filepath.Join(a.pki, "tls.key"), filepath.Join(a.pki, "ca.crt")
	}
	switch given := a.cert != "" && a.key != "" && a.ca != ""; {
	case given:
		o.TLS = &envoy.MutualTLS{CertFile: a.cert, KeyFile: a.key, CAFile: a.ca, ServerName: a.serverName}
	case a.cert+a.key+a.ca != "":
		return usageError("--cert, --key and --ca belong together")
	case o.Socket == "":
		return usageError("an edge on a network wants a certificate: --pki DIR, or --cert, --key and --ca; chancery pki issue --role envoy makes them")
	}
	return nil
}

func hostPort(s string) (string, uint32, error) {
	host, port, err := net.SplitHostPort(s)
	if err == nil {
		var n uint64
		if n, err = strconv.ParseUint(port, 10, 16); err == nil && n > 0 && host != "" {
			return host, uint32(n), nil
		}
	}
	return "", 0, fmt.Errorf("want HOST:PORT")
}

// bootstrapCommand writes what an Envoy starts from.
func bootstrapCommand() *cobra.Command {
	var flags adsFlags
	cmd := &cobra.Command{
		Use: "bootstrap --edge HOST:PORT", Short: "Write the bootstrap of an Envoy that an edge feeds",
		Long: `Write, as JSON, the bootstrap of an Envoy that gets everything from an edge by
one delta stream: envoy -c bootstrap.json.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			g, err := globalsOf(cmd)
			if err != nil {
				return err
			}
			o, err := flags.options(g.fleet)
			if err != nil {
				return err
			}
			b, err := envoy.BootstrapADS(o)
			if err != nil {
				return usageError(err.Error())
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", b)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}
