package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/chancery-dev/chancery/ledger/boltstore"
)

// checkLedgerCommand is the hidden command by which this program looks at a
// ledger file in a child process: a damaged one can crash or hang its reader.
const checkLedgerCommand = "check-ledger-file"

func checkLedger() *cobra.Command {
	return &cobra.Command{
		Use: checkLedgerCommand + " PATH", Hidden: true, Args: cobra.ExactArgs(1),
		Run: func(_ *cobra.Command, args []string) {
			os.Exit(boltstore.CheckMain(args[0], os.Stdout))
		},
	}
}
