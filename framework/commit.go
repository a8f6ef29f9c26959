package framework

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/microstore"
)

// commit is what one round decided: the writes that go into one transaction, and what follows it.
type commit struct {
	own     *microstore.Batch // the task's writes, beside those of its lanes
	batches []*microstore.Batch
	rows    []pending
	faults  []Fault
	work    *work // the batch that is done with this commit; nil when there is more of it, or none
	info    CommitInfo
	ended   bool // nothing comes after it

	reached []position // that the group may keep when all of it is sent

	changes    []byte          // for the changelog; nil where there is none
	changesRow *microstore.Row // that holds them
	seq        uint64          // of them
	behind     bool            // the state does not have all yet that the group had

	decided []decided   // what it adds to internal topics
	read    *taskSource // of an internal topic, which is processed up to readTo; else nil
	readTo  int64
}

// pending is an outbox row on its way to its relay.
type pending struct {
	relay   *relay
	row     *microstore.Row
	records []Record
	bytes   int64
	sending *sending // of the commit, where somebody waits for its rows; else nil
	after   *sending // what has to be sent before; nil for nothing
	then    func()   // called when it is sent; may be nil
}

// hand gives a commit to the goroutine that commits. It waits while the one before is not done.
func (t *task) hand(c *commit) error {
	for _, d := range c.decided {
		d.backlog.add(d.partition, d.records, d.bytes)
	}
	if t.inline {
		return t.commit(c)
	}
	select {
	case t.commits <- c:
		return nil
	case <-t.failed:
		return errStopping
	}
}

// commitLoop makes commits durable, in order, and releases what they decided.
func (t *task) commitLoop() {
	for c := range t.commits {
		if err := t.commit(c); err != nil {
			close(t.failed)
			t.env.fail(fmt.Errorf("framework: task %s: %w", t.name, err))
			if c.work != nil {
				c.work.done <- err
			}
			return
		}
	}
}

func (t *task) commit(c *commit) error {
	if err := failpoint.Hit("commit.before"); err != nil {
		return err
	}
	began := time.Now()
	if err := t.env.config.Store.Commit(t.env.ctx, c.batches...); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	c.info.Committing = time.Since(began)
	if err := failpoint.Hit("commit.after"); err != nil {
		return err
	}
	var sending *sending
	if t.own != nil && (c.changes != nil || len(c.reached)+len(c.rows) > 0) {
		reached := c.reached
		if c.changes != nil {
			reached = nil // they wait for the changelog, too
		}
		sending = t.own.settled.add(len(c.rows), reached...)
	}
	for _, p := range c.rows {
		p.sending = sending
		if err := p.relay.add(t.env.ctx, p); err != nil {
			return err
		}
	}
	sending.sent(0) // before there is waiting for room in the changelog: what has no rows would never be sent
	if c.changes != nil {
		if err := t.own.log.committed(t.env.ctx, c, sending); err != nil {
			return err
		}
	}
	if c.read != nil {
		if err := t.processed(c.read, c.readTo); err != nil {
			return err
		}
	}
	for _, hook := range t.env.hooks.commit {
		hook.OnCommit(c.info)
	}
	t.env.tellOf(c.faults)
	if err := failpoint.Hit("ack.before"); err != nil {
		return err
	}
	if c.work != nil {
		c.work.done <- nil
	}
	if c.ended {
		t.endOnce.Do(func() { close(t.ended) })
	}
	return failpoint.Hit("ack.after")
}
