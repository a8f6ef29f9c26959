package framework

import (
	"log/slog"
	"sync"
	"time"
)

// moves gathers what the log is told of the tasks of a shared stage. Partitions come and go many at a time, and a line
// for each would be all that is seen of a start; hooks hear of each.
type moves struct {
	set    *taskSet
	logger *slog.Logger

	lock  sync.Mutex
	told  map[TaskState]int // since the last line
	ended bool
	timer *time.Timer // of the next one; nil while there is nothing to tell
}

// movesEvery is how long a line waits for what else there is to tell.
const movesEvery = time.Second

func newMoves(set *taskSet, logger *slog.Logger) *moves {
	return &moves{set: set, logger: logger, told: map[TaskState]int{}}
}

func (m *moves) add(state TaskState) {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.told[state]++
	if m.timer == nil && !m.ended {
		m.timer = time.AfterFunc(movesEvery, m.tell)
	}
}

// end writes the line that is due, and no other: what comes later comes from a transport that is given up.
func (m *moves) end() {
	m.lock.Lock()
	m.ended = true
	m.lock.Unlock()
	m.tell()
}

// tell writes the line that is due, if one is.
func (m *moves) tell() {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.timer == nil {
		return
	}
	m.timer.Stop()
	line := []any{"stage", m.set.stage.name, "tasks", m.set.live(), "of", m.set.partitions()}
	for _, state := range []TaskState{TaskAssigned, TaskRestored, TaskCaughtUp, TaskRevoked, TaskLost} {
		if n := m.told[state]; n > 0 {
			line = append(line, string(state), n)
		}
	}
	m.logger.Info("tasks of shared partitions", line...)
	clear(m.told)
	m.timer = nil
}
