package framework

import "sort"

// A task that is assigned a partition may have no state, or that of an earlier time when it had the partition. It gets
// there by reading: state is a fold of the input. What it reads up to the group's positions has been processed by
// others, and what that caused has been sent, so nothing is sent while it catches up.
//
// What was sent before is what the events *before all* of the positions caused together. A join of two topics that ran
// ahead in one of them would find pairs that nobody has sent yet, and leave them out; so no source passes its position
// before all have reached theirs, and wall time does not move the watermark meanwhile. Then exactly the same events
// have been processed as when the positions were marked, and the same timers have fired.
//
// A slice that is behind the group in one source and ahead in another has other pairs than the group had. Its task
// sends everything: what has been sent already has the same ids. Where there is no state, there are no pairs: each source
// goes on by itself.

// follow decides where a task begins to read, and how far it has to catch up, given where the group is.
func (t *task) follow(committed map[string]int64) {
	behind, ahead := false, false
	for _, src := range t.sources {
		at, ok := committed[src.topic]
		t.own.apart = t.own.apart || !ok || !src.known || src.next != at
		switch {
		case ok && (!src.known || src.next < at):
			behind = true
		case src.known && src.next > at: // at 0 nothing has been processed
			ahead = true
		}
	}
	if !t.stage.keepsState() {
		t.goTo(committed)
		return
	}
	if !behind || ahead {
		return
	}
	for _, src := range t.sources {
		at, ok := committed[src.topic]
		src.until, src.held = at, !ok
	}
	t.catching = !t.reached()
	t.target = t.behind()
}

// goTo lets a task without state begin where the group is, or where it has come itself, in each of its sources: there is
// nothing to make anew, and what is before may have been let go of.
func (t *task) goTo(committed map[string]int64) {
	for _, src := range t.sources {
		if at, ok := committed[src.topic]; ok && (!src.known || src.next < at) {
			src.next, src.known = at, true
		}
	}
}

// reached tells whether every source is where the group was.
func (t *task) reached() bool {
	for _, src := range t.sources {
		if !src.there() {
			return false
		}
	}
	return true
}

// there tells whether a source is where the group was: it has processed all before, or what it has read next is not
// before.
func (src *taskSource) there() bool {
	if src.held || src.known && src.next >= src.until {
		return true
	}
	if len(src.waiting) == 0 {
		return false
	}
	b := src.waiting[0].batch
	return len(b.Records) > 0 && b.Records[0].Offset >= src.until
}

// passedGroup tells whether the task is past the group's positions in all of its sources. Before, it must not mark any:
// one that is still behind in a source would have the group believe that pairs with what lies between are sent.
func (t *task) passedGroup() bool {
	if t.catching {
		return false
	}
	for _, src := range t.sources {
		if at, ok := t.own.committed[src.topic]; ok && (!src.known || src.next < at) {
			return false
		}
	}
	return true
}

// unmarked lists the positions that the group does not have yet. They go together: what the task has come past in one
// source is marked with what it has come to in the others.
func (t *task) unmarked() (all []position) {
	for _, src := range t.sources {
		marked, ok := t.own.committed[src.topic]
		if src.known && (!ok || src.next > marked) {
			all = append(all, position{src.topic, src.next})
			t.own.committed[src.topic] = src.next
		}
	}
	return all
}

// behind is how many positions the task has to go until it has caught up.
func (t *task) behind() (n int64) {
	for _, src := range t.sources {
		if t.catching && !src.held && src.next < src.until {
			n += src.until - src.next
		}
	}
	return n
}

// admit processes a batch, as far as the task may while it catches up; the rest waits until all sources are there.
func (t *task) admit(w *work) error {
	if !t.catching {
		return t.process(w)
	}
	w.source.waiting = append(w.source.waiting, w)
	for went := true; went; {
		went = false
		for _, src := range t.sources {
			did, err := t.processWaiting(src)
			if err != nil {
				return err
			}
			went = went || did
		}
	}
	if !t.reached() {
		t.tell(TaskCatchingUp)
		return nil
	}
	t.catching = false
	t.tell(TaskCaughtUp)
	for _, src := range t.sources {
		waiting := src.waiting
		src.waiting = nil
		for _, w := range waiting {
			if err := t.process(w); err != nil {
				return err
			}
		}
	}
	return nil
}

// processWaiting processes the next of what waits of a source, as far as it may. What has been resubmitted is run again
// as soon as the event has been passed that it is about, as near as can be to where it was run before: so the other
// sources wait until the next of it is at hand.
func (t *task) processWaiting(src *taskSource) (did bool, err error) {
	if src.held || len(src.waiting) == 0 || !src.resubmits && !t.ordersAtHand() {
		return false, nil
	}
	before, after := src.waiting[0].split(t)
	if before == nil {
		return false, nil
	}
	if src.waiting = src.waiting[1:]; after != nil {
		src.waiting = append([]*work{after}, src.waiting...)
	}
	return true, t.process(before)
}

// ordersAtHand tells whether the next resubmission has been read, if there is one to catch up with.
func (t *task) ordersAtHand() bool {
	again := t.again()
	return again == nil || again.there() || len(again.waiting) > 0
}

// ripe tells whether a resubmission may run while the task catches up: what it is about has been passed.
func (t *task) ripe(record *Record) bool {
	var r rerun
	if record.Err != nil || t.readResubmission(&r, record.Value) != nil {
		return true // it is none
	}
	here := true
	for _, src := range t.sources {
		if src.topic == r.Fault.Topic {
			return src.next > r.Fault.Offset || src.there()
		}
		here = here && (src.resubmits || src.there())
	}
	return here || r.event.timer == nil || t.watermark >= r.event.timer.At
}

// split cuts a batch at the position that its source must not pass yet; nil for nothing.
func (w *work) split(t *task) (before, after *work) {
	src, b := w.source, w.batch
	n := sort.Search(len(b.Records), func(i int) bool { return b.Records[i].Offset >= src.until })
	for i := 0; i < n && src.resubmits; i++ {
		if !t.ripe(&b.Records[i]) {
			n = i
		}
	}
	switch n {
	case len(b.Records):
		return w, nil
	case 0:
		return nil, w
	}
	head, tail := *b, *b
	head.Records, head.Next, head.CaughtUp, head.End = b.Records[:n:n], b.cut(n), false, false
	tail.Records = b.Records[n:]
	return &work{batch: &head, source: src, done: make(chan error, 1)}, &work{batch: &tail, source: src, done: w.done}
}
