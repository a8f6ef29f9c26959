package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
)

type publisher struct{ t *Transport }

// Publish adds records in one transaction.
func (p publisher) Publish(ctx context.Context, name string, records []framework.Record) error {
	if len(records) == 0 {
		return nil
	}
	if err := p.t.publish(ctx, name, records); err != nil {
		return fmt.Errorf("sqlite: publish to %q: %w", name, err)
	}
	p.t.notify()
	return nil
}

// Close does nothing: the database is the transport's.
func (p publisher) Close() error { return nil }

func (t *Transport) publish(ctx context.Context, name string, records []framework.Record) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // of nothing after Commit
	is, err := find(ctx, tx, name)
	if err != nil {
		return err
	}
	w, err := newWriter(ctx, tx, is)
	if err != nil {
		return err
	}
	defer w.insert.Close()
	for i := range records {
		if err := w.add(ctx, &records[i]); err != nil {
			return err
		}
	}
	for partition, next := range w.next {
		if _, err := tx.ExecContext(ctx, "UPDATE millrace_topics_partition SET next = ? WHERE topic = ? AND partition = ?",
			next, is.id, partition); err != nil {
			return err
		}
	}
	return tx.Commit()
}

// writer adds records in a transaction, which holds the lock, so that nobody else gives positions meanwhile.
type writer struct {
	topic  topic
	insert *sql.Stmt
	next   []int64 // by partition
}

func newWriter(ctx context.Context, tx *sql.Tx, is topic) (*writer, error) {
	w := &writer{topic: is, next: make([]int64, is.partitions)}
	for partition := range w.next {
		if err := tx.QueryRowContext(ctx, "SELECT next FROM millrace_topics_partition WHERE topic = ? AND partition = ?",
			is.id, partition).Scan(&w.next[partition]); err != nil {
			return nil, err
		}
	}
	var err error
	w.insert, err = tx.PrepareContext(ctx, `INSERT INTO millrace_topics_record (topic, partition, position, id, type, source, time,
	partitionkey, data, metadata, causationids, step, watermark) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	return w, err
}

// add adds a record to its partition: that of its key, else of its id, so that one that is sent again goes to the same
// place. A watermark without a key goes to all.
func (w *writer) add(ctx context.Context, r *framework.Record) error {
	if r.Watermark && r.Key == "" {
		for partition := range w.next {
			if err := w.put(ctx, partition, r); err != nil {
				return err
			}
		}
		return nil
	}
	key := r.Key
	if key == "" {
		key = r.ID
	}
	return w.put(ctx, framework.Partition(key, len(w.next)), r)
}

func (w *writer) put(ctx context.Context, partition int, r *framework.Record) error {
	var at, metadata string
	if !r.Time.IsZero() {
		at = r.Time.UTC().Format(time.RFC3339Nano)
	}
	if len(r.Metadata) > 0 {
		text, err := json.Marshal(r.Metadata)
		if err != nil {
			return err
		}
		metadata = string(text)
	}
	var data any // NULL
	if r.Value != nil {
		data = r.Value
	}
	_, err := w.insert.ExecContext(ctx, w.topic.id, partition, w.next[partition], r.ID, r.Type, r.Source, at, r.Key, data,
		metadata, r.Causes, r.Step, r.Watermark)
	if err == nil {
		w.next[partition]++
	}
	return err
}

// notify wakes the readers of this process.
func (t *Transport) notify() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for wake := range t.wakes {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}
