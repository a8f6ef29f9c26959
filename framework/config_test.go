package framework

import (
	"runtime"
	"testing"

	"github.com/millrace/millrace/microstore"
)

// Where more goroutines may run than there are processors, more lanes would only share the same.
func TestLanesByDefault(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for procs, lanes := range map[int]int{1: 1, runtime.NumCPU(): runtime.NumCPU(), runtime.NumCPU() + 1: runtime.NumCPU()} {
		runtime.GOMAXPROCS(procs)
		if got := (Config{}).WithDefaults().Lanes; got != min(lanes, microstore.Shards) {
			t.Errorf("%d lanes with GOMAXPROCS=%d on %d processors", got, procs, runtime.NumCPU())
		}
	}
}
