package processors_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// BenchmarkSteps is a step between a source and a sink, in batches of 1000 over 1000 keys, with decoding, commit and
// sink. The first is what all of them have in common.
func BenchmarkSteps(b *testing.B) {
	window := processors.Window{Within: 10 * time.Minute}
	retain := processors.CollectConfig{Retain: 10 * time.Minute}
	steps := []struct {
		name string
		add  func(*framework.Stream[item]) *framework.Stream[string]
	}{
		{"MapData", func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.MapData(in, "step", func(i item) string { return i.Name })
		}},
		{"Collect", func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.MapData(processors.Collect(in, "step", retain).Stream, "name", func(i item) string { return i.Name })
		}},
		{"Evaluate", func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.Evaluate(processors.Collect(in, "kept", retain), "step",
				func(h framework.View[item], e *framework.Event[item]) ([]processors.Emission[string], error) {
					return processors.EmitFor(e.Data.Name, h.At(0), e), nil
				})
		}},
		{"SelfJoin", func(in *framework.Stream[item]) *framework.Stream[string] {
			return processors.SelfJoin(in, "step", nil, window, textOf)
		}},
		{"OuterJoin", func(in *framework.Stream[item]) *framework.Stream[string] {
			odd := func(e *framework.Event[item]) bool { return e.Data.Value%2 == 1 }
			ways := processors.Branch(in, "ways", processors.When("left", odd), processors.Otherwise)
			return processors.OuterJoin(ways[0], ways[1], "step", processors.SameKey, window, text)
		}},
	}
	for _, step := range steps {
		b.Run(step.name, func(b *testing.B) {
			p := framework.NewPipeline("p")
			framework.To(step.add(framework.From[item](p, "in")), "out")
			d := frameworktest.New(b, frameworktest.Config{BatchEvents: 1000}, p)
			records := make([]framework.Record, b.N)
			for i := range records {
				records[i] = framework.Record{
					ID: fmt.Sprint("e", i), Key: fmt.Sprint("k", i%1000), Time: at(float64(i) / 200), // one a key in 5 minutes
					Value: fmt.Appendf(nil, `{"name":"e%d","value":%d}`, i, i/1000)}
			}
			b.ReportAllocs()
			b.ResetTimer()
			d.Send("in", records...)
		})
	}
}
