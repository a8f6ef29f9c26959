package flights

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestKnownAnswersInAnyOrder(t *testing.T) {
	want := undisturbedLines(t)
	cases := []struct {
		seed                     uint64
		batch, lanes, partitions int
	}{
		{1, 1000, 1, 2}, {2, 10000, 4, 5}, {3, 7, 16, 3}, // these under the race detector too
		{4, 1000, 16, 2}, {5, 10000, 1, 2}, {6, 10000, 16, 1}, {7, 7, 1, 2}, {8, 1, 4, 2},
	}
	if raceDetector {
		cases = cases[:3]
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("seed %d batch %d lanes %d", c.seed, c.batch, c.lanes), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			out := filepath.Join(dir, "out.jsonl")
			_, s := mustRun(t, "--state", filepath.Join(dir, "state"), "--out", out,
				"--flights", shuffled(t, dir, "flights", c.seed), "--weather", shuffled(t, dir, "weather", c.seed+100),
				"--batch", strconv.Itoa(c.batch), "--lanes", strconv.Itoa(c.lanes), "--partitions", strconv.Itoa(c.partitions))
			if s != january {
				t.Errorf("summary: %+v", s)
			}
			sameResult(t, out, want)
		})
	}
}

// The files as they come need less than any order: then state is forgotten and windows close while it runs.
func TestKnownAnswersWithNarrowBounds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "weather")
	byTime(rows)
	o, s := mustRun(t, "--state", filepath.Join(dir, "state"), "--weather", write(t, dir, "weather", header, rows),
		"--lateness", "36h", "--weather-lateness", "1h")
	if s != january {
		t.Errorf("summary: %+v\n%s", s, o.stdout)
	}
}

func TestTheSameRowTwiceIsOneFlight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "flights")
	_, s := mustRun(t, "--state", filepath.Join(dir, "state"),
		"--flights", write(t, dir, "flights", header, append(rows, rows[5000:9000]...)))
	want := january
	want.Flights += 4000
	if s != want {
		t.Errorf("summary: %+v", s)
	}
}

func TestNothingToReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "flights")
	out := filepath.Join(dir, "out.jsonl")
	o, s := mustRun(t, "--state", filepath.Join(dir, "state"), "--out", out,
		"--flights", write(t, dir, "flights", header, rows[:3]))
	if s != (Summary{Flights: 3, Departed: 3, WeatherMatched: 3, PlaneKnown: 3}) {
		t.Errorf("summary: %+v", s)
	}
	if strings.Contains(o.stdout, "PLANE") || len(linesOf(t, out)) > 0 {
		t.Errorf("a table of nothing:\n%s", o.stdout)
	}
}

// byTime sorts rows of weather by their last column.
func byTime(rows []string) {
	slices.SortStableFunc(rows, func(a, b string) int {
		return strings.Compare(a[strings.LastIndex(a, ","):], b[strings.LastIndex(b, ","):])
	})
}
