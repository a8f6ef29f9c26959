package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/internal/testenv/services"
)

// No goleak: Watermill's Kafka client leaves a goroutine behind.
func TestMain(m *testing.M) { os.Exit(services.Main(m).Run()) }

// What is lost, comes out of order, or was never written is found; what comes twice is counted.
func TestLedger(t *testing.T) {
	for _, test := range []struct {
		name    string
		last    []string // what arrives behind the events 2 to keys-1, of the events up to keys+1
		missing int
		twice   int
		says    string
	}{
		{"all", []string{"event-0", "event-1", "event-1000", "event-1001"}, 0, 0, ""},
		{"all, in another order of keys", []string{"event-1", "event-0", "event-1001", "event-1000"}, 0, 0, ""},
		{"one is lost", []string{"event-0", "event-1", "event-1001"}, 1, 0, ""},
		{"twice", []string{"event-0", "event-1", "event-0", "event-1000", "event-0", "event-1001"}, 0, 2, ""},
		{"out of order", []string{"event-1000", "event-0", "event-1", "event-1001"}, 0, 0, "event-0 came after event 1000 of its key"},
		{"altered", []string{"event-0", "event-x", "event-1000", "event-1001"}, 1, 0, `"event-x" was never written`},
		{"too many", []string{"event-0", "event-1", "event-1000", "event-1001", "event-1002"}, 0, 0, `"event-1002" was never written`},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger(keys + 2)
			for i := 2; i < keys; i++ {
				l.arrived(eventID(i))
			}
			for _, id := range test.last {
				l.arrived(id)
			}
			missing, twice, err := l.verify()
			if missing != test.missing || twice != test.twice {
				t.Errorf("%d are missing, %d came twice", missing, twice)
			}
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Every run works, with few rows; Debezium's needs more than a test should fetch.
func TestRuns(t *testing.T) {
	postgres, broker := services.Postgres(t), services.Kafka(t)
	for _, r := range runs() {
		if r.system == "debezium" || r.system == "forwarder" { // which polls once a second
			continue
		}
		t.Run(r.workload+" "+r.system+" "+r.sink, func(t *testing.T) {
			r.rows = 100
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			took, err := measure(ctx, r, postgres, broker, time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if took.Rows != 100 || took.Late > 0 || took.Duplicates > 0 {
				t.Errorf("%+v", took)
			}
		})
	}
}

func TestTables(t *testing.T) {
	slow, fast := run{drains, "bare", "kafka", 10}, run{drains, "millrace", "kafka", 10}
	skipped, late := run{drains, "debezium", "kafka", 10}, run{latencies, "forwarder", "none", 10}
	var out bytes.Buffer
	printTables(&out, []run{fast, slow, skipped, late}, map[run][]result{
		fast:    {{Rows: 1000, Wall: time.Second, Own: time.Millisecond, Duplicates: 3}, {Rows: 1000, Wall: time.Second / 2}},
		slow:    {{Rows: 1000, Wall: 2 * time.Second}},
		skipped: {{Skipped: "left out: there is no java"}},
		late:    {{Rows: 10, P50: time.Millisecond, P99: time.Second, Late: 2}},
	})
	for _, line := range []string{
		"### A backlog, into Kafka",
		"| millrace | 1000 | 2 [1..2] | 1 | 1 [0..1] | - | up to 3 duplicates |",
		"| bare | 1000 | 0.5 [0.5..0.5] | 0.25 | - | - |  |",
		"| debezium | left out: there is no java |",
		"| forwarder | 1 [1..1] | 1e+03 [1e+03..1e+03] | 1.00 | 1.00 | up to 2 of 10 not delivered 10s after the last commit  |",
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("there is no line %q in:\n%s", line, out.String())
		}
	}
}
