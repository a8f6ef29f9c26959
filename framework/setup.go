package framework

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// setup makes everything that Run needs and checks that it fits together, before anything starts.
func (r *Runner) setup(ctx context.Context) error {
	if err := r.claimStore(); err != nil {
		return err
	}
	if err := r.findInternal(ctx); err != nil {
		return err
	}
	for _, st := range r.stages {
		for _, n := range st.sinks {
			if n.sink.internal {
				if err := r.createInternal(ctx, st, n.sink.topic); err != nil {
					return err
				}
			}
		}
	}
	var errs []error
	for _, st := range r.stages {
		errs = append(errs, r.findSinks(ctx, st))
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
	if slices.ContainsFunc(r.stages, func(st *stage) bool { return st.shared != nil }) {
		errs = append(errs, r.nameStore())
	}
	for _, st := range r.stages {
		if st.shared != nil {
			errs = append(errs, r.openResubmissions(ctx, st, counts[st], infos), st.findParked(ctx))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := r.claimStages(counts); err != nil {
		return err
	}
	r.env.counts, r.env.infos = counts, infos
	for _, st := range r.stages {
		set := newTaskSet(st, counts[st], r.config.Logger)
		r.setsLock.Lock()
		r.sets = append(r.sets, set)
		r.setsLock.Unlock()
		if st.keepsChangelog() {
			if err := r.openChangelog(ctx, st, counts[st]); err != nil {
				return err
			}
		}
		if st.shared != nil {
			r.warnOfRetention(ctx, st)
			continue // opened when they are assigned
		}
		if err := errors.Join(r.openRelays(ctx, st), r.openTasks(set)); err != nil {
			return err
		}
	}
	if err := r.settleRefusals(); err != nil {
		return err
	}
	return r.openBacklogs()
}

// findInternal decides where the topics between the stages of each pipeline are. Those of a pipeline that is shared
// out among processes must be where all of them see them.
func (r *Runner) findInternal(ctx context.Context) error {
	var errs []error
	internal := map[*Pipeline]Transport{}
	for _, st := range r.stages {
		if _, found := internal[st.pipeline]; !found {
			var err error
			if internal[st.pipeline], err = r.internalOf(ctx, st.pipeline); err != nil {
				errs = append(errs, fmt.Errorf("framework: %w", err))
			}
		}
		st.internal = internal[st.pipeline]
	}
	return errors.Join(errs...)
}

// internalOf asks the transports of a pipeline's sources. One that does not answer may share its topic out: nothing can be
// taken for granted then.
func (r *Runner) internalOf(ctx context.Context, p *Pipeline) (Transport, error) {
	internal := r.config.Internal
	if _, local := internal.(StoreTransport); !local && internal != nil {
		return internal, nil
	}
	var errs []error
	for _, n := range p.nodes {
		if n.source == nil || n.source.internal != nil {
			continue
		}
		transport, err := r.config.transportOf(n.source.topic)
		if err != nil {
			continue
		}
		info, err := transport.Topic(ctx, n.source.topic)
		if err != nil {
			errs = append(errs, sourceError(p, n, err))
		} else if info.Shared {
			internal = transport
		}
	}
	return internal, errors.Join(errs...)
}

func sourceError(p *Pipeline, n *node, err error) error {
	return fmt.Errorf("pipeline %q: source %q: topic %q: %w", p.name, n.name, n.source.topic, err)
}

func (r *Runner) createInternal(ctx context.Context, st *stage, topic string) error {
	creator, ok := st.internal.(TopicCreator)
	if !ok {
		return fmt.Errorf("framework: internal topic %q: no transport for it; add one that keeps its topics in Store, "+
			"such as transport/embedded, as Config.Transport or Config.Internal", topic)
	}
	create := creator.CreateTopic
	if keeper, ok := st.internal.(TopicKeeper); ok {
		create = keeper.CreateKept
	}
	if err := create(ctx, topic, r.config.InternalPartitions); err != nil {
		return fmt.Errorf("framework: internal topic %q: %w", topic, err)
	}
	return nil
}

func (r *Runner) transportOf(st *stage, topic string) (Transport, error) {
	if st.again != nil && st.again.source.topic == topic {
		return st.shared, nil
	}
	for _, n := range st.nodes {
		if n.sink != nil && n.sink.internal && n.sink.topic == topic ||
			n.source != nil && n.source.internal != nil && n.source.topic == topic {
			return st.internal, nil
		}
	}
	return r.config.transportOf(topic)
}

// findSinks finds where the outputs of a stage go, and makes the topics that are not there.
func (r *Runner) findSinks(ctx context.Context, st *stage) error {
	var errs []error
	for slot, topic := range st.topics {
		target := r.env.sinks[topic]
		if target == nil {
			var err error
			if target, err = r.findSink(ctx, st, topic); err != nil {
				errs = append(errs, sinkError(st, topic, err))
				continue
			}
			r.env.sinks[topic] = target
		}
		st.checks[slot] = target.check
	}
	return errors.Join(errs...)
}

func sinkError(st *stage, topic string, err error) error {
	return fmt.Errorf("framework: pipeline %q: sink topic %q: %w", st.pipeline.name, topic, err)
}

func (r *Runner) findSink(ctx context.Context, st *stage, topic string) (*sinkTarget, error) {
	find := func() (Transport, error) { return r.transportOf(st, topic) }
	if topic == st.pipeline.DeadLetters() {
		find = func() (Transport, error) { return r.deadLetterTransport(st) }
	}
	transport, err := find()
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
		} else if err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
	target := &sinkTarget{topic: topic, transport: transport}
	if checker, ok := transport.(RecordChecker); ok {
		target.check = checker.RecordCheck(ctx, topic)
	}
	if ours, ok := transport.(StoreTransport); ok && ours.Store() == r.config.Store {
		info, err := transport.Topic(ctx, topic)
		if err != nil {
			return nil, err
		}
		target.store, target.partitions = ours, info.Partitions
	}
	return target, nil
}

// open gives a sink outside of the store its relay, which sends what is in the named outbox.
func (target *sinkTarget) open(outboxName string, e *env) error {
	outbox, err := e.config.Store.Outbox(outboxName)
	if err != nil {
		return err
	}
	publisher, err := target.transport.Publisher(PublisherConfig{Logger: e.config.Logger})
	if err != nil {
		return err
	}
	target.relay = newRelay(target.topic, outbox, publisher, e)
	return nil
}

// openRelays makes what sends the outputs of a stage to sinks outside of the store; one for each topic, whatever the
// number of stages and tasks.
func (r *Runner) openRelays(ctx context.Context, st *stage) error {
	for _, topic := range st.topics {
		target := r.env.sinks[topic]
		if target.store != nil || target.relay != nil {
			continue
		}
		if err := target.open(topic, r.env); err != nil {
			return sinkError(st, topic, err)
		}
		r.relays = append(r.relays, target.relay)
		if err := target.relay.resume(ctx); err != nil {
			return err
		}
	}
	return nil
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
			errs = append(errs, fmt.Errorf("framework: %w", sourceError(st.pipeline, source, err)))
			continue
		}
		if source.source.internal != nil && !infos[topic].Positioned {
			errs = append(errs, fmt.Errorf("framework: internal topic %q: its transport has no positions, which the stages of a pipeline need "+
				"between them; use one that has, such as transport/embedded, as Config.Internal", topic))
			continue
		}
		if infos[topic].Shared {
			st.shared = transport
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
	if len(errs) == 0 && st.shared != nil {
		errs = append(errs, r.checkShared(st, infos))
	}
	return n, errors.Join(errs...)
}

// checkShared checks that one transport can share out all sources of a stage, and that its sinks can have several
// writers.
func (r *Runner) checkShared(st *stage, infos map[string]TopicInfo) error {
	var errs []error
	if st.pipeline.parking != nil && st.pipeline.changelog == nil {
		errs = append(errs, fmt.Errorf("framework: pipeline %q parks keys, and stage %q is shared out among processes: what is parked "+
			"does not move with a partition but in a changelog; set Pipeline.Changelog too, leave Park out, or read the topics with one process",
			st.pipeline.name, st.name))
	}
	for _, source := range st.sources {
		topic := source.source.topic
		if transport, err := r.transportOf(st, topic); err != nil || transport != st.shared || !infos[topic].Shared {
			errs = append(errs, fmt.Errorf("framework: pipeline %q: topic %q meets topics in a stage that are shared out among processes, "+
				"but is not shared with them by the same transport; re-key one of the streams, or put the topics in one place", st.pipeline.name, topic))
		}
	}
	return errors.Join(errs...)
}

// openTasks opens the stage's slices of the store, one for each partition.
func (r *Runner) openTasks(set *taskSet) error {
	for partition := range set.partitions() {
		t := r.newTask(set.stage, partition)
		if err := t.open(r.config); err != nil {
			return fmt.Errorf("framework: task %s: %w", t.name, err)
		}
		set.put(partition, t)
	}
	return nil
}

func taskName(st *stage, partition int) string { return fmt.Sprintf("%s/%d", st.name, partition) }

func (r *Runner) newTask(st *stage, partition int) *task {
	t := &task{
		stage: st, partition: partition, name: taskName(st, partition), env: r.env, sinks: r.env.sinks,
		states: map[int][]any{}, watermark: watermark.Min,
		tally: newTally(st.nodes), sent: map[*node]int64{},
		inbox: make(chan *work), commits: make(chan *commit),
		resubmit: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}), failed: make(chan struct{}), ended: make(chan struct{}),
	}
	for _, source := range st.inputs() {
		src := r.openSource(source, r.env.infos[source.source.topic], r.env.counts)
		if source == st.again {
			src.resubmits, src.over = true, true
			src.bounded.End()
		}
		if source.source.internal != nil && (st.shared == nil || st.trims()) { // else others may have to read it again
			src.keeper, _ = st.internal.(TopicKeeper)
		}
		t.sources = append(t.sources, src)
	}
	return t
}

func (r *Runner) openSource(n *node, info TopicInfo, counts map[*stage]int) *taskSource {
	src := &taskSource{
		node: n, topic: n.source.topic, id: info.ID, spread: info.Partitions > 1, position: info.Positioned,
		pending: map[uint64]*work{}, lastSeen: r.config.Now(),
		// Where there are positions the first batch tells: it may take longer to come than a source takes to be idle.
		caughtUp: !info.Positioned,
	}
	src.bounded.Bound = n.source.outOfOrder
	src.bounded.Reset(watermark.Min, false)
	if n.source.internal != nil {
		for st, count := range counts {
			if slices.Contains(st.topics, n.source.topic) {
				src.merged, src.heard = watermark.NewMerged(count), make([]bool, count)
			}
		}
		src.relayed = r.env.sinks[n.source.topic].store == nil
	}
	return src
}

// open opens a task's slice of the store and goes back to where it was.
func (t *task) open(c Config) (err error) {
	if err := t.checkPlace(); err != nil {
		return err
	}
	if t.slice, err = c.Store.Task(t.name); err != nil {
		return err
	}
	if t.timers, err = t.slice.Timers(); err != nil {
		return err
	}
	for _, n := range t.stage.nodes {
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
	parks, err := t.parks()
	if err == nil && parks {
		err = t.openParking(t.stage.pipeline.parking)
	}
	if err != nil {
		return err
	}
	waiting, err := c.Store.Outboxes()
	if err != nil {
		return err
	}
	if t.own == nil && slices.Contains(waiting, resubmitName(t.name)) {
		if t.resubmitted, err = c.Store.Outbox(resubmitName(t.name)); err != nil {
			return err
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
		if err := src.openProcessed(t.slice); err != nil {
			return err
		}
		if t.own == nil {
			src.start, src.started = src.next, src.known
		}
	}
	t.notePositions()
	return nil
}
