package framework

import (
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"
)

// stage is a part of a pipeline without a re-key in it: its sources are partitioned alike, so one task for
// each partition owns the keys of that partition through all of its steps.
type stage struct {
	pipeline *Pipeline
	name     string // "pipeline/topic+topic"
	nodes    []*node
	sources  []*node
	sinks    []*node
	topics   []string              // of sinks, each once, then that of dead letters
	checks   []func(*Record) error // of topics: whether they take a record; nil where that is not known
	timers   map[uint32]*node
	stateful bool
	parked   bool                    // it kept no state but what was parked, and has a changelog of that
	shared   Transport               // what shares the partitions of its sources out; nil where all are read
	again    *node                   // the source of what is resubmitted, where it is shared out; see resubmittopic.go
	internal Transport               // of the topics between the stages of the pipeline
	hold     map[*node]time.Duration // for internal sinks: how far their events may be behind the watermark
}

// Validate reports everything that is wrong with the pipeline, at once; nil when it can run.
func (p *Pipeline) Validate() error {
	_, err := p.stages()
	return err
}

// stages cuts the pipeline at its re-keys.
func (p *Pipeline) stages() ([]*stage, error) {
	errs := append([]error(nil), p.errs...)
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	reads, writes := map[string]string{}, map[string]string{}
	for _, n := range p.nodes {
		if n.sink != nil {
			for _, other := range p.nodes[:n.index] {
				if other.sink != nil && other.sink.topic == n.sink.topic && (n.sink.internal || other.sink.internal) {
					fault("%s %q and %s %q both write topic %q, which is internal; give one of them another name",
						other.kind, other.name, n.kind, n.name, n.sink.topic)
				}
			}
			if n.sink.topic == p.DeadLetters() {
				fault("%s %q writes topic %q, which is for dead letters; give it another name", n.kind, n.name, n.sink.topic)
			}
		}
		switch {
		case n.source != nil:
			if other, twice := reads[n.source.topic]; twice && n.source.topic != "" {
				fault("source %q reads topic %q as source %q does; use one source and branch it", n.name, n.source.topic, other)
			}
			reads[n.source.topic] = n.name
		case n.sink != nil:
			writes[n.sink.topic] = n.name
		}
	}
	for _, n := range p.nodes {
		if n.source != nil && n.source.internal == nil {
			if sink, loop := writes[n.source.topic]; loop && n.source.topic != "" {
				fault("sink %q writes topic %q, which source %q reads: events would go round for ever", sink, n.source.topic, n.name)
			}
		}
	}
	if len(reads) == 0 {
		fault("no source: a pipeline begins with From")
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("framework: pipeline %q: %w", p.name, errors.Join(errs...))
	}
	p.passTombstones()
	stages := p.cut()
	if err := errors.Join(circles(stages), checkChangelogs(stages)); err != nil {
		return nil, fmt.Errorf("framework: pipeline %q: %w", p.name, err)
	}
	return stages, nil
}

// circles reports the re-keys that lead back to their own stage. Its watermark would wait for itself, and where the
// topic is full its reader for its writer, which are one.
func circles(stages []*stage) error {
	reads := map[*node]*stage{} // by what writes the internal topic
	for _, st := range stages {
		for _, n := range st.sources {
			if n.source.internal != nil {
				reads[n.source.internal] = st
			}
		}
	}
	var leads func(from, to *stage, seen map[*stage]bool) bool
	leads = func(from, to *stage, seen map[*stage]bool) bool {
		if from == to || seen[from] {
			return from == to
		}
		seen[from] = true
		return slices.ContainsFunc(from.sinks, func(n *node) bool {
			return reads[n] != nil && leads(reads[n], to, seen)
		})
	}
	var errs []error
	for _, st := range stages {
		for _, n := range st.sinks {
			if reads[n] != nil && leads(reads[n], st, map[*stage]bool{}) {
				errs = append(errs, fmt.Errorf("rekey %q leads back to the stage it is of, %q, which would wait for itself; "+
					"re-key the streams that it meets there too", n.name, st.name))
			}
		}
	}
	return errors.Join(errs...)
}

// cut groups the nodes that are connected otherwise than through an internal topic.
func (p *Pipeline) cut() []*stage {
	group := make([]int, len(p.nodes))
	for i := range group {
		group[i] = i
	}
	var find func(i int) int
	find = func(i int) int {
		if group[i] != i {
			group[i] = find(group[i])
		}
		return group[i]
	}
	for _, n := range p.nodes {
		if n.source != nil {
			continue // a re-keyed stream begins a stage: what it reads is not part of it
		}
		for _, up := range n.in {
			group[find(n.index)] = find(up.index)
		}
	}
	byRoot := map[int]*stage{}
	var all []*stage
	for _, n := range p.nodes {
		root := find(n.index)
		st := byRoot[root]
		if st == nil {
			st = &stage{pipeline: p, timers: map[uint32]*node{}, hold: map[*node]time.Duration{}}
			byRoot[root] = st
			all = append(all, st)
		}
		st.add(n)
	}
	for _, st := range all {
		var topics []string
		for _, n := range st.sources {
			topics = append(topics, n.source.topic)
		}
		sort.Strings(topics)
		for _, n := range st.sinks {
			if n.sink.slot = slices.Index(st.topics, n.sink.topic); n.sink.slot < 0 {
				n.sink.slot = len(st.topics)
				st.topics = append(st.topics, n.sink.topic)
			}
		}
		st.topics = append(st.topics, p.DeadLetters())
		st.checks = make([]func(*Record) error, len(st.topics))
		st.name = p.name + "/" + strings.Join(topics, "+")
	}
	return all
}

func (st *stage) add(n *node) {
	st.nodes = append(st.nodes, n)
	if n.source != nil {
		st.sources = append(st.sources, n)
	}
	if n.sink != nil {
		st.sinks = append(st.sinks, n)
		if n.sink.internal {
			st.hold[n] = behind(n) + n.sink.early
		}
	}
	if len(n.states) > 0 || n.onTimer != nil {
		st.stateful = true
	}
	if n.onTimer != nil {
		st.timers[uint32(n.path)] = n
	}
}

// behind is how far events that reach n may be behind the watermark of the stage.
func behind(n *node) time.Duration {
	if n.source != nil {
		return 0
	}
	var most time.Duration
	for _, up := range n.in {
		most = max(most, behind(up))
	}
	return most + n.hold
}
