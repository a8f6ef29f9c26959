package outbox

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
)

// A statement inserts up to so many rows and bytes; more become several statements.
const (
	insertRows  = 200
	insertBytes = 4 << 20
)

// Publisher writes events into an outbox, in one transaction. Like a transaction it is for one goroutine at a time.
type Publisher struct {
	table *Table
	tx    Execer
}

// Publisher binds the outbox to a transaction. It needs no closing: it ends with the transaction.
func (t *Table) Publisher(tx Execer) *Publisher { return &Publisher{t, tx} }

// Publish writes events. They are sent when the transaction has been committed, and never when it is rolled back; events
// of one topic and key in the order in which they are written, see Config.SerializeKeys.
//
// All events are checked before the first is written. After an error of the database the transaction should be rolled
// back.
func (p *Publisher) Publish(ctx context.Context, topic string, records ...framework.Record) error {
	rows := make([]encoded, len(records))
	for i := range records {
		var err error
		if rows[i], err = p.table.encode(topic, &records[i]); err != nil {
			return fmt.Errorf("outbox: event %d (id %q) for topic %q: %w", i, records[i].ID, topic, err)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	if p.table.config.SerializeKeys {
		if err := p.lock(ctx, topic, records); err != nil {
			return fmt.Errorf("outbox: lock keys of topic %q: %w", topic, p.table.explain(err))
		}
	}
	if err := p.insertAll(ctx, rows); err != nil {
		return fmt.Errorf("outbox: write %d events for topic %q: %w", len(rows), topic, p.table.explain(err))
	}
	return nil
}

// insertAll inserts rows in order, with as few statements as their bounds let.
func (p *Publisher) insertAll(ctx context.Context, rows []encoded) error {
	for len(rows) > 0 {
		n, size := 1, rows[0].bytes
		for n < len(rows) && n < insertRows && size+rows[n].bytes <= insertBytes {
			size += rows[n].bytes
			n++
		}
		if err := p.insert(ctx, rows[:n]); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (p *Publisher) insert(ctx context.Context, rows []encoded) error {
	args := make([]any, 0, insertWidth*len(rows))
	for i := range rows {
		args = append(args, rows[i].args[:]...)
	}
	_, err := p.tx.Exec(ctx, p.table.dialect.Rebind(p.table.insert+sqldb.Rows(len(rows), insertWidth)), args...)
	return err
}

// lock waits for the transactions that write events of the same keys. It is a statement of its own, before the INSERT,
// since the ids, which decide the order, have to be drawn under the lock. Locks are taken in one order, so that two
// calls do not wait for each other.
func (p *Publisher) lock(ctx context.Context, topic string, records []framework.Record) error {
	t := p.table
	if t.dialect == SQLite {
		return nil // whoever inserts is the only writer until its end
	}
	var locks []int64
	for i := range records {
		if key := records[i].Key; key != "" {
			hash := fnv.New64a()
			_, _ = hash.Write([]byte(t.config.Name + "\x00" + topic + "\x00" + key))
			locks = append(locks, int64(hash.Sum64()))
		}
	}
	if len(locks) == 0 {
		return nil
	}
	if t.dialect == MySQL {
		for i := range locks {
			locks[i] = int64(uint64(locks[i]) % lockRows)
		}
	}
	slices.SortFunc(locks, cmp.Compare)
	locks = slices.Compact(locks)
	if t.dialect == MySQL {
		in, _ := t.dialect.InIDs("n", locks)
		_, err := p.tx.Exec(ctx, t.sql("SELECT n FROM NAME_locks WHERE "+in+" ORDER BY n FOR UPDATE"))
		return err
	}
	list := make([]string, len(locks))
	for i, lock := range locks {
		list[i] = strconv.FormatInt(lock, 10)
	}
	_, err := p.tx.Exec(ctx, "SELECT pg_advisory_xact_lock(k) FROM unnest($1::text::bigint[]) AS k", "{"+strings.Join(list, ",")+"}")
	return err
}

// Watermill binds the outbox to a transaction as a message.Publisher. A message's UUID is the event's id and its
// metadata the attributes, as framework.FromMessage reads them: the key is that of framework.MetadataKey. The context is
// that of the first message of each call.
func (t *Table) Watermill(tx Execer) message.Publisher { return watermillPublisher{t.Publisher(tx)} }

type watermillPublisher struct{ *Publisher }

func (p watermillPublisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	records := make([]framework.Record, len(messages))
	for i, msg := range messages {
		records[i] = framework.FromMessage(msg)
	}
	return p.Publisher.Publish(messages[0].Context(), topic, records...)
}

// Close does nothing: the transaction is the caller's.
func (p watermillPublisher) Close() error { return nil }
