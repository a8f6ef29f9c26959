package framework_test

import (
	"encoding/json"
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
