package framework

import (
	"errors"
	"fmt"

	"github.com/millrace/millrace/internal/fields"
)

// logReader follows a changelog, record by record, and decides which of them count. The order of the log decides, so
// every reader comes to the same:
//
//   - A claim counts when its epoch is higher than the one before and its generation not lower. From there on records of
//     lower epochs do not count: they are of an owner that does not know yet that it is none.
//   - Changes count when they are of the commit that comes next. What was sent again after an error comes twice.
//   - Copies count while no round is complete, one after the other, each right behind the commit that it names.
//
// A reader begins at the start of the log, where it waits for a round to begin, or behind what its slice holds. What is
// before the last complete round may be gone. In what is left there can be records of an earlier owner before those of the
// one that made the round; so a round of a higher epoch, whose claim is gone, takes the place of what was found before.
type logReader struct {
	logPlace
	local bool   // the slice was there already: what does not follow from it makes it stale
	logs  uint64 // the last commit that is known to be in the log from what was read of it
	sent  uint64 // of a slice that was there: the last commit that was sent, though maybe behind a claim of another
	claim string // identity of the last claim that counts
	mine  string // of the claim that this process has made
	read  int64  // records before it have been read, though what they hold may be in parts
	began int64  // offset of the round that is applied

	apply  func(body []byte) error // changes of the slice
	wipe   func() error            // the slice begins anew
	shapes func(states string) error

	joining logRecord // parts so far
	got     uint64    // how many
	from    int64     // offset of the first
}

// errLogStale: the slice is not one of those that the log leads to.
var errLogStale = errors.New("the slice does not follow from the changelog")

// take reads one record.
func (l *logReader) take(r *Record) error {
	h, err := readLogRecord(r.Value)
	if err != nil {
		return fmt.Errorf("record at offset %d: %w", r.Offset, err)
	}
	l.next = r.Offset + 1
	if l.got > 0 {
		l.next = l.from
	}
	if h.kind == logClaim {
		return l.claimed(h, r.Offset)
	}
	if h.epoch < l.epoch {
		return nil
	}
	if h.epoch > l.epoch { // its claim is gone
		if l.local {
			return errLogStale
		}
		l.logPlace = logPlace{partial: l.partial, epoch: h.epoch, generation: h.generation, next: l.next, topic: l.topic}
		l.got = 0
	}
	if !l.join(&h, r.Offset) {
		return nil
	}
	if h.kind == logChanges {
		err = l.changes(h)
	} else {
		err = l.copied(h)
	}
	if err != nil {
		return fmt.Errorf("record at offset %d: %w", r.Offset, err)
	}
	return nil
}

// holds is the last commit that the log holds.
func (l *logReader) holds() uint64 { return max(l.logs, l.sent) }

// join puts parts together; true when h is whole.
func (l *logReader) join(h *logRecord, offset int64) bool {
	switch {
	case h.part == 0:
		l.joining, l.got, l.from = *h, 1, offset
		if h.parts > 1 {
			l.joining.body = append([]byte(nil), h.body...)
		}
	case l.got == h.part && l.joining.kind == h.kind && l.joining.seq == h.seq && l.joining.number == h.number && l.joining.parts == h.parts:
		l.joining.body = append(l.joining.body, h.body...)
		l.got++
	default:
		return false // a part of what began before the log does, or that was sent again
	}
	l.next = l.from
	if l.got < h.parts {
		return false
	}
	*h, l.got = l.joining, 0
	l.next = offset + 1
	return true
}

func (l *logReader) claimed(h logRecord, offset int64) error {
	if h.epoch <= l.epoch || h.generation < l.generation && h.flags&logFresh == 0 {
		return nil
	}
	nonce, states, err := readClaim(h.body)
	if err != nil {
		return fmt.Errorf("record at offset %d: %w", offset, err)
	}
	if l.local && nonce != l.mine { // its owner's commits beyond what the log has do not count any more
		if l.logs = max(l.logs, h.seq); l.seq > l.logs || h.flags&logReset != 0 {
			return errLogStale
		}
	}
	if l.shapes != nil {
		if err := l.shapes(states); err != nil {
			return err
		}
	}
	l.epoch, l.generation, l.claim, l.got, l.next = h.epoch, h.generation, nonce, 0, offset+1
	if l.copying = false; h.flags&logReset != 0 || !l.whole {
		l.known, l.whole = false, false
	}
	return nil
}

func (l *logReader) changes(h logRecord) error {
	switch {
	case !l.known:
		return nil
	case h.seq <= l.seq:
		l.logs = max(l.logs, h.seq)
		return nil
	case h.seq > l.seq+1:
		return fmt.Errorf("it holds commit %d, where %d is next: %w", h.seq, l.seq+1, errLogStale)
	}
	if err := l.apply(h.body); err != nil {
		return err
	}
	l.seq, l.logs = h.seq, h.seq
	return nil
}

func (l *logReader) copied(h logRecord) error {
	body := h.body
	switch {
	case l.whole, l.known && h.seq < l.seq:
		return nil // what it holds is here already
	case h.flags&logBegin != 0:
		w := fields.Reader{Rest: body}
		states := w.String()
		if body = w.Rest; w.Failed {
			return errLogRecord
		}
		if l.shapes != nil {
			if err := l.shapes(states); err != nil {
				return err
			}
		}
		if err := l.wipe(); err != nil {
			return err
		}
		l.known, l.copying, l.number, l.seq, l.logs, l.began = true, true, 0, h.seq, h.seq, l.from
	case !l.copying || h.number != l.number || h.seq != l.seq:
		return nil
	}
	if err := l.apply(body); err != nil {
		return err
	}
	l.number++
	if h.flags&logEnd != 0 {
		l.whole, l.copying = true, false
	}
	return nil
}

// A claim's body is its identity and the states of the stage, to be compared; see stage.states.
func appendClaim(nonce, states string) []byte {
	return fields.AppendString(fields.AppendString(nil, nonce), states)
}

func readClaim(body []byte) (nonce, states string, err error) {
	w := fields.Reader{Rest: body}
	nonce, states = w.String(), w.String()
	if w.Failed {
		err = errLogRecord
	}
	return nonce, states, err
}
