package framework

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace/millrace/internal/fields"
	"github.com/millrace/millrace/microstore"
)

// changelog is what a task has of its own where its stage keeps one.
//
// A commit's changes are a row in an outbox, in the commit itself, and are sent when the sinks have taken what the commit
// and those before it decided; the group's positions are marked when they have been sent. So
//
//	outputs sent  ≥  changelog  ≥  positions of the group
//
// and whoever makes the state from the log and reads on from the position in it leaves no output out, and sends those
// again, under the same ids, that a commit which is not in the log had decided.
type changelog struct {
	task       *task
	transport  ChangelogTransport
	topic      string
	id         string // of the topic
	key        string // of the partition's records
	config     Changelog
	group      Generations
	generation uint64
	fresh      bool // the group has no positions
	whole      bool // at the assignment: state can be made from the log

	outbox  *microstore.Outbox
	relay   *relay
	settled settled // the group's positions
	hint    atomic.Int64

	place  logPlace // of the last commit that was decided; the task's goroutine's
	logs   uint64   // the last commit that was in the log when the task was taken over
	seq    uint64   // of what is committed; the committing goroutine's
	rounds rounds

	trimming sync.WaitGroup
	trims    sync.Mutex
	back     *logReader // from this process's claim on
}

// errFenced: a later generation of the group has claimed the task.
var errFenced = errors.New("another process has claimed the partition's changelog")

// changelogOf opens the changelog of a task that is assigned.
func (r *Runner) changelogOf(ctx context.Context, t *task, subscriber any) (*changelog, error) {
	group, ok := subscriber.(Generations)
	if !ok {
		return nil, errors.New("the transport of the stage's sources does not number assignments; leave Pipeline.Changelog out")
	}
	l := &changelog{
		task: t, transport: t.stage.shared.(ChangelogTransport), topic: t.stage.changelogTopic(), config: *t.stage.pipeline.changelog,
		key: keyOf(t.partition, r.env.counts[t.stage]), group: group, fresh: len(t.own.committed) == 0,
	}
	l.generation = uint64(max(0, group.Generation(t.sources[0].topic, t.partition)))
	err := t.insist(ctx, l.topic, func() error {
		info, err := l.transport.Topic(ctx, l.topic)
		l.id = info.ID
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("changelog %q: %w", l.topic, err)
	}
	target := &sinkTarget{topic: l.topic, transport: l.transport}
	if err := target.open("changelog@"+t.name, t.env); err != nil {
		return nil, err
	}
	l.relay, l.outbox = target.relay, target.relay.outbox
	l.relay.publisher = &changelogPublisher{Publisher: target.relay.publisher, log: l}
	l.relay.read = l.readRow
	at, known, err := l.outbox.Position()
	if err == nil && known {
		l.hint.Store(at)
	}
	if err == nil {
		err = t.insist(ctx, l.topic, func() (err error) {
			l.whole, err = l.look(ctx)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("changelog %q: %w", l.topic, err), l.relay.publisher.Close())
	}
	return l, nil
}

// look tells whether state can be made from the log: every record that is written after a whole round, by an owner who
// is as far as the group, says so. One that does not may be of an owner that is none any more, or the beginning of a
// piece whose end was not sent; then all of the log has to be read to know, since what it holds may be all that there is.
func (l *changelog) look(ctx context.Context) (whole bool, err error) {
	start, end, err := l.transport.Span(ctx, l.topic, l.task.partition)
	if err != nil || start == end {
		return false, err
	}
	var wrong error
	err = l.transport.ReadSpan(ctx, l.topic, l.task.partition, end-1, end, func(records []Record) error {
		for i := range records {
			h, err := readLogRecord(records[i].Value)
			whole, wrong = h.flags&logWhole != 0 && (h.flags&logEnd == 0 || h.part+1 == h.parts), err
		}
		return wrong
	})
	if err != nil || whole {
		return whole, err
	}
	return l.logIsCurrent(ctx)
}

// states are what the stage keeps, to be compared with what a log was written by.
func (st *stage) states() map[string]string {
	all := map[string]string{}
	for _, n := range st.nodes {
		for i, state := range n.states {
			all[fmt.Sprintf("%s#%d", n.name, i)] = n.kind + ": " + state.shape()
		}
		if n.onTimer != nil { // it reckons with timers that it has set for the window it has
			all[n.name+" timers"] = n.kind + " " + n.detail
		}
	}
	return all
}

func (l *changelog) encodeStates() string {
	raw, _ := json.Marshal(l.task.stage.states()) // strings can always be written
	return string(raw)
}

func (l *changelog) compareStates(raw string) error {
	var was map[string]string
	if err := json.Unmarshal([]byte(raw), &was); err != nil {
		return errLogRecord
	}
	ours := l.task.stage.states()
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if w, ok := was[name]; ok && w != ours[name] {
			return fmt.Errorf("%w: step %q was %s, it is %s; give the pipeline or the step a new name", ErrForeignState, name, w, ours[name])
		}
	}
	return nil
}

// row queues a commit's changes in the commit itself.
func (l *changelog) row(c *commit) error {
	batches := []*microstore.Batch{c.own}
	for _, s := range l.task.scopes {
		batches = append(batches, s.batch)
	}
	changes, err := l.task.slice.Changes(batches...)
	if err != nil {
		return err
	}
	place := l.place
	place.seq++ // it is the place when the round is decided
	c.changes, c.seq, c.behind = changes, place.seq, !l.task.passedGroup()
	c.changesRow = l.outbox.Add(c.own, append(binary.AppendUvarint(nil, place.seq), changes...))
	c.own.Put(placeName(l.task.name), place.append(nil))
	return nil
}

// readRow makes records of a row that an earlier run has left; none when the log has them.
func (l *changelog) readRow(data []byte) ([]Record, error) {
	w := fields.Reader{Rest: data}
	seq := w.Uvarint()
	if w.Failed {
		return nil, errLogRecord
	}
	if seq <= l.logs {
		return nil, nil
	}
	return l.record(logRecord{kind: logChanges, flags: logWhole, seq: seq, body: w.Rest}), nil
}

func (l *changelog) record(h logRecord) []Record {
	h.epoch, h.generation = l.place.epoch, l.place.generation
	return h.records(l.key)
}

// committed lets a commit's changes go, once its outputs are sent, and then its positions.
func (l *changelog) committed(ctx context.Context, c *commit, outputs *sending) error {
	l.seq, l.rounds.behind = c.seq, c.behind
	records := l.record(logRecord{kind: logChanges, flags: l.rounds.flag(), seq: c.seq, body: c.changes})
	size := int64(len(c.changes))
	err := l.relay.add(ctx, pending{relay: l.relay, row: c.changesRow, records: records, bytes: size,
		sending: l.settled.add(1, c.reached...), after: outputs})
	if err != nil {
		return err
	}
	return l.goRound(ctx, size)
}

// changelogPublisher keeps with the outbox from where on the log has to be read, for a slice that has all that was sent so
// far. That is no further than the log was read back: beyond may be what another has written who had claimed the task,
// when this process was stopped meanwhile.
type changelogPublisher struct {
	Publisher
	log   *changelog
	since int
}

func (p *changelogPublisher) Publish(ctx context.Context, topic string, records []Record) error {
	for i := range records {
		p.since += len(records[i].Value)
	}
	err := p.Publisher.Publish(ctx, topic, records)
	if err == nil && p.log.back != nil && int64(p.since) > inVain*p.log.config.CopyBytes { // nil: it is a claim
		p.since = 0
		p.log.trimming.Go(func() { p.log.tryVerify(p.log.task.env.ctx) })
	}
	return err
}

// inVain is how many CopyBytes of a log may be read in vain, because they are in the slice already.
const inVain = 4

func (p *changelogPublisher) Resume(context.Context, string, int64, bool) error { return nil }

func (p *changelogPublisher) Position(string) int64 { return p.log.hint.Load() }

// tryVerify reads the log back, unless that is being done.
func (l *changelog) tryVerify(ctx context.Context) {
	if l.trims.TryLock() {
		defer l.trims.Unlock()
		_ = l.verify(ctx) // else more is read the next time
	}
}

// close ends what the changelog of a task has running. A slice that is given back in good order knows where it is.
func (l *changelog) close(ctx context.Context) error {
	inOrder := l.task.env.ctx.Err() == nil && l.place.whole
	l.task.own.cut()
	l.trimming.Wait()
	if rows, _ := l.outbox.Backlog(); inOrder && rows == 0 {
		ctx = context.WithoutCancel(ctx)
		if p, ok := l.relay.publisher.(*changelogPublisher); ok && l.back != nil && p.since <= closeBytes {
			looking, cancel := context.WithTimeout(ctx, closePatience)
			l.tryVerify(looking)
			cancel()
		}
		b := l.task.env.config.Store.NewBatch()
		l.outbox.SetPosition(b, l.hint.Load())
		_ = l.task.env.config.Store.Commit(ctx, b) // else more is read the next time
	}
	return l.relay.publisher.Close()
}

// What is read back at the end only saves time, while the group waits for the partition: it is little, and not for long.
const (
	closePatience = 2 * time.Second
	closeBytes    = 1 << 20
)
