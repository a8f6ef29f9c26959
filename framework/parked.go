package framework

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/millrace/millrace/internal/fields"
	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// parking is the part of a task's state that holds its parked keys:
//
//	keys    a row for each parked key: what it waits for, how far its own time has come, which events wait
//	events  for each key, what waits, by number: first the event (or timer) that failed
//	timers  for each key, the timers that fell due meanwhile
//
// All of it is written in the commit of the batch that caused it, so it is there after a crash like any state.
type parking struct {
	config Parking
	on     bool // keys of events that fail are parked; else only those that were before are still held
	keys   *microstore.Table
	events *microstore.History
	timers *microstore.History

	count, bytes atomic.Int64 // of all lanes, for the bounds
}

// parkedKey is the row of a parked key.
type parkedKey struct {
	since       int64 // watermark at which the key was parked
	clock       int64 // watermark that it has reached since, by what has been run again
	first, next int64 // numbers of the event that is to run next, and after the last
	bytes       int64 // of the events that wait
	step, event string
}

// parkedHint is what a lane remembers of a key that may be parked: so that nothing is asked of the store for other
// keys. The row decides.
type parkedHint struct{ since, bytes int64 }

// parks tells whether keys of the task are parked, or may have been.
func (t *task) parks() (bool, error) {
	if t.env.parks[t.stage.pipeline.name] || t.own == nil {
		return t.env.parks[t.stage.pipeline.name], nil
	}
	keys, err := t.slice.Table(parkedKeysName) // another process may have parked some, if the state is from a changelog
	if err != nil {
		return false, err
	}
	parks := false
	err = keys.All(func(string, []byte) bool { parks = true; return false })
	return parks, err
}

// parksNow tells whether what fails parks its key. While a state is made anew nothing does: no event of the key has waited.
func (t *task) parksNow() bool { return t.parking.on && !t.catching }

func (t *task) openParking(c *Parking) error {
	p := &parking{config: Parking{}.withDefaults()}
	if c != nil {
		p.config, p.on = *c, true
	}
	// Names of the states of steps have a dot in them.
	var err error
	if p.keys, err = t.slice.Table(parkedKeysName); err != nil {
		return err
	}
	if p.events, err = t.slice.History("parked-events", microstore.HistoryConfig{}); err != nil {
		return err
	}
	if p.timers, err = t.slice.History("parked-timers", microstore.HistoryConfig{}); err != nil {
		return err
	}
	t.parking = p
	var damaged error
	err = p.keys.All(func(key string, value []byte) bool {
		var k *parkedKey
		if k, damaged = readParkedKey(value); damaged != nil {
			damaged = fmt.Errorf("parked key %q: %w", key, damaged)
			return false
		}
		t.laneOf(key).hint(key, parkedHint{k.since, k.bytes})
		return true
	})
	if err == nil {
		err = damaged
	}
	for _, s := range t.scopes {
		s.hinted = nil
	}
	return err
}

const parkedKeysName = "parked-keys"

// laneOf is the lane of a key.
func (t *task) laneOf(key string) *Scope { return t.scopes[microstore.Shard(key)%len(t.scopes)] }

// sweepFrom is the watermark before which, less their retention, histories forget. It stays where the longest parked
// key is, so that nothing that its events would have seen is gone when they run, for at most Parking.Hold.
func (t *task) sweepFrom() int64 {
	if t.parking == nil || t.parking.count.Load() == 0 {
		return t.watermark
	}
	from := t.watermark
	for _, s := range t.scopes {
		for _, hint := range s.parked {
			from = min(from, hint.since)
		}
	}
	return max(from, t.held())
}

// held is how far back the time of a parked key may be.
func (t *task) held() int64 {
	if t.watermark == watermark.Max { // nothing more comes: there is nothing to bound
		return watermark.Min
	}
	return watermark.Behind(t.watermark, t.parking.config.Hold)
}

// hint takes note that a key may be parked.
func (s *Scope) hint(key string, h parkedHint) {
	p := s.task.parking
	was, ok := s.parked[key]
	if !ok {
		p.count.Add(1)
	}
	p.bytes.Add(h.bytes - was.bytes)
	if s.parked == nil {
		s.parked = map[string]parkedHint{}
	}
	s.parked[key] = h
	s.hinted = append(s.hinted, key)
}

// settleHints forgets the keys that have turned out not to be parked, once a round stands.
func (s *Scope) settleHints() error {
	for _, key := range s.hinted {
		k, err := s.parkedKey(key)
		if err != nil {
			return err
		}
		was, ok := s.parked[key]
		switch {
		case !ok:
		case k == nil:
			s.task.parking.count.Add(-1)
			s.task.parking.bytes.Add(-was.bytes)
			delete(s.parked, key)
		default: // what was noted may have been taken back
			s.task.parking.bytes.Add(k.bytes - was.bytes)
			s.parked[key] = parkedHint{k.since, k.bytes}
		}
	}
	s.hinted = s.hinted[:0]
	return nil
}

// parkedKey returns the row of a key, nil when it is not parked.
func (s *Scope) parkedKey(key string) (*parkedKey, error) {
	if _, ok := s.parked[key]; !ok {
		return nil, nil
	}
	value, data, ok, err := s.task.parking.keys.Get(key)
	if err != nil || !ok {
		return nil, Fatal(err)
	}
	if data != nil {
		return data.(*parkedKey), nil
	}
	k, err := readParkedKey(value)
	if err != nil {
		return nil, Fatal(fmt.Errorf("parked key %q: %w", key, err))
	}
	s.task.parking.keys.SetData(key, k)
	return k, nil
}

// setParked writes the row of a key.
func (s *Scope) setParked(key string, k parkedKey) error {
	s.hint(key, parkedHint{k.since, k.bytes})
	return Fatal(s.task.parking.keys.Set(s.batch, key, k.append(nil), &k))
}

// keep adds an event to those that wait for a key, as number n.
func (s *Scope) keep(key string, k *parkedKey, n int64, e *parkedEvent) error {
	value := e.append(nil)
	entry := &microstore.Entry{Time: n, ID: strconv.FormatInt(n, 10), Value: value}
	if _, err := s.task.parking.events.Append(s.batch, key, parkedChunk(n), entry, watermark.Min); err != nil {
		return Fatal(err)
	}
	k.bytes += int64(len(value))
	return nil
}

// waiting returns event n of those that wait for a key.
func (s *Scope) waiting(key string, n int64) (*parkedEvent, int64, error) {
	view, err := s.task.parking.events.View(key, parkedChunk(n), watermark.Min)
	if err != nil {
		return nil, 0, Fatal(err)
	}
	view = view.Range(n, n)
	if view.Len() != 1 {
		return nil, 0, Fatal(fmt.Errorf("%w: parked key %q: event %d of those that wait is missing", microstore.ErrDamaged, key, n))
	}
	value := view.At(0).Value
	e, err := readParkedEvent(value)
	if err != nil {
		return nil, 0, Fatal(fmt.Errorf("parked key %q, event %d: %w", key, n, err))
	}
	return e, int64(len(value)), nil
}

// remove takes event n from those that wait for a key.
func (s *Scope) remove(key string, k *parkedKey, n, bytes int64) error {
	_, err := s.task.parking.events.Delete(s.batch, key, parkedChunk(n), n, strconv.FormatInt(n, 10))
	k.bytes -= bytes
	return Fatal(err)
}

// parkedChunk is the match value of event n: so that a key for which a million events wait has not all of them in memory.
func parkedChunk(n int64) string { return strconv.FormatInt(n>>6, 10) }

func (k *parkedKey) append(b []byte) []byte {
	b = append(b, 1)
	for _, v := range []int64{k.since, k.clock, k.first, k.next, k.bytes} {
		b = binary.AppendVarint(b, v)
	}
	return fields.AppendString(fields.AppendString(b, k.step), k.event)
}

func readParkedKey(b []byte) (*parkedKey, error) {
	w := fields.Reader{Rest: b}
	if v := w.Byte(); !w.Failed && v != 1 {
		return nil, fmt.Errorf("%w: format %d, this release reads 1", ErrWire, v)
	}
	k := &parkedKey{since: w.Varint(), clock: w.Varint(), first: w.Varint(), next: w.Varint(), bytes: w.Varint(),
		step: w.String(), event: w.String()}
	if w.Failed {
		return nil, ErrWire
	}
	return k, nil
}
