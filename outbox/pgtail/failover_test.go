package pgtail_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/internal/testenv/sqltest"
	"github.com/millrace/millrace/outbox"
)

// A server dies while events wait to be sent, and its replica is promoted. That has the table and the publication, and not
// the slot: a relay finds it by its address, and ends with what it says of a lost slot; one that may poll sends what is left,
// makes the slot anew, and reads on. Of what the replica had nothing is lost, and the order is that of the commits.
func TestFailover(t *testing.T) {
	primary := services.OwnPostgres(t)
	standby := primary.Standby(t)
	both := strings.TrimPrefix(standby.Address, "postgres://millrace@")
	both, _, _ = strings.Cut(both, "/")
	address := strings.Replace(primary.Address, "/postgres?", ","+both+"/postgres?target_session_attrs=read-write&", 1)
	d := open(t, sqltest.Open(t, sqldb.Postgres, "pgx", address))
	replica, err := sql.Open("pgx", standby.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	o, s := newOracle(), newSink()
	put := func(from, to int) {
		for n := from; n < to; n++ {
			r := []framework.Record{event("a", n), event(fmt.Sprint("key", n), n)}
			d.write(t, r...)
			o.commit(r...)
		}
	}
	strict, err := outbox.NewRelay(d.table, d.DB, s, d.quick())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- strict.Run(t.Context()) }()
	tailing(t, strict)
	put(0, 20)
	s.waitFor(t, o.size)
	release := make(chan struct{})
	s.setFail(func(ctx context.Context, _ string, _ []framework.Record) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	put(20, 40) // they are not sent
	var end string
	if err := d.QueryRow("SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the replica is at "+end, func() (there bool) {
		err := replica.QueryRow("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", end).Scan(&there)
		return err == nil && there
	})
	primary.Stop(t)
	if _, err := replica.Exec("SELECT pg_promote()"); err != nil {
		t.Fatal(err)
	}
	close(release)
	select {
	case err := <-ended:
		if !errors.Is(err, outbox.ErrLogLost) || !strings.Contains(err.Error(), "the slot is missing") {
			t.Errorf("Run has ended with: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the relay has not noticed")
	}
	d.SetMaxIdleConns(0) // closes those to the server that is no more
	d.SetMaxIdleConns(12)
	put(40, 60)
	config := d.quick()
	config.PollWithoutLog = true
	relay, stop := d.start(t, s, config)
	s.waitFor(t, o.size)
	tailing(t, relay)
	put(60, 80)
	s.waitFor(t, o.size)
	eventually(t, "the table is empty", func() bool { return d.count(t) == 0 })
	d.slotMoves(t)
	stop()
	t.Logf("%d events, %d duplicates", o.size, o.check(t, s.snapshot()))
}
