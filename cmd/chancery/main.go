// Command chancery is every part of Chancery and the command line to operate
// it. It is the only place that wires the parts together.
//
// Data goes to standard output, talk to standard error. Exit codes: 0 done, 1
// error, 2 differences, 3 findings, 4 timed out, 5 refused, 64 wrong usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/chancery-dev/chancery/console"
	"github.com/chancery-dev/chancery/console/show"
)

// The exit codes.
const (
	exitOK       = 0
	exitFailure  = 1
	exitFindings = 3
	exitTimeout  = 4
	exitRefused  = 5
	exitUsage    = 64
)

func main() { os.Exit(run(os.Args[1:])) }

// run carries out a command line and returns the exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second one kills
	root := rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	var e *exitError
	if !errors.As(err, &e) || e.err != nil {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(os.Stderr, "chancery: "+show.Clean(line))
		}
	}
	if code == exitUsage {
		fmt.Fprintf(os.Stderr, "see: %s --help\n", cmd.CommandPath())
	}
	return code
}

// exitError is an error with an exit code of its own. Without err all has been
// said already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError is for a command line that makes no sense.
func usageError(message string) error { return &exitError{code: exitUsage, err: errors.New(message)} }

func exitCode(err error) int {
	var e *exitError
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.Is(err, console.ErrRefused):
		return exitRefused
	case errors.Is(err, console.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return exitTimeout
	case errors.Is(err, console.ErrInvalid):
		return exitUsage
	}
	return exitFailure
}

// commands returns the commands that stand at the top.
func commands() []*cobra.Command {
	return []*cobra.Command{
		statusCommand(), getCommand(), historyCommand(), verifyCommand(),
		rollbackCommand(), holdCommand(), confirmCommand(),
		compileCommand(), bootstrapCommand(), pkiCommand(), chaosCommand(), versionCommand(),
		serveCommand(), demoCommand(), checkLedger(),
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "chancery",
		Short: "A control plane for Envoy that remembers everything",
		Long: `Chancery is an event-sourced control plane for Envoy.

Exit codes: 0 done, 1 error, 2 differences, 3 findings, 4 timed out, 5 refused,
64 wrong usage. Every flag can be given as an environment variable: --data as
CHANCERY_DATA, --no-headers as CHANCERY_NO_HEADERS.`,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return fromEnvironment(cmd.Flags()) },
	}
	f := root.PersistentFlags()
	f.StringP("output", "o", string(show.Tables), "output format: table, wide, json, yaml or name")
	f.Bool("no-headers", false, "leave out the headers of tables")
	f.String("server", "", "URL of the API, https://host:port; default: as the client file says")
	f.String("data", "", "data directory of a chancery serve; its client.yaml says how to reach the API")
	f.String("client", "", "client file, instead of client.yaml in the data directory")
	f.Bool("offline", false, "read the data directory itself, which no process may hold")
	f.Duration("timeout", 30*time.Second, "how long to wait for an answer")
	f.String("fleet", "", "fleet, where there are several")
	f.String("cluster", "", "only of this cluster")
	f.StringP("namespace", "n", "", "only of this namespace")
	f.BoolP("all-namespaces", "A", false, "of all namespaces, which is the default")
	root.AddCommand(commands()...)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	group(root)
	strict(root)
	return root
}

// group makes a command that only holds others say what there is, and refuse
// what there is not.
func group(cmd *cobra.Command) {
	cmd.Args, cmd.SuggestionsMinimumDistance = cobra.ArbitraryArgs, 2
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		message := fmt.Sprintf("there is no command %q in %s", args[0], cmd.CommandPath())
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			message += "; did you mean " + strings.Join(near, " or ") + "?"
		}
		return usageError(message)
	}
}

// strict makes what cobra finds wrong about a command line an error of usage.
func strict(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError(err.Error()) })
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError(err.Error())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		if len(sub.Commands()) > 0 && sub.RunE == nil && sub.Run == nil {
			group(sub)
		}
		strict(sub)
	}
}

// ownOutput marks a command whose -o is a file; the environment does not set it.
const ownOutput = "own-output"

// fromEnvironment sets the flags that were not given from CHANCERY_… variables.
func fromEnvironment(flags *pflag.FlagSet) error {
	var first error
	flags.VisitAll(func(f *pflag.Flag) {
		if first != nil || f.Changed || f.Name == "help" || f.Annotations[ownOutput] != nil {
			return
		}
		name := "CHANCERY_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		v, ok := os.LookupEnv(name)
		if !ok || v == "" {
			return
		}
		if err := flags.Set(f.Name, v); err != nil {
			first = usageError(fmt.Sprintf("environment variable %s: %v", name, err))
		}
	})
	return first
}
