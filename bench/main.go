// Command bench measures the audit log beside what else can stand there, interleaved in
// one run, and prints ratios. See README.md.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use: "bench", Short: "Measure the audit log beside its alternatives",
		SilenceUsage: true,
	}
	root.AddCommand(proxyCommand(), rateCommand(), signInCommand(), entriesCommand(), logCommand(), upstreamCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
