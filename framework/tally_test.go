package framework

import "testing"

// A task that begins with less than what was counted of its partition counts on from there once it is past that.
func TestTallyOutlivesItsTask(t *testing.T) {
	n := &node{path: 7}
	set := newTaskSet(&stage{nodes: []*node{n}}, 1, nil)
	check := func(want int64) {
		t.Helper()
		var sum [countKinds]int64
		set.count(n.path, &sum)
		if sum[countIn] != want || sum[countOut] != 0 {
			t.Errorf("%v were counted, want %d", sum, want)
		}
	}
	begin := func(with int64) *task {
		one := &task{tally: newTally(set.stage.nodes)}
		one.tally.totals[n.path][countIn] = with
		set.put(0, one)
		return one
	}
	check(0)
	first := begin(5)
	check(5)
	first.tally.totals[n.path][countIn] = 6
	check(6)
	set.put(0, nil)
	check(6)
	first.tally.totals[n.path][countIn] = 7 // it was at its last round
	check(7)
	begin(3)
	check(7)
	set.put(0, nil)
	third := begin(2)
	check(7)
	third.tally.totals[n.path][countIn] = 9
	check(9)
}
