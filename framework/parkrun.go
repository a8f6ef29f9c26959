package framework

import (
	"fmt"
	"strconv"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// parkAfter parks the key of the event or timer that has just failed for good.
func (s *Scope) parkAfter(f *Fault) error {
	p := s.task.parking
	k, err := s.parkedKey(s.key)
	if err != nil {
		return err
	}
	if k != nil { // a timer that the key has slept through has failed: it comes before what waits
		before := *k
		before.first--
		if err := s.keep(s.key, &before, before.first, s.current(s.watermark, f.Read)); err != nil {
			return err
		}
		return s.setParked(s.key, before)
	}
	if most := int64(p.config.MaxKeys); p.count.Load() >= most {
		return Fatal(fmt.Errorf("%w: %d keys of task %s are, and %q would be the next, because event %q failed in step %q: %s; "+
			"mend what makes them fail and resubmit them, or raise Parking.MaxKeys", ErrParkingFull, most, s.task.name, s.key,
			f.Event.ID, f.Step, f.Error))
	}
	fresh := parkedKey{since: s.watermark, clock: s.watermark, next: 1, step: f.Step, event: f.Event.ID}
	if err := s.keep(s.key, &fresh, 0, s.current(s.watermark, f.Read)); err != nil {
		return err
	}
	return s.setParked(s.key, fresh)
}

// divert puts an event whose key is parked behind those that wait, and into the dead letters. False: the key is not
// parked.
func (s *Scope) divert() (bool, error) {
	was, err := s.parkedKey(s.key)
	if was == nil || err != nil {
		return false, err
	}
	k := *was
	n := k.next
	k.next++
	if err := s.keep(s.key, &k, n, s.current(s.watermark, nil)); err != nil {
		return true, err
	}
	p := s.task.parking
	if p.bytes.Load()+k.bytes-was.bytes > p.config.MaxBytes {
		return true, Fatal(fmt.Errorf("%w: the events of task %s that wait for others of their keys take more than %d bytes; "+
			"resubmit or discard dead letters, or raise Parking.MaxBytes", ErrParkingFull, s.task.name, p.config.MaxBytes))
	}
	f := s.faultOf(s.task.node(s.at), s.header,
		fmt.Errorf("its key waits for event %q, which failed in step %q", k.event, k.step), ClassParked)
	f.Parked, f.Attempts = true, 0
	s.counted(s.at, countFault)
	s.addFault(f)
	return true, s.setParked(s.key, k)
}

// sleep keeps a timer that has fallen due while its key is parked. False: the key is not parked.
func (s *Scope) sleepThrough(due microstore.Timer) (bool, error) {
	if k, err := s.parkedKey(due.Key); k == nil || err != nil {
		return false, err
	}
	timers, id := s.task.parking.timers, sleeperID(due)
	if _, err := timers.Delete(s.batch, due.Key, "", due.At, id); err != nil { // one that was set again
		return true, Fatal(err)
	}
	_, err := timers.Append(s.batch, due.Key, "", &microstore.Entry{Time: due.At, ID: id, Value: due.Payload}, watermark.Min)
	return true, Fatal(err)
}

// sleeper is the first of the timers that a key has slept through and that is due at upTo.
func (s *Scope) sleeper(key string, upTo int64) (due microstore.Timer, ok bool, err error) {
	view, err := s.task.parking.timers.View(key, "", watermark.Min)
	if err != nil || view.Len() == 0 || view.At(0).Time > upTo {
		return due, false, Fatal(err)
	}
	e := view.At(0)
	if len(e.ID) < 24 {
		return due, false, Fatal(fmt.Errorf("%w: timer of parked key %q", microstore.ErrDamaged, key))
	}
	step, err := strconv.ParseUint(e.ID[:8], 16, 32)
	if err != nil {
		return due, false, Fatal(fmt.Errorf("%w: timer of parked key %q: %w", microstore.ErrDamaged, key, err))
	}
	return microstore.Timer{At: e.Time, Step: uint32(step), Key: key, ID: e.ID[24:], Payload: e.Value}, true, nil
}

// sleeps tells whether a key has slept through a timer.
func (s *Scope) sleeps(t microstore.Timer) (bool, error) {
	view, err := s.task.parking.timers.View(t.Key, "", t.At)
	if err != nil {
		return false, Fatal(err)
	}
	view, id := view.Range(t.At, t.At), sleeperID(t)
	for e := range view.Forward() {
		if e.ID == id {
			return true, nil
		}
	}
	return false, nil
}

// wake takes a timer from those that its key has slept through.
func (s *Scope) wake(due microstore.Timer) error {
	_, err := s.task.parking.timers.Delete(s.batch, due.Key, "", due.At, sleeperID(due))
	return Fatal(err)
}

// sleeperID names a timer among those of its key: a history knows entries by their ids, and timers of several times may
// have one id. Those of one time are in order of step, then id.
func sleeperID(t microstore.Timer) string {
	return fmt.Sprintf("%08x%016x", t.Step, uint64(t.At)) + t.ID
}
