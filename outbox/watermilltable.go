package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/sqldb"
)

// watermillTable is the table of a topic of watermill-sql's.
type watermillTable struct {
	topic   WatermillTopic
	dialect Dialect
	acked   int64  // the offset of what a forwarder has sent
	unsent  string // condition for the rest
}

// watermillTable finds out what a forwarder has sent already. The table has to be there.
func (t *Table) watermillTable(ctx context.Context, db *sql.DB, topic WatermillTopic) (w watermillTable, err error) {
	w = watermillTable{topic: topic, dialect: t.dialect, unsent: "1 = 1"}
	fail := func(what string, err error) (watermillTable, error) {
		return w, fmt.Errorf("topic %q of watermill-sql: %s: %w", topic.Topic, what, w.explain(err))
	}
	check, err := db.QueryContext(ctx, w.sql("SELECT :position, uuid, payload, metadata, created_at FROM :messages WHERE 1 = 0"))
	if err == nil {
		err = check.Close()
	}
	if err != nil {
		return fail("look at its table", err)
	}
	if topic.SendAcked {
		return w, nil
	}
	transaction := "'0'"
	if t.dialect == Postgres {
		transaction = "last_processed_transaction_id::text"
	}
	var offset sql.NullInt64
	err = db.QueryRowContext(ctx, w.sql("SELECT offset_acked, "+transaction+" FROM :acks WHERE consumer_group = ?"), topic.ConsumerGroup).
		Scan(&offset, &transaction)
	switch {
	case errors.Is(err, sql.ErrNoRows) || errors.Is(w.explain(err), ErrNoTable):
		return w, nil // there was no forwarder
	case err != nil:
		return fail(fmt.Sprintf("read the offsets of consumer group %q", topic.ConsumerGroup), err)
	}
	w.acked = offset.Int64
	w.unsent = fmt.Sprintf(":position > %d", w.acked)
	if t.dialect == Postgres { // there they are read in another order
		w.unsent = fmt.Sprintf("(transaction_id, :position) > ('%s'::xid8, %d)", transaction, w.acked)
	}
	return w, nil
}

// backlog adds what has not been moved to b.
func (w watermillTable) backlog(ctx context.Context, db *sql.DB, b *Backlog) error {
	order, age := ":position", w.dialect.AgeMillis("created_at")
	if w.dialect == Postgres { // a time without a zone, as the session's; the order is that of the index
		order, age = "transaction_id, :position", "(extract(epoch FROM clock_timestamp()::timestamp - created_at) * 1000)::bigint"
	}
	var pending, oldest int64
	err := db.QueryRowContext(ctx, w.sql(fmt.Sprintf("SELECT COUNT(*) FROM (SELECT 1 FROM :messages WHERE :unsent LIMIT %d) counted", backlogLimit+1))).Scan(&pending)
	if err == nil {
		err = db.QueryRowContext(ctx, w.sql("SELECT "+age+" FROM :messages WHERE :unsent ORDER BY "+order+" LIMIT 1")).Scan(&oldest)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("topic %q of watermill-sql: %w", w.topic.Topic, w.explain(err))
	}
	b.Pending += pending
	b.Oldest = max(b.Oldest, time.Duration(oldest)*time.Millisecond)
	return nil
}

// sql writes a statement about watermill's tables.
func (w watermillTable) sql(statement string) string {
	position := `"offset"`
	if w.dialect == MySQL {
		position = "`offset`"
	}
	statement = strings.ReplaceAll(statement, ":unsent", w.unsent)
	return strings.NewReplacer(":position", position, ":messages", w.topic.Table, ":acks", w.topic.OffsetsTable).
		Replace(w.dialect.Rebind(statement))
}

// explain says what an error of the database means for the table.
func (w watermillTable) explain(err error) error {
	return sqldb.Explain(err, w.topic.Table, "watermill-sql: AutoInitializeSchema of a publisher, or the schema's SchemaInitializingQueries")
}
