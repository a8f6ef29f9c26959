package main

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// inserters write at the same time, a row a transaction.
const inserters = 10

// measureInsert commits rows one by one, as business transactions do: by the publisher of the outbox, and by pgbench into
// the same table, which is what the database can take.
func (b *bench) measureInsert(system string) (result, error) {
	m := &millrace{}
	if err := m.create(b); err != nil {
		return result{}, err
	}
	b.rows -= b.rows % inserters
	insert := b.publish
	if system == "pgbench" {
		insert = b.pgbench
	}
	took, err := insert(m)
	if errors.Is(err, errSkipped) {
		return result{Skipped: err.Error()}, nil
	} else if err != nil {
		return result{}, err
	}
	var n int
	if err := b.db.QueryRowContext(b.ctx, "SELECT count(*) FROM "+b.name).Scan(&n); err != nil {
		return result{}, err
	}
	if n != b.rows {
		return result{}, fmt.Errorf("%d rows are in the table, %d were written", n, b.rows)
	}
	took.Rows, took.Wall, took.Database = b.rows, b.meter.ended.Sub(b.meter.began), b.meter.database
	return took, nil
}

func (b *bench) publish(m *millrace) (result, error) {
	errs := make([]error, inserters)
	var all sync.WaitGroup
	b.meter.start()
	for w := range inserters {
		all.Go(func() {
			for i := w; i < b.rows && errs[w] == nil; i += inserters {
				errs[w] = b.inTx(func(tx *sql.Tx) error { return m.write(b, tx, []int{i}) })
			}
		})
	}
	all.Wait()
	b.meter.stop()
	return result{Own: b.meter.own}, errors.Join(errs...)
}

func (b *bench) pgbench(*millrace) (result, error) {
	program, err := exec.LookPath("pgbench")
	if err != nil {
		return result{}, fmt.Errorf("%w: no pgbench on PATH, which is part of PostgreSQL", errSkipped)
	}
	dir, err := os.MkdirTemp("", "millrace-bench")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	script := filepath.Join(dir, "insert.sql")
	text := fmt.Sprintf(`\set n random(1, 1000000000)
INSERT INTO %s (slot, topic, event_key, event_id, event_type, payload)
VALUES (:n %% 16, '%s', convert_to('key-' || :n %% %d, 'UTF8'), 'event-' || :n, 'placed', convert_to('%s', 'UTF8'));
`, b.name, b.name, keys, payload)
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		return result{}, err
	}
	command := exec.CommandContext(b.ctx, program, "-n", "-M", "prepared", "-c", fmt.Sprint(inserters), "-j", "2",
		"-t", fmt.Sprint(b.rows/inserters), "-f", script, b.postgres)
	b.meter.start()
	said, err := command.CombinedOutput()
	b.meter.stop()
	if err != nil {
		return result{}, fmt.Errorf("pgbench: %w: %s", err, said)
	}
	return result{Own: command.ProcessState.UserTime() + command.ProcessState.SystemTime()}, nil
}
