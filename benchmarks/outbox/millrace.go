package main

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/outbox"
	"github.com/millrace/millrace/outbox/pglisten"
	"github.com/millrace/millrace/transport/kafka"
)

// millrace is the outbox of this repository.
type millrace struct {
	keep      time.Duration // outbox.Config.KeepSent
	table     *outbox.Table
	publisher framework.Publisher
	notifier  *outbox.Notifier
}

func (m *millrace) create(b *bench) (err error) {
	if m.table, err = outbox.NewTable(outbox.Postgres, outbox.Config{Name: b.name, KeepSent: m.keep}); err != nil {
		return err
	}
	if err := m.table.Create(b.ctx, b.db); err != nil || m.keep == 0 {
		return err
	}
	return m.table.PurgeSent(b.ctx, b.db) // makes the partitions
}

func (m *millrace) write(b *bench, tx *sql.Tx, events []int) error {
	records := make([]framework.Record, len(events))
	for n, i := range events {
		records[n] = framework.Record{ID: eventID(i), Type: "placed", Key: eventKey(i), Value: payload}
	}
	return m.table.Publisher(outbox.SQL(tx)).Publish(b.ctx, b.name, records...)
}

func (m *millrace) committed(*bench) {
	if m.notifier != nil {
		m.notifier.Wake()
	}
}

// open makes the publisher.
func (m *millrace) open(b *bench) (closed func() error, err error) {
	if !b.kafka {
		m.publisher = countingPublisher{b.ledger}
		return func() error { return nil }, nil
	}
	transport, err := kafka.New(b.ctx, kafka.Config{Brokers: []string{b.broker}})
	if err != nil {
		return nil, err
	}
	m.publisher, err = transport.Publisher(framework.PublisherConfig{})
	if err != nil {
		return nil, errors.Join(err, transport.Close())
	}
	return func() error { return errors.Join(m.publisher.Close(), transport.Close()) }, nil
}

func (m *millrace) drain(b *bench) error {
	closed, err := m.open(b)
	if err != nil {
		return err
	}
	relay, err := outbox.NewRelay(m.table, b.db, m.publisher, outbox.RelayConfig{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	ended := make(chan error, 1)
	b.meter.start()
	go func() { ended <- relay.Run(ctx) }()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for relay.Stats().Deleted < int64(b.rows) {
		select {
		case err := <-ended:
			return errors.Join(err, closed(), errors.New("the relay has ended"))
		case <-tick.C:
		}
	}
	b.meter.stop()
	cancel()
	return errors.Join(<-ended, closed())
}

func (m *millrace) serve(b *bench) (stop func() error, err error) {
	closed, err := m.open(b)
	if err != nil {
		return nil, err
	}
	if m.notifier, err = outbox.NewNotifier(m.table, b.db, nil); err != nil {
		return nil, err
	}
	relay, err := outbox.NewRelay(m.table, b.db, m.publisher, outbox.RelayConfig{Listener: pglisten.New(b.postgres, m.table.Channel())})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan error, 2)
	go func() { ended <- relay.Run(ctx) }()
	go func() { ended <- m.notifier.Run(ctx) }()
	return func() error {
		cancel()
		return errors.Join(<-ended, <-ended, closed())
	}, nil
}

// countingPublisher hands events over to the ledger.
type countingPublisher struct{ ledger *ledger }

func (p countingPublisher) Publish(_ context.Context, _ string, records []framework.Record) error {
	for i := range records {
		p.ledger.arrived(records[i].ID)
	}
	return nil
}

func (p countingPublisher) Close() error { return nil }

func (m *millrace) drop(*bench) error { return nil }
