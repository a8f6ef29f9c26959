package framework

import (
	"context"
	"errors"
	"fmt"
)

// Changelog says how a pipeline keeps its state a second time, see Pipeline.Changelog.
type Changelog struct {
	// CopyBytes is by how much the changelog of a task grows before its whole state is copied into it again, so that what
	// is older can be removed; at least by as much as the state takes. Default 4 MiB.
	CopyBytes int64
}

// Changelog lets the stages whose partitions are shared out among processes write what each commit changes in their
// state to a topic beside their sources, "<pipeline>.<first source topic>.changelog". A process that takes a partition
// over makes the state from there and not from what the sources keep. It is for state that goes further back than they
// do: a fold without retention, histories that are kept longer than topics, topics that are compacted; and for keys that
// are parked, which no topic has. What the topics between such stages hold is let go of once it is processed.
//
// It costs a record for each commit, and is ignored where one process reads all partitions. All processes of a pipeline
// have to agree on it.
func (p *Pipeline) Changelog(c Changelog) {
	if c.CopyBytes < 0 {
		p.fault("changelog: CopyBytes is %d; it cannot be negative", c.CopyBytes)
	}
	if c.CopyBytes == 0 {
		c.CopyBytes = 4 << 20
	}
	p.changelog = &c
}

// ChangelogTransport is a transport of shared topics that can carry changelogs.
type ChangelogTransport interface {
	Transport
	TopicKeeper
	// Span returns the offset of the oldest record of a partition, and the one that the next record will have.
	Span(ctx context.Context, topic string, partition int) (start, end int64, err error)
	// ReadSpan calls visit with the records of a partition from one offset up to before another, which is at most the
	// end of its Span, in order. Records before its start are left out. A slice is the transport's again when visit returns;
	// an error of visit ends it and is returned. One that may pass by itself is marked Transient.
	ReadSpan(ctx context.Context, topic string, partition int, from, to int64, visit func([]Record) error) error
	// Keeps tells whether a topic is one that keeps all records until Release, so that those that are gone are missed. It is
	// not where a retention has been set, or the transport is told to go on where records are gone.
	Keeps(ctx context.Context, topic string) (bool, error)
}

// Generations is a subscriber of shared topics that numbers the assignments of its group. A member that does not know yet
// that its partitions are another's has a lower number than that one.
type Generations interface {
	// Generation is the number of the assignment by which the member has a partition. It is asked within Assignments.Assign.
	Generation(topic string, partition int) int64
	// Member asks the group whether this is still a member of it, with what it was assigned.
	Member(ctx context.Context) (bool, error)
}

// changelogTopic is where a stage keeps its changelog. A topic is read by one stage of a pipeline.
func (st *stage) changelogTopic() string {
	first := "" // not of all that it reads: whether there is a topic of resubmissions may change
	for _, n := range st.sources {
		if first == "" || n.source.topic < first {
			first = n.source.topic
		}
	}
	return st.pipeline.name + "." + first + ".changelog"
}

// keepsState tells whether tasks of the stage have more than a position; what is parked is state, too.
func (st *stage) keepsState() bool { return st.stateful || st.pipeline.parking != nil || st.parked }

// findParked finds out whether keys of a stage without state were parked, when its pipeline does not park them any more.
func (st *stage) findParked(ctx context.Context) error {
	if st.shared == nil || st.pipeline.changelog == nil || st.keepsState() {
		return nil
	}
	topic := st.changelogTopic()
	_, err := st.shared.Topic(ctx, topic)
	if st.parked = err == nil; err == nil || errors.Is(err, ErrNoTopic) {
		return nil
	}
	return fmt.Errorf("framework: pipeline %q: changelog %q: %w", st.pipeline.name, topic, err)
}

// keepsChangelog tells whether the tasks of the stage write changelogs.
func (st *stage) keepsChangelog() bool {
	return st.pipeline.changelog != nil && st.shared != nil && st.keepsState()
}

// openChangelog makes the topic of a stage's changelog.
func (r *Runner) openChangelog(ctx context.Context, st *stage, partitions int) error {
	topic := st.changelogTopic()
	wrong := func(err error) error {
		return fmt.Errorf("framework: pipeline %q: changelog %q: %w", st.pipeline.name, topic, err)
	}
	transport, ok := st.shared.(ChangelogTransport)
	if !ok {
		return wrong(errors.New("the transport of the stage's sources cannot carry it; leave Pipeline.Changelog out"))
	}
	if err := transport.CreateKept(ctx, topic, partitions); err != nil {
		return wrong(err)
	}
	return nil
}

// checkChangelogs finds topics of the pipeline that have the name of a changelog.
func checkChangelogs(stages []*stage) error {
	var errs []error
	for _, st := range stages {
		for _, other := range stages {
			for _, n := range other.sinks {
				if st.pipeline.changelog != nil && n.sink.topic == st.changelogTopic() {
					errs = append(errs, fmt.Errorf("%s %q writes topic %q, which is for the changelog of stage %q; give it another name",
						n.kind, n.name, n.sink.topic, st.name))
				}
			}
		}
	}
	return errors.Join(errs...)
}
