package postgres

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-audit-log/caddy-audit-log/caddymodule"
	"github.com/caddy-audit-log/caddy-audit-log/storage/postgres"
)

func schemaCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema [--schema <name>] [--table <name>] [--role <role>] | psql -v ON_ERROR_STOP=1",
		Short: "Prints the SQL that makes the tables in PostgreSQL",
		Long: `
Prints the SQL that makes the tables of the store postgres, or brings those of an earlier version up to date, and
makes the partitions of this month and the next two. Caddy does the same by itself if its role may. Run it as another
role where it may not, once a month for the partitions; --role gives Caddy's role its rights. It can be repeated.`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.String("schema", postgres.DefaultSchema, "the schema that the tables are in")
	f.String("table", postgres.DefaultTable, "the name of the view that shows the log")
	f.String("role", "", "the role that Caddy connects as, to be given what it needs")
	cmd.RunE = caddymodule.Command(func(f caddycmd.Flags) (int, error) {
		sql, err := postgres.Schema(f.String("schema"), f.String("table"), f.String("role"), time.Now())
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		fmt.Fprint(caddymodule.Stdout(), sql)
		return caddy.ExitCodeSuccess, nil
	})
	return cmd
}
