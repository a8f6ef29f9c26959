package framework

import (
	"fmt"
	"slices"
	"testing"

	"github.com/millrace/millrace/microstore"
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
		task := &task{stage: &stage{pipeline: NewPipeline("p")}, own: &ownership{committed: committed}}
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

// Up to where dead letters were read before counts for a slice that is as far as it was then, and for the same topic.
func TestFaultsRead(t *testing.T) {
	store, err := microstore.Open(microstore.Config{Dir: t.TempDir(), GCInterval: -1, MemoryBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	info := TopicInfo{Partitions: 2, ID: "faults#1"}
	at := func(left, right, watermark int64) *task {
		one := &task{name: "t", watermark: watermark, env: &env{config: Config{Store: store}, ctx: t.Context()}}
		for topic, next := range map[string]int64{"left": left, "right": right} {
			src := &taskSource{topic: topic}
			src.next, src.known = next, next >= 0
			one.sources = append(one.sources, src)
		}
		return one
	}
	none, ends := []int64{0, 0}, []int64{5, 7}
	differs := false
	check := func(one *task, info TopicInfo, want []int64) {
		t.Helper()
		from, differed, err := one.faultsRead(info)
		asFar := one.sources[0].next >= 10 && one.sources[1].next >= 10 && one.watermark >= 100
		if err != nil || !slices.Equal(from, want) || differed != (differs && asFar) {
			t.Errorf("%v, %v, %v; want %v", from, differed, err, want)
		}
	}
	keep := func(one *task) {
		t.Helper()
		if err := one.keepFaultsRead(&pastFaults{topic: info, ends: ends, differs: differs}); err != nil {
			t.Fatal(err)
		}
	}
	check(at(10, 10, 100), info, none)
	keep(at(10, 10, 100))
	check(at(10, 10, 100), info, ends)
	differs = true
	keep(at(10, 10, 100))
	check(at(10, 10, 100), info, ends)
	check(at(20, 10, 200), info, ends)
	check(at(9, 10, 100), info, none)
	check(at(20, 9, 100), info, none)
	check(at(-1, 10, 100), info, none)
	check(at(10, 10, 99), info, none)
	check(at(10, 10, 100), TopicInfo{Partitions: 2, ID: "faults#2"}, none)
	check(at(10, 10, 100), TopicInfo{Partitions: 3, ID: "faults#1"}, []int64{5, 7, 0})
}
