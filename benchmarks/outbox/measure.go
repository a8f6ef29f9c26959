package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver of writers and relays
)

// result is what a run took.
type result struct {
	Rows       int           `json:"rows"`
	Wall       time.Duration `json:"wall"`
	Own        time.Duration `json:"own"`      // processor time of the system
	Database   time.Duration `json:"database"` // of the server; 0: not known
	P50        time.Duration `json:"p50"`
	P99        time.Duration `json:"p99"`
	Late       int           `json:"late"` // events that had not arrived long after the last was written
	Duplicates int           `json:"duplicates"`
	Skipped    string        `json:"skipped,omitempty"`
}

// measure runs one system in this process.
func measure(ctx context.Context, r run, postgres, broker string, patience time.Duration) (result, error) {
	db, err := sql.Open("pgx", postgres)
	if err != nil {
		return result{}, err
	}
	defer db.Close()
	db.SetMaxOpenConns(24)
	db.SetMaxIdleConns(24)
	b := &bench{ctx: ctx, db: db, postgres: postgres, broker: broker, name: fmt.Sprintf("bench_%08x", rand.Uint32()),
		rows: r.rows, ledger: newLedger(r.rows), kafka: r.sink == "kafka", patience: patience}
	if b.meter.server, err = findServer(ctx, db); err != nil {
		return result{}, err
	}
	took, err := b.measure(r)
	return took, errors.Join(err, b.dropTables())
}

func (b *bench) measure(r run) (took result, err error) {
	if r.workload == inboxes {
		return b.measureInbox(r.system)
	}
	if r.workload == inserts {
		return b.measureInsert(r.system)
	}
	system := relays()[r.system]
	if system == nil {
		return result{}, fmt.Errorf("there is no system %q", r.system)
	}
	if err := system.create(b); err != nil {
		if errors.Is(err, errSkipped) {
			return result{Skipped: err.Error()}, nil
		}
		return result{}, err
	}
	defer func() { err = errors.Join(err, system.drop(b)) }()
	if b.kafka {
		if err := b.createTopic(); err != nil {
			return result{}, err
		}
		defer func() { err = errors.Join(err, b.dropTopic()) }()
	}
	if r.workload == latencies {
		return b.measureLatency(system)
	}
	return b.measureDrain(system)
}

func (b *bench) measureDrain(system relay) (result, error) {
	const rowsOfTx = 1000
	for from := 0; from < b.rows; from += rowsOfTx {
		var events []int
		for i := from; i < min(b.rows, from+rowsOfTx); i++ {
			events = append(events, i)
		}
		if err := b.inTx(func(tx *sql.Tx) error { return system.write(b, tx, events) }); err != nil {
			return result{}, err
		}
	}
	for _, statement := range []string{"VACUUM ANALYSE " + b.name, "CHECKPOINT"} {
		_, err := b.db.ExecContext(b.ctx, statement)
		if err != nil && statement != "CHECKPOINT" { // for which not every user has the right
			return result{}, err
		}
	}
	if err := system.drain(b); err != nil {
		return result{}, err
	}
	if b.kafka {
		ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
		defer cancel()
		if err := b.consume(ctx); err != nil {
			return result{}, err
		}
	}
	missing, duplicates, err := b.ledger.verify()
	if err == nil && missing > 0 {
		err = fmt.Errorf("%d of %d events have not arrived", missing, b.rows)
	}
	return result{Rows: b.rows, Wall: b.meter.ended.Sub(b.meter.began), Own: b.meter.own, Database: b.meter.database, Duplicates: duplicates}, err
}

const (
	ratePerSecond = 1000
	writers       = 4
	// warmUp are the first events of a run for latency, which do not count.
	warmUp = 3000
	// usualPatience is how long after the last commit a system may take until what it has not delivered is counted as late.
	usualPatience = 10 * time.Second
)

func (b *bench) measureLatency(system relay) (took result, err error) {
	stop, err := system.serve(b)
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	reading, cancel := context.WithCancel(b.ctx)
	consumed := make(chan error, 1)
	if b.kafka {
		go func() { consumed <- b.consume(reading) }()
	} else {
		consumed <- nil
	}
	committed, err := b.writeAtRate(system)
	if err == nil {
		select {
		case <-b.ledger.done:
		case <-time.After(b.patience):
		}
	}
	cancel()
	if err := errors.Join(err, <-consumed); err != nil {
		return result{}, err
	}
	all := b.ledger.latencies(committed, min(warmUp, b.rows/3))
	if len(all) == 0 {
		return result{}, errors.New("nothing was delivered")
	}
	missing, duplicates, err := b.ledger.verify() // one that does not keep up is no error here: it is told
	return result{Rows: b.rows, P50: all[len(all)/2], P99: all[len(all)*99/100], Duplicates: duplicates, Late: missing}, err
}

// writeAtRate commits an event each millisecond, whether the last ones have been committed or not, and returns when their
// commits returned. Events of a key are of one writer.
func (b *bench) writeAtRate(system relay) (committed []time.Time, err error) {
	committed = make([]time.Time, b.rows)
	errs := make([]error, writers)
	var all sync.WaitGroup
	began := time.Now()
	for w := range writers {
		all.Go(func() {
			for i := w; i < b.rows && errs[w] == nil; i += writers {
				time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / ratePerSecond)))
				errs[w] = b.inTx(func(tx *sql.Tx) error { return system.write(b, tx, []int{i}) })
				committed[i] = time.Now()
				if n, ok := system.(*notify); ok && errs[w] == nil {
					errs[w] = n.after(b, i)
				}
				system.committed(b)
			}
		})
	}
	all.Wait()
	return committed, errors.Join(errs...)
}

func (b *bench) inTx(f func(*sql.Tx) error) error {
	tx, err := b.db.BeginTx(b.ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

// dropTables removes all tables of this run.
func (b *bench) dropTables() error {
	rows, err := b.db.QueryContext(b.ctx, "SELECT table_name FROM information_schema.tables WHERE table_name LIKE $1", b.name+"%")
	if err != nil {
		return err
	}
	defer rows.Close()
	var all []error
	for rows.Next() {
		var table string
		if err := rows.Scan(&table); err != nil {
			return err
		}
		_, err := b.db.ExecContext(b.ctx, "DROP TABLE IF EXISTS "+table) // partitions go with their table
		all = append(all, err)
	}
	return errors.Join(append(all, rows.Err())...)
}
