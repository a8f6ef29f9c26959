package framework_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
)

// retaining is a member whose topics keep so much.
type retaining struct {
	*framework.Member
	kept map[string]framework.Retention // by topic
	err  error
}

func (r *retaining) Retention(_ context.Context, topic string) (framework.Retention, error) {
	return r.kept[topic], r.err
}

// warnedOf starts a pipeline over topics that keep so much, and returns the warnings about that.
func warnedOf(t *testing.T, p *framework.Pipeline, kept map[string]framework.Retention, err error) (warnings []string) {
	b := framework.NewBroker()
	b.Create("left", 2)
	b.Create("right", 2)
	b.Create("out", 1)
	var log bytes.Buffer
	start(t, b, openStore(t, t.TempDir()), p, func(config *framework.Config) {
		config.Transport = &retaining{b.Members[0], kept, err}
		config.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}).end()
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "keeps less than the state goes back") {
			warnings = append(warnings, line)
		}
	}
	return warnings
}

// A start warns where the topics keep less than the state goes back, so that another process could not make it anew, and
// only there.
func TestRetentionOfSources(t *testing.T) {
	type stream = framework.Stream[thing]
	stateless := func(in *stream) { framework.To(in, "out") }
	hour := func(in *stream) { framework.To(processors.Distinct(in, "once", time.Hour), "out") }
	forEver := func(in *stream) {
		counts := processors.Fold(processors.Distinct(in, "once", time.Hour), "count", 0,
			func(n int, _ *framework.Event[thing]) (int, error) { return n + 1, nil })
		framework.To(counts, "out")
	}
	for _, c := range []struct {
		name      string
		steps     func(*stream)
		kept      framework.Retention
		err       error
		changelog bool
		want      string // in the warning; "" for none
	}{
		{name: "all", steps: forEver},
		{name: "longer than the state", steps: hour, kept: framework.Retention{Age: 2 * time.Hour}},
		{name: "shorter than the state", steps: hour, kept: framework.Retention{Age: 30 * time.Minute},
			want: `topic=left keeps="records of 30m0s" step=once needs="records of 1h0m0`},
		{name: "shorter than for ever", steps: forEver, kept: framework.Retention{Age: 8760 * time.Hour}, want: `step=count needs="all records"`},
		{name: "compacted", steps: hour, kept: framework.Retention{Compacted: true}, want: `topic=left keeps="the newest record of each key"`},
		{name: "compacted, without state", steps: stateless, kept: framework.Retention{Compacted: true}},
		{name: "compacted, with a changelog", steps: forEver, kept: framework.Retention{Compacted: true}, changelog: true},
		{name: "not known", steps: forEver, kept: framework.Retention{Compacted: true}, err: errors.New("not allowed")},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := framework.NewPipeline("shared")
			if c.changelog {
				p.Changelog(framework.Changelog{})
			}
			c.steps(framework.From[thing](p, "left"))
			warned := warnedOf(t, p, map[string]framework.Retention{"left": c.kept}, c.err)
			switch {
			case c.want == "" && len(warned) > 0, c.want != "" && (len(warned) != 1 || !strings.Contains(warned[0], c.want)):
				t.Errorf("warnings %q, want one with %q", warned, c.want)
			}
		})
	}
}

// What a topic has to keep follows from the states that are made from it: of a join's right side that is the newest record of
// each key, unless a step between leaves some out, and of its left side nothing.
func TestRetentionBySource(t *testing.T) {
	type stream = framework.Stream[thing]
	latest := func(left, right *stream) *stream {
		return processors.JoinLatest(left, right, "latest", func(v thing) (int, bool) { return v.N, true },
			func(e *framework.Event[thing], n int, _ bool) (thing, error) { return thing{e.Data.N + n}, nil })
	}
	compacted, day := framework.Retention{Compacted: true}, framework.Retention{Age: 24 * time.Hour}
	all := `topic=right keeps="the newest record of each key" step=latest needs="all records"`
	for _, c := range []struct {
		name        string
		source      framework.Source[thing] // of right
		steps       func(left, right *stream) *stream
		left, right framework.Retention
		want        []string // in the warnings, one each
	}{
		{name: "compacted", steps: latest, left: day, right: compacted},
		{name: "all", steps: latest, left: day},
		{name: "a day", steps: latest, left: compacted, right: day,
			want: []string{`topic=right keeps="records of 24h0m0s" step=latest needs="the newest record of each key"`}},
		{name: "compacted, for a day", steps: latest, right: framework.Retention{Compacted: true, Age: 24 * time.Hour},
			want: []string{`topic=right keeps="the newest record of each key, of 24h0m0s" step=latest needs="the newest record of each key"`}},
		{name: "filtered", right: compacted, want: []string{all}, steps: func(left, right *stream) *stream {
			return latest(left, processors.Filter(right, "some", func(e *framework.Event[thing]) bool { return e.Data.N > 0 }))
		}},
		{name: "of some types", source: framework.Source[thing]{Types: []string{"a"}}, steps: latest, right: compacted, want: []string{all}},
		{name: "of other sources", source: framework.Source[thing]{IgnoreSource: "here"}, steps: latest, right: compacted, want: []string{all}},
		{name: "state before it", left: day, right: compacted, steps: func(left, right *stream) *stream {
			return latest(processors.Distinct(left, "once", 48*time.Hour), right)
		}, want: []string{`topic=left keeps="records of 24h0m0s" step=once needs="records of 48h0m0s"`}},
		{name: "state beside it", left: day, right: compacted, steps: func(left, right *stream) *stream {
			return processors.Merge("both", latest(left, right), processors.Distinct(right, "once", time.Hour))
		}, want: []string{`topic=right keeps="the newest record of each key" step=once needs="records of 1h0m0s"`}},
		{name: "state behind it", left: day, right: compacted, steps: func(left, right *stream) *stream {
			return processors.Fold(latest(left, right), "sum", thing{},
				func(v thing, e *framework.Event[thing]) (thing, error) { return thing{v.N + e.Data.N}, nil })
		}, want: []string{`topic=left keeps="records of 24h0m0s" step=sum needs="all records"`,
			`topic=right keeps="the newest record of each key" step=sum needs="all records"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := framework.NewPipeline("shared")
			framework.To(c.steps(framework.From[thing](p, "left"), framework.From(p, "right", c.source)), "out")
			warned := warnedOf(t, p, map[string]framework.Retention{"left": c.left, "right": c.right}, nil)
			ok := len(warned) == len(c.want)
			for i := range min(len(warned), len(c.want)) {
				ok = ok && strings.Contains(warned[i], c.want[i])
			}
			if !ok {
				t.Errorf("warnings %q, want one each with %q", warned, c.want)
			}
		})
	}
}
