package framework

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
)

// How a task with a changelog takes its partition over, in its own goroutine:
//
//	restore   where the log is whole: the slice is brought to its end, from where it is in the log, or from nothing
//	claim     a record that says that the task is this process's now; what comes before it in the log, and counts, is
//	          applied too. After it nothing counts that an earlier owner still writes
//	open      the slice, and what the sinks have not taken
//	copy      where the log is not whole, or did not lead to the slice: all of the slice
//
// A slice that does not follow from the log is of an owner that wrote past another's claim, or of a time without
// changelog. Where it is behind the group, it is dropped. Where it is not, it is as good as any, since it is a fold of
// the same input, and the log begins anew from it.

// takeOver returns when the task can begin.
func (t *task) takeOver() error {
	l := t.own.log
	ctx, done := t.wanted()
	defer done()
	err := l.takeOver(ctx)
	if errors.Is(err, errFenced) {
		t.env.config.Logger.Warn("task of a shared partition waits to hear that it is another's", "task", t.name)
		if sleep(ctx, fencedPatience) == nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return errStopping
	}
	return err
}

// fencedPatience is how long a task that was claimed by another process waits for its transport to hear of that.
const fencedPatience = 2 * time.Minute

func (l *changelog) takeOver(ctx context.Context) error {
	t := l.task
	kept := true
	if l.whole {
		err := l.restore(ctx)
		if kept = errors.Is(err, errKept); err != nil && !kept {
			return fmt.Errorf("changelog %q: %w", l.topic, err)
		}
	}
	if kept {
		if err := l.claimAnew(ctx); err != nil {
			return fmt.Errorf("changelog %q: %w", l.topic, err)
		}
	}
	if l.whole {
		if err := t.openOwn(ctx); err != nil {
			err = errors.Join(err, t.closePublishers())
			t.own.relays = nil // none of them runs
			if errors.Is(err, ErrForeignState) {
				err = fmt.Errorf("%w; the state is in the changelog, too: to make it anew, delete the topic %q as well", err, l.topic)
			}
			return err
		}
		t.startRelays()
		if err := l.checkRestored(ctx); err != nil {
			return err
		}
		t.tell(TaskRestored)
	}
	l.startRelay()
	l.rounds.behind = !t.passedGroup()
	if l.place.whole {
		l.rounds.whole = true
		return nil
	}
	if err := l.tellCopy("the state is copied; until that is done it is nowhere but in this process's store"); err != nil {
		return err
	}
	if err := l.copyAll(ctx); err != nil {
		return err
	}
	l.place.whole = true
	if err := l.keepPlace(ctx); err != nil {
		return err
	}
	return l.tellCopy("the state is copied")
}

// tellCopy tells of the first copy of a state, unless there is none yet.
func (l *changelog) tellCopy(what string) error {
	meta, err := l.task.slice.Meta()
	if len(meta) > 0 {
		l.task.env.config.Logger.Info("changelog: "+what, "task", l.task.name, "topic", l.topic)
	}
	return err
}

func (l *changelog) keepPlace(ctx context.Context) error {
	b := l.task.env.config.Store.NewBatch()
	b.Put(placeName(l.task.name), l.place.append(nil))
	l.outbox.SetPosition(b, l.hint.Load())
	return l.task.env.config.Store.Commit(ctx, b)
}

// startRelay begins to send the changelog, behind the outputs that an earlier run has left.
func (l *changelog) startRelay() {
	t := l.task
	l.seq, l.back = l.place.seq, l.readBack()
	l.relay.leftover, _ = l.outbox.Backlog()
	l.relay.recovered = l.settled.add(1)
	l.relay.hold = t.own.settled.add(0)
	l.relay.hold.sent(0)
	t.own.relays = append(t.own.relays, l.relay)
	go l.relay.run(t.env.ctx)
}

// checkRestored checks that the state is as far as the group, and that the sources have what comes next.
func (l *changelog) checkRestored(ctx context.Context) error {
	t := l.task
	for _, src := range t.sources {
		at, ok := t.own.committed[src.topic]
		if ok && (!src.known || src.next < at) {
			return fmt.Errorf("changelog %q ends where %d is next in topic %q, and the group of the pipeline is at %d: processes have gone on "+
				"without it; start one that has the state, with its store, after deleting the topic %q", l.topic, src.next, src.topic, at, l.topic)
		}
		if ok || !src.known {
			continue
		}
		start, err := l.startOf(ctx, src.topic)
		if err == nil && start > src.next {
			err = fmt.Errorf("it is to be read from offset %d, but the oldest record kept is %d", src.next, start)
		}
		if err != nil {
			return fmt.Errorf("topic %q: %w", src.topic, err)
		}
	}
	return nil
}

// errKept: the slice does not follow from the log, and is as far as the group.
var errKept = errors.New("the slice is kept as it is")

// startOf asks for the oldest offset of the task's partition.
func (l *changelog) startOf(ctx context.Context, topic string) (start int64, err error) {
	err = l.task.insist(ctx, topic, func() (err error) {
		start, _, err = l.transport.Span(ctx, topic, l.task.partition)
		return err
	})
	return start, err
}

// restore brings the slice to the end of the log and claims it, or returns errKept.
func (l *changelog) restore(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		s, err := l.newRestoring()
		if err != nil {
			return err
		}
		if attempt == 0 {
			err = s.goOn(ctx)
		} else {
			err = s.beginAnew(ctx)
		}
		if err == nil {
			err = l.read(ctx, &s.reader, s)
		}
		if err == nil && !s.reader.whole {
			err = fmt.Errorf("it holds no whole copy of the state, though it says so: some of its records are gone; start a process that has "+
				"the state, with its store, and it is copied again as the log grows; where none has it, delete the topic %q, and the state is made "+
				"from what the sources keep", s.topic)
		}
		if err == nil {
			err = l.claim(ctx, &s.reader, s, 0)
		}
		if err == nil {
			err = s.finish(ctx)
		}
		s.slice.Close()
		if !errors.Is(err, errLogStale) || attempt == 3 {
			return err
		}
		// The log goes before the slice, or a copy of that, while it is made, would be all that there is.
		if current, err := l.logIsCurrent(ctx); err != nil {
			return err
		} else if current {
			continue
		}
		if current, err := l.current(); err != nil {
			return err
		} else if current {
			return errKept
		}
	}
}

// current tells whether the slice is as far as the group, so that nothing is lost by going on from it.
func (l *changelog) current() (bool, error) {
	t := l.task
	if place, ok, err := l.stored(); err != nil || ok && place.partial {
		return false, err
	}
	slice, err := t.env.config.Store.Task(t.name)
	if err != nil {
		return false, err
	}
	defer slice.Close()
	meta, err := slice.Meta()
	if err != nil || len(meta) == 0 {
		return false, err
	}
	return l.asFarAsGroup(meta)
}

// asFarAsGroup tells whether a task with that meta value has processed all that the group has.
func (l *changelog) asFarAsGroup(meta []byte) (bool, error) {
	at, err := metaPositions(meta)
	for topic, committed := range l.task.own.committed {
		if next, ok := at[topic]; l.task.source(topic) != nil && (!ok || next < committed) {
			return false, err
		}
	}
	return err == nil, err
}

// logIsCurrent tells whether the state at the end of the log is as far as the group.
func (l *changelog) logIsCurrent(ctx context.Context) (bool, error) {
	var last []byte
	r := &logReader{wipe: func() error { last = nil; return nil }}
	r.apply = func(body []byte) error {
		meta, err := microstore.ChangedMeta(body)
		if meta != nil {
			last = meta
		}
		return err
	}
	if err := l.read(ctx, r, nil); errors.Is(err, errLogStale) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if !r.whole || last == nil {
		return r.whole && len(l.task.own.committed) == 0, nil
	}
	return l.asFarAsGroup(last)
}

// checkPlace drops a slice that has not been restored to the end, and forgets where one is in its changelog when commits
// follow that are not in it.
func (t *task) checkPlace() error {
	store := t.env.config.Store
	raw, ok, err := store.Get(placeName(t.name))
	if err != nil || !ok {
		return err
	}
	place, err := readPlace(raw)
	if err != nil {
		return fmt.Errorf("task %s: its place in its changelog: %w", t.name, err)
	}
	if place.partial {
		slice, err := store.Task(t.name)
		if err == nil {
			err = slice.Drop()
		}
		if err != nil {
			return err
		}
	} else if t.own != nil && t.own.log != nil {
		return nil
	}
	b := store.NewBatch()
	b.Put(placeName(t.name), nil)
	return store.Commit(t.env.ctx, b)
}

// stored is the place of the slice in the log.
func (l *changelog) stored() (place logPlace, ok bool, err error) {
	raw, ok, err := l.task.env.config.Store.Get(placeName(l.task.name))
	if err == nil && ok {
		place, err = readPlace(raw)
	}
	return place, ok, err
}

// claimAnew claims the log for the slice as it is: what was in it before is void.
func (l *changelog) claimAnew(ctx context.Context) error {
	place, _, err := l.stored()
	if err == nil {
		err = l.forgetRows(ctx)
	}
	if err != nil {
		return err
	}
	nothing := func([]byte) error { return nil }
	r := &logReader{apply: nothing, wipe: func() error { return nil }}
	if err := l.read(ctx, r, nil); err != nil {
		return err
	}
	if err := l.claim(ctx, r, nil, logReset); err != nil {
		return err
	}
	l.place = logPlace{known: true, epoch: r.epoch, generation: r.generation, seq: max(place.seq, r.holds()), next: r.next, topic: l.id}
	l.hint.Store(r.next)
	return l.keepPlace(ctx)
}

// forgetRows removes changes that were not sent and do not count.
func (l *changelog) forgetRows(ctx context.Context) error {
	for after := int64(-1); ; {
		rows, err := l.outbox.Rows(after, 4<<20)
		if err != nil || len(rows) == 0 {
			return err
		}
		b := l.task.env.config.Store.NewBatch()
		for i := range rows {
			after = rows[i].Seq()
			l.outbox.Remove(b, after)
		}
		if err := l.task.env.config.Store.Commit(ctx, b); err != nil {
			return err
		}
	}
}

// claim writes a claim and reads up to it.
func (l *changelog) claim(ctx context.Context, r *logReader, s *restoring, flags byte) error {
	if l.fresh {
		flags |= logFresh
	}
	if r.whole && flags&logReset == 0 {
		flags |= logWhole
	}
	for {
		if l.fresh && r.generation > l.generation {
			if err := l.checkMember(ctx); err != nil {
				return err
			}
		}
		r.mine = rand.Text()
		h := logRecord{kind: logClaim, flags: flags, epoch: r.epoch + 1, generation: l.generation, seq: r.holds(),
			body: appendClaim(r.mine, l.encodeStates())}
		if err := failpoint.Hit("changelog.claim"); err != nil {
			return err
		}
		if err := l.relay.publish(ctx, h.records(l.key)); err != nil {
			return err
		}
		if err := l.read(ctx, r, s); err != nil {
			return err
		}
		if r.claim == r.mine {
			return nil
		}
		if r.generation > l.generation && !l.fresh {
			return errFenced
		}
	}
}

// checkMember gives errFenced when the task is another's. A claim of a group that has no positions counts whatever the
// generations before it, since they may be of a group that was forgotten. Or this process has stood still since the group
// was new, and they are of members that came after it: then it is a member no more.
func (l *changelog) checkMember(ctx context.Context) error {
	return l.task.insist(ctx, l.topic, func() error {
		member, err := l.group.Member(ctx)
		if err == nil && !member {
			return errFenced
		}
		return err
	})
}

// read follows the log to its present end.
func (l *changelog) read(ctx context.Context, r *logReader, s *restoring) error {
	at := max(r.next, r.read)
	return l.task.insist(ctx, l.topic, func() error {
		start, end, err := l.transport.Span(ctx, l.topic, l.task.partition)
		switch {
		case err != nil:
			return err
		case at < start && r.next > 0 || at > end:
			return errLogStale // what comes next is gone, or the topic was made anew
		case at >= end:
			return nil
		}
		target := end - at
		err = l.transport.ReadSpan(ctx, l.topic, l.task.partition, at, end, func(records []Record) error {
			for i := range records {
				if err := r.take(&records[i]); err != nil {
					return err
				}
				at = records[i].Offset + 1
				r.read = at
			}
			if s == nil {
				return nil
			}
			return s.passed(ctx, end-at, target)
		})
		if err == nil {
			r.read = end
		}
		return err
	})
}
