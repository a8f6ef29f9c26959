package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"testing"
)

func TestHitRunsOnlyWhatIsArmed(t *testing.T) {
	broken := errors.New("broken")
	if err := Hit("a"); err != nil {
		t.Fatalf("unarmed: %v", err)
	}
	disarm := Arm("a", func() error { return broken })
	if err := Hit("a"); !errors.Is(err, broken) {
		t.Fatalf("armed: %v", err)
	}
	if err := Hit("b"); err != nil {
		t.Fatalf("another name: %v", err)
	}
	disarm()
	if err := Hit("a"); err != nil || armed.Load() != nil {
		t.Fatalf("disarmed: %v, %v", err, armed.Load())
	}
}

func TestDisarmLeavesALaterArming(t *testing.T) {
	first := Arm("a", func() error { return errors.New("first") })
	second := Arm("a", func() error { return errors.New("second") })
	defer second()
	first()
	if err := Hit("a"); err == nil || err.Error() != "second" {
		t.Fatalf("got %v", err)
	}
}

func TestCrashKillsAtTheNthHit(t *testing.T) {
	if os.Getenv("FAILPOINT_TEST_CHILD") != "" {
		Crash("c", 3)
		for range 2 {
			_ = Hit("c")
		}
		_, _ = os.Stdout.WriteString("two")
		_ = Hit("c")
		_, _ = os.Stdout.WriteString("three")
		os.Exit(0)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestCrashKillsAtTheNthHit$")
	child.Env = append(os.Environ(), "FAILPOINT_TEST_CHILD=1")
	out, err := child.Output()
	if err == nil || string(out) != "two" {
		t.Fatalf("child printed %q and ended with %v", out, err)
	}
}

func TestUnarmedHitDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _ = Hit("a") }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkHitUnarmed(b *testing.B) {
	for b.Loop() {
		_ = Hit("a")
	}
}
