package framework

import (
	"context"
	"fmt"
)

// A topic between stages that are shared out among processes keeps what another process may have to read again. Nothing
// before the group's position is that
//
//   - where the stage that reads it has a changelog: a position is marked when the state up to it is in the log, and whoever
//     takes the partition over makes the state from there and reads on from the group's position;
//   - where that stage keeps no state: whoever takes it over begins at the group's position (follow).
//
// So the owner lets go of it. What counts is what the group has, not what it was told: an owner that dies in between leaves
// it where it was. One that does not know yet that it is none lets go of what is before a position that the group once had,
// and these only rise.
//
// Where the state has to be made anew from the topic all the same, since the changelog is gone or left out, that is refused:
// see lookBack. The topic of resubmissions is left as it is: it is small, and with the sources it is all that a state can be
// made from where they keep everything.

// trims tells whether what the stage has processed of the topics between stages may go.
func (st *stage) trims() bool { return !st.keepsState() || st.keepsChangelog() }

// batchesHeld is how many full batches behind the group's position are let go of at once.
const batchesHeld = 8

// letGo lets a topic between stages forget what is before the group's position. Calls for a task do not overlap.
func (t *task) letGo(marker Marker, topic string) {
	src := t.source(topic)
	if src == nil || src.keeper == nil {
		return
	}
	at, ok := marker.Committed(topic, t.partition)
	if !ok || at-src.released < batchesHeld*int64(t.env.config.BatchEvents) {
		return
	}
	src.released = at
	if err := src.keeper.Release(topic, t.partition, at); err != nil && t.env.ctx.Err() == nil {
		t.env.config.Logger.Warn("what all stages have processed was not removed; the next time makes up for it",
			"task", t.name, "topic", topic, "error", err)
	}
}

// lookBack checks, where there is no state, that the topics still have what it is made anew from. Records that are gone by
// retention are warned about: who sets one says how long they are needed. Those that were let go of by letGo are missed,
// and so are those that nobody has processed: the source begins where the group is, and the transport says what then.
func (t *task) lookBack(ctx context.Context) error {
	transport, ok := t.stage.shared.(ChangelogTransport)
	if !ok || !t.stage.keepsState() {
		return nil
	}
	for _, src := range t.sources {
		internal, committed := src.node.source.internal != nil, has(t.own.committed, src.topic)
		if src.known || !internal && !committed {
			continue
		}
		start, kept := int64(0), false
		err := t.insist(ctx, src.topic, func() (err error) {
			start, _, err = transport.Span(ctx, src.topic, t.partition)
			if err == nil && start > 0 && internal {
				kept, err = transport.Keeps(ctx, src.topic)
			}
			return err
		})
		if err == nil && start == 0 {
			continue
		}
		switch {
		case err != nil && (internal || ctx.Err() != nil):
			return fmt.Errorf("topic %q: what is kept of it: %w", src.topic, err)
		case kept:
			return fmt.Errorf("the state would be made anew from topic %q, which begins at offset %d: what was before has been let go of, "+
				"while a changelog had the state, or the stage kept none. Start the process that has the state in its store; or, if "+
				"Pipeline.Changelog was left out and topic %q is still there, set it again; or begin without what is gone, by the transport's "+
				"setting for that (over Kafka: Config.SkipGone for one start where Pipeline.Changelog is set, else a retention.ms of the topic)",
				src.topic, start, t.stage.changelogTopic())
		case err == nil && committed:
			if at := t.own.committed[src.topic]; at < start {
				src.start, src.started = at, true
				continue
			}
			t.env.config.Logger.Warn("state is made anew from a topic whose oldest records are gone; what comes of those is missing in it. "+
				"Where steps keep state for longer than the topic keeps records, set Pipeline.Changelog",
				"task", t.name, "topic", src.topic, "oldest", start, "group", t.own.committed[src.topic])
		}
	}
	return nil
}
