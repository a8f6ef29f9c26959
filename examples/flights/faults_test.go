package flights

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Rows that cannot be processed are one fault each, and change nothing else.
func TestBadRows(t *testing.T) {
	t.Parallel()
	bad := []struct {
		file, row  string
		step, says string
	}{
		{"flights", "2013,1,1,517", "flights", "columns"},
		{"flights", `2013,1,5,"6"17,600,5,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-05T11:00:00Z`, "flights", "quote"},
		{"flights", "2013,1,5,617,600,5,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15," + strings.Repeat("x", 2<<20), "flights", "4096 bytes are kept"},
		{"flights", "2013,1,5,617,600,5,830,819,11,UA,1545,N14228,,IAH,227,1400,5,15,2013-01-05T11:00:00Z", "flights", "no key"},
		{"flights", "2013,1,5,617,600,5,830,819,11,UA,1545,,EWR,IAH,227,1400,5,15,2013-01-05T11:00:00Z", "departure", "tailnum is empty"},
		{"flights", "2013,1,5,617,600,5,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,tomorrow", "flights", `column "time_hour"`},
		{"flights", "2013,1,5,617,2575,5,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-05T11:00:00Z", "flights", `column "sched_dep_time"`},
		{"flights", "2013,2,30,617,600,5,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-05T11:00:00Z", "flights", "no time"},
		{"flights", "2013,1,5,617,600,NA,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-05T11:00:00Z", "departure", "dep_delay is NA"},
		{"weather", "EWR,2013,1,5,6,mild,26.06,59.37,270,10.35,NA,0,1012,10,2013-01-05T11:00:00Z", "weather", `column "temp"`},
	}
	want := undisturbedLines(t)
	dir := t.TempDir()
	files := map[string][]string{}
	headers := map[string]string{}
	for _, name := range []string{"flights", "weather"} {
		headers[name], files[name] = rowsOf(t, name)
	}
	var places []string
	added := map[string]int{}
	for i, b := range bad {
		at := 7 + i*200
		files[b.file] = slices.Insert(files[b.file], at, b.row)
		places = append(places, fmt.Sprintf("%s.csv:%d", b.file, at+2)) // lines count from 1, and the header is one
		added[b.file]++
	}
	out := filepath.Join(dir, "out.jsonl")
	o, s := mustRun(t, "--state", filepath.Join(dir, "state"), "--out", out,
		"--flights", write(t, dir, "flights", headers["flights"], files["flights"]),
		"--weather", write(t, dir, "weather", headers["weather"], files["weather"]))
	expected := january
	expected.Flights += int64(added["flights"])
	if s != expected {
		t.Errorf("summary: %+v", s)
	}
	sameResult(t, out, want)
	if title := fmt.Sprintf("%d rows could not be processed:", len(bad)); !strings.Contains(o.stdout, title) {
		t.Errorf("no %q", title)
	}
	for i, b := range bad {
		start := fmt.Sprintf("  %s  step %s: ", places[i], b.step)
		var found []string
		for line := range strings.Lines(o.stdout) {
			if strings.HasPrefix(line, start) && strings.Contains(line, b.says) {
				found = append(found, line)
			}
		}
		if len(found) != 1 {
			t.Errorf("%d lines %q… %q", len(found), start, b.says)
		}
	}
	if t.Failed() {
		t.Log(o.stdout)
	}
}

func TestManyBadRows(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	header, rows := rowsOf(t, "flights")
	for i := range 2000 {
		rows[i] = "not a row"
	}
	o, _ := mustRun(t, "--state", filepath.Join(dir, "state"), "--flights", write(t, dir, "flights", header, rows[:2100]))
	for _, want := range []string{"2,000 rows could not be processed", "… and 1,990 more"} {
		if !strings.Contains(o.stdout, want) {
			t.Errorf("no %q in\n%s", want, o.stdout)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 2 {
		t.Errorf("left %v, %v", files, err)
	}
}
