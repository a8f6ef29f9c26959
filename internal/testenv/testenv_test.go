package testenv_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/internal/testenv"
)

// outcome stands in for a test and keeps how NotRun ended it.
type outcome struct{ skipped, failed string }

func (o *outcome) Helper()                        {}
func (o *outcome) Skipf(format string, a ...any)  { o.skipped = fmt.Sprintf(format, a...) }
func (o *outcome) Fatalf(format string, a ...any) { o.failed = fmt.Sprintf(format, a...) }

func TestNotRunSkipsOrFails(t *testing.T) {
	cases := []struct {
		name, require, what string
		fails               bool
	}{
		{"service, nothing required", "", testenv.Kafka, false},
		{"service required", "containers", testenv.Kafka, true},
		{"no service, services required", "containers", "a full disk", false},
		{"something else required", "luck", testenv.Kafka, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("MILLRACE_REQUIRE", c.require)
			t.Setenv(testenv.SummaryVariable, "")
			var got outcome
			testenv.NotRun(&got, "suite", c.what, "not there")
			if c.fails != strings.Contains(got.failed, c.what) {
				t.Errorf("failed with %q", got.failed)
			}
			if !c.fails && !strings.Contains(got.skipped, "not there") {
				t.Errorf("skipped with %q", got.skipped)
			}
		})
	}
}

func TestGiven(t *testing.T) {
	t.Setenv("MILLRACE_POSTGRES", "postgres://localhost/test")
	t.Setenv("MILLRACE_KAFKA", "")
	if address, ok := testenv.Given(testenv.Postgres); !ok || address != "postgres://localhost/test" {
		t.Errorf("postgres: %q, %v", address, ok)
	}
	if address, ok := testenv.Given(testenv.Kafka); ok {
		t.Errorf("an empty variable gives an address: %q", address)
	}
}

func TestRecordKeepsEveryLineOfManyWriters(t *testing.T) {
	t.Setenv("MILLRACE_REQUIRE", "")
	name := filepath.Join(t.TempDir(), "record")
	t.Setenv(testenv.SummaryVariable, name)
	var writers sync.WaitGroup
	const each = 50
	for i := range 4 {
		writers.Go(func() {
			for range each {
				testenv.Report(fmt.Sprint("suite", i), testenv.Postgres, "container")
				testenv.NotRun(&outcome{}, fmt.Sprint("suite", i), "power loss", "needs\na machine")
			}
		})
	}
	writers.Wait()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var used, notRun int
	for row := range strings.Lines(string(text)) {
		line, ok := testenv.ParseLine(row)
		switch {
		case !ok:
			t.Fatalf("not a line of the record: %q", row)
		case line.NotRun != "":
			notRun++
		default:
			used++
		}
	}
	if used != 4*each || notRun != 4*each {
		t.Errorf("read %d used and %d not run, wrote %d of each", used, notRun, 4*each)
	}
}

func TestNoRecordWithoutTheVariable(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv(testenv.SummaryVariable, "")
	testenv.Report("suite", testenv.Redis, "container")
	if left, _ := filepath.Glob("*"); len(left) != 0 {
		t.Errorf("wrote %v", left)
	}
}

func TestLineReadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		want := testenv.Line{Suite: rapid.StringN(1, -1, -1).Draw(t, "suite")}
		if rapid.Bool().Draw(t, "ran") {
			want.Service, want.Used = text.Draw(t, "service"), text.Draw(t, "used")
		} else {
			want.NotRun, want.Why = rapid.StringN(1, -1, -1).Draw(t, "what"), text.Draw(t, "why")
		}
		got, ok := testenv.ParseLine(want.String())
		if !ok || got != want {
			t.Fatalf("%s reads as %+v, %v", want, got, ok)
		}
	})
}

func TestParseLineRefuses(t *testing.T) {
	for _, text := range []string{
		"", "ok  	github.com/millrace/millrace	0.1s", "MILLRACE-SERVICE", "MILLRACE-SERVICE suite",
		"MILLRACE-SERVICE suite=bare", `MILLRACE-SERVICE suite="open`, `MILLRACE-SERVICE used="no suite"`,
	} {
		if line, ok := testenv.ParseLine(text); ok {
			t.Errorf("%q reads as %+v", text, line)
		}
	}
}

func TestMemory(t *testing.T) {
	now, peak, ok := testenv.Memory(os.Getpid())
	if !ok {
		testenv.NotRun(t, "internal/testenv", "memory of a process", "no /proc")
	}
	if now < 1<<20 || peak < now {
		t.Errorf("now %d, peak %d", now, peak)
	}
	if _, _, ok := testenv.Memory(-1); ok {
		t.Error("a process that is not there has memory")
	}
}
