// Package failpoint names the places where a test may make the program fail or die.
//
// A place calls Hit with its name. As long as nothing is armed in the process, Hit is one atomic load
// and a comparison with nil; it neither allocates nor locks. A test arms a point from Go code:
//
//	disarm := failpoint.Arm("store.commit.before", func() error { return errBroken })
//	defer disarm()
//
// Names are dotted, room first: "store.commit.before". Nothing outside the process (environment, flags,
// files) arms a point; a test that wants its child process to die calls Crash in the child.
package failpoint

import (
	"maps"
	"sync"
	"sync/atomic"
)

type point struct{ hit func() error }

var (
	// armed is nil while no point is armed, which is what makes Hit free in production.
	armed atomic.Pointer[map[string]*point]
	// change serialises the copy-on-write of armed.
	change sync.Mutex
)

// Hit runs what is armed under name and returns its error; nil when nothing is. Safe for concurrent use.
func Hit(name string) error {
	points := armed.Load()
	if points == nil {
		return nil
	}
	if p := (*points)[name]; p != nil {
		return p.hit()
	}
	return nil
}

// Arm makes every Hit of name call hit, in the goroutine that hits it, until disarm is called. Arming a
// name again replaces what was there; the disarm function of the replaced one then does nothing.
func Arm(name string, hit func() error) (disarm func()) {
	p := &point{hit: hit}
	update(func(points map[string]*point) { points[name] = p })
	return func() {
		update(func(points map[string]*point) {
			if points[name] == p {
				delete(points, name)
			}
		})
	}
}

// Crash kills the process with SIGKILL at the nth Hit of name, counted from 1: no deferred call runs and
// nothing is flushed, as when the kernel kills it.
func Crash(name string, nth int64) (disarm func()) {
	var hits atomic.Int64
	return Arm(name, func() error {
		if hits.Add(1) == nth {
			kill()
		}
		return nil
	})
}

func update(edit func(map[string]*point)) {
	change.Lock()
	defer change.Unlock()
	points := map[string]*point{}
	if old := armed.Load(); old != nil {
		maps.Copy(points, *old)
	}
	edit(points)
	if len(points) == 0 {
		armed.Store(nil)
		return
	}
	armed.Store(&points)
}
