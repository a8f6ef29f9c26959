package framework

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// setup makes everything that Run needs and checks that it fits together, before anything starts.
func (r *Runner) setup(ctx context.Context) error {
	if err := r.claimStore(); err != nil {
		return err
	}
	partitions := map[string]int{} // of internal topics
	for _, st := range r.stages {
		for _, n := range st.sinks {
			if n.sink.internal {
				partitions[n.sink.topic] = r.config.InternalPartitions
				if err := r.createInternal(ctx, n.sink.topic); err != nil {
					return err
				}
			}
		}
	}
	var errs []error
	for _, st := range r.stages {
		errs = append(errs, r.openSinks(ctx, st))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	counts := map[*stage]int{}
	infos := map[string]TopicInfo{}
	for _, st := range r.stages {
		n, err := r.checkSources(ctx, st, infos)
		errs = append(errs, err)
		counts[st] = n
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.claimStages(counts); err != nil {
		return err
	}
	for _, st := range r.stages {
		if err := r.openTasks(st, counts, infos); err != nil {
			return err
		}
	}
	for _, relay := range r.relays {
		if err := relay.resume(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) createInternal(ctx context.Context, topic string) error {
	creator, ok := r.config.Internal.(TopicCreator)
	if !ok {
		return fmt.Errorf("framework: internal topic %q: no transport for it; add one that keeps its topics in Store, "+
			"such as transport/embedded, as Config.Transport or Config.Internal", topic)
	}
	create := creator.CreateTopic
	if keeper, ok := r.config.Internal.(TopicKeeper); ok {
		create = keeper.CreateKept
	}
	if err := create(ctx, topic, r.config.InternalPartitions); err != nil {
		return fmt.Errorf("framework: internal topic %q: %w", topic, err)
	}
	return nil
}

func (r *Runner) transportOf(st *stage, topic string) (Transport, error) {
	for _, n := range st.nodes {
		if n.sink != nil && n.sink.internal && n.sink.topic == topic ||
			n.source != nil && n.source.internal != nil && n.source.topic == topic {
			return r.config.Internal, nil
		}
	}
	return r.config.transportOf(topic)
}

// openSinks finds where the outputs of a stage go.
func (r *Runner) openSinks(ctx context.Context, st *stage) error {
	var errs []error
	for _, topic := range st.topics {
		if r.env.sinks[topic] != nil {
			continue
		}
		target, err := r.openSink(ctx, st, topic)
		if err != nil {
			errs = append(errs, fmt.Errorf("framework: pipeline %q: sink topic %q: %w", st.pipeline.name, topic, err))
			continue
		}
		r.env.sinks[topic] = target
	}
	return errors.Join(errs...)
}

func (r *Runner) openSink(ctx context.Context, st *stage, topic string) (*sinkTarget, error) {
	transport, err := r.transportOf(st, topic)
	if err != nil && topic == st.pipeline.DeadLetters() && r.config.Internal != nil {
		transport, err = r.config.Internal, nil // dead letters need a place, whatever else is routed
	}
	if err != nil {
		return nil, err
	}
	if creator, ok := transport.(TopicCreator); ok {
		if _, err := transport.Topic(ctx, topic); errors.Is(err, ErrNoTopic) {
			create := creator.CreateTopic
			if keeper, ok := transport.(TopicKeeper); ok && topic == st.pipeline.DeadLetters() {
				create = keeper.CreateKept
			}
			if err := create(ctx, topic, 0); err != nil {
				return nil, err
			}
		}
	}
	target := &sinkTarget{topic: topic}
	if ours, ok := transport.(StoreTransport); ok && ours.Store() == r.config.Store {
		info, err := transport.Topic(ctx, topic)
		if err != nil {
			return nil, err
		}
		target.store, target.partitions = ours, info.Partitions
		return target, nil
	}
	outbox, err := r.config.Store.Outbox(topic)
	if err != nil {
		return nil, err
	}
	publisher, err := transport.Publisher(PublisherConfig{Logger: r.config.Logger})
	if err != nil {
		return nil, err
	}
	target.relay = newRelay(topic, outbox, publisher, r.env)
	r.relays = append(r.relays, target.relay)
	return target, nil
}

// checkSources finds how many partitions a stage has, which all of its sources must agree on.
func (r *Runner) checkSources(ctx context.Context, st *stage, infos map[string]TopicInfo) (int, error) {
	var errs []error
	n, first := 0, ""
	for _, source := range st.sources {
		topic := source.source.topic
		transport, err := r.transportOf(st, topic)
		if err == nil {
			infos[topic], err = transport.Topic(ctx, topic)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("framework: pipeline %q: source %q: topic %q: %w", st.pipeline.name, source.name, topic, err))
			continue
		}
		switch count := infos[topic].Partitions; {
		case n == 0:
			n, first = count, topic
		case count != n:
			errs = append(errs, fmt.Errorf("framework: pipeline %q: topics %q and %q meet in one stage and must be partitioned alike, "+
				"but have %d and %d partitions; re-key one of the streams, or make the topics with the same number",
				st.pipeline.name, first, topic, n, count))
		}
	}
	return n, errors.Join(errs...)
}

// openTasks opens the stage's slices of the store, one for each partition.
func (r *Runner) openTasks(st *stage, counts map[*stage]int, infos map[string]TopicInfo) error {
	for partition := range counts[st] {
		t := &task{
			stage: st, partition: partition, name: fmt.Sprintf("%s/%d", st.name, partition), env: r.env,
			states: map[int][]any{}, watermark: watermark.Min,
			totals: map[uint64]*[countKinds]int64{}, sent: map[*node]int64{},
			inbox: make(chan *work), commits: make(chan *commit),
			stop: make(chan struct{}), stopped: make(chan struct{}), failed: make(chan struct{}), ended: make(chan struct{}),
		}
		for _, source := range st.sources {
			t.sources = append(t.sources, r.openSource(source, infos[source.source.topic], counts))
		}
		if err := t.open(r.config); err != nil {
			return fmt.Errorf("framework: task %s: %w", t.name, err)
		}
		r.lock.Lock()
		r.tasks = append(r.tasks, t)
		r.lock.Unlock()
	}
	return nil
}

func (r *Runner) openSource(n *node, info TopicInfo, counts map[*stage]int) *taskSource {
	src := &taskSource{
		node: n, topic: n.source.topic, spread: info.Partitions > 1, position: info.Positioned,
		held: map[uint64]*work{}, lastSeen: r.config.Now(), caughtUp: true,
	}
	src.bounded.Bound = n.source.outOfOrder
	src.bounded.Reset(watermark.Min, false)
	if n.source.internal != nil {
		for st, count := range counts {
			if contains(st.topics, n.source.topic) {
				src.merged, src.heard = watermark.NewMerged(count), make([]bool, count)
			}
		}
	}
	return src
}

// open opens a task's slice of the store and goes back to where it was.
func (t *task) open(c Config) (err error) {
	if t.slice, err = c.Store.Task(t.name); err != nil {
		return err
	}
	if t.timers, err = t.slice.Timers(); err != nil {
		return err
	}
	for _, n := range t.stage.nodes {
		t.totals[n.path] = new([countKinds]int64)
		for _, state := range n.states {
			opened, err := state.open(t.slice)
			if err != nil {
				return err
			}
			t.states[n.index] = append(t.states[n.index], opened)
		}
		if n.sink != nil && n.sink.internal {
			t.sent[n] = math.MinInt64
		}
	}
	for lane := range c.Lanes {
		s := &Scope{
			task: t, ctx: t.env.ctx, batch: c.Store.NewBatch(), next: watermark.Min,
			counts:  make([]int64, len(t.stage.pipeline.nodes)*countKinds),
			outputs: make([]outputs, len(t.stage.topics)),
		}
		for shard := lane; shard < microstore.Shards; shard += c.Lanes {
			s.shards = append(s.shards, shard)
		}
		t.scopes = append(t.scopes, s)
		if len(c.EventMiddlewares) > 0 {
			t.handlers = append(t.handlers, handlerOf(s, c.EventMiddlewares))
		}
	}
	meta, err := t.slice.Meta()
	if err != nil {
		return err
	}
	if err := t.restoreMeta(meta); err != nil {
		return err
	}
	for _, src := range t.sources {
		src.start, src.started = src.next, src.known
	}
	return nil
}

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

// claim is what the store remembers of a pipeline that it holds the state of.
type claim struct {
	States     map[string]string `json:"states"`
	Partitions map[string]int    `json:"partitions"`
	Stages     map[string]int    `json:"stages,omitempty"` // partitions of those that keep state
}

const claimName = "framework.pipelines"

func (r *Runner) readClaims() (map[string]claim, error) {
	raw, _, err := r.config.Store.Get(claimName)
	if err != nil {
		return nil, fmt.Errorf("framework: %w", err)
	}
	claims := map[string]claim{}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &claims); err != nil {
			return nil, fmt.Errorf("framework: the store's list of pipelines cannot be read: %w", err)
		}
	}
	return claims, nil
}

func (r *Runner) writeClaims(claims map[string]claim) error {
	raw, err := json.Marshal(claims)
	if err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	b := r.config.Store.NewBatch()
	b.Put(claimName, raw)
	if err := r.config.Store.Commit(r.env.ctx, b); err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	return nil
}

// claimStages checks that the topics of stages with state have as many partitions as when the state was made, and
// writes their number down. With another number, keys would belong to other tasks than their state does.
func (r *Runner) claimStages(counts map[*stage]int) error {
	claims, err := r.readClaims()
	if err != nil {
		return err
	}
	for _, st := range r.stages {
		if !st.stateful {
			continue
		}
		c := claims[st.pipeline.name]
		if was, ok := c.Stages[st.name]; ok && was != counts[st] {
			return fmt.Errorf("framework: stage %q: %w: its topics had %d partitions, they have %d, so keys would be apart from their state; "+
				"use another store directory to make the state anew", st.name, ErrForeignState, was, counts[st])
		}
		if c.Stages == nil {
			c.Stages = map[string]int{}
		}
		c.Stages[st.name] = counts[st]
		claims[st.pipeline.name] = c
	}
	return r.writeClaims(claims)
}

// claimStore checks that the store's state is of these pipelines, and writes down whose it is.
func (r *Runner) claimStore() error {
	claims, err := r.readClaims()
	if err != nil {
		return err
	}
	ours := map[string]claim{}
	for _, st := range r.stages {
		c, ok := ours[st.pipeline.name]
		if !ok {
			c = claim{States: map[string]string{}, Partitions: map[string]int{}}
			ours[st.pipeline.name] = c
		}
		for _, n := range st.nodes {
			for i, state := range n.states {
				c.States[fmt.Sprintf("%s#%d", n.name, i)] = n.kind + ": " + state.shape()
			}
			if n.onTimer != nil { // it reckons with timers that it has set for the window it has
				c.States[n.name+" timers"] = n.kind + " " + n.detail
			}
			if n.sink != nil && n.sink.internal {
				c.Partitions[n.sink.topic] = r.config.InternalPartitions
			}
		}
	}
	if err := compareClaims(claims, ours); err != nil {
		return err
	}
	for name, c := range ours {
		c.Stages = claims[name].Stages
		claims[name] = c
	}
	return r.writeClaims(claims)
}

// ErrForeignState is returned by Runner.Run when the store holds the state of other pipelines, or of these in
// another shape.
var ErrForeignState = errors.New("the store holds other state")

func compareClaims(claims, ours map[string]claim) error {
	known := false
	var there, here []string
	for name := range claims {
		there = append(there, name)
	}
	for name, c := range ours {
		here = append(here, name)
		old, ok := claims[name]
		if !ok {
			continue
		}
		known = true
		for step, state := range c.States {
			if was, ok := old.States[step]; ok && was != state {
				return fmt.Errorf("framework: pipeline %q, step %q: %w: it was %s, it is %s; "+
					"use another store directory, or give the pipeline or the step a new name", name, step, ErrForeignState, was, state)
			}
		}
		for topic, n := range c.Partitions {
			if was, ok := old.Partitions[topic]; ok && was != n {
				return fmt.Errorf("framework: pipeline %q, internal topic %q: %w: it has %d partitions, InternalPartitions is %d; "+
					"set it to %d, or use another store directory", name, topic, ErrForeignState, was, n, was)
			}
		}
	}
	if len(claims) > 0 && !known {
		sort.Strings(there)
		sort.Strings(here)
		return fmt.Errorf("framework: %w: that of pipeline %s, not of %s; use another store directory",
			ErrForeignState, strings.Join(there, ", "), strings.Join(here, ", "))
	}
	return nil
}
