package framework

import (
	"context"
	"errors"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/fields"
)

// A log of changes grows for ever. So the slice is copied into it, a piece with each commit: the first piece begins a
// round. Pieces are read between two commits, and changes go on beside them; whoever applies pieces and changes in the
// order of the log has the slice when the round ends, and can do without all that was before the round.
//
// Before that is let go of, the log is read back from the owner's claim to the end of the round. Only so is it known that
// the round counts: an owner that was stopped for a while, and whose task was claimed meanwhile, would let go of what its
// successor has written. Once a round counts in the order of the log, it counts for good, whoever owns the task when it
// is let go of what is before.
//
// The committing goroutine's.
type rounds struct {
	running bool
	cursor  []byte // of the slice
	number  uint64
	bytes   int64 // of the copies so far, of the last round when none is running
	since   int64 // bytes of changes since the last round
	whole   bool
	behind  bool // the state is behind the group, so nobody should begin with it
}

func (r *rounds) flag() byte {
	if r.whole && !r.behind {
		return logWhole
	}
	return 0
}

// leastPiece is the least that a round goes on by with each commit.
const leastPiece = 64 << 10

// goRound begins a round when the log has grown enough, or goes on with it, by about as much as the commit has changed.
func (l *changelog) goRound(ctx context.Context, changed int64) error {
	r := &l.rounds
	if r.since += changed; !r.running {
		if r.since < max(l.config.CopyBytes, r.bytes) {
			return nil
		}
		l.beginRound()
	}
	return l.copyPiece(ctx, int(max(leastPiece, 4*changed)), nil) // changes are packed, pieces are measured before
}

func (l *changelog) beginRound() {
	l.rounds = rounds{running: true, whole: l.rounds.whole, behind: l.rounds.behind}
}

// copyPiece sends the next piece of a round; then is called when the last one has been sent.
func (l *changelog) copyPiece(ctx context.Context, limit int, then func()) error {
	r := &l.rounds
	body, next, err := l.task.slice.Copy(r.cursor, limit)
	if err != nil {
		return err
	}
	h := logRecord{kind: logCopy, flags: r.flag(), seq: l.seq, number: r.number, body: body}
	if r.number == 0 {
		h.flags |= logBegin
		h.body = append(fields.AppendString(nil, l.encodeStates()), body...)
	}
	p := pending{relay: l.relay, bytes: int64(len(h.body))}
	r.cursor, r.number, r.bytes = next, r.number+1, r.bytes+p.bytes
	if next == nil {
		h.flags |= logEnd
		r.running, r.whole, r.since = false, true, 0
		h.flags |= r.flag()
		p.then = func() {
			if then != nil {
				then()
			}
			l.trimming.Go(func() { l.trim(l.task.env.ctx) })
		}
	}
	p.records = l.record(h)
	if err := l.relay.add(ctx, p); err != nil {
		return err
	}
	return failpoint.Hit("changelog.copied")
}

// copyAll makes a log whole that is not, before the task goes on.
func (l *changelog) copyAll(ctx context.Context) error {
	l.beginRound()
	sent := make(chan struct{})
	for l.rounds.running {
		if err := l.copyPiece(ctx, 1<<20, func() { close(sent) }); err != nil {
			return err
		}
	}
	select {
	case <-sent:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// trim lets go of what is before a round that has ended.
func (l *changelog) trim(ctx context.Context) {
	l.trims.Lock()
	defer l.trims.Unlock()
	err := l.verify(ctx)
	switch {
	case errors.Is(err, errFenced):
		l.task.env.config.Logger.Warn("changelog: a copy of the state does not count; another process has the task", "task", l.task.name)
		return
	case err != nil:
		if ctx.Err() == nil {
			l.task.env.config.Logger.Warn("changelog: what can be removed could not be read back; the next round makes up for it",
				"task", l.task.name, "topic", l.topic, "error", err)
		}
		return
	case !l.back.whole:
		return // it had begun when the round before was read
	}
	l.back.known, l.back.whole = false, false // the next round is looked for
	if err := l.transport.Release(l.topic, l.task.partition, l.back.began); err != nil && ctx.Err() == nil {
		l.task.env.config.Logger.Warn("changelog: what is not needed any more was not removed", "topic", l.topic, "error", err)
	}
}

// readBack is the reader of what is in the log from the owner's claim on.
func (l *changelog) readBack() *logReader {
	return &logReader{
		logPlace: logPlace{epoch: l.place.epoch, generation: l.generation, next: l.place.next},
		apply:    func([]byte) error { return nil }, wipe: func() error { return nil },
	}
}

// verify reads the log back to its end; errFenced when somebody has claimed the task since this process did. Up to where
// it was read, the log is the owner's, and is in its slice. trims is held.
func (l *changelog) verify(ctx context.Context) error {
	err := l.read(ctx, l.back, nil)
	if l.back.epoch != l.place.epoch {
		return errors.Join(err, errFenced)
	}
	l.hint.Store(l.back.next) // also when that is a part of it
	return err
}
