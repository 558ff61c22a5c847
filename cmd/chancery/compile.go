package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/console/show"
	"github.com/chancery-dev/chancery/internal/offline"
	"github.com/chancery-dev/chancery/ledger"
	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/envoy"
)

// compileFormats are what compile writes.
var compileFormats = []string{"envoy-static", "envoy-ads", "json"}

// compileCommand compiles without an install.
func compileCommand() *cobra.Command {
	settings := projector.DefaultSettings()
	var files []string
	var format, out, cluster string
	var quiet bool
	var ads adsFlags
	cmd := &cobra.Command{
		Use: "compile -f FILE…", Short: "Compile YAML to an Envoy bootstrap, offline",
		Long: `Compile Kubernetes YAML, Secrets and EndpointSlices included, as an install
would, and write a complete Envoy bootstrap as JSON:

  envoy-static   everything in one file (it holds private keys: --out makes it 0600)
  envoy-ads      for an Envoy that an edge feeds; needs --edge
  json           resources by type with the objects that they come from, and reports

What is to say about the objects goes to standard error.

Exit code 3: there are findings of severity error; what is good was written.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case len(files) == 0:
				return usageError("-f is missing: a file, a directory, or - for standard input")
			case !slices.Contains(compileFormats, format):
				return usageError(fmt.Sprintf("--format %q: want envoy-static, envoy-ads or json", format))
			}
			if err := ledger.ClusterName(cluster).Validate(); err != nil {
				return usageError("--cluster: " + err.Error())
			}
			var adsOptions envoy.ADSOptions
			if format == "envoy-ads" {
				fleet, err := cmd.Flags().GetString("fleet")
				if err != nil {
					return err
				}
				if adsOptions, err = ads.options(fleet); err != nil {
					return err
				}
			}
			in, err := offline.Read(files, cmd.InOrStdin(), ledger.ClusterName(cluster))
			if err != nil {
				return err
			}
			compiled, err := offline.Compile(in, settings, time.Now())
			if err != nil {
				return err
			}
			if !quiet {
				reportCompiled(cmd.ErrOrStderr(), in, compiled)
			}
			if err := writeCompiled(cmd, out, format, in, compiled, adsOptions); err != nil {
				return err
			}
			if n := compiled.Errors(in); n > 0 {
				return &exitError{code: exitFindings}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&files, "filename", "f", nil, "a YAML or JSON file, a directory of them, or -; repeat it for more")
	f.StringVar(&format, "format", compileFormats[0], "envoy-static, envoy-ads or json")
	f.StringVarP(&out, "output", "o", "", "file to write instead of standard output")
	f.StringVar(&cluster, "cluster", "local", "name of the cluster that the objects are of")
	f.StringVar(&settings.AmbassadorID, "ambassador-id", settings.AmbassadorID, "compile resources with this ambassador_id")
	f.StringVar(&settings.Namespace, "namespace", settings.Namespace, "Emissary's own namespace, where unqualified names resolve")
	f.StringVar(&settings.BindAddress, "bind", settings.BindAddress, "IP that Listeners bind to")
	f.StringVar(&settings.ClusterDomain, "cluster-domain", settings.ClusterDomain, "ending of the DNS names of Services")
	f.BoolVar(&settings.AllowLua, "allow-lua", settings.AllowLua, "let Lua from resources run")
	f.BoolVarP(&quiet, "quiet", "q", false, "do not report")
	ads.register(cmd)
	f.Lookup("output").Annotations = map[string][]string{ownOutput: {"true"}}
	return cmd
}

// reportCompiled says what is to say about the objects.
func reportCompiled(w io.Writer, in *offline.Input, c *offline.Compiled) {
	for _, f := range in.Findings {
		fmt.Fprintf(w, "error %s\n    %s\n", show.Clean(f.Where), show.Clean(f.Message))
	}
	states := map[projector.State]int{}
	for _, r := range c.Reports {
		states[r.State]++
		for _, f := range r.Findings {
			object := r.Object.String()
			if where := in.Where(r.Object); where != "" {
				object += " (" + where + ")"
			}
			fmt.Fprintf(w, "%s %s %s %s\n    %s\n", f.Severity, f.Code, show.Clean(object), show.Clean(f.Path), show.Clean(f.Message))
		}
	}
	for _, p := range c.Problems {
		fmt.Fprintf(w, "error %s\n", show.Clean(p.String()))
	}
	for _, p := range c.Live {
		fmt.Fprintf(w, "warning %s\n", show.Clean(p.String()))
	}
	fmt.Fprintf(w, "%d objects: %d accepted, %d rejected, %d ignored; %d routes, %s\n", in.Len(), states[projector.Accepted], states[projector.Rejected],
		states[projector.Ignored], c.Result.Routes, c.Result.Snapshot.Fingerprint().Short())
}

func writeCompiled(cmd *cobra.Command, out, format string, in *offline.Input, c *offline.Compiled, ads envoy.ADSOptions) error {
	write := func(w io.Writer) error {
		var b []byte
		var err error
		switch format {
		case "envoy-static":
			b, err = c.Static(envoy.StaticOptions{})
		case "envoy-ads":
			b, err = envoy.BootstrapADS(ads)
		default:
			d, err := c.Document(in)
			if err != nil {
				return err
			}
			return show.Document(w, show.JSON, "Compiled", d)
		}
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	if out == "" {
		return write(cmd.OutOrStdout())
	}
	// In whole or not at all: a file that others may read meanwhile.
	f, err := os.CreateTemp(filepath.Dir(out), ".compile-*") // with mode 0600
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
