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

// subscribe subscribes to what the router reads.
func (r *Runner) subscribe(ctx context.Context) error {
	for _, st := range r.stages {
		var tasks []*task
		for _, t := range r.tasks {
			if t.stage == st {
				tasks = append(tasks, t)
			}
		}
		for i, source := range st.sources {
			topic := source.source.topic
			transport, err := r.transportOf(st, topic)
			if err != nil {
				return err
			}
			subscriber, err := transport.Subscriber(SubscriberConfig{
				Group:       st.pipeline.name,
				BatchEvents: r.config.BatchEvents, BatchBytes: r.config.BatchBytes, InFlight: r.config.InFlight,
				Start: func(_ string, partition int) (int64, bool) {
					if partition >= len(tasks) {
						return 0, false
					}
					src := tasks[partition].sources[i]
					return src.start, src.started
				},
				Logger: r.config.Logger,
			})
			if err != nil {
				return fmt.Errorf("framework: pipeline %q: source %q: topic %q: %w", st.pipeline.name, source.name, topic, err)
			}
			h := handler{name: st.pipeline.name + "/" + source.name, topic: topic, subscriber: subscriber, tasks: tasks}
			r.handlers = append(r.handlers, h)
			messages, err := subscriber.Subscribe(ctx, topic)
			if err != nil {
				return fmt.Errorf("framework: pipeline %q: source %q: topic %q: %w", st.pipeline.name, source.name, topic, err)
			}
			r.handlers[len(r.handlers)-1].subscriber = subscribed{subscriber, messages}
		}
	}
	return nil
}
