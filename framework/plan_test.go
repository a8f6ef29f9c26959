package framework_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(path, []byte(got), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test ./framework -update rewrites it): got\n%s\nwant\n%s", path, got, want)
	}
}

func TestPrint(t *testing.T) {
	p := crashPipeline()
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	golden(t, "pipeline.txt", p.String())
	golden(t, "pipeline.mmd", p.Mermaid())
	golden(t, "topics.txt", fmt.Sprintln(p.Sources(), p.Sinks(), p.DeadLetters()))
}

// Everything that is wrong is reported at once.
func TestValidateReportsAll(t *testing.T) {
	p := framework.NewPipeline("")
	a := framework.From[thing](p, "a", framework.Source[thing]{OutOfOrder: -time.Second})
	framework.From[thing](p, "a", framework.Source[thing]{Name: "again"})
	framework.From[thing](p, "")
	framework.To(a, "a", framework.Sink[thing]{Name: "loop"})
	framework.To(a, "", framework.Sink[thing]{Name: "nowhere"})
	framework.To(a, "x", framework.Sink[thing]{Name: "loop"})
	framework.AddStep(a, framework.Step{Kind: "filter"}, func(_ *framework.Step, next framework.Next[thing]) framework.Next[thing] { return next })
	framework.AddReKey(a, "rekey", framework.ReKey[thing]{})
	framework.AddReKey(a, "faults", framework.ReKey[thing]{Key: func(*framework.Event[thing]) string { return "k" }})
	framework.To(a, ".rekey", framework.Sink[thing]{Name: "into internal"})
	other := framework.From[thing](framework.NewPipeline("other"), "b")
	framework.AddMerge(framework.Step{Name: "merged", Kind: "merge"}, a, other)
	processors.Collect(a, "unbounded", processors.CollectConfig{})
	golden(t, "validate.txt", p.Validate().Error()+"\n")
	golden(t, "validate-none.txt", framework.NewPipeline("empty").Validate().Error()+"\n")
}

// mistaken has the method of a hook, but for its parameter.
type mistaken struct{}

func (mistaken) OnCommit(*framework.CommitInfo) {}

func TestConfigReportsAll(t *testing.T) {
	good := oneStep(nothing)
	_, err := framework.New(framework.Config{
		InternalPartitions: -1, BatchEvents: -1, BatchBytes: -1, InFlight: -1, Lanes: 1000, OutboxBytes: -1, BacklogBytes: -1, StopTimeout: -1,
		Retry: framework.Retry{Attempts: -1, First: -1, Most: -1},
		Hooks: []framework.Hook{commits(nil), mistaken{}, nil},
	}, good, good, framework.NewPipeline("empty"))
	golden(t, "config.txt", err.Error()+"\n")
	_, err = framework.New(framework.Config{})
	golden(t, "config-none.txt", err.Error()+"\n")
}

// What does not fit together is told before anything runs.
func TestRunChecksTopicsAndState(t *testing.T) {
	records := func(n int) [][]framework.Record { return make([][]framework.Record, n) }
	keyed := func(partition string) func(p *framework.Pipeline) {
		return func(p *framework.Pipeline) {
			in := framework.From[thing](p, "in")
			again := framework.AddReKey(in, partition, framework.ReKey[thing]{Key: func(e *framework.Event[thing]) string { return e.Key }})
			framework.To(again, "out")
		}
	}
	folded := func(topics ...string) func(p *framework.Pipeline) {
		return func(p *framework.Pipeline) {
			var all []*framework.Stream[thing]
			for _, topic := range topics {
				all = append(all, framework.From[thing](p, topic))
			}
			in := framework.AddMerge(framework.Step{Name: "both", Kind: "merge"}, all...)
			processors.Fold(in, "sum", 0, func(n int, e *framework.Event[thing]) (int, error) { return n + 1, nil })
		}
	}
	other := func(p *framework.Pipeline) {
		processors.Fold(framework.From[thing](p, "in"), "sum", "", func(n string, e *framework.Event[thing]) (string, error) { return n, nil })
	}
	for _, c := range []struct {
		name          string
		first, second func(p *framework.Pipeline) // first runs, then second is refused
		secondName    string
		partitions    [2]int // of topic in, then of internal ones; for second: twice as many
		want          []string
		foreign       bool
	}{
		{name: "changed state", first: folded("in"), second: other, foreign: true, want: []string{`step "sum#0"`, "table of int", "table of string"}},
		{name: "other pipeline", first: folded("in"), second: folded("in"), secondName: "q", foreign: true, want: []string{"p", "q"}},
		{name: "internal partitions", first: keyed("x"), second: keyed("x"), partitions: [2]int{0, 1}, foreign: true, want: []string{`"p.x"`, "2 partitions", "4"}},
		{name: "partitions of a topic with state", first: folded("in"), second: folded("in"), partitions: [2]int{1, 0}, foreign: true, want: []string{"p/in", "had 2", "have 4"}},
		{name: "missing topic", first: nil, second: folded("gone"), want: []string{`"gone"`, framework.ErrNoTopic.Error()}},
		{name: "partitions differ", first: nil, second: folded("in", "three"), want: []string{`"in"`, `"three"`, "2 and 3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, 0)
			try := func(build func(*framework.Pipeline), name string, partitions, internal int) error {
				b.feed = framework.NewFeed(map[string][][]framework.Record{"in": records(partitions), "three": records(3)})
				b.feed.Bounded = true
				for _, topic := range []string{"in", "three", "gone"} {
					b.config.Routes[topic] = b.feed
				}
				b.config.InternalPartitions = internal
				p := framework.NewPipeline(name)
				build(p)
				return soon(t, run(t.Context(), t, b.runner(t, p)))
			}
			if c.first != nil {
				if err := try(c.first, "p", 2, 2); err != nil {
					t.Fatal(err)
				}
			}
			if c.secondName == "" {
				c.secondName = "p"
			}
			err := try(c.second, c.secondName, 2+2*c.partitions[0], 2+2*c.partitions[1])
			if err == nil || errors.Is(err, framework.ErrForeignState) != c.foreign {
				t.Fatalf("%v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if c.first != nil { // and it has changed nothing
				if err := try(c.first, "p", 2, 2); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// A step that has another name begins without state, which is told when it does for the first time. What it has left stays,
// and is another's only in the shape that it has.
func TestRenamedStepIsTold(t *testing.T) {
	b := newBench(t, 10)
	b.feed.Bounded = true
	var log bytes.Buffer
	b.config.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	try := func(steps ...string) (warned string, err error) {
		p := framework.NewPipeline("p")
		for _, step := range steps {
			in := framework.From(p, "in", framework.Source[thing]{Name: "in for " + step})
			if name, ok := strings.CutPrefix(step, "text of "); ok {
				processors.Fold(in, name, "", func(n string, e *framework.Event[thing]) (string, error) { return n, nil })
				continue
			}
			processors.Fold(in, step, 0, func(n int, e *framework.Event[thing]) (int, error) { return n + 1, nil })
		}
		log.Reset()
		err = soon(t, run(t.Context(), t, b.runner(t, p)))
		return log.String(), err
	}
	for _, c := range []struct {
		step string
		want []string // of the warning; none: there is none
	}{
		{"sum", nil}, {"total", []string{"steps begin without state", "begin=total", "left=sum"}}, {"total", nil}, {"sum", nil},
	} {
		warned, err := try(c.step)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(warned, want) {
				t.Errorf("for step %q, %q is warned, expected %q", c.step, warned, want)
			}
		}
		if len(c.want) == 0 && warned != "" {
			t.Errorf("for step %q, %q is warned", c.step, warned)
		}
	}
	if _, err := try("text of total"); !errors.Is(err, framework.ErrForeignState) {
		t.Errorf("a step with the state that another has left, and another type: %v", err)
	}
}
