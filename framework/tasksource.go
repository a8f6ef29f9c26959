package framework

import (
	"slices"
	"time"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// taskSource is a task's partition of one source.
type taskSource struct {
	node      *node
	topic     string
	id        string                // of the topic, which the position is of
	spread    bool                  // of several partitions: keys must be those that the topic is partitioned by
	position  bool                  // the topic has positions
	relayed   bool                  // between stages, and not in the store
	resubmits bool                  // it carries what has been resubmitted
	processed *microstore.Processed // where it has none, or is relayed: the ids that were processed

	sourceProgress
	start    int64 // where this run begins to read
	started  bool  // start is known
	caughtUp bool
	idle     bool
	late     bool // others have waited for it in vain
	lastSeen time.Time

	backlog *backlog    // of an internal topic in the store; else nil
	keeper  TopicKeeper // of an internal topic that may forget what is processed, where its transport is one; else nil
	// What an internal topic may have forgotten, and what it has not of what is processed; the committing goroutine's or,
	// where partitions are shared out, guarded by what keeps the group's positions in order.
	released, unreleased int64

	seq     uint64           // of the batch that comes next
	pending map[uint64]*work // batches that have overtaken it

	// While the task catches up with its group, see catchup.go.
	until   int64   // what the source must not pass yet
	held    bool    // it must not begin yet
	waiting []*work // what has been read from there on
}

// sourceProgress is how far a source has been processed.
type sourceProgress struct {
	next    int64 // position to read next
	known   bool  // next is known
	bounded watermark.Bounded
	merged  *watermark.Merged // instead of bounded for internal topics
	heard   []bool            // the producers that have said in this run that they are at the end
	over    bool              // this run has come to the end
}

func (src sourceProgress) clone() sourceProgress {
	if src.merged != nil {
		src.merged, src.heard = src.merged.Clone(), slices.Clone(src.heard)
	}
	return src
}

// observe takes note of a record that is processed.
func (src *sourceProgress) observe(r *Record, t time.Time) {
	switch {
	case r.Watermark && src.merged != nil:
		producer, at := producerOf(r), r.Time.UnixNano()
		if r.Time.IsZero() {
			src.merged.Idle(producer)
			return
		}
		src.merged.Observe(producer, at)
		if at == watermark.Max && producer >= 0 && producer < len(src.heard) {
			src.heard[producer] = true
			src.over = !slices.Contains(src.heard, false)
		}
	case src.merged == nil && !t.IsZero():
		src.bounded.Observe(t.UnixNano())
	}
}

func (src *sourceProgress) now() int64 {
	if src.merged != nil {
		return src.merged.Now()
	}
	return src.bounded.Now()
}
