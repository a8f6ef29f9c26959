package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"time"
)

// The least times between two notifications, since what is committed meanwhile shares the next one; and after one that
// failed. Without the first, as many are sent as the server takes, which makes nothing quicker where it has enough to do.
const (
	notifyGap   = 500 * time.Microsecond
	notifyPause = 100 * time.Millisecond
)

// Notifier tells relays in other processes that something was committed, by PostgreSQL's NOTIFY.
//
// NOTIFY takes a lock on the whole database server at commit, and a commit fails when the queue of notifications is
// full. So it is not done by a trigger or in the caller's transaction, but afterwards and in one of its own, for all
// commits that came meanwhile. Nothing depends on it: relays poll in any case.
type Notifier struct {
	table  *Table
	db     *sql.DB
	logger *slog.Logger
	wake   chan struct{}
}

// NewNotifier makes a Notifier; Run runs it. A relay in the same process is told by Relay.Wake, on any database.
// logger may be nil.
func NewNotifier(table *Table, db *sql.DB, logger *slog.Logger) (*Notifier, error) {
	if table.dialect != Postgres {
		return nil, fmt.Errorf("outbox: %v has no notifications between processes: relays poll; in one process call Relay.Wake", table.dialect)
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Notifier{table, db, logger, make(chan struct{}, 1)}, nil
}

// Wake says that a transaction with events was committed. It does not wait, whatever state the database is in.
func (n *Notifier) Wake() { signal(n.wake) }

// Run sends notifications until ctx is done, and returns nil then.
func (n *Notifier) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.wake:
		}
		_, err := n.db.ExecContext(ctx, "NOTIFY "+n.table.Channel())
		wait := notifyGap
		if err != nil && ctx.Err() == nil {
			wait = notifyPause
			n.logger.Warn("no notification sent; relays find the events by polling", "error", err)
		}
		if pause(ctx, wait) != nil {
			return nil
		}
	}
}

// pause waits for a time, or until ctx is done.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
