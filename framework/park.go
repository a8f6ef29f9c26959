package framework

import (
	"errors"
	"fmt"
	"time"
)

// ClassParked is the class of faults of events that were not run because an earlier event of their key had failed and
// the pipeline parks such keys. They wait for that one; see Pipeline.Park.
const ClassParked Class = "parked"

// ErrParkingFull is returned by Runner.Run when more is parked than Parking allows: order could not be kept by going
// on. Nothing is lost; what was parked stays so.
var ErrParkingFull = errors.New("no more keys can be parked")

// Parking bounds what a task parks. Its zero value is the default.
type Parking struct {
	// MaxKeys is how many keys of a partition of a stage may be parked at the same time; default 10,000.
	MaxKeys int
	// MaxBytes bounds the events of a partition of a stage that wait in the store behind those that failed; default
	// 256 MiB.
	MaxBytes int64
	// Hold is how far event time may go on while the histories of the whole partition are kept for the parked keys'
	// sake, on top of their retention; default 24 hours. Past it, windows of parked keys close: their events come late.
	Hold time.Duration
}

func (c Parking) withDefaults() Parking {
	if c.MaxKeys == 0 {
		c.MaxKeys = 10_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 256 << 20
	}
	if c.Hold == 0 {
		c.Hold = 24 * time.Hour
	}
	return c
}

// Park keeps the order of a key when an event of it fails for good: later events of the key that reach the stage are
// not run, but wait in the store, and go to the dead letters with the class parked. So do its timers: for the key,
// time stands still. Other keys go on. Runner.Resubmit runs the failed event again, then those that waited, each at the
// watermark at which it came: what they cause in the stage is what they would have caused without the failure. In stages
// behind it they are as late as they are.
//
// Without Park, which is the default, later events of the key go on without the one that failed.
//
// An output that its topic does not take for its size when it is sent holds back those of its key behind it, until the topic takes
// it; see Runner.HeldBack.
//
// Where partitions are shared out among processes it needs a Changelog, in which what waits moves with its partition.
//
// Events without a key cannot be parked, nor those of which the key is not known because they could not be decoded.
// Late events do not park their key. The parts of a Split do not stand alone: one that fails takes the event with it,
// so that sending it again repeats no part.
func (p *Pipeline) Park(c Parking) {
	for name, v := range map[string]int64{"MaxKeys": int64(c.MaxKeys), "MaxBytes": c.MaxBytes, "Hold": int64(c.Hold)} {
		if v < 0 {
			p.errs = append(p.errs, fmt.Errorf("parking: %s is negative; it must be more than 0, or 0 for the default", name))
		}
	}
	c = c.withDefaults()
	p.parking = &c
}
