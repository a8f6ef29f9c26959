package harness

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// small is a comparison that shows that everything works together; what it measures means nothing.
func small(t *testing.T, modes ...string) Config {
	t.Helper()
	return Config{
		Brokers: fake(t), Module: "../..", Dir: programs, Results: filepath.Join(t.TempDir(), "results.jsonl"),
		Modes: modes, Systems: []string{"millrace", "franz"},
		Rounds: 1, Orders: 1000, Processors: -1, Rate: 400, WarmUp: time.Second, Measure: time.Second,
		Patience: 2 * time.Minute, Log: t.Output(),
	}
}

// compare returns the results, which all have to count.
func compare(t *testing.T, c Config, count int) []Result {
	t.Helper()
	must(t, Compare(t.Context(), c))
	results, err := Read(c.WithDefaults().Results)
	must(t, err)
	if len(results) != count {
		t.Fatalf("%d results, should be %d", len(results), count)
	}
	for _, r := range results {
		if !r.OK() {
			t.Errorf("%s: %s", r.run(), r.Fault)
		}
	}
	return results
}

func TestThroughput(t *testing.T) {
	c := small(t, Throughput)
	for _, r := range compare(t, c, 4) {
		if r.Seconds <= 0 || r.SecondsWithStart < r.Seconds {
			t.Errorf("%s took %v s, %v s with its start", r.run(), r.Seconds, r.SecondsWithStart)
		}
		if r.Again > 0 {
			t.Errorf("%s wrote %d outputs again", r.run(), r.Again)
		}
	}
	left, err := os.ReadDir(filepath.Join(c.Dir, "state"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("%d directories of state are left", len(left))
	}
	b, err := connect(t.Context(), c.Brokers)
	must(t, err)
	defer b.close()
	topics, err := b.admin.ListTopics(t.Context())
	must(t, err)
	for _, topic := range topics.Names() {
		if strings.HasPrefix(topic, "bench-") {
			t.Errorf("topic %s is left", topic)
		}
	}
}

// At a rate that is given, and at half of a throughput that is known of one system and workload.
func TestLatency(t *testing.T) {
	c := small(t, Latency, Equal)
	must(t, add(c.Results, Result{Mode: Throughput, Workload: "W1", System: "franz", Orders: 1000, Inputs: 1000, Due: 500, Seconds: 1.25}))
	for _, r := range compare(t, c, 1+1+4)[1:] {
		if r.Rate != 400 {
			t.Errorf("%s: %v records/s, should be 400", r.run(), r.Rate)
		}
		if r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("%s: p50 %v s, p99 %v s", r.run(), r.P50, r.P99)
		}
		if r.InputP50 <= 0 || r.InputP99 < r.InputP50 {
			t.Errorf("%s: inputs p50 %v s, p99 %v s", r.run(), r.InputP50, r.InputP99)
		}
	}
}

func TestKill(t *testing.T) {
	c := small(t, Kill)
	c.Systems = []string{"millrace"}
	for _, r := range compare(t, c, 2) {
		if r.NextOutput <= 0 || r.CaughtUp < r.NextOutput {
			t.Errorf("%s: next output after %v s, caught up after %v s", r.run(), r.NextOutput, r.CaughtUp)
		}
	}
}

// A rate that is not known leaves the run out, and says so.
func TestLatencyNeedsARate(t *testing.T) {
	var log strings.Builder
	c := small(t, Latency)
	c.Systems, c.Workloads, c.Log = []string{"franz"}, []string{"W1"}, &log
	compare(t, c, 0)
	if !strings.Contains(log.String(), "W1 latency franz is left out") {
		t.Errorf("the log says: %s", log.String())
	}
}

// What a system has of its own in its environment comes to its process.
func TestEnvironmentOfASystem(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	one := trial{comparison: &comparison{}, run: Run{System: "franz-two"}, command: []string{"env"}, env: []string{"BENCH_OUT=out"}, logName: log}
	p, err := one.start()
	must(t, err)
	<-p.done
	must(t, p.err)
	said, err := os.ReadFile(log)
	must(t, err)
	for _, line := range []string{"BENCH_OUT=out\n", "GOMAXPROCS=2\n"} {
		if !strings.Contains(string(said), line) {
			t.Errorf("there is no %q in the environment:\n%s", line, said)
		}
	}
}

// State that has grown makes a system slower: half of its throughput is half of that with the size where it is the least.
func TestRateIsOfTheSlowestSize(t *testing.T) {
	c := &comparison{Config: Config{Results: filepath.Join(t.TempDir(), "results.jsonl")}}
	for orders, seconds := range map[int]float64{1000: 1, 100_000: 200} {
		must(t, add(c.Results, Result{Mode: Throughput, Workload: "W2", System: "franz", Orders: orders, Inputs: 2 * orders, Due: orders, Seconds: seconds}))
	}
	rate, err := c.rate(Run{Mode: Latency, Workload: "W2", System: "franz"})
	if must(t, err); rate != 500 {
		t.Errorf("%v records/s, should be 500", rate)
	}
}

func TestConfigNamesAllFaults(t *testing.T) {
	err := Config{Modes: []string{"speed"}, Systems: []string{"flink"}, Workloads: []string{"W3"}, Rounds: -1, Patience: -1}.Validate()
	if err == nil {
		t.Fatal("taken")
	}
	for _, part := range []string{"Brokers", "speed", "flink", "W3", "Rounds", "Patience"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is not named: %v", part, err)
		}
	}
}
