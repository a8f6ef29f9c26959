package watermark

import (
	"math"
	"slices"
	"time"
)

const (
	// Min is the watermark before anything has been seen.
	Min = math.MinInt64
	// Max is the watermark when nothing more will come.
	Max = math.MaxInt64
)

// Behind is t − d without overflow; Min and Max stay what they are.
func Behind(t int64, d time.Duration) int64 {
	switch {
	case t == Min || t == Max:
		return t
	case t < Min+1+int64(d):
		return Min + 1
	}
	return t - int64(d)
}

// Ahead is t + d without overflow; Min and Max stay what they are.
func Ahead(t int64, d time.Duration) int64 {
	switch {
	case t == Min || t == Max:
		return t
	case t > Max-1-int64(d):
		return Max - 1
	}
	return t + int64(d)
}

// Bounded is the watermark of a source whose events come at most Bound out of order. Its zero value with a
// Bound is ready after Reset.
type Bounded struct {
	Bound  time.Duration
	latest int64
	ended  bool
}

// Reset sets the latest event time seen, Min for none.
func (b *Bounded) Reset(latest int64, ended bool) { b.latest, b.ended = latest, ended }

// State returns what Reset takes.
func (b *Bounded) State() (latest int64, ended bool) { return b.latest, b.ended }

// Observe takes note of an event's time.
func (b *Bounded) Observe(t int64) {
	if t > b.latest {
		b.latest = t
	}
}

// End says that nothing more will come.
func (b *Bounded) End() { b.ended = true }

// Now is the watermark.
func (b *Bounded) Now() int64 {
	if b.ended {
		return Max
	}
	return Behind(b.latest, b.Bound)
}

// Merged is the watermark of a stream that several producers write to, each sending its own: the least.
type Merged struct {
	producers []int64
	idle      []bool
	now       int64
}

// NewMerged starts with Min for each of n producers.
func NewMerged(n int) *Merged {
	m := &Merged{producers: make([]int64, n), idle: make([]bool, n), now: Min}
	for i := range m.producers {
		m.producers[i] = Min
	}
	return m
}

// Observe takes note of a producer's watermark, which ends its being idle; an unknown producer and an earlier
// watermark change nothing.
func (m *Merged) Observe(producer int, t int64) {
	if producer < 0 || producer >= len(m.producers) || t <= m.producers[producer] {
		return
	}
	m.producers[producer], m.idle[producer] = t, false
	m.update()
}

// Idle says that a producer has nothing to say for now: the others do not wait for it.
func (m *Merged) Idle(producer int) {
	if producer < 0 || producer >= len(m.producers) {
		return
	}
	m.idle[producer] = true
	m.update()
}

// AllIdle tells whether no producer has anything to say.
func (m *Merged) AllIdle() bool { return !slices.Contains(m.idle, false) }

func (m *Merged) update() {
	least, any := int64(Max), false
	for i, at := range m.producers {
		if !m.idle[i] {
			least, any = min(least, at), true
		}
	}
	if any {
		m.now = max(m.now, least)
	}
}

// Now is the watermark.
func (m *Merged) Now() int64 { return m.now }

// State returns a copy of the producers' watermarks, to be given to Observe one by one after a restart. Idle
// producers say so again.
func (m *Merged) State() []int64 { return slices.Clone(m.producers) }

// Clone returns a copy that goes its own way.
func (m *Merged) Clone() *Merged {
	return &Merged{slices.Clone(m.producers), slices.Clone(m.idle), m.now}
}
