package outbox

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/sqldb"
)

// MetadataSequence is the metadata key of a number that the relay adds: 19 digits, growing within a topic and key, with
// gaps, where the writers of a key do not run side by side. A consumer that sees it fall has been sent a duplicate, or, by
// a relay that had lost its lease, something out of order. A relay with a Log adds it only when it is told that writers
// wait for each other, see RelayConfig.Sequence. It is the CloudEvents extension "sequence".
const MetadataSequence = "ce_sequence"

// row is an event as it was read.
type row struct {
	id     int64
	slot   int
	topic  string
	record framework.Record
	bytes  int
	err    error // why it cannot be read as an event
}

// keyID names what keeps an order: a topic and a key, or a single row where there is no key.
type keyID struct {
	topic, key string
	row        int64
}

func keyOf(topic, key string, id int64) keyID {
	if key == "" {
		return keyID{topic: topic, row: id}
	}
	return keyID{topic: topic, key: key}
}

// unlisted reports whether it is not in the table, but in the log only.
func (r *row) unlisted() bool { return r.id < 0 }

func (r *row) key() keyID { return keyOf(r.topic, r.record.Key, r.id) }

// readRequest says what to read.
type readRequest struct {
	after        int64
	limit, bytes int
	slots        map[int]int64
	refresh      bool     // read the parked keys first
	parked       bool     // there are some
	closed       []string // topics to leave out
	waiting      map[keyID]bool
}

type readResult struct {
	request  readRequest
	rows     []*row // in the order of their ids
	below    []*row // without their contents: what is at or below request.after, but for keys that wait
	flooded  bool   // there is more of that than can be in memory
	parked   []Parked
	caughtUp bool
	err      error

	reader LogReader // of the log, with what it has shown
	logged []LogRow
}

// read reads rows in the order of their ids, and with request.refresh the parked keys before them.
//
// A row may appear below where a read begins, when its transaction took longer than others. The next row of its key, of a
// transaction that came after that one, is above. So that it is not sent first, a read also returns what is below, as it
// is after what is above was read: who has seen the row above, sees the one below. The loop knows all of it, or begins
// again lower. SQLite has one writer: there nothing appears below what was seen.
func (r *Relay) read(ctx context.Context, request readRequest) (result readResult) {
	result.request = request
	if result.err = failpoint.Hit("outbox.read"); result.err != nil {
		return result
	}
	if request.refresh {
		if result.parked, result.err = r.refreshParked(ctx, request.slots); result.err != nil {
			return result
		}
	}
	if result.err = r.readAbove(ctx, &result); result.err == nil && request.after > 0 && r.table.dialect != SQLite {
		result.err = r.readBelow(ctx, &result)
	}
	return result
}

// readAbove reads what comes next.
func (r *Relay) readAbove(ctx context.Context, result *readResult) error {
	request := result.request
	condition, args := r.condition(request)
	rows, err := r.db.QueryContext(ctx, r.table.sql(
		"SELECT o.id, o.slot, o.topic, o.event_key, o.event_id, o.event_type, o.source, o.event_time, o.metadata, o.payload,"+
			" CASE WHEN o.payload IS NULL THEN 1 ELSE 0 END FROM NAME o WHERE o.id > ?"+condition+" ORDER BY o.id LIMIT ?"),
		append(append([]any{request.after}, args...), request.limit)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	size, dropped := 0, false
	result.rows = make([]*row, 0, request.limit)
	for rows.Next() {
		next, err := scanRow(rows)
		switch {
		case err != nil:
			return err
		case size >= request.bytes:
			dropped = true // it is read again
		default:
			result.rows = append(result.rows, next)
			size += next.bytes
		}
	}
	result.caughtUp = len(result.rows) < request.limit && !dropped
	return rows.Err()
}

// readBelow reads what is at or below request.after, without the contents. The limit makes PostgreSQL go by the index, in
// which it passes over what it has once found to be deleted; it takes a third of the table for what such a condition
// selects otherwise, and reads all the pages of the rows that were sent.
func (r *Relay) readBelow(ctx context.Context, result *readResult) error {
	if err := failpoint.Hit("outbox.read.below"); err != nil {
		return err
	}
	request := result.request
	condition, args := r.condition(request)
	from, limit := "o.id <= ?", 2*r.config.WindowRows
	for bound, more := request.after, true; more; from = "o.id > ?" {
		rows, err := r.db.QueryContext(ctx, r.table.sql("SELECT o.id, o.slot, o.topic, o.event_key, o.event_id FROM NAME o WHERE "+from+condition+" ORDER BY o.id LIMIT ?"),
			append(append([]any{bound}, args...), limit)...)
		if err != nil {
			return err
		}
		n := 0
		for ; rows.Next(); n++ {
			next := new(row)
			var key []byte
			if err := rows.Scan(&next.id, &next.slot, &next.topic, &key, &next.record.ID); err != nil {
				return errors.Join(err, rows.Close())
			}
			next.record.Key = string(key)
			bound = next.id
			switch {
			case next.id > request.after || request.waiting[next.key()]:
			case len(result.below) > 2*r.config.WindowRows:
				result.flooded = true
			default:
				result.below = append(result.below, next)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		more = n == limit && bound < request.after
	}
	return nil
}

// condition leaves out what is not to be read.
func (r *Relay) condition(request readRequest) (condition string, args []any) {
	var b strings.Builder
	if len(request.slots) < Slots {
		b.WriteString(" AND o.slot IN (-1")
		for slot := range Slots {
			if _, ok := request.slots[slot]; ok {
				b.WriteString("," + strconv.Itoa(slot))
			}
		}
		b.WriteString(")")
	}
	if request.parked || request.refresh {
		b.WriteString(" AND NOT EXISTS (SELECT 1 FROM NAME_parked p WHERE p.topic = o.topic AND p.event_key = o.event_key AND (p.row_id = o.id OR LENGTH(o.event_key) > 0))")
	}
	if len(request.closed) > 0 {
		b.WriteString(" AND o.topic NOT IN " + sqldb.Marks(len(request.closed)))
		for _, topic := range request.closed {
			args = append(args, topic)
		}
	}
	return b.String(), args
}

func scanRow(rows *sql.Rows) (*row, error) {
	next := new(row)
	var key []byte
	var when string
	var metadata sql.NullString
	var tombstone int // a driver of SQLite gives nil for bytes that are empty, too
	record := &next.record
	err := rows.Scan(&next.id, &next.slot, &next.topic, &key, &record.ID, &record.Type, &record.Source, &when, &metadata, &record.Value, &tombstone)
	if err != nil {
		return nil, err
	}
	record.Key = string(key)
	if record.Value == nil && tombstone == 0 {
		record.Value = []byte{}
	}
	next.finish(when, metadata.String)
	return next, nil
}

// finish makes an event of what was read.
func (r *row) finish(when, metadata string) {
	record := &r.record
	r.bytes = 200 + len(r.topic) + len(record.Key) + len(record.ID) + len(record.Type) + len(record.Source) + len(metadata) + len(record.Value)
	r.err = decodeInto(record, when, metadata)
	if record.Metadata == nil {
		record.Metadata = make(map[string]string, 1)
	}
	record.Metadata[MetadataSequence] = sequence(r.id)
}

// sequence writes an id with 19 digits, so that sequences compare as texts.
func sequence(id int64) string {
	var digits [19]byte
	for i := len(digits) - 1; i >= 0; i-- {
		digits[i] = byte('0' + id%10)
		id /= 10
	}
	return string(digits[:])
}
