package framework

import (
	"context"

	"github.com/millrace/millrace/microstore"
)

// restoring is a slice on its way to the end of its changelog. What is applied and the place that it goes up to are one
// commit, so what was read before a crash need not be read again. While it is under way the slice is marked as partial.
type restoring struct {
	*changelog
	slice  *microstore.Task
	replay *microstore.Replay
	reader logReader
	empty  bool // the slice
}

func (l *changelog) newRestoring() (*restoring, error) {
	slice, err := l.task.env.config.Store.Task(l.task.name)
	if err != nil {
		return nil, err
	}
	return &restoring{changelog: l, slice: slice, replay: slice.Replay()}, nil
}

func (s *restoring) begin(ctx context.Context, r logReader) {
	s.reader = r
	s.reader.apply = func(body []byte) error { return s.apply(ctx, body) }
	s.reader.wipe = s.drop
	s.reader.shapes = s.compareStates
}

// goOn begins where the slice is in the log; errLogStale when that is not known or cannot be.
func (s *restoring) goOn(ctx context.Context) error {
	place, ok, err := s.stored()
	switch {
	case err != nil:
		return err
	case ok && place.topic != "" && s.id != "" && place.topic != s.id:
		return errLogStale // the topic was made anew: its offsets and epochs are others
	case ok && place.partial:
		s.begin(ctx, logReader{logPlace: place, logs: place.seq})
	case ok && place.whole:
		place.next = max(place.next, s.hint.Load())
		rows, _ := s.outbox.Backlog()
		s.begin(ctx, logReader{logPlace: place, local: true, sent: place.seq - min(place.seq, uint64(rows))})
	default:
		return errLogStale
	}
	return nil
}

// beginAnew begins with nothing, at the beginning of the log.
func (s *restoring) beginAnew(ctx context.Context) error {
	start, err := s.startOf(ctx, s.topic)
	if err != nil {
		return err
	}
	s.begin(ctx, logReader{logPlace: logPlace{partial: true, next: start, topic: s.id}})
	if err := s.flush(ctx); err != nil {
		return err
	}
	if err := s.drop(); err != nil {
		return err
	}
	return s.forgetRows(ctx)
}

// drop empties the slice.
func (s *restoring) drop() error {
	if s.empty {
		return nil
	}
	if err := s.slice.Drop(); err != nil {
		return err
	}
	slice, err := s.task.env.config.Store.Task(s.task.name)
	if err != nil {
		return err
	}
	s.slice, s.replay, s.empty = slice, slice.Replay(), true
	return nil
}

func (s *restoring) apply(ctx context.Context, body []byte) error {
	if !s.reader.partial { // before anything of it is there
		s.reader.partial = true
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.empty = false
	return s.replay.Apply(ctx, body)
}

// flushBytes is how much is applied in one commit.
const flushBytes = 1 << 20

// passed is called when some records have been read.
func (s *restoring) passed(ctx context.Context, left, target int64) error {
	if s.replay.Queued() >= flushBytes {
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	s.task.tellProgress(TaskRestoring, left, target)
	return nil
}

func (s *restoring) flush(ctx context.Context) error {
	return s.replay.Commit(ctx, func(b *microstore.Batch) { b.Put(placeName(s.task.name), s.reader.logPlace.append(nil)) })
}

// finish makes the slice one that can be used.
func (s *restoring) finish(ctx context.Context) error {
	s.reader.partial, s.reader.copying = false, false
	s.place, s.logs = s.reader.logPlace, s.reader.holds()
	s.place.topic = s.id
	s.hint.Store(s.place.next)
	return s.replay.Commit(ctx, func(b *microstore.Batch) {
		b.Put(placeName(s.task.name), s.place.append(nil))
		s.outbox.SetPosition(b, s.place.next)
	})
}
