// Command bench measures the audit log beside what else can stand there, interleaved in
// one run, and prints ratios. See README.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	if err := execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// execute runs the command that was asked for; an interrupt ends it, and its databases are removed.
func execute() error {
	root := &cobra.Command{
		Use: "bench", Short: "Measure the audit log beside its alternatives",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(reportCommand(), pageCommand(), proxyCommand(), rateCommand(), signInCommand(), entriesCommand(), logCommand(),
		retentionCommand(), allocationsCommand(), upstreamCommand())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return root.ExecuteContext(ctx)
}
