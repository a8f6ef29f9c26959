package framework

import (
	"sync"
	"sync/atomic"
)

// settled keeps the group's positions of a shared task, in the order of its commits: each when the sinks have taken
// all that its commit and those before it decided. The engine acknowledges a batch when it is committed; a position
// that another process may go on from must wait for the sinks as well, since the outbox stays behind.
type settled struct {
	keep  func(position)
	moved func() // called when a commit is settled; may be nil

	lock  sync.Mutex
	queue []*sending // the oldest first
}

// position is how far a task has come in its partition of a topic.
type position struct {
	topic string
	next  int64
}

// sending is a commit whose rows are on their way.
type sending struct {
	of      *settled
	left    int // relays that have not sent its row
	reached []position
	done    atomic.Bool // its rows and those of all commits before it are sent
}

// add queues a commit with rows for so many relays.
func (s *settled) add(rows int, reached ...position) *sending {
	s.lock.Lock()
	defer s.lock.Unlock()
	c := &sending{of: s, left: rows, reached: reached}
	s.queue = append(s.queue, c)
	return c
}

// more says that a commit which is not settled waits for so many more rows.
func (c *sending) more(rows int) { c.sent(-rows) }

// sent says that so many more relays have sent their row; with 0, that there was none to send.
func (c *sending) sent(rows int) {
	if c == nil {
		return
	}
	s := c.of
	s.lock.Lock()
	defer s.lock.Unlock()
	c.left -= rows
	for len(s.queue) > 0 && s.queue[0].left <= 0 {
		for _, p := range s.queue[0].reached {
			s.keep(p)
		}
		s.queue[0].done.Store(true)
		s.queue = s.queue[1:]
		if s.moved != nil {
			s.moved()
		}
	}
}
