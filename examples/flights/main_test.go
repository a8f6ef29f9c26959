package flights

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/internal/testenv/services"
)

var update = flag.Bool("update", false, "write the files in testdata anew")

func TestMain(m *testing.M) {
	// glog's flusher is started by a dependency of Badger when it is loaded, and has no end.
	goleak.VerifyTestMain(services.Main(m), goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}

// january are the known answers, computed apart from this program.
var january = Summary{Flights: 27004, Departed: 26483, WeatherMatched: 26431, WeatherUnmatched: 52, PlaneKnown: 22259, KnockOn: 488}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// outcome is what a run of the program left.
type outcome struct {
	code           int
	stdout, stderr string
}

func launch(args ...string) outcome {
	var out, errOut bytes.Buffer
	code := Main(context.Background(), args, &out, &errOut)
	return outcome{code, out.String(), errOut.String()}
}

// mustRun runs the program to its end and returns the summary besides.
func mustRun(t testing.TB, args ...string) (outcome, Summary) {
	t.Helper()
	o := launch(append(args, "--summary", "json")...)
	if o.code != 0 {
		t.Fatalf("%q: exit code %d\n%s", args, o.code, o.stderr)
	}
	return o, summaryOf(t, o.stdout)
}

func summaryOf(t testing.TB, stdout string) (s Summary) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
	decoder := json.NewDecoder(strings.NewReader(lines[len(lines)-1]))
	decoder.DisallowUnknownFields()
	check(t, decoder.Decode(&s))
	return s
}

// linesOf returns the lines of a file, sorted.
func linesOf(t testing.TB, path string) []string {
	t.Helper()
	content, err := os.ReadFile(path)
	check(t, err)
	if len(content) > 0 && content[len(content)-1] != '\n' {
		t.Fatalf("%s ends with a torn line", path)
	}
	lines := slices.Collect(strings.Lines(string(content)))
	slices.Sort(lines)
	return lines
}

// sameResult compares the set of lines with that of another run, and wants none twice.
func sameResult(t testing.TB, path string, want []string) {
	t.Helper()
	got := linesOf(t, path)
	for i := 1; i < len(got); i++ {
		if got[i] == got[i-1] {
			t.Errorf("twice in %s: %s", path, got[i])
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %d lines, and not the %d of an undisturbed run", path, len(got), len(want))
	}
}

// undisturbed is a run of January, made once for all tests: what it printed, and the lines of its result, sorted.
var undisturbed = sync.OnceValues(func() (outcome, []string) {
	dir, err := os.MkdirTemp("", "flights")
	if err != nil {
		return outcome{code: 1, stderr: err.Error()}, nil
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, "out.jsonl")
	o := launch("--state", filepath.Join(dir, "state"), "--out", out)
	content, err := os.ReadFile(out)
	if err != nil {
		o.stderr += err.Error()
	}
	lines := slices.Sorted(strings.Lines(string(content)))
	return o, lines
})

func undisturbedLines(t testing.TB) []string {
	t.Helper()
	o, lines := undisturbed()
	if o.code != 0 || len(lines) != int(january.KnockOn) {
		t.Fatalf("undisturbed: %d lines, exit code %d\n%s", len(lines), o.code, o.stderr)
	}
	return lines
}

// rowsOf returns the header and the rows of a file that is part of the program.
func rowsOf(t testing.TB, name string) (header string, rows []string) {
	t.Helper()
	in, err := options{inputs: map[string]string{}}.open(name)
	check(t, err)
	defer in.Close()
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		rows = append(rows, lines.Text())
	}
	check(t, lines.Err())
	return rows[0], rows[1:]
}

// write makes a CSV file and returns its path.
func write(t testing.TB, dir, name, header string, rows []string) string {
	t.Helper()
	path := filepath.Join(dir, name+".csv")
	check(t, os.WriteFile(path, []byte(header+"\n"+strings.Join(rows, "\n")+"\n"), 0o644))
	return path
}

// shuffled writes a file of January with its rows in another order.
func shuffled(t testing.TB, dir, name string, seed uint64) string {
	t.Helper()
	header, rows := rowsOf(t, name)
	random := rand.New(rand.NewPCG(seed, 0))
	random.Shuffle(len(rows), func(i, k int) { rows[i], rows[k] = rows[k], rows[i] })
	return write(t, dir, name, header, rows)
}
