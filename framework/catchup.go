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
// sends everything: what has been sent already has the same ids.

// follow decides where a task begins to read, and how far it has to catch up, given where the group is.
func (t *task) follow(committed map[string]int64) {
	behind, ahead := false, false
	for _, src := range t.sources {
		at, ok := committed[src.topic]
		switch {
		case ok && (!src.known || src.next < at):
			behind = true
		case src.known && src.next > at: // at 0 nothing has been processed
			ahead = true
		}
	}
	if !behind || ahead {
		return
	}
	for _, src := range t.sources {
		at, ok := committed[src.topic]
		if ok && !t.stage.stateful { // there is nothing to make anew
			src.next, src.known = at, true
			src.start, src.started = at, true
		}
		src.until, src.held = at, !ok
	}
	t.catching = !t.reached()
}

// reached tells whether every source is where the group was.
func (t *task) reached() bool {
	for _, src := range t.sources {
		if !src.held && (!src.known || src.next < src.until) && len(src.waiting) == 0 {
			return false
		}
	}
	return true
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
	before, after := w.split()
	if before != nil {
		if err := t.process(before); err != nil {
			return err
		}
	}
	if after != nil {
		after.source.waiting = append(after.source.waiting, after)
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

// split cuts a batch at the position that its source must not pass yet; nil for nothing.
func (w *work) split() (before, after *work) {
	src, b := w.source, w.batch
	if src.held {
		return nil, w
	}
	n := sort.Search(len(b.Records), func(i int) bool { return b.Records[i].Offset >= src.until })
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
