package framework

import (
	"context"
	"time"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// Scope is what a step may use while it processes one event or timer: the lane's part of the task's state,
// the watermark, timers. It is valid until the step returns and is used by one goroutine.
type Scope struct {
	task  *task
	ctx   context.Context
	inner func() error // what the middlewares of the lane are around

	// The event or timer whose turn it is.
	key       string
	watermark int64
	header    *Header
	record    *Record
	timer     *Timer
	order     int32 // place in the batch of what is emitted now
	attempt   int
	last      bool // no attempt follows
	at        int  // node being run

	// For faults, see park.go.
	part   *Header           // the part that failed, where its event fails with it
	due    *microstore.Timer // timer as it is kept
	reads  timerReads        // of the timer
	again  int               // how often what runs has been run again
	asked  int64             // the order by which it does: Fault.Order
	parks  bool              // when it fails, its key is parked
	waits  bool              // it is the first of those that wait for its key
	failed bool              // what has been run became a fault
	parked map[string]parkedHint
	hinted []string // keys whose hints have changed since the last commit

	// What the lane has written since the last commit.
	batch   *microstore.Batch
	outputs []outputs // by the slot of their topic
	sent    []int32   // slots of outputs, in the order in which they were sent, to take them back
	faults  []Fault
	counts  []int64 // by node and kind
	trail   []int32 // indexes of counts that the current event raised, to take them back
	leaving chunk   // encoded values of outputs
	staying chunk   // encoded values of tables

	shards []int // of the keys that the lane owns
	next   int64 // no timer of the lane falls due before this
	fired  int   // timers in this round
	told   int   // bytes of reads in the faults of timers in this round
}

// outputs are records on their way to one topic, each with its place in the batch.
type outputs struct {
	records []Record
	orders  []int32
}

// Context is cancelled only when the engine gives up waiting for running work; lookups pass it on.
func (s *Scope) Context() context.Context { return s.ctx }

// Key is the key whose turn it is.
func (s *Scope) Key() string { return s.key }

// Watermark is the event time before which nothing is expected any more; the zero time when nothing is
// known yet.
func (s *Scope) Watermark() time.Time {
	return timeOf(s.watermark)
}

// timeOf is a watermark as a time, zero when nothing is known.
func timeOf(at int64) time.Time {
	if at == watermark.Min {
		return time.Time{}
	}
	return time.Unix(0, at).UTC()
}

// Passed tells whether the watermark has passed t.
func (s *Scope) Passed(t time.Time) bool { return t.UnixNano() < s.watermark }

// Timer is an event-time timer: when the watermark reaches At, the step that set it is called in the lane
// of Key. Timers live in the store.
type Timer struct {
	At      time.Time
	Key, ID string
	Payload []byte
}

// SetTimer sets a timer of the step for the current key. Setting one with the same time and id again changes
// nothing. A time that the watermark has passed already is due at once, after the current event.
func (s *Scope) SetTimer(st *Step, at time.Time, id string, payload []byte) error {
	t := at.UnixNano()
	s.next = min(s.next, t)
	return s.task.timers.Set(s.batch, microstore.Timer{
		At: t, Step: uint32(st.node.path), Key: s.key, ID: id, Payload: payload})
}

// DeleteTimer takes a timer back.
func (s *Scope) DeleteTimer(st *Step, at time.Time, id string) error {
	t := microstore.Timer{At: at.UnixNano(), Step: uint32(st.node.path), Key: s.key, ID: id}
	if _, maybe := s.parked[s.key]; maybe {
		if err := s.wake(t); err != nil {
			return err
		}
	}
	return s.task.timers.Delete(s.batch, t)
}

// HasTimer tells whether a timer of the step is set for the current key. It may read the disk.
func (s *Scope) HasTimer(st *Step, at time.Time, id string) (bool, error) {
	t := microstore.Timer{At: at.UnixNano(), Step: uint32(st.node.path), Key: s.key, ID: id}
	if _, maybe := s.parked[s.key]; maybe {
		if sleeps, err := s.sleeps(t); sleeps || err != nil {
			return sleeps, err
		}
	}
	has, err := s.task.timers.Has(t)
	return has, Fatal(err)
}

// Overflowed counts an event that left a history before its time because of a bound by count or bytes.
func (s *Scope) Overflowed(st *Step) { s.counted(st.node.index, countOverflow) }

// Late puts an event that came after its time into the dead-letter topic. What the event does in other steps
// stays. In Step.OnTimer, with a nil header, it is the timer that is late.
func (s *Scope) Late(st *Step, h *Header, err error) {
	s.counted(st.node.index, countLate)
	s.addFault(s.faultOf(st.node, h, err, ClassLate))
}

// Dropped counts an event that a step leaves out because it was seen before.
func (s *Scope) Dropped(st *Step) { s.counted(st.node.index, countDuplicate) }

// RunPart runs what follows a split for one part. When it fails for good, what the part did is taken back and
// it becomes a fault of its own; the other parts and the event go on.
func (s *Scope) RunPart(part *Header, run func() error) error {
	if s.task.past != nil {
		if before, failed := s.task.failedBefore(s, part.ID()); failed {
			s.task.failAgain(s, before.step)
			return nil
		}
	}
	mark := s.save()
	err := unpanicked(run)
	if err == nil {
		return nil
	}
	switch class := ClassOf(err); {
	case class == ClassFatal, isStoreError(err), class == ClassTransient && !s.last:
		return err
	case s.parks: // the event fails with it, or its parts would be repeated when it runs again
		if s.part == nil {
			s.part = part
		}
		return err
	default:
		at := s.at
		s.restore(mark)
		s.counted(at, countFault)
		s.addFault(s.faultOf(s.task.stage.pipeline.nodes[at], part, err, class))
		return nil
	}
}

// send queues a record for the topic of a sink and returns it, empty, for the caller to fill in.
func (s *Scope) send(slot int) *Record {
	out := &s.outputs[slot]
	out.records = append(out.records, Record{})
	out.orders = append(out.orders, s.order)
	s.sent = append(s.sent, int32(slot))
	return &out.records[len(out.records)-1]
}

// chunk is room for encoded values. A value keeps all of the chunk that it is in, so those that stay in a cache and those that
// leave, which may take long, have chunks of their own. What is in a commit only has the batch's.
type chunk struct{ bytes []byte }

// encode appends to the chunk and returns the new part, which stays as it is for as long as anybody keeps it.
func (c *chunk) encode(f func(dst []byte) ([]byte, error)) ([]byte, error) {
	const size = 64 << 10
	if cap(c.bytes)-len(c.bytes) < size/64 {
		c.bytes = make([]byte, 0, size)
	}
	room := c.bytes[len(c.bytes):]
	b, err := f(room)
	if err != nil {
		return nil, err
	}
	if cap(b) == cap(room) { // it fitted: the room is taken
		c.bytes = c.bytes[:len(c.bytes)+len(b)]
	}
	return b[:len(b):len(b)], nil
}

// mark is a savepoint of a lane.
type mark struct {
	batch               microstore.Mark
	sent, faults, trail int
	at                  int
}

func (s *Scope) save() mark {
	return mark{s.batch.Mark(), len(s.sent), len(s.faults), len(s.trail), s.at}
}

// restore takes back everything since the mark.
func (s *Scope) restore(m mark) {
	s.batch.Rollback(m.batch)
	for _, slot := range s.sent[m.sent:] {
		out := &s.outputs[slot]
		last := len(out.records) - 1
		out.records[last] = Record{}
		out.records, out.orders = out.records[:last], out.orders[:last]
	}
	s.sent = s.sent[:m.sent]
	s.faults = s.faults[:m.faults]
	for _, i := range s.trail[m.trail:] {
		s.counts[i]--
	}
	s.trail = s.trail[:m.trail]
	s.at = m.at
	s.next = watermark.Min // unknown: look again
}

// reset makes room for the next round, as much as the last one needed.
func (s *Scope) reset(b *microstore.Batch) {
	t := s.task
	s.batch = b
	for i := range s.outputs {
		out := &s.outputs[i]
		if len(out.records) == 0 {
			continue
		}
		if len(t.scopes) == 1 { // they went to the relay as they are
			out.records = takeRecords(len(out.records))
		} else { // they were merged into other slices
			clear(out.records)
			out.records = out.records[:0]
		}
		out.orders = out.orders[:0]
	}
	s.sent, s.trail, s.faults = s.sent[:0], s.trail[:0], nil
}

// Kinds of counts.
const (
	countIn = iota
	countOut
	countFault
	countLate
	countDuplicate
	countOverflow // since version 2 of meta
	countKinds
)

func (s *Scope) counted(node, kind int) {
	i := node*countKinds + kind
	s.counts[i]++
	s.trail = append(s.trail, int32(i))
}
