package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/failpoint"
)

// errLeaseOver ends sending when the lease has ended meanwhile.
var errLeaseOver = errors.New("the lease is over")

// isolateAfter is how often a group is tried as a whole before the keys that fail are looked for.
const isolateAfter = 3

// delivery is the sending of a group of rows of one topic, and what became of it.
//
// A publisher does not say which records of a group it did not take. So a group that fails is tried again as a whole; when
// that does not help, or the error says that it will not, it is halved by keys until those that fail are found. As long
// as nothing at all gets through, that is no fault of keys but of the topic: the search is broken off after a few
// times as many failures as there are halvings, and all waits.
type delivery struct {
	relay   *Relay
	ctx     context.Context
	topic   string
	attempt int              // how often the topic has failed in a row
	until   func() time.Time // when the lease ends

	group  []*row
	sent   map[int64]bool
	failed []failure
	outage error // nothing gets through, or the sending was cut off

	misses, budget int // failures in a row, and how many are taken for those of keys
}

// failure is a row that was not taken; later ones of its key were not tried.
type failure struct {
	row *row
	err error
}

// deliver sends the group and returns itself with what became of it.
func (d *delivery) deliver() *delivery {
	d.sent = make(map[int64]bool, len(d.group))
	var err error
	if allReadable(d.group) {
		err = d.publish(d.group)
		if err == nil {
			return d
		}
		if d.cutOff(err) || isOfTopic(err) || !isPermanent(err) && d.attempt < isolateAfter {
			d.outage = err
			return d
		}
	}
	keys := byKey(d.group)
	// Keys that fail have come to the front of the queue: mixed, they do not look like a topic that takes nothing.
	rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	d.budget = 4*bits.Len(uint(len(keys))) + 4
	d.isolate(keys, err)
	if d.outage == nil && len(d.sent) == 0 && !d.anyPermanent() {
		d.outage = d.failed[0].err // nothing got through, which tells nothing about keys
	}
	return d
}

func (d *delivery) anyPermanent() bool {
	return slices.ContainsFunc(d.failed, func(f failure) bool { return isPermanent(f.err) })
}

// isolate finds the keys that fail. The whole of keys has failed with err, or has not been tried.
func (d *delivery) isolate(keys [][]*row, err error) {
	if len(keys) == 1 {
		d.oneKey(keys[0], err)
		return
	}
	for _, half := range [][][]*row{keys[:len(keys)/2], keys[len(keys)/2:]} {
		var rows []*row
		for _, key := range half {
			rows = append(rows, key...)
		}
		var err error
		if allReadable(rows) {
			err = d.publish(rows)
			if err == nil {
				continue
			}
			if d.missed(err) {
				return
			}
		}
		d.isolate(half, err)
		if d.outage != nil {
			return
		}
	}
}

func allReadable(rows []*row) bool {
	return !slices.ContainsFunc(rows, func(r *row) bool { return r.err != nil })
}

// oneKey sends the rows of a key one by one up to the first that fails.
func (d *delivery) oneKey(rows []*row, err error) {
	for i, r := range rows {
		switch {
		case r.err != nil:
			err = framework.Permanent(fmt.Errorf("the row cannot be read: %w", r.err))
		case err == nil || len(rows) > 1: // else the row has just failed
			err = d.publish(rows[i : i+1])
			if err == nil {
				continue
			}
			if d.missed(err) {
				return
			}
		}
		d.failed = append(d.failed, failure{r, err})
		return
	}
}

// missed counts a failure, and reports whether there have been too many in a row to go on.
func (d *delivery) missed(err error) bool {
	d.misses++
	if d.cutOff(err) || isOfTopic(err) || d.misses > d.budget {
		d.outage = err
	}
	return d.outage != nil
}

func (d *delivery) publish(rows []*row) error {
	if err := failpoint.Hit("outbox.send.before"); err != nil {
		return err
	}
	if !time.Now().Before(d.until()) {
		return errLeaseOver
	}
	records := make([]framework.Record, len(rows))
	for i, r := range rows {
		records[i] = r.record
	}
	began := time.Now()
	err := d.relay.publisher.Publish(d.ctx, d.topic, records)
	d.relay.hookSent(SentInfo{Topic: d.topic, Rows: len(rows), Took: time.Since(began), Err: err})
	if err == nil {
		err = failpoint.Hit("outbox.send.after")
	}
	if err == nil {
		d.misses = 0
		for _, r := range rows {
			d.sent[r.id] = true
		}
	}
	return err
}

func (d *delivery) cutOff(err error) bool {
	return d.ctx.Err() != nil || errors.Is(err, errLeaseOver)
}

// isOfTopic tells errors that all rows of a topic have.
func isOfTopic(err error) bool { return errors.Is(err, framework.ErrNoTopic) }

// isPermanent tells errors that a publisher has marked as such. Unmarked ones are taken to pass, as in the framework's
// own relay: what is away comes back.
func isPermanent(err error) bool { return markOf(err) == framework.ClassPermanent }

// markOf is the class that an error is marked with. One without a mark counts as transient, by the error that is joined
// to it.
func markOf(err error) framework.Class {
	return framework.ClassOf(errors.Join(err, context.DeadlineExceeded))
}

// byKey puts rows of one key together, in order.
func byKey(rows []*row) [][]*row {
	places := make(map[keyID]int)
	var keys [][]*row
	for _, r := range rows {
		key := r.key()
		place, ok := places[key]
		if !ok {
			place = len(keys)
			places[key] = place
			keys = append(keys, nil)
		}
		keys[place] = append(keys[place], r)
	}
	return keys
}
