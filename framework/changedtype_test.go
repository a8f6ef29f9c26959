package framework_test

import (
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// last keeps the last event of a key as a T, in a table and in a history.
func last[T any](p *framework.Pipeline) {
	in := framework.From[T](p, "in")
	processors.Fold(in, "folded", *new(T), func(_ T, e *framework.Event[T]) (T, error) { return e.Data, nil })
	kept := processors.Collect(in, "kept", processors.CollectConfig{MaxCount: 1})
	processors.Evaluate(kept, "read", func(framework.View[T], *framework.Event[T]) ([]processors.Emission[T], error) { return nil, nil })
}

// three types of one name
func aNumber(p *framework.Pipeline) {
	type data struct {
		N int `json:"n"`
	}
	last[data](p)
}

func aNumberAndMore(p *framework.Pipeline) {
	type data struct {
		N    int    `json:"n"`
		More string `json:"more"`
	}
	last[data](p)
}

func aText(p *framework.Pipeline) {
	type data struct {
		N string `json:"n"`
	}
	last[data](p)
}

// What is kept is read by the fields that its type has now. Where it does not fit them the run ends, says what to do, and has
// changed nothing: with the old fields the pipeline goes on.
func TestFieldsOfKeptTypesChange(t *testing.T) {
	dir := t.TempDir()
	records := thingRecords(3, 1, time.Second)
	records = append(records, framework.Record{ID: "text", Key: "k0", Time: noon.Add(time.Minute), Value: []byte(`{"n":"4"}`)})
	for _, step := range []struct {
		name    string
		build   func(*framework.Pipeline)
		records []framework.Record
		wrong   bool
	}{
		{"a number", aNumber, records[:1], false},
		{"a field more", aNumberAndMore, records[:2], false},
		{"a text", aText, records[:2], false},
		{"a text, read", aText, append(records[:2:2], records[3]), true},
		{"a number again", aNumber, records[:3], false},
	} {
		t.Run(step.name, func(t *testing.T) { // its end closes the store, so that nothing stays in memory
			b := newBench(t, 0)
			b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {step.records}})
			b.feed.Bounded = true
			b.config.Store = openStore(t, dir)
			b.config.Transport = topicsIn(t, b.config.Store)
			b.config.Routes["in"] = b.feed
			p := framework.NewPipeline("p")
			step.build(p)
			err := soon(t, run(t.Context(), t, b.runner(t, p)))
			switch {
			case !step.wrong && err != nil:
				t.Error(err)
			case step.wrong:
				for _, want := range []string{`step "folded"`, `table "value", key "k0"`, "what was kept is no framework_test.data: ", "change it back, or give the step a new name"} {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v does not say %q", err, want)
					}
				}
			}
		})
	}
}
