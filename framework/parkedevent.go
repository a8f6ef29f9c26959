package framework

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/millrace/millrace/internal/fields"
	"github.com/millrace/millrace/microstore"
)

// parkedEvent is an event or timer that waits to be run again.
type parkedEvent struct {
	stamp int64 // watermark at which it came
	again int   // how often it has been run again
	timer *microstore.Timer
	read  []HistoryRead // what the timer read when it failed

	// Of an event: its id, the record as it came, and where.
	id            string
	topic, origin string
	record        Record
}

const (
	parkedIsEvent  = 1
	parkedIsTimer  = 2
	parkedHasReads = 3 // a timer, with what it read when it failed
)

func (e *parkedEvent) append(b []byte) []byte {
	kind := byte(parkedIsEvent)
	switch {
	case len(e.read) > 0:
		kind = parkedHasReads
	case e.timer != nil:
		kind = parkedIsTimer
	}
	b = append(b, kind)
	b = binary.AppendVarint(b, e.stamp)
	b = binary.AppendUvarint(b, uint64(e.again))
	if t := e.timer; t != nil {
		b = binary.AppendVarint(b, t.At)
		b = binary.AppendUvarint(b, uint64(t.Step))
		b = fields.AppendString(fields.AppendString(b, t.Key), t.ID)
		if kind == parkedHasReads {
			read, _ := json.Marshal(e.read) // it has been a fault's, so it can be encoded
			b = fields.AppendString(b, string(read))
		}
		return append(b, t.Payload...)
	}
	r := &e.record
	b = fields.AppendString(fields.AppendString(fields.AppendString(b, e.id), e.topic), e.origin)
	b = binary.AppendVarint(binary.AppendVarint(b, r.Offset), r.Line)
	fault := ""
	if r.Err != nil {
		fault = r.Err.Error()
	}
	b = fields.AppendString(b, fault)
	b = binary.AppendUvarint(b, uint64(len(r.Schema)))
	for name, value := range r.Schema {
		b = fields.AppendString(fields.AppendString(b, name), value)
	}
	return AppendRecord(b, r)
}

func readParkedEvent(b []byte) (*parkedEvent, error) {
	w := fields.Reader{Rest: b}
	kind := w.Byte()
	e := &parkedEvent{stamp: w.Varint(), again: int(w.Uvarint())}
	switch kind {
	case parkedIsTimer, parkedHasReads:
		e.timer = &microstore.Timer{At: w.Varint(), Step: uint32(w.Uvarint()), Key: w.String(), ID: w.String()}
		if kind == parkedHasReads {
			if err := json.Unmarshal(w.Bytes(), &e.read); err != nil {
				return nil, fmt.Errorf("%w: what a timer read: %w", ErrWire, err)
			}
		}
		if e.timer.Payload = w.Rest; w.Failed {
			return nil, ErrWire
		}
		return e, nil
	case parkedIsEvent:
	default:
		return nil, fmt.Errorf("%w: kind %d", ErrWire, kind)
	}
	e.id, e.topic, e.origin = w.String(), w.String(), w.String()
	offset, line, fault := w.Varint(), w.Varint(), w.String()
	schema := map[string]string{}
	for n := w.Uvarint(); n > 0 && !w.Failed; n-- {
		name := w.String()
		schema[name] = w.String()
	}
	if w.Failed {
		return nil, ErrWire
	}
	r, err := ReadRecord(w.Rest)
	if err != nil {
		return nil, err
	}
	if r.Offset, r.Line = offset, line; len(schema) > 0 {
		r.Schema = schema
	}
	if fault != "" {
		r.Err = Permanent(errors.New(fault))
	}
	e.record = r
	return e, nil
}

// current is what the scope is processing, to be kept until it runs again; read is of a timer.
func (s *Scope) current(stamp int64, read []HistoryRead) *parkedEvent {
	if s.timer != nil {
		return &parkedEvent{stamp: stamp, timer: s.due, read: read}
	}
	e := &parkedEvent{stamp: stamp, id: s.header.ID(), record: *s.record}
	if origin := s.header.origin; origin != nil {
		e.topic, e.origin = origin.Topic, origin.Origin
	}
	return e
}

// name is the id that the faults of an event or timer have.
func (e *parkedEvent) name() string {
	if e.timer != nil {
		return e.timer.ID
	}
	return e.id
}
