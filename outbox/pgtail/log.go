package pgtail

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/millrace/millrace/outbox"
)

// Config of a Log. Its zero value is the default.
type Config struct {
	// Slot and Publication are the names of the replication slot and the publication that the relay makes, up to 63 of
	// a-z, 0-9 and _. Default: the table's name, with _ for a dot, and "_log".
	Slot, Publication string
	// Messages makes the relay read what an Emitter writes, too. It needs PostgreSQL 14. A slot that is lost then ends the
	// relay with outbox.ErrEventsLost, since it may have had events that are nowhere else, until Log.Drop is called or the
	// publication is dropped. Default false.
	Messages bool
	// BusyTimeout is how long a slot that somebody reads from is waited for. A relay that has lost its network holds the
	// slot up to the server's wal_sender_timeout, by default 60 s. Default 90 s.
	BusyTimeout time.Duration
}

var validName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// WithDefaults returns a copy with the defaults filled in, for a table.
func (c Config) WithDefaults(table *outbox.Table) Config {
	name := fmt.Sprintf("%.59s_log", table.Channel())
	if c.Slot == "" {
		c.Slot = name
	}
	if c.Publication == "" {
		c.Publication = name
	}
	if c.BusyTimeout == 0 {
		c.BusyTimeout = 90 * time.Second
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	for field, name := range map[string]string{"Slot": c.Slot, "Publication": c.Publication} {
		if name != "" && !validName.MatchString(name) {
			faults = append(faults, fmt.Errorf("%s is %q: use up to 63 of a-z, 0-9 and _", field, name))
		}
	}
	if c.BusyTimeout < 0 {
		faults = append(faults, errors.New("BusyTimeout is negative: it must be positive, or 0 for the default"))
	}
	return errors.Join(faults...)
}

// Log is an outbox.Log: a replication slot with the plugin pgoutput, and a publication of the inserts into the table. The
// publication's comment is the mark. It is safe for concurrent use.
type Log struct {
	table   *outbox.Table
	address string
	config  Config
}

// New makes a Log for a table; address is a connection string as pgx.Connect takes it, to the server itself.
func New(table *outbox.Table, address string, config Config) (*Log, error) {
	if table == nil {
		return nil, errors.New("outbox: log: the table must not be nil")
	}
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("outbox: log: %w", err)
	}
	if _, err := pgconn.ParseConfig(address); err != nil {
		return nil, fmt.Errorf("outbox: log: %w", err)
	}
	return &Log{table, address, config.WithDefaults(table)}, nil
}

// What the publication's comment begins with, before the slot's name.
const (
	markMade  = "millrace outbox: being made: "
	markReady = "millrace outbox: read from: "
)

// fail puts what was done before an error. The relay puts the package's name there.
func (l *Log) fail(what string, err error) error {
	return fmt.Errorf("log: %s (slot %s): %w", what, l.config.Slot, err)
}

// Mark is part of outbox.Log.
func (l *Log) Mark(ctx context.Context) (mark string, err error) {
	err = l.query(ctx, func(conn *pgx.Conn) error {
		mark, err = l.mark(ctx, conn)
		return err
	})
	if err != nil {
		return "", l.fail("look for the slot", err)
	}
	return mark, nil
}

func (l *Log) mark(ctx context.Context, conn *pgx.Conn) (string, error) {
	comment, slot, err := l.state(ctx, conn)
	if err != nil {
		return "", err
	}
	ready, isReady := strings.CutPrefix(comment, markReady+l.config.Slot+" ")
	lost := func(why string) (string, error) {
		if l.config.Messages {
			return "", fmt.Errorf("%w: %w: %s; what was emitted and not sent is gone, what is in the table is not: DROP PUBLICATION %s, and the relay starts as for the first time",
				outbox.ErrLogLost, outbox.ErrEventsLost, why, l.config.Publication)
		}
		return "", fmt.Errorf("%w: %s; what is not sent is in the table: let the relay poll (RelayConfig.PollWithoutLog), or DROP PUBLICATION %s, and it starts as for the first time",
			outbox.ErrLogLost, why, l.config.Publication)
	}
	switch {
	case !isReady && slot != nil && comment != markMade+l.config.Slot:
		return "", errors.New("the slot is there and was not made by a relay of this publication: choose another Config.Slot, or drop it")
	case !isReady:
		return "", outbox.ErrNoLog
	case slot == nil:
		return lost("the slot is missing")
	case slot.status == "lost":
		return lost("the slot is invalidated, since it kept more of the log than max_slot_wal_keep_size")
	case slot.plugin != "pgoutput" || !slot.here:
		return "", fmt.Errorf("the slot is of the plugin %q, or of another database: choose another Config.Slot", slot.plugin)
	case slot.ahead:
		return lost("the slot is ahead of the server's log: has the server been set back?")
	case !slot.published:
		return lost("the publication " + l.config.Publication + " does not have the inserts of table " + l.table.Name() + " any more")
	}
	return ready, nil
}

// slotState is a slot as the server has it.
type slotState struct {
	plugin, status         string
	here, ahead, published bool
}

// state reads the publication's comment and the slot; "" and nil where they are not there.
func (l *Log) state(ctx context.Context, conn *pgx.Conn) (comment string, slot *slotState, err error) {
	var level string
	if err := conn.QueryRow(ctx, "SHOW wal_level").Scan(&level); err != nil {
		return "", nil, err
	}
	if level != "logical" {
		return "", nil, fmt.Errorf("wal_level is %s: set it to logical and restart the server", level)
	}
	// Said here, before there is a slot that would keep the log of a server that cannot send it.
	version := conn.PgConn().ParameterStatus("server_version")
	if l.config.Messages && (strings.HasPrefix(version, "12.") || strings.HasPrefix(version, "13.")) {
		return "", nil, fmt.Errorf("Config.Messages needs PostgreSQL 14, and the server is %s", version)
	}
	err = conn.QueryRow(ctx, "SELECT coalesce(obj_description(oid, 'pg_publication'), '') FROM pg_publication WHERE pubname = $1",
		l.config.Publication).Scan(&comment)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", nil, err
	}
	status := "CASE WHEN restart_lsn IS NULL THEN 'lost' ELSE 'reserved' END" // wal_status is not there before 13
	if !strings.HasPrefix(version, "12.") {
		status = "coalesce(wal_status, 'lost')"
	}
	slot = new(slotState)
	err = conn.QueryRow(ctx, `SELECT coalesce(plugin, 'none'), coalesce(database = current_database(), false), `+status+`,
 coalesce(confirmed_flush_lsn > pg_current_wal_insert_lsn(), false),
 EXISTS (SELECT 1 FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid
  WHERE p.pubname = $2 AND p.pubinsert AND r.prrelid = to_regclass($3))
 FROM pg_replication_slots WHERE slot_name = $1`, l.config.Slot, l.config.Publication, l.table.Name()).
		Scan(&slot.plugin, &slot.here, &slot.status, &slot.ahead, &slot.published)
	if errors.Is(err, pgx.ErrNoRows) {
		return comment, nil, nil
	}
	return comment, slot, err
}

// Create is part of outbox.Log. The publication is made before the slot, since the slot reads the log with the catalogue
// as it was at each place. The server makes a slot when all transactions that were writing by then have ended.
func (l *Log) Create(ctx context.Context) error {
	return l.query(ctx, func(conn *pgx.Conn) error {
		if err := l.create(ctx, conn); err != nil {
			return l.fail("make the slot", err)
		}
		return nil
	})
}

func (l *Log) create(ctx context.Context, conn *pgx.Conn) error {
	comment, slot, err := l.state(ctx, conn)
	if err != nil {
		return err
	}
	ours := strings.HasPrefix(comment, markReady+l.config.Slot+" ") || comment == markMade+l.config.Slot
	if slot != nil && !ours {
		return errors.New("the slot is there and was not made by a relay of this publication: choose another Config.Slot, or drop it")
	}
	for _, statement := range []string{
		fmt.Sprintf("DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM pg_publication WHERE pubname = '%[1]s') THEN CREATE PUBLICATION %[1]s; END IF; END $$", l.config.Publication),
		fmt.Sprintf("ALTER PUBLICATION %s SET TABLE %s", l.config.Publication, l.table.Name()),
		fmt.Sprintf("ALTER PUBLICATION %s SET (publish = 'insert')", l.config.Publication),
		fmt.Sprintf("COMMENT ON PUBLICATION %s IS '%s'", l.config.Publication, markMade+l.config.Slot),
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return err
		}
	}
	if slot != nil {
		if _, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot($1)", l.config.Slot); err != nil {
			return err
		}
	}
	replication, err := l.connectReplication(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = replication.Close(context.WithoutCancel(ctx)) }()
	results, err := replication.Exec(ctx, "CREATE_REPLICATION_SLOT "+l.config.Slot+" LOGICAL pgoutput EXPORT_SNAPSHOT").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < 3 {
		return errors.New("an answer to CREATE_REPLICATION_SLOT that is not known")
	}
	return untilVisible(ctx, conn, string(results[0].Rows[0][2]))
}

// untilVisible waits until reads see all that is before a slot's place. The exported snapshot sees just that. A transaction
// is in the log a moment before others see it, with a synchronous replica a long one.
func untilVisible(ctx context.Context, conn *pgx.Conn, exported string) error {
	var text string
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT '"+exported+"'"); err != nil {
		return err
	}
	if err := tx.QueryRow(ctx, "SELECT txid_current_snapshot()::text").Scan(&text); err != nil {
		return err
	}
	before, err := parseSnapshot(text)
	if err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if err := conn.QueryRow(ctx, "SELECT txid_current_snapshot()::text").Scan(&text); err != nil {
			return err
		}
		now, err := parseSnapshot(text)
		if err != nil || now.includes(before) {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// End is part of outbox.Log.
func (l *Log) End(ctx context.Context) (end uint64, err error) {
	err = l.query(ctx, func(conn *pgx.Conn) error {
		var text string
		if err := conn.QueryRow(ctx, "SELECT pg_current_wal_insert_lsn()::text").Scan(&text); err != nil {
			return l.fail("look for the log's end", err)
		}
		place, err := parseLSN(text)
		end = uint64(place)
		return err
	})
	return end, err
}

// Status is a slot as the server tells of it.
type Status struct {
	// WAL is pg_replication_slots.wal_status: "reserved" and "extended" are fine, "unreserved" is about to be lost,
	// "lost" is; "missing" when there is no slot, "unknown" before PostgreSQL 13.
	WAL string
	// Active says that a relay reads from it.
	Active bool
	// Retained is how many bytes of the log the server keeps for it, Lag how many are between the place up to which all is
	// done and the log's end.
	Retained, Lag int64
	// Safe is how many more bytes may be written before the slot is about to be lost; negative: there is no bound,
	// max_slot_wal_keep_size is not set.
	Safe int64
}

// Status asks the server.
func (l *Log) Status(ctx context.Context) (s Status, err error) {
	err = l.query(ctx, func(conn *pgx.Conn) error {
		status := "coalesce(wal_status, 'lost'), coalesce(safe_wal_size, -1)"
		if strings.HasPrefix(conn.PgConn().ParameterStatus("server_version"), "12.") {
			status = "'unknown', -1"
		}
		err := conn.QueryRow(ctx, `SELECT active, coalesce(pg_current_wal_insert_lsn() - restart_lsn, 0)::bigint,
 coalesce(pg_current_wal_insert_lsn() - confirmed_flush_lsn, 0)::bigint, `+status+`
 FROM pg_replication_slots WHERE slot_name = $1`, l.config.Slot).Scan(&s.Active, &s.Retained, &s.Lag, &s.WAL, &s.Safe)
		if errors.Is(err, pgx.ErrNoRows) {
			s, err = Status{WAL: "missing", Safe: -1}, nil
		}
		if err != nil {
			return fmt.Errorf("outbox: %w", l.fail("ask for the slot", err))
		}
		return nil
	})
	return s, err
}

// Drop removes slot and publication, so that the server keeps no log for them any more. The relay must not run.
func (l *Log) Drop(ctx context.Context) error {
	return l.query(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1", l.config.Slot)
		if err == nil {
			_, err = conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+l.config.Publication)
		}
		if err != nil {
			return fmt.Errorf("outbox: %w", l.fail("drop slot and publication "+l.config.Publication, err))
		}
		return nil
	})
}

// query runs f with a connection.
func (l *Log) query(ctx context.Context, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, l.address)
	if err != nil {
		return l.fail("connect", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return f(conn)
}

func (l *Log) connectReplication(ctx context.Context) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(l.address)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["replication"] = "database"
	config.RuntimeParams["bytea_output"] = "hex"
	config.RuntimeParams["client_encoding"] = "UTF8"
	return pgconn.ConnectConfig(ctx, config)
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
