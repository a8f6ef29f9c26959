package framework

import "sync"

// Counts are what has happened at a node since its pipeline first ran with this store. They are part of every
// commit, so they count each event exactly once, whatever crashed in between.
type Counts struct {
	// In and Out are events that came in and went out; for a source, In is the records read, without those that
	// were known to be processed before.
	In, Out int64
	// Faults went to the dead-letter topic, without outputs that were refused after their commit (Fault.Refused), of which hooks
	// and the log hear; Late came after their window, Duplicates were seen before; for a source whose
	// topic has no positions, that is what was delivered again.
	Faults, Late, Duplicates int64
	// Overflowed left a join before their time was up, because of Window.MaxCount or MaxBytes.
	Overflowed int64
}

// Counts returns the counts of a node, as of the last commits. Zero before Run; after it, what they were.
//
// None of them falls while the Runner lives. Where partitions are shared out among processes, the counts are those of the
// partitions that this process has or has had. One that goes to another process stays counted here as it was then. Its
// counts go with its state: one that comes from a changelog brings what others counted, and where the state is made anew
// from the topics, what is read again is counted here, too. So the sum over processes counts some events more than once.
func (r *Runner) Counts(pipeline, node string) Counts {
	var sum [countKinds]int64
	r.setsLock.RLock()
	defer r.setsLock.RUnlock()
	for _, set := range r.sets {
		if set.stage.pipeline.name != pipeline {
			continue
		}
		for _, n := range set.stage.nodes {
			if n.name == node {
				set.count(n.path, &sum)
			}
		}
	}
	return Counts{
		In: sum[countIn], Out: sum[countOut], Faults: sum[countFault],
		Late: sum[countLate], Duplicates: sum[countDuplicate], Overflowed: sum[countOverflow],
	}
}

// count adds what the tasks have counted at a node.
func (s *taskSet) count(path uint64, sum *[countKinds]int64) {
	s.lock.RLock()
	defer s.lock.RUnlock()
	for _, last := range s.tallies {
		if last == nil {
			continue
		}
		for kind, n := range last.of(path) {
			sum[kind] += n
		}
	}
}

// tally is what a task has counted, and how far it has come, for those who ask from outside. It outlives the task.
type tally struct {
	lock   sync.Mutex                    // guards totals against being read from outside
	totals map[uint64]*[countKinds]int64 // by node's path
	least  map[uint64][countKinds]int64  // what the tasks that had the partition before have told; nil for none
	next   map[string]int64              // the position that comes next, by source topic
}

func newTally(nodes []*node) *tally {
	y := &tally{totals: map[uint64]*[countKinds]int64{}, next: map[string]int64{}}
	for _, n := range nodes {
		y.totals[n.path] = new([countKinds]int64)
	}
	return y
}

// of is what is to be told of a node: never less than before. A task that begins with less has lost what was not
// committed, or is still to be given its state.
func (y *tally) of(path uint64) [countKinds]int64 {
	y.lock.Lock()
	defer y.lock.Unlock()
	told := y.least[path]
	for kind, n := range y.totals[path] {
		told[kind] = max(told[kind], n)
	}
	return told
}

// follow takes over what was told of the partition before.
func (y *tally) follow(before *tally) {
	if before == nil {
		return
	}
	y.least = map[uint64][countKinds]int64{}
	for path := range before.totals {
		y.least[path] = before.of(path)
	}
}
