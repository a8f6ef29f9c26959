package framework

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/seldom"
	"github.com/millrace/millrace/internal/watermark"
	"github.com/millrace/millrace/microstore"
)

// A task owns one partition of every source of a stage, and the state of the keys in it. What it does with
// a batch:
//
//	intake   the router's handler hands the batch over and waits; batches of a partition are put in order
//	prepare  events are decoded, in parallel; records that are behind the stored position are dropped; each
//	         event is stamped with the watermark before it
//	wait     while the topic to a next stage is full
//	round    events go to lanes by key; a lane fires what timers are due before an event, then runs it
//	commit   what all lanes wrote, the outputs and the position become one transaction of the store, while the
//	         next round is running
//	release  outputs go to the relays of their sinks, and the batch is acknowledged
//
// A batch is usually one round. It is several when more timers fall due than fit one transaction, or when what
// it causes does: each round ends with a commit of its own, so bounds hold however far one event moves
// the watermark.
//
// prepare, round and the hand-over to commit are one goroutine's, commit and release another's, at most one
// commit behind: so processing overlaps the store, and a failed commit stops the task with at most two
// rounds' work lost, all of it unacknowledged.
type task struct {
	stage     *stage
	partition int
	name      string
	env       *env
	sinks     map[string]*sinkTarget // by topic

	slice   *microstore.Task
	timers  *microstore.Timers
	parking *parking      // nil where no key is or was ever parked
	states  map[int][]any // by node and slot

	sources   []*taskSource
	scopes    []*Scope
	handlers  []message.HandlerFunc // per lane, around each event; nil without middlewares
	watermark int64
	tally     *tally
	sent      map[*node]int64 // last watermark sent to an internal sink
	outlets   []*backlog      // of the internal topics that it writes to
	idleSince time.Time
	aligned   <-chan time.Time // ends the waiting for a source that is behind; nil while there is none
	row       []byte           // room for an outbox row
	silent    bool             // the next stages are told that there is nothing to wait for

	own      *ownership // of a task whose partition is shared out; else nil
	catching bool       // with the group's positions
	past     *pastFaults
	target   int64     // how many positions it was behind when it began to
	told     time.Time // when the log last heard of it

	inline      bool // commit in the processing goroutine, for a Stepper
	inbox       chan *work
	commits     chan *commit
	haltOnce    sync.Once
	resubmit    chan struct{} // something has been resubmitted
	resubmitted *microstore.Outbox
	served      int64         // the last of it that has been run again
	stop        chan struct{} // closed: take no new batch
	stopped     chan struct{} // closed when both goroutines have ended
	failed      chan struct{} // closed when a commit failed
	ended       chan struct{} // closed when all sources have ended and no timer is left
	endOnce     sync.Once
}

// env is what tasks share.
type env struct {
	config  Config
	hooks   hooks
	told    *seldom.Kinds[faultKind] // to the log
	sinks   map[string]*sinkTarget   // by topic
	counts  map[*stage]int           // partitions
	parks   map[string]bool          // pipelines whose keys are parked, or were once
	storeID string                   // where partitions are shared out
	infos   map[string]TopicInfo     // of sources
	ctx     context.Context          // cut only when the deadline for stopping has passed, or the partition is lost
	fail    func(error)
}

// sinkTarget is where a topic's records go: into the commit, or to a relay after it.
type sinkTarget struct {
	topic      string
	transport  Transport
	store      StoreTransport
	partitions int
	relay      *relay
	backlog    *backlog            // of an internal topic in the store; else nil
	check      func(*Record) error // whether it takes a record; nil where that is not known
}

// work is a batch on its way through a task.
type work struct {
	batch  *Batch
	source *taskSource
	done   chan error
}

// halt lets the task take no new batch.
func (t *task) halt() { t.haltOnce.Do(func() { close(t.stop) }) }

// submit hands a batch over and waits until all of it is committed, or will not be.
func (t *task) submit(topic string, b *Batch) error {
	w := &work{batch: b, source: t.source(topic), done: make(chan error, 1)}
	select {
	case t.inbox <- w:
	case <-t.stop:
		return errStopping
	}
	select {
	case err := <-w.done:
		return err
	case <-t.stopped:
		select {
		case err := <-w.done:
			return err
		default:
			return errStopping
		}
	}
}

// errStopping refuses a batch because the engine stops. It is a cancellation, which the router does not log.
var errStopping = fmt.Errorf("framework: stopping: %w", context.Canceled)

// run processes batches until stop is closed or something fails.
func (t *task) run() {
	defer close(t.stopped)
	if t.own != nil && t.own.log != nil {
		if err := t.takeOver(); err != nil {
			if !errors.Is(err, errStopping) {
				t.env.fail(fmt.Errorf("framework: task %s: %w", t.name, err))
			}
			return
		}
	}
	committed := make(chan struct{})
	go func() { defer close(committed); t.commitLoop() }()
	err := t.loop()
	close(t.commits)
	<-committed
	if err != nil && !errors.Is(err, errStopping) {
		t.env.fail(fmt.Errorf("framework: task %s: %w", t.name, err))
	}
}

func (t *task) loop() error {
	if t.own != nil {
		if err := t.learnFaults(); err != nil {
			return err
		}
	}
	if t.watermark > watermark.Min || t.own != nil { // what was due, or not marked, when the last run stopped
		if err := t.advance(t.now()); err != nil {
			return err
		}
	}
	if t.resubmitted != nil { // before what comes now
		if err := t.takeResubmitted(); err != nil {
			return err
		}
	}
	tick, stopTick := t.ticker()
	defer stopTick()
	for {
		select {
		case <-t.stop:
			return nil
		default:
		}
		select {
		case <-t.stop:
			return nil
		case w := <-t.inbox:
			if err := t.take(w); err != nil {
				return err
			}
		case <-t.aligned:
			if err := t.goOn(); err != nil {
				return err
			}
		case <-t.resubmit:
			if err := t.takeResubmitted(); err != nil {
				return err
			}
		case <-tick:
			if err := t.takeWaiting(); err != nil {
				return err
			}
			if err := t.wake(t.env.config.Now()); err != nil {
				return err
			}
		}
	}
}

// takeWaiting takes what batches wait for the task: it may have been busy for longer than it takes a source to be
// idle, and a source with a batch that waits is not.
func (t *task) takeWaiting() error {
	for range len(t.sources) * t.env.config.InFlight {
		select {
		case <-t.stop:
			return nil
		case w := <-t.inbox:
			if err := t.take(w); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// take puts a batch in its place and processes what is ready.
func (t *task) take(w *work) error {
	w.source.pending[w.batch.Seq] = w
	return t.takeReady()
}

// process takes a batch through its rounds.
func (t *task) process(w *work) error {
	err := t.rounds(w)
	if err != nil || t.past == nil {
		return err
	}
	return t.forgetFaults()
}

func (t *task) rounds(w *work) error {
	src := w.source
	src.caughtUp, src.idle, src.lastSeen = w.batch.CaughtUp, false, t.env.config.Now()
	if err := failpoint.Hit("task.batch"); err != nil {
		return err
	}
	if src.resubmits {
		return t.serveBatch(w)
	}
	if src.position && !src.known {
		t.tally.moved(src.topic, w.batch.cut(0))
	}
	p := t.prepare(w)
	most := len(p.records)
	for {
		done, err := t.round(p, &most)
		if err != nil {
			return err
		}
		if done {
			src.lastSeen = t.env.config.Now() // however long it took
			return nil
		}
	}
}

// advance fires what timers are due up to a watermark that rose without a batch.
func (t *task) advance(to int64) error {
	p := &prepared{advance: to}
	most := 0
	for {
		done, err := t.round(p, &most)
		if err != nil || done {
			return err
		}
	}
}

// cut is the position after the first n records of a batch.
func (b *Batch) cut(n int) int64 {
	if n == len(b.Records) {
		return b.Next
	}
	return b.Records[n].Offset
}
