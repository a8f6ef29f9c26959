package main

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
)

// bare is a loop that reads, sends, and deletes. It uses the table of millrace, which writes too.
type bare struct{ millrace }

const bareRows = 2000

type bareRow struct {
	row     int64
	key     []byte
	id      string
	kind    string
	payload []byte
}

func (s *bare) drain(b *bench) error {
	conn, err := pgx.Connect(b.ctx, b.postgres)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(b.ctx)) }()
	send := func(rows []bareRow) error {
		for _, r := range rows {
			b.ledger.arrived(r.id)
		}
		return nil
	}
	if b.kafka {
		client, err := kgo.NewClient(kgo.SeedBrokers(b.broker), kgo.DefaultProduceTopic(b.name), kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err != nil {
			return err
		}
		defer client.Close()
		send = func(rows []bareRow) error { return produce(b.ctx, client, rows) }
	}
	b.meter.start()
	for sent := 0; sent < b.rows; {
		rows, err := s.read(b, conn)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return errors.New("the table is empty too early")
		}
		if err := send(rows); err != nil {
			return err
		}
		ids := make([]int64, len(rows))
		for i, r := range rows {
			ids[i] = r.row
		}
		if _, err := conn.Exec(b.ctx, "DELETE FROM "+b.name+" WHERE id = ANY ($1)", ids); err != nil {
			return err
		}
		sent += len(rows)
	}
	b.meter.stop()
	return nil
}

func (s *bare) read(b *bench, conn *pgx.Conn) (all []bareRow, err error) {
	rows, err := conn.Query(b.ctx, "SELECT id, event_key, event_id, event_type, payload FROM "+b.name+" ORDER BY id LIMIT $1", bareRows)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r bareRow
		if err := rows.Scan(&r.row, &r.key, &r.id, &r.kind, &r.payload); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

func produce(ctx context.Context, client *kgo.Client, rows []bareRow) error {
	records := make([]*kgo.Record, len(rows))
	for i, r := range rows {
		records[i] = &kgo.Record{Key: r.key, Value: r.payload, Headers: []kgo.RecordHeader{
			{Key: "ce_id", Value: []byte(r.id)}, {Key: "ce_type", Value: []byte(r.kind)}}}
	}
	return client.ProduceSync(ctx, records...).FirstErr()
}

func (s *bare) serve(*bench) (func() error, error) {
	return nil, errors.New("the bare loop only drains")
}

// notify hears a NOTIFY that the writer sends after its commit.
type notify struct{ millrace }

func (s *notify) committed(*bench) {}

// after is called instead of committed: the notification has the events' id, from a connection of the writer's.
func (s *notify) after(b *bench, event int) error {
	_, err := b.db.ExecContext(b.ctx, "SELECT pg_notify($1, $2)", b.name, eventID(event))
	return err
}

func (s *notify) drain(*bench) error { return errors.New("a notification has no backlog") }

func (s *notify) serve(b *bench) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(b.ctx)
	conn, err := pgx.Connect(ctx, b.postgres)
	if err == nil {
		_, err = conn.Exec(ctx, "LISTEN "+b.name)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	ended := make(chan error, 1)
	go func() {
		for {
			heard, err := conn.WaitForNotification(ctx)
			if err != nil {
				if ctx.Err() != nil {
					err = nil
				}
				ended <- errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
				return
			}
			b.ledger.arrived(heard.Payload)
		}
	}()
	return func() error {
		cancel()
		return <-ended
	}, nil
}
