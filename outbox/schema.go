package outbox

import (
	"fmt"
	"strings"

	"github.com/millrace/millrace/internal/sqldb"
)

// Slots is how many parts the keys fall into. A slot has one relay at a time, so at most so many relays share a table.
// It is part of the table's format.
const Slots = 16

// lockRows is how many locks MySQL's writers share; see Config.SerializeKeys.
const lockRows = 256

// columns are those of an event, which the outbox and its dead letters have in common.
const columns = "slot, topic, event_key, event_id, event_type, source, event_time, metadata, payload"

const columnTypes = `
	slot smallint NOT NULL DEFAULT 0 CHECK (slot BETWEEN 0 AND 15),
	topic :exact NOT NULL,
	event_key :key NOT NULL DEFAULT :empty,
	event_id :name NOT NULL,
	event_type :name NOT NULL DEFAULT '',
	source :name NOT NULL DEFAULT '',
	event_time varchar(40) NOT NULL DEFAULT '',
	metadata :text,
	payload :bytes,`

func schema(dialect sqldb.Dialect, name string) sqldb.Schema {
	first := []string{
		`CREATE TABLE IF NOT EXISTS NAME (
	id :id,` + columnTypes + `
	written_at :written
):options`,
		`CREATE TABLE IF NOT EXISTS NAME_slots (
	slot smallint NOT NULL PRIMARY KEY,
	owner :name NOT NULL DEFAULT '',
	epoch bigint NOT NULL DEFAULT 0,
	expires_at bigint NOT NULL DEFAULT 0
):options`,
		fill("NAME_slots", "slot", Slots),
		`CREATE TABLE IF NOT EXISTS NAME_relays (
	owner :name NOT NULL PRIMARY KEY,
	expires_at bigint NOT NULL
):options`,
		`CREATE TABLE IF NOT EXISTS NAME_parked (
	row_id bigint NOT NULL PRIMARY KEY,
	slot smallint NOT NULL,
	topic :exact NOT NULL,
	event_key :key NOT NULL,
	event_id :name NOT NULL,
	attempts integer NOT NULL,
	error :text NOT NULL,
	retry_at bigint NOT NULL,
	parked_at :written
):options`,
		`CREATE TABLE IF NOT EXISTS NAME_dead (
	row_id bigint NOT NULL PRIMARY KEY,` + columnTypes + `
	attempts integer NOT NULL,
	error :text NOT NULL,
	dead_at :written
):options`,
	}
	if dialect == sqldb.MySQL {
		first = append(first,
			`CREATE TABLE IF NOT EXISTS NAME_locks (n smallint NOT NULL PRIMARY KEY):options`,
			fill("NAME_locks", "n", lockRows))
	}
	var second []string
	if dialect == sqldb.Postgres {
		second = sentTables
	}
	return sqldb.Schema{Dialect: dialect, Name: name, Create: "outbox.Table.Create", Steps: [][]string{first, second}}
}

// fill puts the numbers below n into a column, those that are not there yet.
func fill(table, column string, n int) string {
	numbers := make([]string, n)
	for i := range numbers {
		numbers[i] = fmt.Sprint("SELECT ", i)
	}
	numbers[0] += " AS n"
	return fmt.Sprintf("INSERT INTO %[1]s (%[2]s) SELECT n FROM (%[3]s) numbers WHERE n NOT IN (SELECT %[2]s FROM %[1]s)",
		table, column, strings.Join(numbers, " UNION ALL "))
}
