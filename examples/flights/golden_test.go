package flights

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The forms that others may read by program, and the table, as files. -update writes them anew.
func TestOutputForms(t *testing.T) {
	t.Parallel()
	lines := undisturbedLines(t)
	o, _ := undisturbed()
	golden(t, "stdout.txt", o.stdout)

	var chosen []string // of planes that are known, and that are not
	for _, line := range lines {
		known := strings.HasPrefix(line, `{"id":"2013-01-25T16:10/9E3689/JFK-PHL+`)
		if known || len(chosen) < 2 && strings.Contains(line, `"model":null`) {
			chosen = append(chosen, line)
		}
	}
	golden(t, "lines.jsonl", strings.Join(chosen, ""))

	summary, err := json.Marshal(january)
	check(t, err)
	const want = `{"flights":27004,"departed":26483,"weather_matched":26431,"weather_unmatched":52,"plane_known":22259,"knock_on":488}`
	if string(summary) != want {
		t.Errorf("--summary json is %s", summary)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		check(t, os.MkdirAll("testdata", 0o755))
		check(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	check(t, err)
	if got != string(want) {
		t.Errorf("%s has changed (-update writes it anew); now it is\n%s", path, got)
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 27004: "27,004", 1234567: "1,234,567", 123456: "123,456"} {
		if got := thousands(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}
