package framework

import (
	"fmt"
	"testing"
)

// Where a task without state begins: where the group is, or further on where it has come itself, each source by itself.
func TestFollowWithoutState(t *testing.T) {
	const unknown = -1
	for _, c := range []struct{ slice, group, want [2]int64 }{
		{[2]int64{unknown, unknown}, [2]int64{unknown, unknown}, [2]int64{unknown, unknown}},
		{[2]int64{unknown, unknown}, [2]int64{50, 0}, [2]int64{50, 0}},
		{[2]int64{10, 10}, [2]int64{50, 20}, [2]int64{50, 20}},
		{[2]int64{10, 30}, [2]int64{50, 20}, [2]int64{50, 30}}, // behind in one, ahead in the other
		{[2]int64{10, 30}, [2]int64{50, unknown}, [2]int64{50, 30}},
		{[2]int64{60, 30}, [2]int64{50, 20}, [2]int64{60, 30}},
	} {
		committed := map[string]int64{}
		task := &task{stage: &stage{}, own: &ownership{committed: committed}}
		for i := range 2 {
			src := &taskSource{topic: fmt.Sprint(i)}
			if src.known = c.slice[i] != unknown; src.known {
				src.next = c.slice[i]
			}
			if c.group[i] != unknown {
				committed[src.topic] = c.group[i]
			}
			task.sources = append(task.sources, src)
		}
		task.follow(committed)
		for i, src := range task.sources {
			if src.known != (c.want[i] != unknown) || src.known && src.next != c.want[i] {
				t.Errorf("slice %v, group %v: source %d begins at %d (%v), want %d", c.slice, c.group, i, src.next, src.known, c.want[i])
			}
		}
		if task.catching || !task.passedGroup() {
			t.Errorf("slice %v, group %v: it catches up", c.slice, c.group)
		}
	}
}
