package kafka

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// round shares out and lets members own what they were given.
func (r *groupModel) round(t *rapid.T) {
	for i := range r.members {
		r.members[i].given, r.members[i].total = map[string][]int32{}, 0
	}
	share(r.members, r.together, r.topics)
	r.check(t)
	for i := range r.members {
		m := &r.members[i]
		m.owned = map[place]bool{}
		m.generation++
		for topic, partitions := range m.given {
			for _, p := range partitions {
				m.owned[place{topic, p}] = true
			}
		}
	}
}

type groupModel struct {
	members  []member
	together [][]string
	topics   map[string]int32
	names    []string
	last     int
}

func (r *groupModel) join() {
	r.last++
	r.members = append(r.members, member{topics: r.names, owned: map[place]bool{}, given: map[string][]int32{}, generation: -1})
}

// check checks that each partition has one owner, the same one for all topics of a group, and that a group is spread
// evenly.
func (r *groupModel) check(t *rapid.T) {
	for _, group := range r.together {
		n := r.topics[group[0]]
		owner := map[int32]int{}
		counts := make([]int, len(r.members))
		for i := range r.members {
			for _, p := range r.members[i].given[group[0]] {
				if _, ok := owner[p]; ok {
					t.Fatalf("partition %d of %v has two owners", p, group)
				}
				owner[p] = i
				counts[i]++
			}
			for _, topic := range group[1:] {
				if !slices.Equal(r.members[i].given[topic], r.members[i].given[group[0]]) {
					t.Fatalf("member %d has %v of one topic and %v of another", i, r.members[i].given[group[0]], r.members[i].given[topic])
				}
			}
		}
		if len(owner) != int(n) {
			t.Fatalf("%d of %d partitions of %v have an owner", len(owner), n, group)
		}
		if slices.Max(counts)-slices.Min(counts) > 1 {
			t.Fatalf("%v is spread as %v", group, counts)
		}
	}
}

func (r *groupModel) state() []map[place]bool {
	var all []map[place]bool
	for i := range r.members {
		all = append(all, maps.Clone(r.members[i].owned))
	}
	return all
}

func TestSharingOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := groupModel{topics: map[string]int32{}}
		for g := range rapid.IntRange(1, 4).Draw(t, "groups") {
			n := rapid.Int32Range(1, 12).Draw(t, "partitions")
			var group []string
			for i := range rapid.IntRange(1, 3).Draw(t, "topics") {
				name := fmt.Sprintf("t%d-%d", g, i)
				group = append(group, name)
				r.topics[name] = n
				r.names = append(r.names, name)
			}
			r.together = append(r.together, group)
		}
		r.join()
		r.round(t)
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			before := r.state()
			if len(r.members) > 1 && rapid.Bool().Draw(t, "leave") {
				i := rapid.IntRange(0, len(r.members)-1).Draw(t, "who")
				r.members = slices.Delete(r.members, i, i+1)
				r.round(t)
				continue
			}
			r.join()
			r.round(t)
			if len(r.together) == 1 {
				for i, had := range before { // only the new one is given anything
					for at := range r.members[i].owned {
						if !had[at] {
							t.Fatalf("member %d is given %v when another joins", i, at)
						}
					}
				}
			}
			stable := r.state()
			r.round(t)
			for i := range stable {
				if !maps.Equal(stable[i], r.members[i].owned) {
					t.Fatalf("nothing changes, and member %d has %v in place of %v", i, r.members[i].owned, stable[i])
				}
			}
		}
	})
}

// Groups of one partition do not all go to one member.
func TestSharingOutSmallGroups(t *testing.T) {
	r := groupModel{topics: map[string]int32{}}
	for i := range 6 {
		name := fmt.Sprint("t", i)
		r.topics[name] = 1
		r.names, r.together = append(r.names, name), append(r.together, []string{name})
	}
	for n := 1; n <= 3; n++ {
		r.join()
		for i := range r.members {
			r.members[i].given, r.members[i].total = map[string][]int32{}, 0
		}
		share(r.members, r.together, r.topics)
		for i := range r.members {
			if r.members[i].total != 6/n {
				t.Errorf("member %d of %d has %d of 6", i, n, r.members[i].total)
			}
			for topic := range r.members[i].given {
				r.members[i].owned[place{topic, 0}] = true
			}
			r.members[i].generation++
		}
	}
}

// Who claims a partition of an older generation has lost it; who does not read all topics of a group is given none.
func TestSharingOutClaims(t *testing.T) {
	members := []member{
		{topics: []string{"a", "b"}, owned: map[place]bool{{"a", 0}: true}, generation: 1, given: map[string][]int32{}},
		{topics: []string{"a", "b"}, owned: map[place]bool{{"a", 0}: true}, generation: 2, given: map[string][]int32{}},
		{topics: []string{"a"}, owned: map[place]bool{}, given: map[string][]int32{}},
	}
	share(members, [][]string{{"a", "b"}}, map[string]int32{"a": 2, "b": 2})
	if !slices.Equal(members[1].given["a"], []int32{0}) || !slices.Equal(members[0].given["b"], []int32{1}) || len(members[2].given) != 0 {
		t.Errorf("%v, %v, %v", members[0].given, members[1].given, members[2].given)
	}
}
