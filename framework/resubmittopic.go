package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/ThreeDotsLabs/watermill"
)

// Where partitions are shared out among processes, the one that is asked to resubmit may not have the partition, and
// what it wrote into its store would stay there when the partition moves on. So what is resubmitted there is a record in
// a topic of the stage, which is one more of its sources: partitioned alike, assigned together, with a position in the
// task's commits and in the group. Whoever has the partition serves the record, once; whoever makes the state anew comes
// to it again, and sends nothing for it up to the group's position.
//
// The topic has no event time: it counts as one that has ended, so it holds no watermark back.

// resubmissionType is the CloudEvents type of the records in such a topic.
const resubmissionType = "millrace.resubmission"

// resubmitTopic names the topic with the resubmissions of a stage that is shared out.
func (st *stage) resubmitTopic() string {
	first := st.sources[0].source
	if first.internal != nil { // its name begins with that of the pipeline
		return first.topic + ".resubmit"
	}
	return st.pipeline.name + "." + first.topic + ".resubmit"
}

// inputs are all sources of a stage, with that of resubmissions.
func (st *stage) inputs() []*node {
	if st.again == nil {
		return st.sources
	}
	return append(st.sources[:len(st.sources):len(st.sources)], st.again)
}

// openResubmissions gives a stage that is shared out its topic of resubmissions. A transport that does not make topics
// goes without, unless the topic is there.
func (r *Runner) openResubmissions(ctx context.Context, st *stage, partitions int, infos map[string]TopicInfo) error {
	topic := st.resubmitTopic()
	err := stagePlace{st, st.shared, partitions}.createResubmissions(ctx)
	if errors.Is(err, ErrNoTopic) {
		return nil
	}
	if err == nil {
		infos[topic], err = st.shared.Topic(ctx, topic)
	}
	if err != nil {
		return fmt.Errorf("framework: pipeline %q: %w", st.pipeline.name, err)
	}
	st.again = &node{name: st.sources[0].name + ".resubmit", kind: "resubmitted", source: &sourceNode{topic: topic}}
	return nil
}

func (p stagePlace) createResubmissions(ctx context.Context) error {
	topic := p.stage.resubmitTopic()
	var err error
	if creator, ok := p.shared.(TopicCreator); ok {
		create := creator.CreateTopic
		if keeper, ok := p.shared.(TopicKeeper); ok {
			create = keeper.CreateKept
		}
		err = create(ctx, topic, p.partitions)
	} else if info, unknown := p.shared.Topic(ctx, topic); unknown != nil {
		return unknown
	} else if info.Partitions != p.partitions {
		err = fmt.Errorf("%w: %d", ErrPartitions, info.Partitions)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("topic %q, which carries what is resubmitted and must have as many partitions as the stage's topics, %d: %w", topic, p.partitions, err)
	switch {
	case !errors.Is(err, ErrPartitions):
		return err
	case p.stage.keepsState():
		return fmt.Errorf("%w. The stage keeps state, and with other partitions keys would be where their state is not: give the topics "+
			"of the stage back the number that they had or, where they have more now, copy their records into new topics and read those by "+
			"a pipeline of another name", err)
	}
	return fmt.Errorf("%w. The stage keeps no state, so give this topic more, too; over Kafka with "+
		"kafka-topics.sh --bootstrap-server HOST:9092 --alter --topic %s --partitions %d", err, topic, p.partitions)
}

// publishResubmissions puts what is asked of shared stages into their topics, in order.
func (r *Runner) publishResubmissions(ctx context.Context, asked []asking, discard bool) error {
	records := map[stagePlace][]Record{}
	var order []stagePlace
	for _, a := range asked {
		value, err := json.Marshal(resubmission{Fault: *a.fault, Discard: discard})
		if err != nil {
			return fmt.Errorf("framework: resubmit event %q: %w", a.fault.Event.ID, err)
		}
		if records[a.place] == nil {
			order = append(order, a.place)
		}
		records[a.place] = append(records[a.place], Record{
			ID: watermill.NewUUID(), Type: resubmissionType, Source: a.fault.Pipeline,
			Key: keyOf(a.fault.Partition, a.place.partitions), Value: value,
		})
	}
	for _, to := range order {
		topic := to.stage.resubmitTopic()
		if err := to.createResubmissions(ctx); err != nil {
			return fmt.Errorf("framework: resubmit: %w", err)
		}
		publisher, err := to.shared.Publisher(PublisherConfig{Logger: r.config.Logger})
		if err != nil {
			return fmt.Errorf("framework: resubmit: %w", err)
		}
		err = publisher.Publish(ctx, topic, records[to])
		if err = errors.Join(err, publisher.Close()); err != nil {
			return fmt.Errorf("framework: resubmit %d events by topic %q; some of them may be in it: %w", len(records[to]), topic, err)
		}
	}
	return nil
}

// keyOf finds a key that belongs to a partition.
func keyOf(partition, n int) string {
	for i := 0; ; i++ {
		if key := strconv.Itoa(i); Partition(key, n) == partition {
			return key
		}
	}
}

// serveBatch serves the resubmissions of a batch, each in commits that end with its position.
func (t *task) serveBatch(w *work) error {
	src := w.source
	for i := range w.batch.Records {
		record := &w.batch.Records[i]
		if src.known && record.Offset < src.next {
			continue
		}
		r := &rerun{work: w, offset: record.Offset, after: w.batch.cut(i + 1)}
		err := record.Err
		if err == nil {
			err = t.readResubmission(r, record.Value)
		}
		if ClassOf(err) == ClassFatal {
			return err
		}
		if err != nil { // no event: nothing is lost
			t.env.config.Logger.Error("a record in a topic of resubmissions is none, and passed over",
				"task", t.name, "topic", src.topic, "offset", record.Offset, "error", err)
			continue
		}
		done, err := t.serve(r)
		if err != nil {
			return err
		}
		if !done { // the rest is the next owner's, or the next run's
			return errStopping
		}
	}
	rest := *w.batch
	rest.Records = nil
	p, most := &prepared{work: &work{batch: &rest, source: src, done: w.done}, stamps: []int64{t.watermark}}, 0
	for {
		if done, err := t.round(p, &most); done || err != nil {
			return err
		}
	}
}
