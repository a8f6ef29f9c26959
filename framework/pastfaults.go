package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Whether an event fails may depend on what a step looks at: a service that is away for one process answers the next.
// A process that makes a state anew, and sends nothing while it does, would take an event that had failed into its
// state, and nobody would ever send what it causes. So what is in the dead letters stays failed until somebody
// resubmits it: the process that takes over reads them first, and an event, a part or a timer that failed before
// fails again without being run, and without another dead letter. What is run all the same, because it was late or waited
// for another event of its key, is late or waits again, and is not put into the dead letters again.
//
// They tell all of it: a fault is sent before a position behind it is marked. They may tell more than the group's positions:
// a process that dies in between leaves faults of what is yet to be processed, so they are read wherever a slice is.
//
// And what has succeeded may fail in a process that makes the state anew. It goes on without the event, and nobody is sent what
// that causes with those that come then; resubmitted where the event is in the state, it is a duplicate. So a slice that has
// what another process says has failed sends all that it decides, also while it catches up (ownership.differs).

// pastFaults are the faults of a task that others have sent.
type pastFaults struct {
	all  map[pastFault]failedIn
	told map[letter]struct{} // of what is run all the same
	last map[string]int64    // by topic, the greatest offset; of timers, the latest time
	most int64               // the last order by which one ran

	topic   TopicInfo // the dead letters',
	ends    []int64   // and up to where they have been read
	differs bool      // another process has failed what the slice has

	parked string // an event that had its key parked, or waited for it
}

// pastFault names a failure.
type pastFault struct {
	topic  string
	offset int64  // of a timer, its time
	id     string // of a timer
	part   string
	order  int64 // Fault.Order
}

// failedIn is the step of a past fault, and the id of the event: another topic of the same name has others at its offsets.
type failedIn struct {
	step, event string
	parked      bool // its key
}

// pastFaultsMost bounds how many faults of a task are kept in memory, of either kind.
const pastFaultsMost = 1 << 20

// learnFaults reads the dead letters of what the task is yet to process.
func (t *task) learnFaults() error {
	topic := t.stage.pipeline.DeadLetters()
	transport := t.sinks[topic].transport
	if _, ok := transport.(TopicReader); !ok {
		if t.catching && t.parking != nil && t.parking.on {
			return fmt.Errorf("the state cannot be made anew from the topics: whether keys were parked cannot be known, since the transport of the "+
				"dead letters, %q, cannot read them; start the process that has the state, with its store", topic)
		}
		if t.own.apart {
			t.env.config.Logger.Warn("dead letters cannot be read: an event that failed elsewhere may succeed here and send nothing",
				"task", t.name, "topic", topic)
		}
		return nil
	}
	ctx, done := t.wanted()
	defer done()
	err := t.insist(ctx, topic, func() error { return t.readPast(ctx, transport, topic) })
	switch {
	case ctx.Err() != nil:
		return errStopping
	case err == nil, errors.Is(err, ErrNoTopic):
		return nil
	}
	return fmt.Errorf("read dead letters, to know what failed in the process before: %w", err)
}

// readPast reads the dead letters once.
func (t *task) readPast(ctx context.Context, transport Transport, topic string) error {
	info, err := transport.Topic(ctx, topic)
	if err != nil {
		return err
	}
	known, differed, err := t.faultsRead(info)
	if err != nil {
		return err
	}
	past := &pastFaults{all: map[pastFault]failedIn{}, told: map[letter]struct{}{}, last: map[string]int64{}, topic: info, differs: differed}
	past.ends, err = t.own.faults.read(ctx, known, readFaults(transport, topic), func(f *Fault) { past.add(t, f) })
	if err != nil {
		return err
	}
	if past.parked != "" && t.catching {
		return fmt.Errorf("the state cannot be made anew from the topics: keys were parked, that of event %q among them, and what is parked is "+
			"nowhere but in the changelog %q, which is gone or not whole; start the process that has the state, with its store, and it is copied; "+
			"where none has it, give the pipeline a new name, and it begins anew", past.parked, t.stage.changelogTopic())
	}
	if len(past.all) == pastFaultsMost {
		t.env.config.Logger.Warn("there are more dead letters than are kept in mind; events that failed elsewhere may succeed here and send nothing",
			"task", t.name, "most", pastFaultsMost)
	}
	if len(past.told) == pastFaultsMost {
		t.env.config.Logger.Warn("there are more dead letters of late events than are kept in mind; some may be sent again",
			"task", t.name, "most", pastFaultsMost)
	}
	if t.own.differs = past.differs; t.own.differs && t.catching {
		t.env.config.Logger.Info("the state has events that failed in another process; what it decides while it catches up is sent, though others "+
			"may have sent the same, under the same ids", "task", t.name)
	}
	if len(past.all) > 0 || len(past.told) > 0 {
		t.past = past
	} else if !slices.Equal(past.ends, known) {
		return t.keepFaultsRead(past)
	}
	return nil
}

// readFaults reads the dead letters in a topic, on a transport that is a TopicReader.
func readFaults(transport Transport, topic string) faultPass {
	return func(ctx context.Context, from []int64, visit func(int, int64, *Fault)) (next []int64, err error) {
		next = slices.Clone(from)
		for partition := range next {
			next[partition], err = transport.(TopicReader).Read(ctx, topic, partition, from[partition], func(r Record) error {
				var f Fault
				if json.Unmarshal(r.Value, &f) == nil { // else it is somebody else's
					visit(partition, r.Offset, &f)
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
		return next, nil
	}
}

// add takes note of a fault: of what the task is yet to process, or that another process has of what the task has processed.
func (p *pastFaults) add(t *task, f *Fault) {
	if f.Pipeline != t.stage.pipeline.name || f.Partition != t.partition || f.Refused {
		return
	}
	other := f.Store != "" && f.Store != t.env.storeID
	k := pastFault{topic: f.Topic, offset: f.Offset, part: f.Part, order: f.Order}
	if f.Parked {
		k.part = "" // the event failed with it
	}
	timer := f.Topic == timerTopic
	src, again, done := t.source(f.Topic), t.again(), false
	if timer {
		if f.Event.Time == nil || !slices.ContainsFunc(t.stage.nodes, func(n *node) bool { return n.sets(f) }) {
			return
		}
		k.offset, k.id = f.Event.Time.UnixNano(), f.timerStep()+"\x00"+f.Event.Key+"\x00"+f.Event.ID
	} else if src == nil {
		return
	}
	switch {
	case f.Order > 0:
		done = again == nil || again.known && f.Order <= again.next
	case timer:
		done = k.offset <= t.watermark
	default:
		done = src.known && f.Offset < src.next
	}
	p.differs = p.differs || done && other
	if done && (!timer || f.Order > 0) { // of timers some of this moment may be left
		return
	}
	if f.Parked {
		p.parked = f.Event.ID
	}
	switch {
	case f.runsAllTheSame() && len(p.told) < pastFaultsMost:
		p.told[f.letter()] = struct{}{}
	case !f.runsAllTheSame() && len(p.all) < pastFaultsMost:
		p.all[k] = failedIn{f.Step, f.Event.ID, f.Parked}
	default:
		return
	}
	p.last[k.topic], p.most = max(p.last[k.topic], k.offset), max(p.most, f.Order)
}

// failedBefore tells whether what is run failed before, or a part of it.
func (t *task) failedBefore(s *Scope, part string) (before failedIn, failed bool) {
	if t.past == nil {
		return before, false
	}
	k := pastFault{part: part, order: s.asked}
	switch {
	case s.timer != nil:
		k.topic, k.offset, k.id = timerTopic, s.timer.At.UnixNano(), t.stage.timers[s.due.Step].name+"\x00"+s.timer.Key+"\x00"+s.timer.ID
	case s.header.origin != nil:
		k.topic, k.offset = s.header.origin.Topic, s.header.offset
	}
	before, failed = t.past.all[k]
	if failed && s.timer == nil && s.header.ID() != before.event {
		return failedIn{}, false
	}
	return before, failed
}

// decided takes note that somebody has resubmitted or discarded an event that had its key parked, and is yet to come: it
// runs when it comes, or is left out, and its key is not parked for it.
func (t *task) decided(r *rerun) {
	k := pastFault{topic: r.Fault.Topic, offset: r.Fault.Offset}
	src := t.source(k.topic)
	if t.past == nil || src == nil || src.known && src.next > k.offset {
		return
	}
	if before, ok := t.past.all[k]; ok && r.Discard {
		before.parked = false
		t.past.all[k] = before
		return
	}
	delete(t.past.all, k)
}

// failedAlready fails what is to run without another dead letter, if it failed before.
func (t *task) failedAlready(s *Scope) (bool, error) {
	before, failed := t.failedBefore(s, "")
	// One that had its key parked runs where keys are not: it has had no effect, and whoever resubmits it asks for the key.
	if !failed || before.parked && !s.parks && !s.waits {
		return false, nil
	}
	t.failAgain(s, before.step)
	if s.failed = true; before.parked && s.parks && !s.waits {
		return true, s.parkAfter(&Fault{Step: before.step, Event: FaultEvent{ID: s.id()}, Error: "it failed in the process before"})
	}
	return true, nil
}

// runsAllTheSame tells whether what the fault is about is run by who takes over: it was late, or waited and waits again
// when the event that it waited for fails again.
func (f *Fault) runsAllTheSame() bool { return f.Class == ClassLate || f.Class == ClassParked }

// isTold tells whether the dead letter of what is run all the same is there.
func (t *task) isTold(f *Fault) bool {
	if t.past == nil || !f.runsAllTheSame() {
		return false
	}
	_, told := t.past.told[f.letter()]
	return told
}

// failAgain does what the failure did, but for the dead letter, which is there.
func (t *task) failAgain(s *Scope, step string) {
	for _, n := range t.stage.nodes {
		if n.name == step {
			s.counted(n.index, countFault)
		}
	}
}

// forgetFaults lets go of past faults when all of them are passed.
func (t *task) forgetFaults() error {
	for topic, last := range t.past.last {
		if topic == timerTopic && t.watermark <= last {
			return nil
		}
		if src := t.source(topic); src != nil && src.next <= last {
			return nil
		}
	}
	if again := t.again(); again != nil && again.next < t.past.most {
		return nil
	}
	past := t.past
	t.past = nil
	return Fatal(t.keepFaultsRead(past)) // who reads them again would take them for faults of what has succeeded here
}

// again is the source of what is resubmitted; nil where partitions are not shared out.
func (t *task) again() *taskSource {
	for _, src := range t.sources {
		if src.resubmits {
			return src
		}
	}
	return nil
}
