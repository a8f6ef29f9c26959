package outbox

import (
	"sync"
	"time"
)

// HookSent is a hook that is called after each call of the publisher, from the goroutine of the topic.
type HookSent interface{ OnSent(SentInfo) }

// HookRetry is a hook that is called when a key or a topic will be tried again.
type HookRetry interface{ OnRetry(RetryInfo) }

// HookParked is a hook that is called when a key is parked.
type HookParked interface{ OnParked(Parked) }

// SentInfo describes a call of the publisher.
type SentInfo struct {
	Topic string
	Rows  int
	Took  time.Duration
	Err   error // nil when all of them were taken
}

// RetryInfo describes what will be tried again.
type RetryInfo struct {
	Topic   string
	Key     string // empty: the topic as a whole
	Attempt int
	Wait    time.Duration
	Err     error
}

func (r *Relay) hookSent(info SentInfo) {
	for _, hook := range r.config.Hooks {
		if h, ok := hook.(HookSent); ok {
			h.OnSent(info)
		}
	}
}

func (r *Relay) hookRetry(info RetryInfo) {
	for _, hook := range r.config.Hooks {
		if h, ok := hook.(HookRetry); ok {
			h.OnRetry(info)
		}
	}
}

func (r *Relay) hookParked(info Parked) {
	for _, hook := range r.config.Hooks {
		if h, ok := hook.(HookParked); ok {
			h.OnParked(info)
		}
	}
}

// Stats is what a relay has done since it was made, and what it is at. How far behind it is tells Table.Backlog.
type Stats struct {
	// Sent is how many rows the publisher has taken, Deleted how many of them are gone from the table, Retries how often
	// something was put off to be tried again.
	Sent, Deleted, Retries int64
	// Moved is how many messages were moved here from topics of watermill-sql's.
	Moved int64
	// Rate is the rows sent a second, over about the last ten seconds.
	Rate float64
	// Rows and Bytes are in memory: read, and not yet deleted or sent.
	Rows, Bytes int
	// Waiting is how many keys wait to be tried again soon, Parked how many are parked, Closed how many topics take
	// nothing.
	Waiting, Parked, Closed int
	// Slots is how many are this relay's.
	Slots int
	// Tailing says that the log is being read, and the table not polled.
	Tailing bool
	// Err is the last error of the database or the publisher, and At when it was; nil when there was none.
	Err error
	At  time.Time
}

// counters are the running Stats.
type counters struct {
	lock sync.Mutex
	now  Stats
	then []mark // some of the last ten seconds
}

type mark struct {
	at   time.Time
	sent int64
}

func (c *counters) update(change func(*Stats)) {
	c.lock.Lock()
	defer c.lock.Unlock()
	change(&c.now)
	now := time.Now()
	if n := len(c.then); n == 0 || now.Sub(c.then[n-1].at) >= time.Second {
		c.then = append(c.then, mark{now, c.now.Sent})
		if len(c.then) > 11 {
			c.then = c.then[1:]
		}
	}
}

// Stats may be called at any time.
func (r *Relay) Stats() Stats {
	c := &r.counters
	c.lock.Lock()
	defer c.lock.Unlock()
	s := c.now
	for _, m := range c.then {
		if age := time.Since(m.at); age < 11*time.Second && age > 0 {
			s.Rate = float64(s.Sent-m.sent) / age.Seconds()
			break
		}
	}
	return s
}

// statsEvery keeps counting cheap.
const statsEvery = 50 * time.Millisecond

func (l *loop) publishStats(now time.Time) {
	if now.Sub(l.statsAt) < statsEvery && !l.stopping {
		return
	}
	l.statsAt = now
	l.counters.update(func(s *Stats) {
		s.Rows, s.Bytes, s.Slots, s.Tailing = len(l.rows), l.bytes, len(l.mine), l.tail.reader != nil
		s.Waiting, s.Parked, s.Closed = 0, 0, 0
		for _, b := range l.blocks {
			if b.parked {
				s.Parked++
			} else {
				s.Waiting++
			}
		}
		for _, q := range l.queues {
			if q.attempt > 0 {
				s.Closed++
			}
		}
	})
}
