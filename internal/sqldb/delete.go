package sqldb

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// DeleteRows is how many rows go into one statement on MySQL.
const DeleteRows = 250

// DeleteIDs deletes the rows with ids in a column that is the primary key, and returns how many there were.
//
// On MySQL and MariaDB the ids are a table that is joined in front, see ForcePrimary. Where that is more than one statement
// and tx no transaction, some may be deleted when there is an error. There, where and args may say more of the rows, o, for up
// to DeleteRows ids.
func (d Dialect) DeleteIDs(ctx context.Context, tx Execer, table, column string, ids []int64, where string, args ...any) (deleted int64, err error) {
	if d != MySQL {
		in, args := d.InIDs(column, ids)
		return tx.Exec(ctx, d.Rebind("DELETE FROM "+table+" WHERE "+in), args...)
	}
	for part := range slices.Chunk(ids, DeleteRows) {
		list := fmt.Sprintf("SELECT %d AS id", part[0])
		var more strings.Builder
		for _, id := range part[1:] {
			fmt.Fprintf(&more, " UNION ALL SELECT %d", id)
		}
		n, err := tx.Exec(ctx, "DELETE o FROM ("+list+more.String()+") AS x STRAIGHT_JOIN "+table+" AS o"+d.ForcePrimary()+" ON o."+column+" = x.id"+where, args...)
		if deleted += n; err != nil {
			return deleted, err
		}
	}
	return deleted, nil
}

// ForcePrimary stands behind a table, and its other name, whose rows a DELETE finds by their primary key.
//
// On MySQL and MariaDB the optimiser would rather read the whole table when it is short, or was when its rows were last
// counted, or when the keys are many; and a DELETE locks what it reads, in subqueries too: it would wait for the end of every
// transaction that has written a row on its way.
func (d Dialect) ForcePrimary() string {
	if d != MySQL {
		return ""
	}
	return " FORCE INDEX (PRIMARY)"
}
