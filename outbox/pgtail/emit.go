package pgtail

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/outbox"
)

// Emitter writes events into the log only, with pg_logical_emit_message, in one transaction: no row is written, none has
// to be deleted, no index grows. Like a transaction it is for one goroutine at a time. The Log needs Config.Messages.
//
// The events are nowhere else. When the slot is dropped, invalidated by max_slot_wal_keep_size, or left behind by a
// failover, those that were not sent are lost; and so are all that are written while there is no slot, before the first
// relay has run. The relay then ends with an error (outbox.ErrEventsLost), and cannot say which they were. Use it for what
// may be lost, or can be made anew.
type Emitter struct {
	log *Log
	tx  outbox.Execer
}

// Emitter binds the log to a transaction, which outbox.SQL and outbox.Pgx make one of. It needs no closing.
func (l *Log) Emitter(tx outbox.Execer) *Emitter { return &Emitter{l, tx} }

// Publish writes events. They are sent when the transaction has been committed, in the order of the commits, and never
// when it is rolled back. All are checked before the first is written. They carry no outbox.MetadataSequence.
func (e *Emitter) Publish(ctx context.Context, topic string, records ...framework.Record) error {
	if !e.log.config.Messages {
		return errors.New("outbox: log: Config.Messages is not set: the relay would not read what is written")
	}
	contents := make([][]byte, len(records))
	for i := range records {
		row, err := e.log.table.LogRow(topic, records[i])
		if err != nil {
			return err
		}
		contents[i] = encodeMessage(&row)
	}
	for i, content := range contents {
		if _, err := e.tx.Exec(ctx, "SELECT pg_logical_emit_message(true, $1::text, $2::bytea)", e.log.prefix(), content); err != nil {
			return fmt.Errorf("outbox: log: write event (id %q) for topic %q: %w", records[i].ID, topic, err)
		}
	}
	return nil
}

// prefix tells this table's messages from others.
func (l *Log) prefix() string { return "millrace:" + l.table.Name() }

// messageVersion is the first byte of a message. After it come the slot, the texts, each behind its length, and the value
// behind its length, or noValue.
const (
	messageVersion = 1
	noValue        = math.MaxUint32
)

func texts(row *outbox.LogRow) []*string {
	c := &row.Record
	return []*string{&row.Topic, &c.Key, &c.ID, &c.Type, &c.Source, &row.Time, &row.Metadata}
}

func encodeMessage(row *outbox.LogRow) []byte {
	b := append(make([]byte, 0, 64+rowBytes(row)), messageVersion, byte(row.Slot))
	for _, text := range texts(row) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(*text)))
		b = append(b, *text...)
	}
	if row.Record.Value == nil {
		return binary.BigEndian.AppendUint32(b, noValue)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(row.Record.Value)))
	return append(b, row.Record.Value...)
}

// decodeMessage keeps nothing of data.
func decodeMessage(data []byte) (*outbox.LogRow, error) {
	r := &bytesReader{rest: data}
	if version := r.byte(); version != messageVersion {
		return nil, fmt.Errorf("an event of version %d: this release reads %d", version, messageVersion)
	}
	row := &outbox.LogRow{Slot: int(r.byte())}
	for _, text := range texts(row) {
		*text = string(r.take(int(r.uint32())))
	}
	if n := r.uint32(); n != noValue {
		row.Record.Value = append([]byte{}, r.take(int(n))...)
	}
	if r.short || len(r.rest) > 0 || row.Slot >= outbox.Slots {
		return nil, errors.New("an event that was not written by this package")
	}
	return row, nil
}
