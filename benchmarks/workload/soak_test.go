package workload

import (
	"io"
	"math"
	"testing"
)

// Memory that grows is told from memory that swings.
func TestFlat(t *testing.T) {
	const n = 1_000_000
	for name, c := range map[string]struct {
		memory func(part float64) float64 // of the events
		grows  bool
	}{
		"constant":               {func(float64) float64 { return 1 << 30 }, false},
		"swings":                 {func(part float64) float64 { return (1 + 0.2*math.Sin(300*part)) * (1 << 30) }, false},
		"grows at the beginning": {func(part float64) float64 { return min(part, 0.4) * (1 << 30) }, false},
		"shrinks":                {func(part float64) float64 { return (2 - part) * (1 << 30) }, false},
		"grows":                  {func(part float64) float64 { return (1 + 0.3*part) * (1 << 30) }, true},
		"grows and swings":       {func(part float64) float64 { return (1 + 0.3*part + 0.2*math.Sin(300*part)) * (1 << 30) }, true},
	} {
		var points []point
		for i := range 1000 {
			part := float64(i) / 1000
			points = append(points, point{part * n, c.memory(part)})
		}
		if err := flat(points, n, io.Discard); (err != nil) != c.grows {
			t.Errorf("%s: %v", name, err)
		}
	}
}
