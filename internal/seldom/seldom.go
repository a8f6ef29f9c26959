// Package seldom keeps a log readable where the same thing happens many times a second: of a kind of line, one comes
// through now and then.
package seldom

import (
	"log/slog"
	"slices"
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

// Warn warns of what is of a kind when that has its turn, with how many it has left out, and tells those who debug of the rest.
func (k *Kinds[K]) Warn(to *slog.Logger, kind K, msg string, args ...any) {
	leftOut, ok := k.Turn(kind)
	switch {
	case !ok:
		to.Debug(msg, args...)
	case leftOut > 0:
		to.Warn(msg, append(slices.Clip(args), "left_out", leftOut)...)
	default:
		to.Warn(msg, args...)
	}
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
