package framework

import (
	"crypto/sha256"
	"fmt"
)

// occurrence is what failed: an event by its place in the source, or a timer.
type occurrence struct {
	topic      string
	partition  int
	at         int64 // offset, or time of the timer
	event      string
	timer, key string // of a timer
}

func (f *Fault) occurrence() occurrence {
	o := occurrence{topic: f.Topic, partition: f.Partition, at: f.Offset, event: f.Event.ID}
	if f.Topic == timerTopic {
		o.timer, o.key = f.timerStep(), f.Event.Key
		if f.Event.Time != nil {
			o.at = f.Event.Time.UnixNano()
		}
	}
	return o
}

// letter names a dead letter: by a hash, since there may be many. A crash may have it sent twice.
type letter [16]byte

func (f *Fault) letter() (name letter) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%#v %q %q %q %d %d", f.occurrence(), f.Step, f.Part, f.Class, f.Resubmitted, f.Order))
	copy(name[:], sum[:])
	return name
}

// timerStep is the step whose timer failed.
func (f *Fault) timerStep() string {
	if f.Timer != "" {
		return f.Timer
	}
	return f.Step
}

// sets tells whether the node's are the timers of which the fault is one.
func (n *node) sets(f *Fault) bool { return n.onTimer != nil && n.name == f.timerStep() }
