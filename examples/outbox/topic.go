package outbox

import (
	"context"
	"database/sql"

	"github.com/millrace/millrace/framework"
)

// topic is a topic of one partition in a table, in place of a broker.
type topic struct{ db *sql.DB }

func createTopic(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, "CREATE TABLE topic (position INTEGER PRIMARY KEY AUTOINCREMENT, record BLOB NOT NULL)")
	return err
}

// Publish is a framework.Publisher's: it returns when the records are durable.
func (t topic) Publish(ctx context.Context, _ string, records []framework.Record) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for i := range records {
		if _, err := tx.ExecContext(ctx, "INSERT INTO topic (record) VALUES (?)", framework.AppendRecord(nil, &records[i])); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (t topic) Close() error { return nil }

// read returns up to 100 records behind a position, and the position after them.
func (t topic) read(ctx context.Context, after int64) (records []framework.Record, last int64, err error) {
	rows, err := t.db.QueryContext(ctx, "SELECT position, record FROM topic WHERE position > ? ORDER BY position LIMIT 100", after)
	if err != nil {
		return nil, after, err
	}
	defer rows.Close()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&after, &data); err != nil {
			return nil, after, err
		}
		r, err := framework.ReadRecord(data)
		if err != nil {
			return nil, after, err
		}
		records = append(records, r)
	}
	return records, after, rows.Err()
}
