package inbox

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/millrace/millrace/framework"
)

// form is how processed messages are known: by their ids, or by their numbers.
type form interface {
	// check returns what is kept of a message besides its id or key (a time, or its number), or why it cannot be handled.
	check(r *framework.Record) (number int64, err error)
	// order names what a message has to be handled in the order of; "" where there is none.
	order(r *framework.Record) string
}

// entry is a message that can be handled.
type entry struct {
	index  int // in the batch
	record *framework.Record
	number int64 // of form.check
}

// Result is what became of a batch. What is not in Failed can be acknowledged: it is applied, now or before. Failed holds
// what was refused, too.
type Result struct {
	// Applied messages were handled and committed now, Duplicates before, or earlier in the batch.
	Applied, Duplicates int
	// Failed are the others, in the order of the batch.
	Failed []Failure
}

// Failure is a message that left nothing behind. Err is of the handler, or wraps ErrTooOld, ErrNoID, ErrNoSequence,
// ErrRestarted or ErrEarlier.
type Failure struct {
	Index int // in the batch
	ID    string
	Err   error
}

// Counts are the messages of a Handler since it was made.
type Counts struct{ Applied, Duplicates, Refused, Failed int64 }

// counts are those of a handler, which embeds them.
type counts struct{ applied, duplicates, refused, failed atomic.Int64 }

// Counts may be called at any time. Refused are messages that did not reach the handler and are no duplicates; Failed
// counts attempts.
func (c *counts) Counts() Counts {
	return Counts{c.applied.Load(), c.duplicates.Load(), c.refused.Load(), c.failed.Load()}
}

func (c *counts) add(b *batch) {
	c.applied.Add(int64(b.applied))
	c.duplicates.Add(int64(b.duplicates))
	c.refused.Add(int64(len(b.refused)))
	c.failed.Add(int64(len(b.failed)))
}

// batch is what is known of one HandleBatch. An attempt works on a copy, which replaces it when it is committed.
type batch struct {
	form                form
	applied, duplicates int
	refused, failed     []Failure
	blocked             map[string]bool // orders of which a message was refused or has failed
}

// newBatch sorts out what cannot be handled, and what stands in the batch twice.
func newBatch(f form, records []framework.Record) (*batch, []entry) {
	b := &batch{form: f, blocked: map[string]bool{}}
	entries := make([]entry, 0, len(records))
	seen := make(map[string]bool, len(records))
	for i := range records {
		e := entry{index: i, record: &records[i]}
		number, err := f.check(e.record)
		switch {
		case err != nil:
			b.refuse(e, err)
		case f.order(e.record) == "" && seen[e.record.ID]:
			b.duplicates++
		default:
			seen[e.record.ID] = true
			e.number = number
			entries = append(entries, e)
		}
	}
	return b, entries
}

func (b *batch) clone() *batch {
	c := *b
	c.refused, c.failed, c.blocked = slices.Clone(b.refused), slices.Clone(b.failed), maps.Clone(b.blocked)
	return &c
}

// refuse is for a message that does not reach the handler.
func (b *batch) refuse(e entry, err error) {
	b.refused = append(b.refused, Failure{e.index, e.record.ID, err})
	b.block(e)
}

func (b *batch) fail(e entry, err error) {
	b.failed = append(b.failed, Failure{e.index, e.record.ID, err})
	b.block(e)
}

func (b *batch) block(e entry) {
	if order := b.form.order(e.record); order != "" {
		b.blocked[order] = true
	}
}

// passes refuses a message behind one of its key that was not handled.
func (b *batch) passes(e entry) bool {
	if order := b.form.order(e.record); order == "" || !b.blocked[order] {
		return true
	}
	b.refuse(e, ErrEarlier)
	return false
}

func (b *batch) result() Result {
	all := append(slices.Clone(b.refused), b.failed...)
	slices.SortFunc(all, func(x, y Failure) int { return x.Index - y.Index })
	return Result{b.applied, b.duplicates, all}
}

// recordsOf are the messages themselves, in order.
func recordsOf(entries []entry) []framework.Record {
	all := make([]framework.Record, len(entries))
	for i, e := range entries {
		all[i] = *e.record
	}
	return all
}

// handlerError is an error of the user's function, as opposed to one of the inbox.
type handlerError struct{ error }

func (e handlerError) Unwrap() error { return e.error }
