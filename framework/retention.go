package framework

import (
	"context"
	"time"
)

// RetentionTeller is a Transport that knows for how long its topics keep records. A start asks it; nothing depends on the
// answer but a warning.
type RetentionTeller interface {
	// Retention tells what a topic keeps.
	Retention(ctx context.Context, topic string) (Retention, error)
}

// Retention is what a topic keeps.
type Retention struct {
	// Age is for how long a record is kept at least; 0: for ever, or as long as another bound lets it.
	Age time.Duration
	// Compacted says that of the records of one key some may go when there is a newer one.
	Compacted bool
}

func (r Retention) String() string {
	switch {
	case r.Compacted:
		return "the newest record of each key"
	case r.Age > 0:
		return "records of " + r.Age.String()
	}
	return "all records"
}

// keeps tells whether records are there for as long as a state goes back; 0: from the beginning.
func (r Retention) keeps(back time.Duration) bool {
	return !r.Compacted && (r.Age == 0 || back > 0 && back <= r.Age)
}

// reach is how far back the state of a stage goes, and the step that needs it, "" for none; 0: to the beginning.
func (st *stage) reach() (back time.Duration, step string) {
	for _, n := range st.nodes {
		for _, state := range n.states {
			retained, ok := state.(interface{ retention() time.Duration })
			if !ok || retained.retention() == 0 {
				return 0, n.name
			}
			if d := retained.retention(); d > back {
				back, step = d, n.name
			}
		}
	}
	return back, step
}

// warnOfRetention says where a process that takes a partition over would not find in the topics all that the state is
// made of. Topics between stages are the engine's, and looked after where it makes them.
func (r *Runner) warnOfRetention(ctx context.Context, st *stage) {
	teller, ok := st.shared.(RetentionTeller)
	if !ok || !st.stateful || st.keepsChangelog() {
		return
	}
	back, step := st.reach()
	if step == "" {
		return
	}
	needs := "records of " + back.String()
	if back == 0 {
		needs = "all records"
	}
	for _, n := range st.sources {
		if n.source.internal != nil {
			continue
		}
		kept, err := teller.Retention(ctx, n.source.topic)
		switch {
		case err != nil: // it may lack a right that nothing else takes
			r.config.Logger.Debug("what a topic keeps is not known", "topic", n.source.topic, "error", err)
		case !kept.keeps(back):
			r.config.Logger.Warn("a process that takes a partition over makes its state from a topic that keeps less than the state goes back: "+
				"what comes of older records will be missing there. Set Pipeline.Changelog, or let the topic keep more",
				"pipeline", st.pipeline.name, "topic", n.source.topic, "keeps", kept.String(), "step", step, "needs", needs)
		}
	}
}
