package outbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/internal/sqldb"
)

// intake moves what is committed into a table of watermill-sql's to the outbox.
//
// # Steps
//
//  1. Read the keys of the rows that are visible, in the order of their offsets, without a cursor that is kept.
//  2. For each batch of them: read it, delete it and insert what it holds into the outbox, in one transaction.
//
// # Invariants
//
//   - A message is in one of the two tables, at any moment, whatever dies.
//   - Of two messages with one key, of transactions that did not run side by side, the first is moved first: whoever sees
//     the second sees the first, with a lower offset.
//   - That holds with two intakes at the same time too, such as one that has lost its lease: whose batch is not there as a
//     whole begins anew, and what has gone was given its place in the outbox before. The lease only spares them the trouble.
//
// # Rejected
//
// Sending from watermill's table itself: a key is known when the envelope has been read, so each relay would have to read
// all of it, and each look below a pass the envelopes again. On PostgreSQL there is no index on the offsets either: a
// round reads all keys at once, and finds batches by the primary key, which begins with the transaction's id. The order
// of those ids is not that of the commits of a key.
type intake struct {
	*Relay
	from  watermillTable
	into  *Table // the outbox, but that it takes all
	lease *lease
	wake  chan struct{}
	bytes int // of an average message

	first  int64     // message at the last look that another relay should have moved; 0: there was none
	looked time.Time // when that was
}

// roundKeys is how many keys are read at once.
const roundKeys = 50_000

// intakeSlot is the slot whose relay moves.
const intakeSlot = 0

// errMoved is met when another intake has moved a part of a batch.
var errMoved = errors.New("another relay has moved them")

// prepareIntakes makes an intake for each topic.
func (r *Relay) prepareIntakes(ctx context.Context, l *lease) ([]*intake, error) {
	into := *r.table
	into.config.MaxRowBytes, into.config.RequireKey = -1, false // they are committed: refusing comes too late
	all := make([]*intake, len(r.intakes))
	for i, topic := range r.table.config.Watermill {
		from, err := r.table.watermillTable(ctx, r.db, topic)
		if err != nil {
			return nil, fmt.Errorf("outbox: %w", err)
		}
		if from.acked > 0 {
			r.config.Logger.Info("outbox: what Watermill's forwarder has sent is passed over",
				"topic", topic.Topic, "consumer group", topic.ConsumerGroup, "offset", from.acked)
		}
		all[i] = &intake{Relay: r, from: from, lease: l, into: &into, wake: r.intakes[i], bytes: 1024}
	}
	return all, nil
}

// run moves until ctx is done, or an error that waiting does not mend.
func (in *intake) run(ctx context.Context) error {
	for interval, failures := in.config.PollMin, 0; ; {
		began := time.Now()
		moved, err := in.round(ctx)
		wait := time.Duration(0)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errMoved):
			wait = in.config.PollMin
		case err != nil:
			if sqldb.IsPermanent(err) {
				return fmt.Errorf("take over topic %q of watermill-sql: %w", in.from.topic.Topic, err)
			}
			failures++
			wait = in.backoff(failures)
			in.report("take over topic "+in.from.topic.Topic+" of watermill-sql: trying again", err)
		case moved > 0:
			interval, failures, wait = in.config.PollMin, 0, in.config.PollMin
		default:
			// On PostgreSQL a look passes over what was moved and is not yet vacuumed: then there are fewer.
			failures, wait = 0, max(interval, 4*time.Since(began))
			interval = min(2*interval, in.config.PollMax)
		}
		timer := time.NewTimer(wait)
		select {
		case <-in.wake:
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// messageKey is the primary key of a message.
type messageKey struct {
	offset      int64
	transaction uint64 // on PostgreSQL
}

// round moves what is visible at its beginning, at most roundKeys messages.
func (in *intake) round(ctx context.Context) (moved int, err error) {
	_, _, until := in.lease.held()
	if !time.Now().Before(until) {
		return 0, nil
	}
	if _, mine := in.lease.epoch(intakeSlot); !mine {
		return 0, in.watch(ctx)
	}
	if err := failpoint.Hit("outbox.intake.read"); err != nil {
		return 0, err
	}
	keys, err := in.keys(ctx)
	for err == nil && len(keys) > 0 && ctx.Err() == nil {
		n := 0
		n, err = in.move(ctx, keys[:min(len(keys), in.config.BatchRows, max(1, in.config.BatchBytes/in.bytes))])
		moved += n
		keys = keys[n:]
		in.counters.update(func(s *Stats) { s.Moved += int64(n) })
		signal(in.Relay.wake)
	}
	return moved, err
}

// watch tells of messages that the relay with the slot does not move. In twice the lease a dead one has lost it, and its
// successor has begun: so long the same message is the first only where a relay lacks Config.Watermill.
func (in *intake) watch(ctx context.Context) error {
	if time.Since(in.looked) < 2*in.config.Lease {
		return nil
	}
	var first int64
	err := in.db.QueryRowContext(ctx, in.from.sql("SELECT :position FROM :messages WHERE :unsent ORDER BY :position LIMIT 1")).Scan(&first)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return in.from.explain(err)
	}
	if first > 0 && first == in.first {
		in.report("messages of topic "+in.from.topic.Topic+" of watermill-sql wait",
			errors.New("the relay that has their slot does not move them: set Config.Watermill in the tables of all relays, or look into its log"))
	}
	in.first, in.looked = first, time.Now()
	return nil
}

func (in *intake) keys(ctx context.Context) (keys []messageKey, err error) {
	transaction := "0"
	if in.table.dialect == Postgres {
		transaction = "transaction_id::text"
	}
	rows, err := in.db.QueryContext(ctx, in.from.sql(fmt.Sprintf(
		"SELECT :position, %s FROM :messages WHERE :unsent ORDER BY :position LIMIT %d", transaction, roundKeys)))
	if err != nil {
		return nil, in.from.explain(err)
	}
	defer rows.Close()
	for rows.Next() {
		var key messageKey
		if err := rows.Scan(&key.offset, &key.transaction); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, in.from.explain(rows.Err())
}
