package orders

import (
	"fmt"
	"sync"

	"github.com/millrace/millrace/framework"
)

// rebuilding is a hook that knows how far partitions are that this process has taken over, whose state it makes anew from
// topics.
type rebuilding struct {
	mu    sync.Mutex
	tasks map[string]framework.TaskInfo
}

func newRebuilding() *rebuilding { return &rebuilding{tasks: make(map[string]framework.TaskInfo)} }

// OnTask implements framework.HookTask.
func (r *rebuilding) OnTask(t framework.TaskInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t.State == framework.TaskRestoring || t.State == framework.TaskCatchingUp {
		r.tasks[t.Task] = t
	} else {
		delete(r.tasks, t.Task)
	}
}

// String says what is left to do, for the end of a line; nothing where nothing is.
func (r *rebuilding) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tasks) == 0 {
		return ""
	}
	var behind, target int64
	for _, t := range r.tasks {
		behind, target = behind+t.Behind, target+t.Target
	}
	return fmt.Sprintf("; making the state of %d partitions anew, %d of %d records left", len(r.tasks), behind, target)
}
