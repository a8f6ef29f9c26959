package file_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
)

// TestBadLinesBecomeFaults: each bad line is one fault that says where it is, at which step it failed and why, with
// its bytes; everything else is processed.
func TestBadLinesBecomeFaults(t *testing.T) {
	type order struct {
		ID       string    `json:"id"`
		Customer string    `json:"customer"`
		Placed   time.Time `json:"placed"`
		Amount   int       `json:"amount"`
	}
	const good = `{"id":"%d","customer":"c","placed":"2026-01-01T00:00:00Z","amount":%[1]d}`
	lines := []string{
		fmt.Sprintf(good, 1),
		`{"id":"broken`,
		fmt.Sprintf(good, 2),
		`{"id":"3","customer":"","placed":"2026-01-01T00:00:00Z","amount":3}`,
		`{"id":"4","customer":"c","placed":"yesterday","amount":4}`,
		`{"id":"5","customer":"c","note":"` + strings.Repeat("x", 5000) + `"}`,
		`{"id":"6","customer":"c","amount":6}`,
		fmt.Sprintf(good, 13),
		fmt.Sprintf(good, 7),
	}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "orders.jsonl"), []byte(strings.Join(lines, "\n")+"\n"), 0o644))
	store, err := microstore.Open(microstore.Config{Dir: filepath.Join(dir, "state")})
	must(t, err)
	defer func() { must(t, store.Close()) }()
	topics, err := embedded.New(store, embedded.Config{Partitions: 1})
	must(t, err)
	files, err := file.New(file.Config{Inputs: map[string]file.Input{
		"orders": {Path: filepath.Join(dir, "orders.jsonl"), MaxRecordBytes: 1000}}})
	must(t, err)

	p := framework.NewPipeline("orders")
	in := framework.From(p, "orders", framework.Source[order]{
		Key: func(o order) string { return o.Customer }, Time: func(o order) time.Time { return o.Placed }})
	checked := processors.Map(in, "checked", func(e *framework.Event[order]) (order, error) {
		if e.Data.Amount == 13 {
			return order{}, fmt.Errorf("amount %d brings bad luck", e.Data.Amount)
		}
		return e.Data, nil
	})
	framework.To(checked, "good")
	r, err := framework.New(framework.Config{Store: store, Transport: topics,
		Routes: map[string]framework.Transport{"orders": files}}, p)
	must(t, err)
	must(t, r.Run(t.Context()))

	var passed []string
	_, err = topics.Read(t.Context(), "good", 0, 0, func(r framework.Record) error {
		passed = append(passed, string(r.Value))
		return nil
	})
	must(t, err)
	if len(passed) != 3 {
		t.Errorf("%d orders passed, want 3: %s", len(passed), passed)
	}
	want := []struct {
		line         int
		step, reason string
		data         string
	}{
		{2, "orders", "unexpected EOF", lines[1]},
		{4, "orders", "the event has no key", lines[3]},
		{5, "orders", "/placed", lines[4]},
		{6, "orders", "1000", lines[5][:1000]},
		{7, "orders", "the event has no time", lines[6]},
		{8, "checked", "amount 13 brings bad luck", lines[7]},
	}
	i := 0
	_, err = topics.Read(t.Context(), p.DeadLetters(), 0, 0, func(r framework.Record) error {
		var f framework.Fault
		if err := json.Unmarshal(r.Value, &f); err != nil {
			return err
		}
		if i >= len(want) {
			return fmt.Errorf("another fault: %+v", f)
		}
		w := want[i]
		i++
		if f.Place != fmt.Sprintf("orders.jsonl:%d", w.line) || f.Step != w.step || !strings.Contains(f.Error, w.reason) ||
			f.Event.Data != w.data {
			t.Errorf("fault at %s, step %s: %s\n%.80s\nwant line %d, step %s, %q\n%.80s", f.Place, f.Step, f.Error, f.Event.Data,
				w.line, w.step, w.reason, w.data)
		}
		return nil
	})
	must(t, err)
	if i != len(want) {
		t.Errorf("%d faults, want %d", i, len(want))
	}
}
