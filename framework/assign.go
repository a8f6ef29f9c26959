package framework

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// assigner opens and closes the tasks of shared stages as their partitions come and go. There is one for each
// pipeline that reads shared topics; its groups are the pipeline's shared stages.
//
// A partition moves so:
//
//	revoke   the subscriber stops its delivery; the task commits what it has taken; its relays send what is decided; the
//	         group's positions are marked; the slice of the store is closed, and stays
//	assign   the slice is opened, or made; where the group's positions are ahead of it, the task catches up: see catchup.go
//	lose     as revoke, but nothing is sent or marked any more
//
// What is authoritative: the slice, for the state that it holds and the position that this is the fold of; the group's
// positions, for what has been sent. A slice is never trusted to be the newest, and need not be thrown away either: it
// is a fold of the same input, so reading on from its position makes it the same as any other.
type assigner struct {
	runner *Runner
	sets   []*taskSet // by group
	marker Marker
	faults *faultPasses // of the pipeline's dead letters
}

// ownership is what a task has of its own where partitions are shared out.
type ownership struct {
	moves     *moves
	relays    []*relay
	cut       context.CancelFunc // of the task's context
	settled   settled
	log       *changelog       // nil where the stage keeps none
	committed map[string]int64 // where the group is: it was there, or is told so
	faults    *faultPasses
	apart     bool // the slice is not just where the group is: others may have gone on from there
	differs   bool // the slice has what failed elsewhere, see pastfaults.go
}

var errNotShared = errors.New("the transport names a group or partition that it was not given")

// Assign opens the task of a partition and starts it.
func (a *assigner) Assign(ctx context.Context, group, partition int, committed map[string]int64) error {
	r := a.runner
	set, err := a.set("assign", group, partition)
	if err != nil {
		return err
	}
	if set.get(partition) != nil {
		return fmt.Errorf("framework: task %s: its partition is assigned twice", taskName(set.stage, partition))
	}
	r.lock.RLock()
	defer r.lock.RUnlock()
	if r.opening.Err() != nil {
		return errStopping
	}
	opening, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.opening, cancel)()
	t, err := r.openShared(opening, set, partition, committed, a.marker)
	if err != nil && r.opening.Err() != nil {
		return errStopping
	}
	if err != nil {
		err = fmt.Errorf("framework: task %s: %w", taskName(set.stage, partition), err)
		if ctx.Err() == nil { // else the group has changed its mind meanwhile, and assigns it again
			r.fail(err)
		}
		return err
	}
	t.own.faults = a.faults
	set.put(partition, t)
	t.tell(TaskAssigned)
	t.startRelays()
	go t.run()
	return nil
}

// Revoke ends the task of a partition in good order.
func (a *assigner) Revoke(ctx context.Context, group, partition int) error {
	return a.end(ctx, group, partition, TaskRevoked)
}

// Lose ends the task of a partition at once.
func (a *assigner) Lose(group, partition int) {
	if set, err := a.set("lose", group, partition); err == nil {
		if t := set.get(partition); t != nil {
			t.own.cut()
		}
	}
	_ = a.end(context.Background(), group, partition, TaskLost) // what it could not finish is another member's to do
}

func (a *assigner) end(ctx context.Context, group, partition int, how TaskState) error {
	set, err := a.set("revoke", group, partition)
	if err != nil {
		return err
	}
	t := set.put(partition, nil)
	if t == nil {
		return nil
	}
	err = t.close(ctx)
	t.tell(how)
	return err
}

// set returns the tasks of a group that has the partition.
func (a *assigner) set(what string, group, partition int) (*taskSet, error) {
	if group < 0 || group >= len(a.sets) || partition < 0 || partition >= a.sets[group].partitions() {
		return nil, fmt.Errorf("framework: %s partition %d of group %d: %w", what, partition, group, errNotShared)
	}
	return a.sets[group], nil
}

// close ends a shared task: what it has taken is committed and sent, as far as ctx leaves time; then its slice is
// closed. What is not sent stays in the outbox.
func (t *task) close(ctx context.Context) error {
	defer t.own.cut()
	defer context.AfterFunc(ctx, t.own.cut)()
	t.halt()
	<-t.stopped // steps that do not listen to their context are waited for: the slice is theirs
	var errs []error
	for _, relay := range t.own.relays {
		relay.close()
		<-relay.stopped
		if rows, _ := relay.outbox.Backlog(); rows > 0 && ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("framework: task %s: sink %q has not taken %d rows in time; they stay in the outbox", t.name, relay.topic, rows))
		}
		errs = append(errs, relay.publisher.Close())
	}
	if t.own.log != nil {
		errs = append(errs, t.own.log.close(ctx))
	}
	if t.slice != nil {
		t.slice.Close()
	}
	return errors.Join(errs...)
}

// openShared opens a task with relays of its own, so that its outputs can be held back, sent or left by themselves.
func (r *Runner) openShared(ctx context.Context, set *taskSet, partition int, committed map[string]int64, marker Marker) (*task, error) {
	st := set.stage
	t := r.newTask(st, partition)
	running, cut := context.WithCancel(r.env.ctx)
	t.own = &ownership{moves: set.moves, cut: cut, committed: maps.Clone(committed)}
	if committed == nil {
		t.own.committed = map[string]int64{}
	}
	own := *r.env
	own.ctx = running
	own.fail = func(err error) {
		if running.Err() == nil { // else it is of a partition that is another's by now
			r.fail(err)
		}
	}
	t.env = &own
	keep := func(p position) {
		if marker != nil {
			marker.Mark(p.topic, partition, p.next)
			t.letGo(marker, p.topic)
		}
	}
	t.own.settled.keep = keep
	if st.keepsChangelog() {
		log, err := r.changelogOf(ctx, t, marker)
		if err != nil {
			cut()
			return nil, err
		}
		log.settled.keep, t.own.settled.moved = keep, log.relay.wake
		t.own.log = log
		if log.whole { // the slice is opened when it is restored; the log is never behind the group
			for _, src := range t.sources {
				src.start, src.started = committed[src.topic], has(committed, src.topic)
			}
			return t, nil
		}
	}
	err := t.openOwn(ctx)
	if err == nil {
		err = t.lookBack(ctx)
	}
	if err != nil {
		if cut(); t.slice != nil {
			t.slice.Close()
		}
		return nil, errors.Join(err, t.closePublishers())
	}
	for _, src := range t.sources {
		if !src.started { // else lookBack has said where
			src.start, src.started = src.next, src.known
		}
	}
	return t, nil
}

func has(m map[string]int64, key string) bool {
	_, ok := m[key]
	return ok
}

// openOwn opens the slice of a shared task, and its relays.
func (t *task) openOwn(ctx context.Context) error {
	if err := t.open(t.env.config); err != nil {
		return err
	}
	t.follow(t.own.committed)
	t.notePositions()
	shared := t.sinks
	t.sinks = map[string]*sinkTarget{}
	for _, topic := range t.stage.topics {
		target := *shared[topic]
		if target.store == nil {
			if err := t.openRelay(ctx, &target); err != nil {
				return err
			}
		}
		t.sinks[topic] = &target
	}
	for topic, target := range t.sinks {
		if target.relay != nil {
			target.relay.refusals = t.stage.refusalsOf(topic, t.sinks)
			if err := target.relay.openHeld(topic + "@" + t.name); err != nil {
				return err
			}
		}
	}
	return nil
}

// startRelays starts the relays to the sinks.
func (t *task) startRelays() {
	for _, relay := range t.own.relays {
		go relay.run(t.env.ctx)
	}
}

// openRelay gives a task a relay of its own to a sink. What the slice's outbox still holds is sent, even where the group
// has gone on meanwhile: others have mostly sent the same, but not what a timer caused that wall time made due here and
// not yet there.
func (t *task) openRelay(ctx context.Context, target *sinkTarget) error {
	if err := target.open(target.topic+"@"+t.name, t.env); err != nil {
		return err
	}
	publisher := target.relay.publisher
	if _, ok := publisher.(Resumer); ok {
		return errors.Join(fmt.Errorf("sink topic %q can have one writer only, and the stage is shared out among processes; "+
			"send it to a topic that takes several", target.topic), publisher.Close())
	}
	t.own.relays = append(t.own.relays, target.relay)
	target.relay.recovered = t.own.settled.add(1)
	return target.relay.resume(ctx)
}

func (t *task) closePublishers() error {
	var errs []error
	for _, relay := range t.own.relays {
		errs = append(errs, relay.publisher.Close())
	}
	if t.own.log != nil {
		errs = append(errs, t.own.log.relay.publisher.Close())
	}
	return errors.Join(errs...)
}

// revokeAll ends the shared tasks that are left when their subscriber is closed.
func (r *Runner) revokeAll(ctx context.Context) error {
	var errs []error
	for _, set := range r.sets {
		if set.stage.shared == nil {
			continue
		}
		for partition := range set.partitions() {
			if t := set.put(partition, nil); t != nil {
				errs = append(errs, t.close(ctx))
				t.tell(TaskRevoked)
			}
		}
		set.moves.end()
	}
	return errors.Join(errs...)
}

// tell tells hooks of a task.
func (t *task) tell(state TaskState) { t.tellProgress(state, t.behind(), t.target) }

// tellEvery bounds how often the log hears of the progress of a task.
const tellEvery = 10 * time.Second

// tellProgress tells that a task has behind of target positions left to read.
func (t *task) tellProgress(state TaskState, behind, target int64) {
	info := TaskInfo{Task: t.name, State: state, Behind: behind, Target: target}
	switch progress := state == TaskCatchingUp || state == TaskRestoring; {
	case !progress:
		t.own.moves.add(state)
		t.told = time.Now()
	case time.Since(t.told) > tellEvery:
		t.told = time.Now()
		t.env.config.Logger.Info("task of a shared partition", "task", t.name, "state", string(state), "behind", behind, "of", target)
	}
	for _, hook := range t.env.hooks.task {
		hook.OnTask(info)
	}
}
