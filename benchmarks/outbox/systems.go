package main

import (
	"context"
	"database/sql"
	"time"
)

// bench is what a system runs with: one run of one system, in a process of its own.
type bench struct {
	ctx              context.Context
	db               *sql.DB
	postgres, broker string
	name             string // of the table, the slot and the topic of this run
	rows             int
	ledger           *ledger // where deliveries go, where they do not go to Kafka
	kafka            bool
	patience         time.Duration
	meter            meter
}

// meter measures from start to stop.
type meter struct {
	server        server
	began, ended  time.Time
	own, database time.Duration
}

func (m *meter) start() {
	m.own, m.database, m.began = ownTime(), m.server.time(), time.Now()
}

func (m *meter) stop() {
	m.ended = time.Now()
	m.own, m.database = ownTime()-m.own, m.server.time()-m.database
}

// relay is a system under test.
type relay interface {
	// create makes its tables.
	create(b *bench) error
	// write writes events in the caller's transaction.
	write(b *bench, tx *sql.Tx, events []int) error
	// committed is called after a commit.
	committed(b *bench)
	// drain delivers the backlog, between b.meter.start and b.meter.stop.
	drain(b *bench) error
	// serve delivers until stop is called; it returns when it is ready.
	serve(b *bench) (stop func() error, err error)
	// drop removes what create has made besides tables whose names begin with b.name.
	drop(b *bench) error
}

func relays() map[string]relay {
	return map[string]relay{
		"millrace":       &millrace{},
		"millrace-kept":  &millrace{keep: 24 * time.Hour},
		"bare":           &bare{},
		"forwarder":      &forwarderSystem{},
		"forwarder-best": &forwarderSystem{batch: 1000, poll: 10 * time.Millisecond},
		"debezium":       &debezium{},
		"notify":         &notify{},
	}
}

// run is one line of the results.
type run struct {
	workload, system, sink string
	rows                   int
}

const (
	drains    = "drain"
	latencies = "latency"
	inboxes   = "inbox"
	inserts   = "insert"
)

// runs are all of them, at their usual sizes. What is slow gets less to do.
func runs() []run {
	return []run{
		{drains, "millrace", "kafka", 200_000},
		{drains, "millrace-kept", "kafka", 200_000},
		{drains, "bare", "kafka", 200_000},
		{drains, "forwarder", "kafka", 5_000},
		{drains, "forwarder-best", "kafka", 5_000},
		{drains, "debezium", "kafka", 100_000},
		{drains, "millrace", "none", 200_000},
		{drains, "millrace-kept", "none", 200_000},
		{drains, "bare", "none", 200_000},
		{drains, "forwarder-best", "none", 20_000},
		{latencies, "notify", "none", 10_000},
		{latencies, "millrace", "none", 10_000},
		{latencies, "forwarder", "none", 10_000},
		{latencies, "forwarder-best", "none", 10_000},
		{latencies, "millrace", "kafka", 10_000},
		{latencies, "debezium", "kafka", 10_000},
		{inserts, "millrace", "", 40_000},
		{inserts, "pgbench", "", 40_000},
		{inboxes, "ids, batches of 500", "", 100_000},
		{inboxes, "ids, one by one", "", 5_000},
		{inboxes, "numbers, batches of 500", "", 100_000},
		{inboxes, "numbers, one by one", "", 5_000},
		{inboxes, "ids in the microstore, batches of 500", "", 200_000},
		{inboxes, "ids in the microstore, one by one", "", 50_000},
	}
}
