package flights

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRunAgainShowsTheSame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, out := filepath.Join(dir, "state"), filepath.Join(dir, "out.jsonl")
	first, _ := mustRun(t, "--state", state)
	if !strings.Contains(first.stderr, "finished in") {
		t.Errorf("the first run says\n%s", first.stderr)
	}
	again := func(args ...string) {
		t.Helper()
		o, _ := mustRun(t, append(args, "--state", state)...)
		if o.stdout != first.stdout {
			t.Errorf("%q prints\n%s\nthe first run\n%s", args, o.stdout, first.stdout)
		}
		if !strings.Contains(o.stderr, "has finished already") {
			t.Errorf("%q says\n%s", args, o.stderr)
		}
	}
	again()
	again("--out", out) // asked for only now
	want := linesOf(t, out)
	if len(want) != int(january.KnockOn) {
		t.Fatalf("%d lines", len(want))
	}
	check(t, os.Remove(out))
	again("--out", out, "--batch", "5", "--lanes", "7")
	sameResult(t, out, want)
	check(t, os.WriteFile(out, []byte(strings.Repeat("something else\n", len(want))), 0o644))
	again("--out", out)
	sameResult(t, out, want)

	o, s := mustRun(t, "--state", state, "--fresh", "--out", out)
	if s != january || strings.Contains(o.stderr, "already") {
		t.Errorf("a fresh start says %+v\n%s", s, o.stderr)
	}
	sameResult(t, out, want)
}

func TestStateVariable(t *testing.T) {
	for value, want := range map[string]string{"": filepath.Join("state", "flights"), "/somewhere": "/somewhere/flights"} {
		t.Setenv(StateVariable, value)
		if o, err := parse(nil); err != nil || o.state != want {
			t.Errorf("with %q it is %q, %v", value, o.state, err)
		}
	}
	t.Setenv(StateVariable, "/somewhere")
	if o, err := parse([]string{"--state", "here"}); err != nil || o.state != "here" {
		t.Errorf("--state gives %q, %v", o.state, err)
	}
}
