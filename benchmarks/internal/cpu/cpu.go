// Package cpu measures what a benchmark costs in processor time, which other programs on the machine disturb less
// than they do its duration.
package cpu

import (
	"syscall"
	"testing"
	"time"
)

// Start begins to measure; the function it returns reports cpu-ns/op.
func Start(b *testing.B) (stop func()) {
	before := used()
	return func() {
		b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op")
	}
}

func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
