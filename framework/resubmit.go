package framework

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// Resubmit has dead letters run again in the stage in which they failed, in the order in which they are given: by the
// Run that is going on, or by the next one, before it reads anything new. It returns when that is decided, in a commit
// of the store. Each of the events is run once for each call, whatever crashes and however many faults of it are given: with
// the bytes of the one that had been sent again most often, or of the last of these. One that fails again is a new fault.
//
// A fault with Parked set stands for its key: the event that the key waits for is run, then all that waits behind it,
// in order, each at the watermark at which it came; when all have run the key is released, and when one fails
// again the rest goes on waiting. It is enough to give one fault of a key; a key that has been released is left as it
// is, so nothing is run twice. Another fault is run as if it came now, after later events of its key: what is
// too late for its window is late again. A timer reads what it had read when it failed: see Step.OnTimer.
//
// The event is run with the bytes of the fault, which may have been mended (Event.Data, or Event.DataBase64); its key and
// id stay. That holds for the event that a key waits for, not for those behind it.
//
// Where partitions are shared out among processes, any of them may be asked, and a Runner that does not run, too: it
// returns when the transport has taken the order, as a record in a topic of the stage, and the process that has the
// partition carries it out. After an error some of the orders may have been taken.
func (r *Runner) Resubmit(ctx context.Context, faults ...Fault) error {
	return r.resubmit(ctx, faults, false)
}

// Discard gives the events of dead letters up. Where one had its key parked, what waits behind it is run as Resubmit
// does. The faults stay in their topic.
func (r *Runner) Discard(ctx context.Context, faults ...Fault) error {
	return r.resubmit(ctx, faults, true)
}

func (r *Runner) resubmit(ctx context.Context, faults []Fault, discard bool) error {
	all, err := r.asked(ctx, faults, discard)
	if err != nil {
		return err
	}
	var asked, shared []asking
	for _, a := range all {
		if a.place.shared != nil {
			shared = append(shared, a)
		} else {
			asked = append(asked, a)
		}
	}
	if err := r.publishResubmissions(ctx, shared, discard); err != nil || len(asked) == 0 {
		return err
	}
	store := r.config.Store
	b := store.NewBatch()
	commit := func() error {
		err := store.Commit(ctx, b)
		b = store.NewBatch()
		return err
	}
	for i, a := range asked {
		data, err := json.Marshal(resubmission{Fault: *a.fault, Discard: discard})
		if err != nil {
			return fmt.Errorf("framework: resubmit event %q: %w", a.fault.Event.ID, err)
		}
		outbox, err := store.Outbox(resubmitName(a.task))
		if err != nil {
			return fmt.Errorf("framework: resubmit: %w", err)
		}
		mark := b.Mark()
		outbox.Add(b, data)
		if i > 0 && (b.Bytes() > store.MaxBatchBytes()/2 || b.RawBytes() > store.MaxRawBytes()/2) {
			b.Rollback(mark)
			if err := commit(); err != nil {
				return fmt.Errorf("framework: resubmit, at event %q: %w", a.fault.Event.ID, err)
			}
			outbox.Add(b, data)
		}
	}
	if err := commit(); err != nil {
		return fmt.Errorf("framework: resubmit: %w", err)
	}
	for _, t := range r.live() {
		if slices.ContainsFunc(asked, func(a asking) bool { return a.task == t.name }) {
			t.lookAgain()
		}
	}
	return nil
}

// lookAgain lets the task take what has been resubmitted.
func (t *task) lookAgain() {
	select {
	case t.resubmit <- struct{}{}:
	default: // it has not looked yet
	}
}

// asking is a fault whose task has been found.
type asking struct {
	fault *Fault
	task  string
	place stagePlace
}

// stagePlace is where a stage's partitions are.
type stagePlace struct {
	stage      *stage
	shared     Transport // that shares them out among processes; else nil
	partitions int
}

// asked finds the tasks of faults, and leaves out what others stand for: a key is run from the event that it waits for,
// so what waits behind it need not be asked for, nor the same event for each time that it has failed, or that a crash has
// had its fault sent, or for each of its parts.
func (r *Runner) asked(ctx context.Context, faults []Fault, discard bool) (all []asking, err error) {
	type parked struct{ task, key, event string }
	type single struct {
		task string
		occurrence
	}
	at, once := map[parked]int{}, map[single]int{}
	var behind []asking
	for i := range faults {
		f := &faults[i]
		if f.Refused {
			if discard {
				continue // nothing waits for it
			}
			return nil, fmt.Errorf("framework: resubmit event %q: it is an output that topic %q did not take, and what caused it is done: "+
				"publish it there (Fault.Event.Record) once the topic takes it", f.Event.ID, f.Topic)
		}
		place, err := r.taskOf(ctx, f)
		if err != nil {
			return nil, fmt.Errorf("framework: resubmit event %q: %w", f.Event.ID, err)
		}
		if _, err := f.Event.Record(); err != nil {
			return nil, err
		}
		if _, err := pastReads(f.Read); err != nil {
			return nil, fmt.Errorf("framework: resubmit event %q: %w", f.Event.ID, err)
		}
		task := taskName(place.stage, f.Partition)
		a := asking{f, task, place}
		switch {
		case f.Class == ClassParked && discard:
			return nil, fmt.Errorf("framework: discard event %q: it waits for another event of key %q, which is the one to discard",
				f.Event.ID, f.Event.Key)
		case f.Class == ClassParked:
			behind = append(behind, a)
			continue
		case discard && !f.Parked:
			continue // nothing waits for it
		case f.Parked:
			this := parked{task, f.Event.Key, f.Event.ID}
			if i, twice := at[this]; twice {
				all[i] = a
				continue
			}
			at[this], at[parked{task, f.Event.Key, ""}] = len(all), 0
		default:
			this := single{task, f.occurrence()}
			if i, twice := once[this]; twice {
				all[i].fault = newer(all[i].fault, f)
				continue
			}
			once[this] = len(all)
		}
		all = append(all, a)
	}
	for _, a := range behind {
		key := parked{a.task, a.fault.Event.Key, ""}
		if _, ok := at[key]; !ok {
			at[key] = 0
			all = append(all, a)
		}
	}
	return all, nil
}

// taskOf finds the stage that an event failed in.
func (r *Runner) taskOf(ctx context.Context, f *Fault) (stagePlace, error) {
	known := false
	for _, st := range r.stages {
		if st.pipeline.name != f.Pipeline {
			continue
		}
		known = true
		for _, n := range st.nodes {
			reads := n.source != nil && n.source.topic == f.Topic
			if !reads && (f.Topic != timerTopic || !n.sets(f)) {
				continue
			}
			place, err := r.placeOf(ctx, st)
			if err == nil && (f.Partition < 0 || f.Partition >= place.partitions) {
				err = fmt.Errorf("it is of partition %d; topic %q has %d", f.Partition, st.sources[0].source.topic, place.partitions)
			}
			return place, err
		}
	}
	switch {
	case !known:
		return stagePlace{}, fmt.Errorf("it is of pipeline %q, which is none of this Runner's", f.Pipeline)
	case f.Topic == timerTopic:
		return stagePlace{}, fmt.Errorf("it is a timer of step %q, and pipeline %q has no such step with timers any more", f.timerStep(), f.Pipeline)
	}
	return stagePlace{}, fmt.Errorf("it is of topic %q, which pipeline %q does not read any more", f.Topic, f.Pipeline)
}

// placeOf finds out whether a stage is shared out, and among how many partitions, whether the Runner runs or not.
func (r *Runner) placeOf(ctx context.Context, st *stage) (stagePlace, error) {
	place := stagePlace{stage: st, partitions: r.config.InternalPartitions}
	source := st.sources[0].source
	transport, err := r.config.transportOf(source.topic)
	if source.internal != nil {
		if transport, err = r.internalOf(ctx, st.pipeline); err == nil && transport == r.config.Internal {
			if _, local := transport.(StoreTransport); local {
				return place, nil
			}
		}
	}
	if err != nil {
		return place, err
	}
	if transport == nil {
		return place, fmt.Errorf("internal topic %q: no transport for it", source.topic)
	}
	info, err := transport.Topic(ctx, source.topic)
	if err != nil {
		return place, fmt.Errorf("topic %q: %w", source.topic, err)
	}
	if place.partitions = info.Partitions; info.Shared {
		place.shared = transport
	}
	return place, nil
}
