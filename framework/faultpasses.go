package framework

import (
	"context"
	"slices"
	"sync"
)

// faultPasses reads the dead letters of a pipeline for all tasks that wait for them at the same time. The topic holds the
// faults of all partitions, and partitions come many together: a pass over it for each of them would be as many passes.
//
// A pass serves those that waited when it began, from the least of the places where they want to begin; who comes later
// waits for the next. So a task is told of all that was in the topic when it asked, and nothing is kept in memory but what
// tasks keep.
type faultPasses struct {
	reading chan struct{} // has one while somebody reads
	lock    sync.Mutex
	waiting []*faultReader
}

// faultReader is one that waits.
type faultReader struct {
	from   []int64 // by partition of the topic
	served chan struct{}
	next   []int64 // when it is served: where to go on, by partition
	lock   sync.Mutex
	visit  func(*Fault) // nil when it does not wait any more
}

// faultPass reads dead letters from offsets on, by partition, and returns where to go on.
type faultPass func(ctx context.Context, from []int64, visit func(partition int, offset int64, f *Fault)) (next []int64, err error)

func newFaultPasses() *faultPasses { return &faultPasses{reading: make(chan struct{}, 1)} }

// read calls visit with all faults from offsets on, by a pass of its own or of another that waits, and returns where to go
// on. After an error, or when ctx ends, visit may have been called with some; it is not called any more. Where the pass
// of another fails, one of those that it was for makes the next: they are told of some faults twice.
func (r *faultPasses) read(ctx context.Context, from []int64, pass faultPass, visit func(*Fault)) (next []int64, err error) {
	me := &faultReader{from: from, served: make(chan struct{}), visit: visit}
	defer me.leave()
	r.add(me)
	select {
	case r.reading <- struct{}{}:
	case <-me.served:
		return me.next, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-r.reading }()
	select {
	case <-me.served:
		return me.next, nil
	default:
	}
	all := r.take()
	next, err = pass(ctx, least(all), func(partition int, offset int64, f *Fault) {
		for _, one := range all {
			one.tell(partition, offset, f)
		}
	})
	for _, one := range all {
		switch {
		case err == nil:
			one.next = next
			close(one.served)
		case one != me:
			r.add(one)
		}
	}
	return next, err
}

// least is where a pass for several begins. A topic may have got more partitions meanwhile.
func least(all []*faultReader) (from []int64) {
	for _, one := range all {
		for partition, at := range one.from {
			if partition == len(from) {
				from = append(from, at)
			}
			from[partition] = min(from[partition], at)
		}
	}
	return from
}

func (r *faultPasses) add(one *faultReader) {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.waiting = append(r.waiting, one)
}

// take takes those that wait, but for those that have left.
func (r *faultPasses) take() (all []*faultReader) {
	r.lock.Lock()
	defer r.lock.Unlock()
	all, r.waiting = r.waiting, nil
	return slices.DeleteFunc(all, (*faultReader).left)
}

func (one *faultReader) tell(partition int, offset int64, f *Fault) {
	one.lock.Lock()
	defer one.lock.Unlock()
	if one.visit != nil && (partition >= len(one.from) || offset >= one.from[partition]) {
		one.visit(f)
	}
}

func (one *faultReader) left() bool {
	one.lock.Lock()
	defer one.lock.Unlock()
	return one.visit == nil
}

func (one *faultReader) leave() {
	one.lock.Lock()
	defer one.lock.Unlock()
	one.visit = nil
}
