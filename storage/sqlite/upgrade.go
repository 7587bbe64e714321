package sqlite

import (
	"context"
	"database/sql"
	"fmt"
)

// upgrade gives a database that an earlier version made what schema.sql has had since, so
// that the rest of it can be applied. A new database has no tables yet, and nothing to add.
func upgrade(ctx context.Context, tx *sql.Tx, table string) error {
	for _, step := range []struct{ table, column, sql string }{
		{"entries", "identifier_hash", `ALTER TABLE "%[1]s_entries" ADD COLUMN identifier_hash INTEGER`},
		// One action may have several classes now. The view names the table: schema.sql
		// makes it anew.
		{"texts", "class", `DROP VIEW IF EXISTS "%[1]s"; ALTER TABLE "%[1]s_texts" RENAME TO "%[1]s_texts_1";
			CREATE TABLE "%[1]s_texts" (code INTEGER PRIMARY KEY, text TEXT NOT NULL, class TEXT);
			INSERT INTO "%[1]s_texts" (code, text) SELECT code, text FROM "%[1]s_texts_1"; DROP TABLE "%[1]s_texts_1"`},
		// An id of this form, whose first 48 bits are the upper bits of the key and the others
		// storage.Entry.SortKey's, leads to its entry: it needs no index.
		{"entries", "stray", `ALTER TABLE "%[1]s_entries" ADD COLUMN stray INTEGER;
			UPDATE "%[1]s_entries" SET stray = CASE WHEN typeof(id) = 'blob' AND substr(hex(id), 13, 1) = '7' THEN 3 ELSE 1 END
				WHERE typeof(id) <> 'blob' OR substr(hex(id), 13, 1) <> '7' OR
				substr(hex(id), 1, 12) || substr(hex(id), 14, 3) || substr(hex(id), 19, 2) <> printf('%%012X%%05X', key >> 20, key & 0xFFFFF);
			DROP INDEX IF EXISTS "%[1]s_id"`},
	} {
		var columns, there int
		err := tx.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(name = ?), 0) FROM pragma_table_info(?)`, step.column, table+"_"+step.table).
			Scan(&columns, &there)
		if err == nil && columns > 0 && there == 0 {
			_, err = tx.ExecContext(ctx, fmt.Sprintf(step.sql, table))
		}
		if err != nil {
			return err
		}
	}
	// Segments have what these had: see writer.catchUp.
	for _, index := range []string{"user", "useraction", "identifier", "address"} {
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`DROP INDEX IF EXISTS "%s_%s"`, table, index)); err != nil {
			return err
		}
	}
	return nil
}
