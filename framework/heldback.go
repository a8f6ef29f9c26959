package framework

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
)

// heldBack is what a relay does not send yet where keys are parked: outputs that the sink refuses for good, and those of
// their keys behind them, which must not pass by. Other keys go on.
//
//	hold     a record that is refused, or behind one of its key, is a row of an outbox of its own in the commit that forgets
//	         the row it came with
//	try      at the start, and again and again, what is held back is sent, in order, as far as the sink takes it by now
//	forget   what was sent is removed; a crash before repeats it, under the same ids
//
// Where partitions are shared out, the group's position waits for what is held back: it is in this process's store only, and
// the next owner decides it again. When what is held back takes as much as a backlog may, intake waits as for a sink that is
// away.
type heldBack struct {
	outbox  *microstore.Outbox // a row for each record
	keys    map[string]bool
	fresh   []Record           // of what is being sent
	waiting map[int64]*sending // who waits for a row of this run, where somebody does
	attempt int
	next    time.Time
}

const heldPrefix = "held back@"

// openHeld gives a relay what it holds back, where it may hold back anything, or an earlier run has.
func (r *relay) openHeld(outboxName string) error {
	name := heldPrefix + outboxName
	if r.refusals == nil {
		return nil
	}
	if !r.refusals.parks {
		names, err := r.store.Outboxes()
		if err != nil || !slices.Contains(names, name) {
			return err
		}
	}
	outbox, err := r.store.Outbox(name)
	if err != nil {
		return err
	}
	r.held = &heldBack{outbox: outbox, keys: map[string]bool{}, waiting: map[int64]*sending{}}
	rows, _ := outbox.Backlog()
	r.recovered.more(rows)
	return nil
}

// full tells whether as much is held back as may be.
func (h *heldBack) full(limit int64) bool {
	if h == nil {
		return false
	}
	_, bytes := h.outbox.Backlog()
	return bytes >= limit
}

// due is when to try again; nil for never.
func (h *heldBack) due() <-chan time.Time {
	if h == nil || len(h.keys) == 0 {
		return nil
	}
	return time.After(time.Until(h.next))
}

// pass returns the records that may be sent, and holds back those of keys of which one is.
func (h *heldBack) pass(records []Record) []Record {
	if h == nil || len(h.keys) == 0 {
		return records
	}
	free := make([]Record, 0, len(records))
	for i := range records {
		if records[i].Key != "" && h.keys[records[i].Key] {
			h.fresh = append(h.fresh, records[i])
		} else {
			free = append(free, records[i])
		}
	}
	return free
}

// holdBack keeps a record that is refused, and with it what comes behind it of its key.
func (r *relay) holdBack(record *Record, cause error) {
	r.held.keys[record.Key] = true
	r.held.fresh = append(r.held.fresh, *record)
	r.env.told.Warn(r.env.config.Logger, faultKind{r.refusals.pipeline, r.refusals.step, "held back"},
		"sink refused a record for good; the outputs of its key wait until it is taken, since the pipeline parks keys",
		"topic", r.topic, "key", record.Key, "record", record.ID, "error", cause)
}

// keepHeld adds to a batch what is held back of the rows that it forgets. What does not fit is committed before: a crash
// in between has it twice.
func (r *relay) keepHeld(ctx context.Context, b *microstore.Batch) (*microstore.Batch, []*microstore.Row, error) {
	var rows []*microstore.Row
	for i := range r.held.fresh {
		data := AppendRecords(nil, r.held.fresh[i:i+1], nil)
		if b.Len() > 0 && (b.Bytes()+len(data) > r.store.MaxBatchBytes()/2 || b.RawBytes()+len(data) > r.store.MaxRawBytes()/2) {
			if err := r.store.Commit(ctx, b); err != nil {
				return b, nil, err
			}
			b = r.store.NewBatch()
		}
		rows = append(rows, r.held.outbox.Add(b, data))
	}
	return b, rows, nil
}

// areHeld notes who waits for rows that are committed.
func (r *relay) areHeld(rows []*microstore.Row) {
	clear(r.held.fresh)
	r.held.fresh = r.held.fresh[:0]
	if r.current == nil {
		return
	}
	r.current.more(len(rows))
	for _, row := range rows {
		r.held.waiting[row.Seq()] = r.current
	}
}

// sendHeld sends what was held back, as far as the sink takes it, when it is time to try again.
func (r *relay) sendHeld(ctx context.Context) error {
	h := r.held
	if h == nil || time.Now().Before(h.next) || !h.next.IsZero() && len(h.keys) == 0 {
		return nil
	}
	clear(h.keys)
	for after := int64(-1); ; {
		rows, err := h.outbox.Rows(after, 4<<20)
		if err != nil {
			return fmt.Errorf("framework: what is held back of sink %q: %w", r.topic, err)
		}
		if len(rows) == 0 {
			break
		}
		var records []Record
		for _, row := range rows {
			if records, _, err = ReadRecords(records, row.Data, 0, 0); err != nil {
				return fmt.Errorf("framework: what is held back of sink %q, row %d: %w", r.topic, row.Seq(), err)
			}
		}
		if len(records) != len(rows) {
			return fmt.Errorf("framework: what is held back of sink %q: %w", r.topic, microstore.ErrDamaged)
		}
		after = rows[len(rows)-1].Seq()
		r.current = r.recovered // a dead letter of it is waited for with it
		if err := r.publish(ctx, records); err != nil {
			return err
		}
		if err := r.forgetHeld(ctx, rows, records); err != nil {
			return err
		}
	}
	h.attempt++
	if len(h.keys) == 0 {
		h.attempt = 0
	}
	h.next = time.Now().Add(backoff(r.env.config.Retry, max(1, h.attempt)))
	return nil
}

// forgetHeld removes what was sent of what was held back: all that is not refused again, or behind it.
func (r *relay) forgetHeld(ctx context.Context, rows []microstore.Row, records []Record) error {
	h, b := r.held, r.store.NewBatch()
	left := map[string]int{} // of each key, the last ones
	for i := range h.fresh {
		left[h.fresh[i].Key]++
	}
	var sent []int64
	for i := len(records) - 1; i >= 0; i-- {
		if key := records[i].Key; left[key] > 0 {
			left[key]--
		} else {
			sent = append(sent, rows[i].Seq())
		}
	}
	clear(h.fresh)
	h.fresh = h.fresh[:0]
	if len(sent) == 0 {
		return nil
	}
	h.outbox.Remove(b, sent...)
	if resumer, ok := r.publisher.(Resumer); ok {
		r.outbox.SetPosition(b, resumer.Position(r.topic))
	}
	if err := r.store.Commit(ctx, b); err != nil {
		return fmt.Errorf("framework: sink %q: forget what was sent: %w", r.topic, err)
	}
	if err := failpoint.Hit("release.released"); err != nil {
		return err
	}
	for _, seq := range sent {
		waits, ok := h.waiting[seq]
		if !ok {
			waits = r.recovered
		}
		delete(h.waiting, seq)
		waits.sent(1)
	}
	r.wake() // who waits for room
	return nil
}

// HeldKey is a key of a topic whose outputs are held back, in a pipeline that parks keys: the topic does not take the first
// of them for its size.
type HeldKey struct {
	Topic, Key string
	// Record is the id of the output that the others wait for.
	Record string
	// Waiting is how many outputs are held back, with that one; Bytes is about what they take.
	Waiting int
	Bytes   int64
}

// HeldBack calls fn for the keys of which outputs are held back in the store, as committed, until it returns false. See
// Pipeline.Park. It may be called at any time, running or not.
func (r *Runner) HeldBack(fn func(HeldKey) bool) error {
	names, err := r.config.Store.Outboxes()
	if err != nil {
		return fmt.Errorf("framework: %w", err)
	}
	for _, name := range names {
		of, is := strings.CutPrefix(name, heldPrefix)
		if !is {
			continue
		}
		topic, keys, order := of, map[string]*HeldKey{}, []string(nil)
		for _, st := range r.stages {
			for _, t := range st.topics {
				if strings.HasPrefix(of, t+"@"+st.name+"/") {
					topic = t
				}
			}
		}
		outbox, err := r.config.Store.Outbox(name)
		for after := int64(-1); err == nil; {
			var rows []microstore.Row
			if rows, err = outbox.Rows(after, 4<<20); len(rows) == 0 {
				break
			}
			for i := range rows {
				after = rows[i].Seq()
				records, _, wrong := ReadRecords(nil, rows[i].Data, 0, 0)
				if wrong != nil {
					return fmt.Errorf("framework: what is held back of sink %q, row %d: %w", topic, after, wrong)
				}
				for _, record := range records {
					if keys[record.Key] == nil {
						keys[record.Key] = &HeldKey{Topic: topic, Key: record.Key, Record: record.ID}
						order = append(order, record.Key)
					}
					keys[record.Key].Waiting++
					keys[record.Key].Bytes += int64(len(rows[i].Data))
				}
			}
		}
		if err != nil {
			return fmt.Errorf("framework: what is held back of sink %q: %w", topic, err)
		}
		for _, key := range order {
			if !fn(*keys[key]) {
				return nil
			}
		}
	}
	return nil
}

// stillHeld is an error where a run ends with all of its sources and not all of its outputs are sent.
func (r *Runner) stillHeld() error {
	for _, relay := range r.relays {
		if relay.held == nil {
			continue
		}
		if rows, _ := relay.held.outbox.Backlog(); rows > 0 {
			return fmt.Errorf("framework: sink %q: %d outputs are held back: %w: raise what it takes, and start again, which sends them in order; "+
				"or start once without Pipeline.Park, which makes dead letters of those that it does not take", relay.topic, rows, ErrTooLarge)
		}
	}
	return nil
}
