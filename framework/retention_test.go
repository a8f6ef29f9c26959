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
	kept framework.Retention
	err  error
}

func (r retaining) Retention(context.Context, string) (framework.Retention, error) {
	return r.kept, r.err
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
			b := framework.NewBroker()
			b.Create("left", 2)
			b.Create("out", 1)
			p := framework.NewPipeline("shared")
			if c.changelog {
				p.Changelog(framework.Changelog{})
			}
			c.steps(framework.From[thing](p, "left"))
			var log bytes.Buffer
			start(t, b, openStore(t, t.TempDir()), p, func(config *framework.Config) {
				config.Transport = retaining{b.Members[0], c.kept, c.err}
				config.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			}).end()
			warned := strings.Count(log.String(), "keeps less than the state goes back")
			switch {
			case c.want == "" && warned > 0, c.want != "" && (warned != 1 || !strings.Contains(log.String(), c.want)):
				t.Errorf("%d warnings, want %q: %s", warned, c.want, log.String())
			}
		})
	}
}
