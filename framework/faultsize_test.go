package framework_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// Dead letters that are larger than their topic takes are sent without what makes them so, all others whole and in order,
// and nothing stops. One that was cut says so when its bytes are asked for.
func TestDeadLettersThatAreTooLarge(t *testing.T) {
	const limit = 8000
	b := newBench(t, 0)
	long := strings.Repeat("x", 2*limit)
	records := []framework.Record{
		{ID: "whole", Value: []byte(`{"n":1`)},
		{ID: "data", Value: []byte(long)},
		{ID: "metadata", Value: []byte(`{"n":3`), Metadata: map[string]string{"a": long}},
		{ID: "both", Value: []byte(long), Metadata: map[string]string{"a": long}},
		{ID: "binary", Value: []byte(strings.Repeat("\x01", limit/2))}, // six times as long, escaped
		{ID: "error", Value: []byte(`{"n":6}`)},
		{ID: "good", Value: []byte(`{"n":7}`)},
		{ID: "last", Value: []byte(`{"n":8`)},
	}
	for i := range records {
		records[i].Key, records[i].Time = "k", noon.Add(time.Duration(i)*time.Second)
	}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"in": {records}})
	b.feed.Bounded = true
	p := oneStep(func(_ *framework.Scope, e *framework.Event[thing]) error {
		if e.Data.N == 6 {
			return errors.New(strings.Repeat("no! ", 5*limit))
		}
		return nil
	})
	out, dead := &framework.TestSink{}, &framework.TestSink{Limit: limit}
	b.config.Routes["in"], b.config.Routes["out"], b.config.Routes[p.DeadLetters()] = b.feed, out, dead
	runner := b.runner(t, p)
	if err := soon(t, run(t.Context(), t, runner)); err != nil {
		t.Fatal(err)
	}
	if got := ids(out.Records()); len(got) != 1 || got[0] != "good" {
		t.Errorf("outputs: %q", got)
	}
	cut := map[string]int{}
	var order []string
	for _, r := range dead.Records() {
		var f framework.Fault
		if err := json.Unmarshal(r.Value, &f); err != nil {
			t.Fatal(err)
		}
		if f.Place == "" || f.Error == "" || f.Event.ID == "" {
			t.Errorf("a dead letter lacks what it needs: %+v", f)
		}
		if _, again := cut[f.Event.ID]; !again {
			order = append(order, f.Event.ID)
		}
		cut[f.Event.ID] = f.Event.Cut
		if bytes, err := f.Event.Bytes(); (err == nil) != (f.Event.Cut == 0) {
			t.Errorf("event %q, %d bytes cut: %d bytes, %v", f.Event.ID, f.Event.Cut, len(bytes), err)
		} else if f.Event.ID == "binary" && f.Event.DataBase64 != base64.StdEncoding.EncodeToString(records[4].Value) {
			t.Errorf("the data of event %q is %.50q %.50q", f.Event.ID, f.Event.Data, f.Event.DataBase64)
		}
	}
	if got, want := strings.Join(order, " "), "whole data metadata both binary error last"; got != want {
		t.Errorf("dead letters of %s, want %s", got, want)
	}
	for id, n := range cut {
		least := map[string]int{"data": 2 * limit, "metadata": 2 * limit, "both": 4 * limit, "error": 20*limit - 4096}[id]
		if n < least || least == 0 && n > 0 {
			t.Errorf("of event %q %d bytes are cut, expected %d", id, n, least)
		}
	}
}

// Where not even the place and the error of a dead letter fit, the run ends, and the dead letter stays.
func TestDeadLetterThatCannotBeShorter(t *testing.T) {
	b := newBench(t, 1)
	b.feed.Bounded = true
	p := oneStep(func(*framework.Scope, *framework.Event[thing]) error { return errors.New("no") })
	dead := &framework.TestSink{Limit: 20}
	b.config.Routes["out"], b.config.Routes[p.DeadLetters()] = &framework.TestSink{}, dead
	if err := soon(t, run(t.Context(), t, b.runner(t, p))); !errors.Is(err, framework.ErrTooLarge) {
		t.Errorf("the run ends with: %v", err)
	}
	dead.Limit = 0
	b.config.Routes["in"] = b.feed
	if err := soon(t, run(t.Context(), t, b.runner(t, p))); err != nil {
		t.Error(err)
	}
	if got := dead.Records(); len(got) != 1 {
		t.Errorf("%d dead letters", len(got))
	}
}

// Of a timer's dead letter that is too large goes first what it had read: what is left of it can be resubmitted as it is.
func TestDeadLettersOfTimersThatAreTooLarge(t *testing.T) {
	b := newBench(t, 0)
	note := map[string]string{"note": strings.Repeat("x", 2000)}
	b.feed = framework.NewFeed(map[string][][]framework.Record{"right": {{}}, "left": {{{ID: "e0", Key: "k", Time: noon, Value: []byte(`{"n":1}`), Metadata: note}}}})
	b.feed.Bounded = true
	p := unpaid(func(id string) bool { return strings.HasPrefix(id, "unpaid") })
	dead := &framework.TestSink{Limit: 1000}
	b.config.Routes["left"], b.config.Routes["right"], b.config.Routes[p.DeadLetters()] = b.feed, b.feed, dead
	r := b.runner(t, p)
	if err := soon(t, run(t.Context(), t, r)); err != nil {
		t.Fatal(err)
	}
	var f framework.Fault
	if all := dead.Records(); len(all) != 1 || json.Unmarshal(all[0].Value, &f) != nil {
		t.Fatalf("dead letters: %+v", all)
	}
	if len(f.Read) != 1 || f.Read[0].Cut != 1 || f.Read[0].Events != nil || f.Read[0].History != "join.left" || f.Event.Cut != 0 || f.Event.ID == "" {
		t.Errorf("dead letter: %+v", f)
	}
	if err := r.Resubmit(t.Context(), f); err != nil {
		t.Error(err)
	}
}
