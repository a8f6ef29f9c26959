// Package pglisten hears PostgreSQL's notifications for an outbox relay, over a connection of pgx of its own. It is apart
// from package outbox so that users of other databases do not build pgx.
//
//	relay, err := outbox.NewRelay(table, db, publisher, outbox.RelayConfig{
//		Listener: pglisten.New(address, table.Channel()),
//	})
//
// A relay without one, or with one whose connection is dead, polls.
package pglisten

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Listener is an outbox.Listener.
type Listener struct{ address, channel string }

// New makes a Listener for a channel; address is a connection string as pgx.Connect takes it. It must not lead
// through a pool that shares a session among clients, such as PgBouncer's in transaction mode.
func New(address, channel string) *Listener { return &Listener{address, channel} }

// probeAfter is how long a silent connection is trusted: a peer that has gone without a word is found by it.
const probeAfter = 30 * time.Second

// Listen calls wake for each notification until ctx is done or the connection is lost.
func (l *Listener) Listen(ctx context.Context, wake func()) error {
	conn, err := pgx.Connect(ctx, l.address)
	if err != nil {
		return fmt.Errorf("outbox: listen: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, "LISTEN "+l.channel); err != nil {
		return fmt.Errorf("outbox: listen: %w", err)
	}
	wake() // for what came before
	for {
		waiting, cancel := context.WithTimeout(ctx, probeAfter)
		_, err := conn.WaitForNotification(waiting)
		silent := waiting.Err() != nil && ctx.Err() == nil
		cancel()
		if silent {
			probing, cancel := context.WithTimeout(ctx, 5*time.Second)
			err = conn.Ping(probing)
			cancel()
		}
		if err != nil {
			return fmt.Errorf("outbox: listen: %w", err)
		}
		wake()
	}
}
