package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
)

// ErrRunning is returned by Run while another Run of the same Relay has not ended.
var ErrRunning = errors.New("outbox: the relay is running already")

// Relay sends what was committed into an outbox, and deletes it.
//
// # Steps
//
//  1. Read rows in the order of their ids, without a cursor that is kept: whatever is there has not been sent. Ids are
//     drawn before the commit, so a row may appear below others; each read therefore looks below where it began, too, and
//     takes nothing before a row that has appeared there. See loop and Relay.read.
//  2. Send them, a group at a time for each topic, side by side for different topics. A key that fails waits, the others
//     go on. See delivery.
//  3. Delete what the publisher has taken, by id and event. Never by range: a row that appears inside the range has not been sent.
//
// # Invariants
//
//   - A row is deleted only after the publisher has taken it, so none is lost; one is sent again when the relay dies in
//     between, with the same id.
//   - Rows of a key are sent in the order of their ids. A row that is put aside, for whatever reason, is sent only in a
//     pass that begins below it, so the ones behind it in its key do not come first.
//   - What is in memory is bounded by WindowRows and WindowBytes, whatever the broker does.
//   - A slot has one relay at a time, by lease.
//
// # Rejected
//
// A cursor over ids loses what commits late; one over transaction ids has the wrong order within a key, and waits for any
// open transaction of the server. SKIP LOCKED breaks the order of a key, and holds a transaction while sending.
type Relay struct {
	table     *Table
	db        *sql.DB
	publisher framework.Publisher
	config    RelayConfig
	sequence  bool // events are numbered
	wake      chan struct{}
	intakes   []chan struct{} // wakes of those who move from watermill-sql's topics
	running   atomic.Bool
	counters  counters
}

// NewRelay makes a relay from a table to a publisher, which is of a transport's Publisher and is closed by the caller.
// db needs three connections, with RelayConfig.Log four, and one for each of Config.Watermill; writers and relay may share
// it.
func NewRelay(table *Table, db *sql.DB, publisher framework.Publisher, config RelayConfig) (*Relay, error) {
	var faults []error
	if table == nil || db == nil || publisher == nil {
		faults = append(faults, errors.New("table, database and publisher must not be nil"))
	}
	if table != nil && config.Log != nil && table.dialect != Postgres {
		faults = append(faults, fmt.Errorf("Log is set, and %v has none that is read: leave it nil, the relay polls then", table.dialect))
	}
	if err := errors.Join(append(faults, config.Validate())...); err != nil {
		return nil, fmt.Errorf("outbox: relay: %w", err)
	}
	config = config.WithDefaults()
	if config.Name == "" {
		host, _ := os.Hostname() // for people; the random part makes it unique
		config.Name = fmt.Sprintf("%.60s/%d/%s", host, os.Getpid(), watermill.NewShortUUID())
	}
	if config.Log != nil {
		config.Name = logOwner + config.Name
	}
	r := &Relay{table: table, db: db, publisher: publisher, config: config, wake: make(chan struct{}, 1)}
	r.sequence = config.Log == nil || config.Sequence || table.config.SerializeKeys
	for range table.config.Watermill {
		r.intakes = append(r.intakes, make(chan struct{}, 1))
	}
	return r, nil
}

// Wake says that a transaction with events was committed, so that the relay looks at once. It does not wait, and may be
// called from anywhere at any time.
func (r *Relay) Wake() {
	for _, wake := range r.intakes {
		signal(wake)
	}
	signal(r.wake)
}

// Run relays until ctx is done; then it waits for what is being sent, up to StopTimeout, deletes what was sent, gives its
// slots back and returns nil. Whatever is left is in the table.
//
// A table that is not there or of another version, a user who may not write, and an error that the publisher marks as
// framework.Fatal end it with an error, at the start any other error of the database too. Later a database that is away
// is waited for, also one that is read-only since it is no longer the primary, and so is a broker.
func (r *Relay) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return ErrRunning
	}
	defer r.running.Store(false)
	if err := r.table.Check(ctx, r.db); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	if err := r.table.checkKept(ctx, r.db); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("outbox: relay of %s: %w", r.table.Name(), err)
	}
	if err := r.checkLog(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("outbox: relay of %s: %w", r.table.Name(), err)
	}
	lease := newLease(r.table, r.db, r.config.Name, r.config.Lease)
	intakes, err := r.prepareIntakes(ctx, lease)
	if ctx.Err() != nil {
		return nil
	} else if err != nil {
		return err
	}
	if err := r.begin(ctx, lease); ctx.Err() != nil {
		return nil // what it may have taken is free when the lease ends
	} else if err != nil {
		return fmt.Errorf("outbox: take slots of %s: %w", r.table.Name(), r.table.explain(err))
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the lease lasts until all is sent
	defer cancel()
	var owned sync.WaitGroup
	owned.Go(func() {
		lease.run(background, func(err error) { r.report("renew the lease", r.table.explain(err)) })
	})
	if r.config.Listener != nil {
		owned.Go(func() { r.listen(background) })
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, len(intakes))
	for _, in := range intakes {
		owned.Go(func() {
			if err := in.run(ctx); err != nil {
				failed <- err
				stop()
			}
		})
	}
	err = newLoop(r, lease).run(ctx)
	stop()
	cancel()
	owned.Wait()
	ending, done := context.WithTimeout(context.WithoutCancel(ctx), r.config.Lease)
	defer done()
	if endErr := lease.end(ending); endErr != nil {
		r.report("give slots back; others take them over when the lease ends", endErr)
	}
	close(failed)
	for intakeErr := range failed {
		err = errors.Join(err, intakeErr)
	}
	if err != nil {
		return fmt.Errorf("outbox: relay of %s: %w", r.table.Name(), err)
	}
	return nil
}

// checkLog finds at the start what keeps the log from being read.
func (r *Relay) checkLog(ctx context.Context) error {
	if r.config.Log == nil {
		return nil
	}
	_, err := r.config.Log.Mark(ctx)
	if errors.Is(err, ErrNoLog) || r.config.PollWithoutLog && !errors.Is(err, ErrEventsLost) {
		return nil
	}
	return err
}

// begin takes the first slots. Relays that start at the same time may be in each other's way.
func (r *Relay) begin(ctx context.Context, l *lease) (err error) {
	for attempt := 1; attempt <= 3; attempt++ {
		if err = l.tick(ctx); err == nil || sqldb.IsPermanent(r.table.explain(err)) || pause(ctx, r.backoff(attempt)) != nil {
			break
		}
	}
	return err
}

// listen keeps a listener going; polling goes on without it.
func (r *Relay) listen(ctx context.Context) {
	for attempt := 1; ; attempt++ {
		began := time.Now()
		err := r.config.Listener.Listen(ctx, r.Wake)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > r.config.RetryMost {
			attempt = 1
		}
		r.report("listen; polling meanwhile", err)
		if pause(ctx, r.backoff(attempt)) != nil {
			return
		}
	}
}

// report logs an error that the relay goes on after.
func (r *Relay) report(what string, err error) {
	if err == nil {
		err = errors.New("ended without an error")
	}
	r.counters.update(func(s *Stats) { s.Err, s.At = err, time.Now() })
	r.config.Logger.Warn("outbox: "+what, "table", r.table.Name(), "relay", r.config.Name, "error", err)
}

// backoff is the wait after a number of failed attempts.
func (r *Relay) backoff(attempt int) time.Duration {
	return doubled(r.config.RetryFirst, attempt, r.config.RetryMost)
}

// doubled is first, doubled for each attempt after the first, at most most.
func doubled(first time.Duration, attempt int, most time.Duration) time.Duration {
	for ; attempt > 1 && first < most; attempt-- {
		first *= 2
	}
	return min(first, most)
}
