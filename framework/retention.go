package framework

import (
	"context"
	"slices"
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
	case r.Compacted && r.Age > 0:
		return "the newest record of each key, of " + r.Age.String()
	case r.Compacted:
		return "the newest record of each key"
	case r.Age > 0:
		return "records of " + r.Age.String()
	}
	return "all records"
}

// need is what a state needs of a topic to be made anew: the records of so long, 0: from the beginning; or the newest of
// each key.
type need struct {
	step   string
	back   time.Duration
	newest bool
}

func (n need) String() string {
	switch {
	case n.newest:
		return "the newest record of each key"
	case n.back > 0:
		return "records of " + n.back.String()
	}
	return "all records"
}

// more tells whether n goes further back than other.
func (n need) more(other need) bool {
	if n.newest || other.newest {
		return other.newest && !n.newest
	}
	return other.back > 0 && (n.back == 0 || n.back > other.back)
}

// keeps tells whether what a state needs is there.
func (r Retention) keeps(n need) bool {
	if n.newest {
		return r.Age == 0
	}
	return !r.Compacted && (r.Age == 0 || n.back > 0 && n.back <= r.Age)
}

// misses finds, of the states that are made from a source, the one that goes furthest back of those that need more than
// is kept.
func (st *stage) misses(source *node, kept Retention) (most need, misses bool) {
	for _, n := range st.nodes {
		for _, state := range n.states {
			from, this := n, need{step: n.name}
			if n.latest != nil {
				from, this.newest = n.latest, n.latest == source && source.source.all
			}
			if retained, ok := state.(interface{ retention() time.Duration }); ok {
				this.back = retained.retention()
			}
			if !from.after(source) {
				continue
			}
			if !kept.keeps(this) && (!misses || this.more(most)) {
				most, misses = this, true
			}
		}
	}
	return most, misses
}

// after tells whether events of a source of the stage reach the node.
func (n *node) after(source *node) bool {
	if n.source != nil {
		return n == source
	}
	return slices.ContainsFunc(n.in, func(up *node) bool { return up.after(source) })
}

// warnOfRetention says where a process that takes a partition over would not find in the topics all that the state is
// made of. Topics between stages are the engine's, and looked after where it makes them.
func (r *Runner) warnOfRetention(ctx context.Context, st *stage) {
	teller, ok := st.shared.(RetentionTeller)
	if !ok || !st.stateful || st.keepsChangelog() {
		return
	}
	for _, n := range st.sources {
		if n.source.internal != nil {
			continue
		}
		kept, err := teller.Retention(ctx, n.source.topic)
		if err != nil { // it may lack a right that nothing else takes
			r.config.Logger.Debug("what a topic keeps is not known", "topic", n.source.topic, "error", err)
			continue
		}
		if need, misses := st.misses(n, kept); misses {
			r.config.Logger.Warn("a process that takes a partition over makes its state from a topic that keeps less than the state goes back: "+
				"what comes of older records will be missing there. Set Pipeline.Changelog, or let the topic keep more",
				"pipeline", st.pipeline.name, "topic", n.source.topic, "keeps", kept.String(), "step", need.step, "needs", need.String())
		}
	}
}
