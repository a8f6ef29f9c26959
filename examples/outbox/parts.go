package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/outbox"
)

// order is a row of the shop's, and the event of it.
type order struct {
	N        int    `json:"n"`
	Customer string `json:"customer"`
	Amount   int    `json:"amount"`
}

// shop takes orders until it has tried all. After a crash it goes on behind the last one that was committed.
func shop(ctx context.Context, o options) error {
	table, err := o.outboxTable()
	if err != nil {
		return err
	}
	return o.withShop(func(db *sql.DB) error {
		var last int
		if err := db.QueryRowContext(ctx, "SELECT COALESCE(MAX(n), 0) FROM orders").Scan(&last); err != nil {
			return err
		}
		for n := last + 1; n <= o.orders; n++ {
			err := o.place(ctx, db, table, order{n, fmt.Sprint("customer-", n%7), 10 + n%90})
			if err != nil && !errors.Is(err, errNoCredit) {
				return err
			}
		}
		return nil
	})
}

var errNoCredit = errors.New("the customer has no credit")

// place writes an order and its event in one transaction: both are there, or none.
func (o options) place(ctx context.Context, db *sql.DB, table *outbox.Table, placed order) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	inserted, err := tx.ExecContext(ctx, o.insertOrder(), placed.N, placed.Customer, placed.Amount)
	if err != nil {
		return err
	}
	if n, err := inserted.RowsAffected(); err != nil || n == 0 {
		return err // the commit of a shop that was killed has come through after all
	}
	data, err := json.Marshal(placed)
	if err != nil {
		return err
	}
	if err := table.Publisher(outbox.SQL(tx)).Publish(ctx, events, framework.Record{
		ID: fmt.Sprint("order-", placed.N), Type: "order.placed", Key: placed.Customer, Time: time.Now(), Value: data,
	}); err != nil {
		return err
	}
	if placed.N%10 == 0 {
		return errNoCredit // rolled back: neither the order nor its event has been
	}
	return tx.Commit()
}

// relay sends what the shop has committed.
func relay(ctx context.Context, o options) error {
	table, err := o.outboxTable()
	if err != nil {
		return err
	}
	return o.withShop(func(from *sql.DB) error {
		return with(o.state, "topic", func(to *sql.DB) error {
			r, err := outbox.NewRelay(table, from, topic{to}, outbox.RelayConfig{
				Name:    "relay", // the one that starts after a crash has the same, and takes over at once
				PollMin: 5 * time.Millisecond, PollMax: 50 * time.Millisecond, BatchRows: 50,
			})
			if err != nil {
				return err
			}
			return r.Run(ctx)
		})
	})
}

// billing makes an invoice for each order. It keeps no position: after a crash it gets all events again, and those that
// it has handled have no effect.
func billing(ctx context.Context, o options) error {
	box, err := invoicesInbox()
	if err != nil {
		return err
	}
	return with(o.state, "billing", func(db *sql.DB) error {
		handler := box.Handler(db, func(ctx context.Context, tx *sql.Tx, r framework.Record) error {
			var placed order
			if err := json.Unmarshal(r.Value, &placed); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, "INSERT INTO invoices (n, customer, amount) VALUES (?, ?, ?)", placed.N, placed.Customer, placed.Amount)
			return err
		})
		return with(o.state, "topic", func(from *sql.DB) error {
			position := int64(0)
			for {
				records, next, err := topic{from}.read(ctx, position)
				if err == nil && len(records) > 0 {
					result, handleErr := handler.HandleBatch(ctx, records)
					if err = handleErr; err == nil && len(result.Failed) > 0 {
						err = result.Failed[0].Err
					}
				}
				switch {
				case ctx.Err() != nil:
					return nil
				case err != nil:
					return err
				}
				position = next
				if len(records) == 0 {
					wait(ctx, 10*time.Millisecond)
				}
			}
		})
	})
}

// wait waits for a time, or until ctx is done.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
