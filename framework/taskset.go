package framework

import (
	"log/slog"
	"sync"
)

// taskSet is the tasks of a stage, by partition. Where the engine reads all partitions, they are there from the start;
// where a transport shares the partitions out, they come and go with them.
type taskSet struct {
	stage *stage
	moves *moves // of a shared stage

	lock    sync.RWMutex
	tasks   []*task              // nil: of another process
	tallies []*tally             // of the tasks, and of those that had a partition last
	ends    map[string]EndTeller // by topic, those of the subscribers that are
}

func newTaskSet(st *stage, partitions int, logger *slog.Logger) *taskSet {
	s := &taskSet{stage: st, tasks: make([]*task, partitions), tallies: make([]*tally, partitions), ends: map[string]EndTeller{}}
	s.moves = newMoves(s, logger)
	return s
}

// get returns the task of a partition, nil when it is of another process or there is no such partition.
func (s *taskSet) get(partition int) *task {
	s.lock.RLock()
	defer s.lock.RUnlock()
	if partition < 0 || partition >= len(s.tasks) {
		return nil
	}
	return s.tasks[partition]
}

// put sets the task of a partition and returns the one before it.
func (s *taskSet) put(partition int, t *task) (was *task) {
	s.lock.Lock()
	defer s.lock.Unlock()
	was, s.tasks[partition] = s.tasks[partition], t
	if t != nil {
		t.tally.follow(s.tallies[partition])
		s.tallies[partition] = t.tally
	}
	return was
}

// live is how many of them are there now.
func (s *taskSet) live() (n int) {
	s.lock.RLock()
	defer s.lock.RUnlock()
	for _, t := range s.tasks {
		if t != nil {
			n++
		}
	}
	return n
}

func (s *taskSet) partitions() int { return len(s.tasks) }

// live returns the tasks of all stages that are there now.
func (r *Runner) live() (all []*task) {
	r.setsLock.RLock()
	defer r.setsLock.RUnlock()
	for _, set := range r.sets {
		set.lock.RLock()
		for _, t := range set.tasks {
			if t != nil {
				all = append(all, t)
			}
		}
		set.lock.RUnlock()
	}
	return all
}

// source is the task's partition of a topic, nil for a topic that the task does not read.
func (t *task) source(topic string) *taskSource {
	for _, src := range t.sources {
		if src.topic == topic {
			return src
		}
	}
	return nil
}
