package flights

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program builds the real program, once for all tests.
func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "examples")
	build := exec.Command("go", "build", "-o", path, "github.com/millrace/millrace/examples")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, output)
	}
	return path
}

// process is the real program, running.
type process struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	ended          chan error
}

func launchProcess(t *testing.T, path string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(path, append([]string{"flights", "--summary", "json"}, args...)...), ended: make(chan error, 1)}
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	check(t, p.Start())
	go func() { p.ended <- p.Wait() }()
	return p
}

// mustEnd waits for the process to come to its end and returns its summary.
func (p *process) mustEnd(t *testing.T) Summary {
	t.Helper()
	if err := <-p.ended; err != nil {
		t.Fatalf("%v\n%s", err, p.stderr.String())
	}
	return summaryOf(t, p.stdout.String())
}

// interrupt sends a Ctrl-C once the process has written something, and waits for its end.
func (p *process) interrupt(out string) error {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-p.ended:
			return err
		case <-look.C:
		}
		if info, err := os.Stat(out); err == nil && info.Size() > 0 {
			return errors.Join(p.Process.Signal(syscall.SIGINT), <-p.ended)
		}
	}
}

const (
	kills = 20
	// places is at how many lengths of the output it has to have been killed: kills that always hit before the first
	// commit would show nothing.
	places = 5
)

// The process is killed at twenty random moments, from its first instruction on, and started again each time. Small
// batches make it slow enough for all of that to happen within one or two runs.
func TestKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	path, want, dir := program(t), undisturbedLines(t), t.TempDir()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	state, out := filepath.Join(dir, "state"), filepath.Join(dir, "out.jsonl")
	args := []string{"--state", state, "--out", out, "--batch", "10",
		"--flights", shuffled(t, dir, "flights", seed), "--weather", shuffled(t, dir, "weather", seed)}

	began := time.Now()
	if s := launchProcess(t, path, args...).mustEnd(t); s != january {
		t.Fatalf("undisturbed: %+v", s)
	}
	took := time.Since(began)
	verify := func(s Summary) {
		t.Helper()
		if s != january {
			t.Errorf("summary: %+v", s)
		}
		sameResult(t, out, want)
	}
	verify(january)

	var lengths []int64
	seen := map[int64]bool{}
	anew := true
	for len(lengths) < kills || len(seen) < places {
		if len(lengths) == 5*kills {
			t.Fatalf("killed %d times, when the output was %v bytes long: no progress", len(lengths), lengths)
		}
		if anew {
			check(t, errors.Join(os.RemoveAll(state), os.RemoveAll(out)))
			anew = false
		}
		p := launchProcess(t, path, args...)
		moment := time.NewTimer(time.Duration(random.Int64N(int64(took / 4))))
		select {
		case err := <-p.ended:
			if err != nil {
				t.Fatalf("started after %d kills: %v\n%s", len(lengths), err, p.stderr.String())
			}
			verify(summaryOf(t, p.stdout.String()))
			anew = true
			continue
		case <-moment.C:
		}
		if err := p.Process.Kill(); !errors.Is(err, os.ErrProcessDone) { // it may have been faster
			check(t, err)
		}
		if err := <-p.ended; err == nil {
			verify(summaryOf(t, p.stdout.String()))
			anew = true
			continue
		} else if code := p.ProcessState.ExitCode(); code != -1 { // not by the signal
			t.Fatalf("after %d kills it ended with code %d: %v\n%s", len(lengths), code, err, p.stderr.String())
		}
		info, err := os.Stat(out)
		if err != nil { // it was not made yet
			lengths = append(lengths, 0)
			continue
		}
		lengths = append(lengths, info.Size())
		seen[info.Size()] = true
	}
	t.Logf("an undisturbed run takes %v; when killed, the output was %v bytes long", took.Round(time.Millisecond), lengths)
	verify(launchProcess(t, path, args...).mustEnd(t))
}

// Ctrl-C: it stops in good order, says so, and goes on later, whatever happened to its output meanwhile.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	path, want, dir := program(t), undisturbedLines(t), t.TempDir()
	for _, loss := range []string{"nothing", "output deleted", "other output", "output altered"} {
		t.Run(loss, func(t *testing.T) {
			state, out := filepath.Join(dir, loss), filepath.Join(dir, loss+".jsonl")
			p := launchProcess(t, path, "--state", state, "--out", out, "--batch", "1")
			err := p.interrupt(out)
			if code := p.ProcessState.ExitCode(); err == nil || code != exitInterrupted {
				t.Fatalf("exit code %d\n%s", code, p.stderr.String())
			}
			if !strings.Contains(p.stderr.String(), "interrupted; run it again") || p.stdout.Len() > 0 {
				t.Errorf("it says\n%s\n%s", p.stderr.String(), p.stdout.String())
			}
			switch loss {
			case "output deleted":
				check(t, os.Remove(out))
			case "other output":
				out += ".other"
			case "output altered":
				content, err := os.ReadFile(out)
				check(t, err)
				check(t, os.WriteFile(out, append([]byte("{}\n"), content...), 0o644))
			}
			p = launchProcess(t, path, "--state", state, "--out", out)
			if s := p.mustEnd(t); s != january || !strings.Contains(p.stderr.String(), "going on with the run") {
				t.Errorf("afterwards: %+v\n%s", s, p.stderr.String())
			}
			sameResult(t, out, want)
		})
	}
}
