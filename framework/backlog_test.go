package framework

import (
	"testing"

	"pgregory.net/rapid"
)

// A backlog counts what a list of all records says, whole extents exactly and parts of one in proportion, and tells
// who waits as soon as there is room.
func TestBacklogCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 10 // of every record, so that proportions are exact
		limit := rapid.Int64Range(1, 3000).Draw(t, "limit")
		b := newBacklog(limit, 2)
		var end, position [2]int64
		for i := range position {
			position[i] = rapid.Int64Range(0, 5).Draw(t, "start")
			end[i] = position[i]
			b.start(i, position[i])
		}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			room, p := b.wait(), rapid.IntRange(0, 1).Draw(t, "partition")
			if n := rapid.Int64Range(0, 60).Draw(t, "n"); rapid.Bool().Draw(t, "add") {
				b.add(p, n, n*size)
				end[p] += n
			} else {
				to := min(position[p]+n, end[p])
				if freed := b.processed(p, to); freed != (to-position[p])*size {
					t.Fatalf("%d bytes of %d records", freed, to-position[p])
				}
				position[p] = to
			}
			full := false
			for i := range b.parts {
				left := (end[i] - position[i]) * size
				full = full || left >= limit
				if b.parts[i].bytes != left {
					t.Fatalf("%d bytes, want %d", b.parts[i].bytes, left)
				}
				if n := len(b.parts[i].extents); int64(n) > 2+left/max(1, limit/extentsAtLimit) {
					t.Fatalf("%d extents for %d bytes of %d", n, left, limit)
				}
			}
			if told := b.wait() == nil; told == full {
				t.Fatalf("full: %v, want %v", !told, full)
			}
			select {
			case <-room:
				if full {
					t.Fatal("there is no room")
				}
			default:
				if room != nil && !full {
					t.Fatal("there is room")
				}
			}
		}
	})
}
