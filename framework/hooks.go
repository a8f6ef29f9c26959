package framework

import "time"

// Hook is any value that has some of the Hook… interfaces' methods; one that has none is refused. Hooks are called from
// the engine's goroutines, several at a time, and must return quickly.
type Hook any

// HookCommit is called after each commit of a task.
type HookCommit interface{ OnCommit(CommitInfo) }

// HookFault is called for each event that goes to the dead-letter topic, after the commit that decided it.
type HookFault interface{ OnFault(Fault) }

// HookRetry is called before an event is tried again.
type HookRetry interface{ OnRetry(RetryInfo) }

// HookRelease is called when a sink has taken a group of records, or has refused it.
type HookRelease interface{ OnRelease(ReleaseInfo) }

// HookTask is called when a task of a topic that is shared out among processes comes, catches up or goes.
type HookTask interface{ OnTask(TaskInfo) }

// TaskState says what has become of a task.
type TaskState string

const (
	// TaskAssigned: the partition has been given to this process.
	TaskAssigned TaskState = "assigned"
	// TaskRestoring: it has read a part of its changelog; told again and again. TaskRestored: it has the state that is
	// in it.
	TaskRestoring TaskState = "restoring"
	TaskRestored  TaskState = "restored"
	// TaskCatchingUp: it has read a part of what others have processed; told after every batch.
	TaskCatchingUp TaskState = "catching up"
	// TaskCaughtUp: from here on what it decides is sent.
	TaskCaughtUp TaskState = "caught up"
	// TaskRevoked: the partition has been given back, TaskLost: taken.
	TaskRevoked TaskState = "revoked"
	TaskLost    TaskState = "lost"
)

// TaskInfo describes a task that comes, catches up or goes.
type TaskInfo struct {
	// Task is "pipeline/topics/partition".
	Task  string
	State TaskState
	// Behind is how many positions it has to read until it has caught up, or is restored; Target is how many they were
	// when it began. 0 otherwise.
	Behind, Target int64
}

// CommitInfo describes a commit.
type CommitInfo struct {
	// Task is "pipeline/topics/partition".
	Task string
	// Topic is where the batch came from; empty for timers and for what is run again.
	Topic string
	// Events is how many of the source's events are in the commit, Outputs how many records it decided.
	Events, Outputs int
	// Watermark is the event time that the task has reached; zero when unknown.
	Watermark time.Time
	// Waiting is the time for which the topic to a next stage was full, before Processing; see Config.BacklogBytes.
	// Processing and Committing are the time that the two took.
	Waiting, Processing, Committing time.Duration
}

// RetryInfo describes a failed attempt.
type RetryInfo struct {
	Task, Step, EventID string
	Attempt             int
	Wait                time.Duration
	Err                 error
}

// ReleaseInfo describes the sending of outputs after their commit.
type ReleaseInfo struct {
	Topic   string
	Records int
	Took    time.Duration
	// Err is nil when the sink took them; else they are sent again.
	Err error
}

// hooks are the hooks sorted by what they want to hear.
type hooks struct {
	commit  []HookCommit
	fault   []HookFault
	retry   []HookRetry
	release []HookRelease
	task    []HookTask
}

// hears tells whether a hook hears of anything.
func hears(hook Hook) bool {
	switch hook.(type) {
	case HookCommit, HookFault, HookRetry, HookRelease, HookTask:
		return true
	}
	return false
}

func sortHooks(all []Hook) (h hooks) {
	for _, hook := range all {
		if c, ok := hook.(HookCommit); ok {
			h.commit = append(h.commit, c)
		}
		if f, ok := hook.(HookFault); ok {
			h.fault = append(h.fault, f)
		}
		if r, ok := hook.(HookRetry); ok {
			h.retry = append(h.retry, r)
		}
		if r, ok := hook.(HookRelease); ok {
			h.release = append(h.release, r)
		}
		if t, ok := hook.(HookTask); ok {
			h.task = append(h.task, t)
		}
	}
	return h
}
