package outbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/millrace/millrace/framework"
)

var (
	// ErrNoLog is returned by Log.Mark where the log has never been set up for this table. The relay does it then.
	ErrNoLog = errors.New("the log is not set up")
	// ErrLogLost is returned by Relay.Run, unless RelayConfig.PollWithoutLog is set, when the place in the log up to which
	// the relay has read is gone: the slot was dropped, invalidated, or left behind by a failover. Nothing is lost by it,
	// since what is not sent is in the table; but only polling finds it there.
	ErrLogLost = errors.New("the place in the log is lost")
	// ErrEventsLost is returned with ErrLogLost, also with RelayConfig.PollWithoutLog, when events were in the log only.
	ErrEventsLost = errors.New("events that were in the log only are lost")
	// ErrLogInUse is returned by Relay.Run, unless RelayConfig.PollWithoutLog is set, when the log cannot be read at the
	// start because something that is no relay of this table reads from the slot.
	ErrLogInUse = errors.New("the slot is in use")
)

// Log is the log of the database with the table; see package pgtail. A relay has one reader of it at a time, and makes
// one call at a time besides.
//
// The database keeps a place in the log, the slot, and next to it a text of the relay's, the mark. The relay sets both:
// all that was committed before the place has been sent and deleted, or is behind one of the parked keys that the mark
// stands for.
type Log interface {
	// Mark returns the mark with which the log was last read, ErrNoLog, or an error that wraps ErrLogLost.
	Mark(ctx context.Context) (string, error)
	// Create makes the slot anew, without a mark, in the place of one that is lost. When it returns, all that was
	// committed before the slot's place can be read from the table.
	Create(ctx context.Context) error
	// Open sets the mark and reads from the slot's place on. A slot that is in use it waits for, and then returns an error
	// that wraps ErrLogInUse.
	Open(ctx context.Context, mark string) (LogReader, error)
	// End returns the place up to which the log is written.
	End(ctx context.Context) (uint64, error)
}

// LogReader reads rows in the order of their commits.
type LogReader interface {
	// Next waits for rows that are in the table, and returns at most as many as said, and of at most so many bytes but
	// for the last. Rows that another relay has sent and deleted are left out. One call at a time.
	Next(ctx context.Context, rows, bytes int) ([]LogRow, error)
	// Done says that rows are deleted, or may be forgotten. When all up to some place in the log are, the slot moves there.
	Done(ids ...int64)
	// Reached returns the place up to which Next has returned everything.
	Reached() uint64
	// Close ends Next and the reading, and notes in the slot what is done.
	Close() error
}

// LogRow is a row as the log has it.
type LogRow struct {
	// ID is the row's number. It is negative, and unique, for an event that is in the log only.
	ID             int64
	Slot           int
	Topic          string
	Record         framework.Record // without time and metadata
	Time, Metadata string           // as in the table
}

// LogRow checks an event as Publisher.Publish does, and returns it as a row, for a writer that puts it into the log only.
func (t *Table) LogRow(topic string, record framework.Record) (LogRow, error) {
	row, err := t.encode(topic, &record)
	if err != nil {
		return LogRow{}, fmt.Errorf("outbox: event (id %q) for topic %q: %w", record.ID, topic, err)
	}
	slot, _ := row.args[0].(int64)
	when, _ := row.args[6].(string)
	metadata, _ := row.args[7].(string)
	record.ID, _ = row.args[3].(string)
	return LogRow{Slot: int(slot), Topic: topic, Record: record, Time: when, Metadata: metadata}, nil
}

func (r *LogRow) row() *row {
	next := &row{id: r.ID, slot: r.Slot, topic: r.Topic, record: r.Record}
	next.finish(r.Time, r.Metadata)
	return next
}
