package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// keys is how many keys there are; event i has the key i % keys.
const keys = 1000

func eventID(i int) string  { return "event-" + strconv.Itoa(i) }
func eventKey(i int) string { return "key-" + strconv.Itoa(i%keys) }

// payload is what each event carries: JSON, for those that want it.
var payload = []byte(`{"text":"` + strings.Repeat("0123456789", 19) + `"}`)

// ledger is what has arrived of n events.
type ledger struct {
	lock       sync.Mutex
	at         []time.Time // first arrivals; zero: none yet
	last       map[int]int // by key
	count      int
	duplicates int
	faults     []string
	done       chan struct{} // closed when all have arrived
}

func newLedger(n int) *ledger {
	return &ledger{at: make([]time.Time, n), last: map[int]int{}, done: make(chan struct{})}
}

// arrived is called for each delivery, in its order.
func (l *ledger) arrived(id string) {
	now := time.Now()
	l.lock.Lock()
	defer l.lock.Unlock()
	text, ok := strings.CutPrefix(id, "event-")
	i, err := strconv.Atoi(text)
	switch {
	case !ok || err != nil || i < 0 || i >= len(l.at):
		l.fault("%q was never written", id)
		return
	case !l.at[i].IsZero():
		l.duplicates++
		return
	}
	if last, ok := l.last[i%keys]; ok && last > i {
		l.fault("%s came after event %d of its key", id, last)
	}
	l.last[i%keys], l.at[i] = i, now
	if l.count++; l.count == len(l.at) {
		close(l.done)
	}
}

func (l *ledger) fault(format string, args ...any) {
	if len(l.faults) < 5 {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// verify tells how many events have not arrived and how many have come again. It is an error when there were others, or a
// key's not in order.
func (l *ledger) verify() (missing, duplicates int, err error) {
	l.lock.Lock()
	defer l.lock.Unlock()
	if len(l.faults) > 0 {
		err = fmt.Errorf("what arrived is not what was written: %s", strings.Join(l.faults, "; "))
	}
	return len(l.at) - l.count, l.duplicates, err
}

// latencies are the times from commits to arrivals, in order of size, of the events from the given one on. An event that
// arrived before its commit had returned counts as 0.
func (l *ledger) latencies(committed []time.Time, from int) []time.Duration {
	l.lock.Lock()
	defer l.lock.Unlock()
	var all []time.Duration
	for i := from; i < len(l.at); i++ {
		if !l.at[i].IsZero() {
			all = append(all, max(0, l.at[i].Sub(committed[i])))
		}
	}
	slices.Sort(all)
	return all
}
