package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// addColumns gives the entries of a database that an earlier version made the
// columns that schema.sql has had since, so that the rest of it can be applied. A
// new database has no entries table yet, and nothing to add.
func addColumns(ctx context.Context, tx *sql.Tx, table string) error {
	var columns, identifiers int
	err := tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(name = 'identifier_hash'), 0) FROM pragma_table_info(?)`, table+"_entries").
		Scan(&columns, &identifiers)
	if err != nil || columns == 0 || identifiers > 0 {
		return err
	}
	_, err = tx.ExecContext(ctx, fmt.Sprintf(`ALTER TABLE "%s_entries" ADD COLUMN identifier_hash INTEGER`, table))
	return err
}
