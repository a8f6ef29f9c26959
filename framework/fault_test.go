package framework_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/millrace/millrace/framework"
)

// A fault keeps all that is needed to send its event again, whatever its bytes.
func TestFaultEventRecord(t *testing.T) {
	for _, value := range []string{`{"n":1}`, "\xff\x00 no text", ""} {
		b := newBench(t, 0)
		in := framework.Record{
			ID: "1", Type: "t", Source: "s", Key: "k", Time: noon, Value: []byte(value),
			Metadata: map[string]string{"a": "b"}, Schema: map[string]string{"csv_header": "x"},
		}
		b.feed.Push("in", 0, in)
		b.feed.Bounded = true
		p := framework.NewPipeline("p")
		framework.To(framework.From(p, "in", framework.Source[thing]{Key: func(thing) string { panic("no") }}), "out")
		if err := soon(t, run(t.Context(), t, b.runner(t, p))); err != nil {
			t.Fatal(err)
		}
		letters := readTopic(t, topicsIn(t, b.store), p.DeadLetters())
		if len(letters) != 1 {
			t.Fatalf("%q: %d faults", value, len(letters))
		}
		var f framework.Fault
		if err := json.Unmarshal(letters[0].Value, &f); err != nil {
			t.Fatal(err)
		}
		again, err := f.Event.Record()
		if err != nil {
			t.Fatal(err)
		}
		if string(again.Value) != value || again.ID != "1" || again.Type != "t" || again.Source != "s" || again.Key != "k" ||
			!again.Time.Equal(noon) || again.Metadata["a"] != "b" || again.Schema["csv_header"] != "x" {
			t.Errorf("%q: came back as %+v", value, again)
		}
	}
}

// Faults that differ only in numbers, in what is quoted and in their stacks are one group; there is a bound on groups.
func TestFaultGroups(t *testing.T) {
	var g framework.FaultGroups
	add := func(id, step, text string) {
		g.Add(&framework.Fault{Step: step, Class: framework.ClassPermanent, Error: text, Event: framework.FaultEvent{ID: id}})
	}
	add("1", "rate", `no rate for "EUR" at 17:00`)
	add("2", "rate", `no rate for "USD" at 9:30`)
	add("3", "map", "panic: nil\ngoroutine 1")
	add("4", "map", "panic: nil\ngoroutine 2")
	add("5", "map", `no rate for "USD" at 9:30`)
	add("6", "map", "panic: nil")
	add("6", "map", "panic: nil") // sent twice, by a crash
	want := []framework.FaultGroup{
		{Step: "map", Class: "permanent", Error: "panic: nil", Count: 3, Example: "3"},
		{Step: "rate", Class: "permanent", Error: `no rate for "…" at …:…`, Count: 2, Example: "1"},
		{Step: "map", Class: "permanent", Error: `no rate for "…" at …:…`, Count: 1, Example: "5"},
	}
	if got := g.All(); !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	for i := range 3000 {
		add(fmt.Sprint("x", i), "map", strings.Repeat("x", i))
	}
	all := g.All()
	if len(all) != 1001 || all[0].Count != 3000-997 || all[0].Step != "" {
		t.Errorf("%d groups, the largest %+v", len(all), all[0])
	}
}
