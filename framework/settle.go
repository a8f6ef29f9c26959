package framework

import "sync"

// settled keeps the group's positions of a shared task, in the order of its commits: each when the sinks have taken
// all that its commit and those before it decided. The engine acknowledges a batch when it is committed; a position
// that another process may go on from must wait for the sinks as well, since the outbox stays behind.
type settled struct {
	keep func(topic string, position int64)

	lock  sync.Mutex
	queue []*sending // the oldest first
}

// sending is a commit whose rows are on their way.
type sending struct {
	of       *settled
	left     int    // relays that have not sent its row
	topic    string // empty: nothing to keep
	position int64
}

// add queues a commit with rows for so many relays.
func (s *settled) add(rows int, topic string, position int64) *sending {
	s.lock.Lock()
	defer s.lock.Unlock()
	c := &sending{of: s, left: rows, topic: topic, position: position}
	s.queue = append(s.queue, c)
	return c
}

// sent says that one more relay has sent its row; with 0, that there was none to send.
func (c *sending) sent(rows int) {
	if c == nil {
		return
	}
	s := c.of
	s.lock.Lock()
	defer s.lock.Unlock()
	c.left -= rows
	for len(s.queue) > 0 && s.queue[0].left <= 0 {
		if first := s.queue[0]; first.topic != "" {
			s.keep(first.topic, first.position)
		}
		s.queue = s.queue[1:]
	}
}
