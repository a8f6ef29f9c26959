package ident

import (
	"regexp"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var uuid8 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// Ids are part of what leaves the process: a release that derived others would send duplicates as new events.
func TestIdsAreAsTheyWere(t *testing.T) {
	path := Path(0).Step(Fingerprint("pipeline", "step"))
	for name, is := range map[string][2]string{
		"one":  {One(path, "a"), "511d3592-99c9-8d66-bb70-522a324d5810"},
		"many": {Many(path, 1, "b", "a"), "d25a6cad-f5a6-8963-8c11-2b51d9603766"},
	} {
		if is[0] != is[1] {
			t.Errorf("%s: %s, was %s", name, is[0], is[1])
		}
	}
}

func TestManyIsOfTheSet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.StringN(0, 6, -1), 1, 8).Draw(t, "ids")
		path, index := Path(rapid.Uint64().Draw(t, "path")), rapid.IntRange(0, 9).Draw(t, "index")
		id := Many(path, index, ids...)
		if !uuid8.MatchString(id) {
			t.Fatal(id)
		}
		given := slices.Clone(ids)
		mixed := rapid.Permutation(append(slices.Clone(ids), ids[0])).Draw(t, "mixed")
		if Many(path, index, mixed...) != id {
			t.Fatal("the order, or giving one twice, matters")
		}
		if !slices.Equal(ids, given) {
			t.Fatal("the caller's ids were sorted")
		}
		if Many(path, index+1, ids...) == id || Many(path+1, index, ids...) == id {
			t.Fatal("index or path do not matter")
		}
		if other := append(slices.Clone(ids), "another one"); Many(path, index, other...) == id {
			t.Fatal("a further cause does not matter")
		}
	})
}

// Where one id ends and the next begins is part of the cause.
func TestManyTellsTheBordersOfIds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringN(2, 10, -1).Draw(t, "s")
		a, b := rapid.IntRange(0, len(s)).Draw(t, "a"), rapid.IntRange(0, len(s)).Draw(t, "b")
		one, other := []string{s[:a], s[a:]}, []string{s[:b], s[b:]}
		slices.Sort(one)
		slices.Sort(other)
		if same := slices.Equal(slices.Compact(one), slices.Compact(other)); same != (Many(1, 0, one...) == Many(1, 0, other...)) {
			t.Fatalf("%q and %q: the same %v", one, other, same)
		}
	})
}

func TestPathTellsTheOrderOfSteps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint64().Draw(t, "a"), rapid.Uint64().Draw(t, "b")
		p := Path(0).Step(a)
		if p == 0 || p.Step(b) == 0 {
			t.Fatal("zero means none")
		}
		if a != b && p.Step(b) == Path(0).Step(b).Step(a) {
			t.Fatal("the order does not matter")
		}
		if id := One(p, "x"); !uuid8.MatchString(id) || id == One(p.Step(b), "x") || id == One(p, "y") {
			t.Fatal(id)
		}
	})
}

func TestFingerprintTellsTheBordersOfParts(t *testing.T) {
	seen := map[uint64]bool{}
	for _, parts := range [][]string{{"ab"}, {"a", "b"}, {"", "ab"}, {"ab", ""}, {"b", "a"}} {
		seen[Fingerprint(parts...)] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d fingerprints of 5", len(seen))
	}
}

// Steps and paths that have something in common do not cancel out.
func TestPathOfRelatedSteps(t *testing.T) {
	for _, path := range []Path{0, 1, Path(0).Step(1)} {
		for _, step := range []uint64{0, 1, uint64(path)} {
			if next := path.Step(step); next == path || next == 1 || next == path.Step(step+1) {
				t.Errorf("path %x, step %x: %x", path, step, next)
			}
		}
	}
}
