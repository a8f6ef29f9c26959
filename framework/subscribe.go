package framework

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
)

// subscribed is a subscriber whose one subscription is made already: a router that cannot subscribe does not end.
type subscribed struct {
	message.Subscriber
	messages <-chan *message.Message
}

func (s subscribed) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return s.messages, nil
}

// subscribe subscribes to what the router reads: through a subscriber for each source or, where partitions are shared
// out, through one for all of a pipeline.
func (r *Runner) subscribe(ctx context.Context) error {
	shared := map[*Pipeline]message.Subscriber{}
	for _, set := range r.sets {
		st := set.stage
		for _, source := range st.inputs() {
			topic := source.source.topic
			wrong := func(err error) error {
				return fmt.Errorf("framework: pipeline %q: source %q: topic %q: %w", st.pipeline.name, source.name, topic, err)
			}
			subscriber := shared[st.pipeline]
			if st.shared == nil || subscriber == nil {
				transport, err := r.transportOf(st, topic)
				if err != nil {
					return err
				}
				if subscriber, err = r.subscriber(set, transport); err != nil {
					return wrong(err)
				}
				if st.shared != nil {
					shared[st.pipeline] = subscriber
				}
			}
			set.reads(topic, subscriber)
			h := handler{name: st.pipeline.name + "/" + source.name, topic: topic, subscriber: subscriber, set: set, fail: r.fail}
			r.handlers = append(r.handlers, h)
			messages, err := subscriber.Subscribe(ctx, topic)
			if err != nil {
				return wrong(err)
			}
			r.handlers[len(r.handlers)-1].subscriber = subscribed{subscriber, messages}
		}
	}
	return nil
}

// subscriber makes what reads the sources of a stage or, where partitions are shared out, of all such stages of its
// pipeline.
func (r *Runner) subscriber(set *taskSet, transport Transport) (message.Subscriber, error) {
	config := SubscriberConfig{
		Group:       set.stage.pipeline.name,
		BatchEvents: r.config.BatchEvents, BatchBytes: r.config.BatchBytes, InFlight: r.config.InFlight,
		Logger: r.config.Logger,
	}
	sets := []*taskSet{set}
	var assign *assigner
	if set.stage.shared != nil {
		sets = nil
		for _, other := range r.sets {
			if other.stage.pipeline == set.stage.pipeline && other.stage.shared != nil {
				sets = append(sets, other)
				config.Together = append(config.Together, other.stage.reads())
			}
		}
		assign = &assigner{runner: r, sets: sets, faults: newFaultPasses()}
		config.Assignments = assign
		last, _, err := r.config.Store.Get(memberName + config.Group)
		if err != nil {
			return nil, err
		}
		config.Predecessor, config.KeepMember = string(last), func(name string) error { return r.keepMember(config.Group, name) }
	}
	config.Start = func(topic string, partition int) (int64, bool) {
		for _, set := range sets {
			if t := set.get(partition); t != nil && t.source(topic) != nil {
				src := t.source(topic)
				return src.start, src.started
			}
		}
		return 0, false
	}
	subscriber, err := transport.Subscriber(config)
	if err == nil && assign != nil {
		assign.marker, _ = subscriber.(Marker)
	}
	return subscriber, err
}

// memberName is where the store has what the brokers know a pipeline's member of its group by.
const memberName = "framework.member."

func (r *Runner) keepMember(group, name string) error {
	b := r.config.Store.NewBatch()
	b.Put(memberName+group, []byte(name))
	return r.config.Store.Commit(r.env.ctx, b)
}

// reads lists the topics of the stage's sources.
func (st *stage) reads() (topics []string) {
	for _, source := range st.inputs() {
		topics = append(topics, source.source.topic)
	}
	return topics
}
