package framework

import "time"

// Sources of one task are read at speeds of their own, and what they have to tell apart in event time lies in memory and
// on disk until the slower one has come so far. So of the batches that are there, the one of the source that is the
// furthest behind is processed first; and while that source has more to read and no batch here, the others wait for it.
// It is a matter of speed alone: what comes out does not depend on it, and nobody waits longer than alignFor.

// alignFor is how long the other sources wait for one batch of a source that is behind them and has more to read.
const alignFor = 2 * time.Second

// ready is the source whose batch is to be processed next; nil when there is none, or when one is to be waited for.
func (t *task) ready() *taskSource {
	var next, slow *taskSource
	for _, src := range t.sources {
		switch {
		case src.pending[src.seq] != nil:
			if src.resubmits { // it has no event time
				t.aligned = nil
				return src
			}
			if next == nil || src.now() < next.now() {
				next = src
			}
		case src.awaited(t.catching):
			if slow == nil || src.now() < slow.now() {
				slow = src
			}
		}
	}
	if next == nil || slow == nil || slow.now() >= next.now() {
		t.aligned = nil
		return next
	}
	if t.aligned == nil {
		t.aligned = time.After(alignFor)
	}
	return nil
}

// awaited tells whether another batch of the source is certain to come soon.
func (src *taskSource) awaited(catching bool) bool {
	stopped := catching && (src.held || src.next >= src.until || len(src.waiting) > 0) // by us: it is not to go further now
	return !stopped && !src.caughtUp && !src.over && !src.idle && !src.late
}

// goOn ends the waiting for sources that did not come in time: nobody waits for them before they have come again.
func (t *task) goOn() error {
	t.aligned = nil
	for _, src := range t.sources {
		src.late = src.late || src.pending[src.seq] == nil
	}
	return t.takeReady()
}

// takeReady processes the batches that are in order, the source that is the furthest behind first.
func (t *task) takeReady() error {
	for {
		src := t.ready()
		if src == nil {
			return nil
		}
		w := src.pending[src.seq]
		delete(src.pending, src.seq)
		src.seq++
		src.late = false
		if err := t.admit(w); err != nil {
			return err
		}
	}
}
