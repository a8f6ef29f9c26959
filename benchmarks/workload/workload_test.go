package workload

import "testing"

// BenchmarkPrograms runs each program once for each iteration, with few events: for figures, use the program in
// benchmarks.
func BenchmarkPrograms(b *testing.B) {
	for _, p := range Programs() {
		b.Run(p.Workload+"/"+p.Name, func(b *testing.B) {
			events := 0
			var used Result
			for range b.N {
				r, err := p.Run(p.Events/20, b.TempDir())
				if err != nil {
					b.Fatal(err)
				}
				events += r.Events
				used.CPU += r.CPU
			}
			b.ReportMetric(float64(used.CPU)/float64(events), "cpu-ns/event")
		})
	}
}
