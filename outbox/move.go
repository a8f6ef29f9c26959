package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/sqldb"
)

// letter is a message that no event can be made of.
type letter struct {
	uuid              string
	payload, metadata []byte
	err               error
}

// errRefused is met when the outbox's table does not hold what a message holds.
var errRefused = errors.New("it does not fit into the outbox")

// move takes the first messages of keys over, as many as fit into BatchBytes, and returns how many. One that the outbox's
// table cannot hold, since its text is not of the database's encoding for instance, would be in the way of all others for
// ever: it becomes a dead letter.
func (in *intake) move(ctx context.Context, keys []messageKey) (n int, err error) {
	n, err = in.moveBatch(ctx, keys, nil)
	if !errors.Is(err, errRefused) {
		return n, err
	}
	for i := range keys { // each by itself
		_, err = in.moveBatch(ctx, keys[i:i+1], nil)
		if errors.Is(err, errRefused) {
			_, err = in.moveBatch(ctx, keys[i:i+1], err)
		}
		if err != nil {
			return i, err
		}
	}
	return len(keys), nil
}

// moveBatch moves in one transaction. With refused they become dead letters, for that reason.
func (in *intake) moveBatch(ctx context.Context, keys []messageKey, refused error) (n int, err error) {
	tx, err := in.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, in.table.explain(err)
	}
	defer func() { _ = tx.Rollback() }()
	events, letters, n, err := in.read(ctx, tx, keys, refused)
	if err != nil {
		return 0, err
	}
	if deleted, err := in.remove(ctx, tx, keys[:n]); err != nil {
		return 0, in.from.explain(err)
	} else if deleted != int64(n) {
		return 0, errMoved
	}
	if err := in.into.Publisher(SQL(tx)).insertAll(ctx, events); sqldb.IsData(err) {
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	} else if err != nil {
		return 0, in.table.explain(err)
	}
	for _, l := range letters {
		if err := in.bury(ctx, tx, l); err != nil {
			return 0, in.table.explain(err)
		}
	}
	if err := failpoint.Hit("outbox.intake.before"); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	if len(letters) > 0 {
		in.report(fmt.Sprintf("%d messages of topic %s of watermill-sql are dead letters", len(letters), in.from.topic.Topic), letters[0].err)
	}
	return n, failpoint.Hit("outbox.intake.after")
}

// read makes events of messages, as many as fit into BatchBytes; with refused, letters. All that were asked for have to be
// there.
func (in *intake) read(ctx context.Context, tx *sql.Tx, keys []messageKey, refused error) (events []encoded, letters []letter, n int, err error) {
	condition, args := in.condition(keys)
	rows, err := tx.QueryContext(ctx, in.from.sql("SELECT :position, uuid, payload, metadata FROM :messages WHERE "+condition+" ORDER BY :position"), args...)
	if err != nil {
		return nil, nil, 0, in.from.explain(err)
	}
	defer rows.Close()
	size := 0
	for (n == 0 || size < in.config.BatchBytes) && rows.Next() {
		var offset int64
		var uuid string
		var payload, metadata []byte
		if err := rows.Scan(&offset, &uuid, &payload, &metadata); err != nil {
			return nil, nil, 0, err
		}
		if offset != keys[n].offset {
			return nil, nil, 0, errMoved
		}
		n++
		size += len(payload) + len(metadata)
		topic, record, err := in.from.topic.open(uuid, payload, metadata)
		var event encoded
		if err == nil {
			event, err = in.into.encode(topic, &record)
		}
		if err == nil {
			err = refused
		}
		if err != nil {
			letters = append(letters, letter{uuid, payload, metadata, fmt.Errorf("message %s at offset %d: %w", uuid, offset, err)})
			continue
		}
		events = append(events, event)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, nil, 0, in.from.explain(err)
	}
	if n == 0 {
		return nil, nil, 0, errMoved
	}
	in.bytes = max(1, size/n)
	return events, letters, n, nil
}

// remove deletes messages, and returns how many there were.
func (in *intake) remove(ctx context.Context, tx *sql.Tx, keys []messageKey) (deleted int64, err error) {
	if in.table.dialect == Postgres {
		condition, args := in.condition(keys)
		return SQL(tx).Exec(ctx, in.from.sql("DELETE FROM :messages WHERE "+condition), args...)
	}
	offsets := make([]int64, len(keys))
	for i, key := range keys {
		offsets[i] = key.offset
	}
	return in.table.dialect.DeleteIDs(ctx, SQL(tx), in.from.topic.Table, in.from.sql(":position"), offsets, "")
}

// bury puts a message among the dead letters, under a number that the outbox gives it.
func (in *intake) bury(ctx context.Context, tx *sql.Tx, l letter) error {
	record := framework.Record{ID: l.uuid, Value: l.payload}
	if len(l.metadata) > 0 && decodeInto(&record, "", string(l.metadata)) != nil {
		record.Metadata = nil
	}
	if errors.Is(l.err, errRefused) && len(record.Metadata)+len(record.Causes)+len(record.Step) > 0 { // perhaps for that
		record = framework.Record{ID: l.uuid, Value: l.payload}
		l.err = fmt.Errorf("it is kept without its metadata: %w", l.err)
	}
	row, err := in.into.encode(in.from.topic.Topic, &record)
	if err != nil {
		record = framework.Record{Value: l.payload}
		if row, err = in.into.encode(in.from.topic.Topic, &record); err != nil {
			return err
		}
	}
	insert := in.table.insert + sqldb.Rows(1, insertWidth)
	var id int64
	if in.table.dialect == Postgres {
		err = tx.QueryRowContext(ctx, in.table.dialect.Rebind(insert+" RETURNING id"), row.args[:]...).Scan(&id)
	} else {
		var result sql.Result
		if result, err = tx.ExecContext(ctx, insert, row.args[:]...); err == nil {
			id, err = result.LastInsertId()
		}
	}
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, in.table.sql("INSERT INTO NAME_dead (row_id, "+columns+", attempts, error) SELECT id, "+columns+", 0, ? FROM NAME WHERE id = ?"),
		errorText(l.err), id); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, in.table.sql("DELETE FROM NAME WHERE id = ?"), id)
	return err
}

// condition finds messages by their primary key. On PostgreSQL that begins with the transaction's id; an offset is drawn
// from a sequence, so it names a message by itself.
func (in *intake) condition(keys []messageKey) (condition string, args []any) {
	offsets, least, most := make([]int64, len(keys)), keys[0].transaction, keys[0].transaction
	for i, key := range keys {
		offsets[i], least, most = key.offset, min(least, key.transaction), max(most, key.transaction)
	}
	condition, args = in.table.dialect.InIDs(":position", offsets)
	if in.table.dialect == Postgres {
		condition = fmt.Sprintf("transaction_id BETWEEN ?::xid8 AND ?::xid8 AND %s", condition)
		args = append([]any{strconv.FormatUint(least, 10), strconv.FormatUint(most, 10)}, args...)
	}
	return condition, args
}
