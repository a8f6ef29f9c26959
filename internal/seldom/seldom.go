// Package seldom keeps a log readable where the same thing happens many times a second: of a kind of line, one comes
// through now and then.
package seldom

import (
	"sync"
	"time"
)

// Every is how long the next line of a kind waits for its turn.
const Every = 10 * time.Second

// Kinds tells kinds of lines apart. Its zero value has heard of none. It remembers each kind that it was asked about, so
// there must be few. Safe for concurrent use.
type Kinds[K comparable] struct {
	mu   sync.Mutex
	last map[K]turn
}

// turn is when a line of a kind came through last, and how many have not since.
type turn struct {
	at      time.Time
	leftOut int
}

// Turn tells whether a line of a kind comes through, and how many have not since the last that did.
func (k *Kinds[K]) Turn(kind K) (leftOut int, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.last == nil {
		k.last = map[K]turn{}
	}
	last, now := k.last[kind], time.Now()
	if ok = last.at.IsZero() || now.Sub(last.at) >= Every; ok {
		k.last[kind] = turn{at: now}
	} else {
		k.last[kind] = turn{last.at, last.leftOut + 1}
	}
	return last.leftOut, ok
}
