package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/millrace/millrace/internal/testenv"
)

// TestMain lets this test binary stand in for `go test`: with PLAY_SUITES set it reports as two suites would and exits
// with the code that PLAY_SUITES gives.
func TestMain(m *testing.M) {
	if play := os.Getenv("PLAY_SUITES"); play != "" {
		var code int
		if _, err := fmt.Sscan(play, &code); err != nil {
			panic(err)
		}
		testenv.Report("outbox", testenv.Postgres, "container postgres:15")
		testenv.Report("outbox", testenv.Postgres, "container postgres:15")
		testenv.Report("kafka", testenv.Kafka, "kfake, in the process")
		testenv.NotRun(skipper{}, "outbox", testenv.MariaDB, "no Docker\ndaemon")
		fmt.Println("ok  	outbox")
		os.Exit(code)
	}
	os.Exit(m.Run())
}

type skipper struct{}

func (skipper) Helper()               {}
func (skipper) Skipf(string, ...any)  {}
func (skipper) Fatalf(string, ...any) {}

const want = `ok  	outbox

Services used
  kafka   kafka     kfake, in the process
  outbox  postgres  container postgres:15

Not run
  outbox  mariadb  no Docker daemon
`

func TestRunPrintsTheSummaryAndPassesTheCodeOn(t *testing.T) {
	for _, code := range []int{0, 1, 3} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Setenv("PLAY_SUITES", fmt.Sprint(code))
			t.Setenv("MILLRACE_REQUIRE", "")
			var stdout, stderr bytes.Buffer
			got, err := run([]string{os.Args[0]}, &stdout, &stderr)
			if got != code || err != nil {
				t.Errorf("exit code %d, %v; stderr %s", got, err, &stderr)
			}
			if stdout.String() != want {
				t.Errorf("printed\n%s\nwant\n%s", &stdout, want)
			}
		})
	}
}

func TestRunWithoutACommand(t *testing.T) {
	for _, command := range [][]string{nil, {filepath.Join(t.TempDir(), "no such command")}} {
		if code, err := run(command, &bytes.Buffer{}, &bytes.Buffer{}); code != 2 || err == nil {
			t.Errorf("%v: exit code %d, %v", command, code, err)
		}
	}
}

func TestWriteOfNothing(t *testing.T) {
	lines, err := read(filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := write(&out, lines); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "Services used: none") || !strings.Contains(got, "Not run: nothing") {
		t.Error(got)
	}
}

func TestReadRefusesOtherLines(t *testing.T) {
	name := filepath.Join(t.TempDir(), "record")
	if err := os.WriteFile(name, []byte("something else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(name); err == nil {
		t.Error("no error")
	}
}
