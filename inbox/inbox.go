package inbox

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace/millrace/internal/sqldb"
)

// Dialect says which database the inbox is in.
type Dialect = sqldb.Dialect

// The databases that an inbox can be in.
const (
	Postgres = sqldb.Postgres // 12 and later
	MySQL    = sqldb.MySQL    // MySQL 8.0.13 and later, MariaDB 10.5 and later; InnoDB
	SQLite   = sqldb.SQLite   // 3.35 and later
)

// Execer is a transaction for Claim. SQL and Pgx make one.
type Execer = sqldb.Execer

// SQL makes an Execer of a *sql.Tx.
func SQL(tx interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}) Execer {
	return sqldb.SQL(tx)
}

// Pgx makes an Execer of a pgx.Tx; the compiler finds T.
func Pgx[T interface{ RowsAffected() int64 }](tx interface {
	Exec(ctx context.Context, query string, args ...any) (T, error)
}) Execer {
	return sqldb.Pgx(tx)
}

var (
	// ErrNoTable is returned when the inbox's table is not in the database.
	ErrNoTable = sqldb.ErrNoTable
	// ErrVersion is returned when it is of another version than this release works with.
	ErrVersion = sqldb.ErrVersion
	// ErrDenied is returned when the database user may not do what is needed, or the database is read-only.
	ErrDenied = sqldb.ErrDenied
	// ErrTooOld is returned for a message that is older than Config.Retention: the row that would tell whether it was
	// handled may be gone. It was not handled now.
	ErrTooOld = errors.New("inbox: the message is older than processed messages are kept")
	// ErrNoID is returned for a message whose id is empty, too long, or not text that a database keeps.
	ErrNoID = errors.New("inbox: the message has no usable id")
)

// Config of an Inbox. Its zero value is the default.
type Config struct {
	// Name of the table, perhaps behind a schema and a dot. Subscribers may share one. Default "millrace_inbox".
	Name string
	// Retention is how long processed messages of this subscriber are known, by their own times. It must be longer than the longest
	// redelivery: what the topic keeps, and an outage. Default 7 days.
	Retention time.Duration
	// Now is the clock that tells how old a message is; default time.Now. Clocks of consumers may differ by an hour.
	Now func() time.Time
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		c.Name = "millrace_inbox"
	}
	if c.Retention == 0 {
		c.Retention = 7 * 24 * time.Hour
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	if c.Name != "" {
		faults = append(faults, sqldb.ValidateName(c.Name))
	}
	if c.Retention < 0 {
		faults = append(faults, fmt.Errorf("Retention is %v: it must be positive", c.Retention))
	}
	return errors.Join(faults...)
}

// Inbox is the processed messages of a subscriber. It is a value without connections, safe for concurrent use.
type Inbox struct {
	dialect    Dialect
	subscriber string
	config     Config
	schema     sqldb.Schema
}

const maxNameBytes = 255

// New describes the inbox of a subscriber; Create makes its table. The subscriber's name is that of what takes effect: a
// consumer group, or one of several handlers of a message.
func New(dialect Dialect, subscriber string, config Config) (*Inbox, error) {
	if err := joined(dialect.Validate(), config.Validate(), checkName("subscriber", subscriber)); err != nil {
		return nil, err
	}
	config = config.WithDefaults()
	return &Inbox{dialect, subscriber, config, schema(dialect, config.Name)}, nil
}

// joined makes one error of what is wrong with the arguments; nil when nothing is.
func joined(faults ...error) error {
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("inbox: %w", err)
	}
	return nil
}

// schema is the table. The token tells which rows are of one INSERT, on MySQL, which cannot return them. The index is
// for Purge; MySQL has no CREATE INDEX IF NOT EXISTS, and SQLite none inside of CREATE TABLE.
func schema(dialect Dialect, name string) sqldb.Schema {
	table := `CREATE TABLE IF NOT EXISTS NAME (
	subscriber :exact NOT NULL,
	event_id :exact NOT NULL,
	event_time bigint NOT NULL,
	token bigint NOT NULL DEFAULT 0,
	PRIMARY KEY (subscriber, event_id)`
	steps := []string{table + ", INDEX (subscriber, event_time)\n):options"}
	if dialect != MySQL {
		schema, plain, dotted := strings.Cut(name, ".")
		if !dotted {
			plain = name
		}
		index := plain + "_time ON NAME"
		if dotted && dialect == SQLite { // the schema stands before the index, and not before the table
			index = schema + "." + plain + "_time ON " + plain
		}
		steps = []string{table + "\n):options", "CREATE INDEX IF NOT EXISTS " + index + " (subscriber, event_time)"}
	}
	return sqldb.Schema{Dialect: dialect, Name: name, Create: "inbox.Inbox.Create", Steps: [][]string{steps}}
}

// Create makes the table, or brings it to this release's version; without need it changes nothing. Several processes may
// call it at the same time.
func (b *Inbox) Create(ctx context.Context, db *sql.DB) error {
	if err := b.schema.Apply(ctx, db); err != nil {
		return fmt.Errorf("inbox: create %s: %w", b.config.Name, err)
	}
	return nil
}

// SQL returns what Create runs to come from a version to this release's, for a migration tool. From 0: nothing is there.
func (b *Inbox) SQL(from int) string { return b.schema.SQL(from) }

// Version is the version of the table that this release works with.
func (b *Inbox) Version() int { return b.schema.Version() }

// Check returns an error that wraps ErrNoTable or ErrVersion unless the table is there and of this release's version.
func (b *Inbox) Check(ctx context.Context, db *sql.DB) error {
	if err := b.schema.Check(ctx, db); err != nil {
		return fmt.Errorf("inbox: %w", err)
	}
	return nil
}

// purgeMargin is how much longer than Retention a row is kept, for consumers whose clocks differ.
const purgeMargin = time.Hour

// purgeRows is how many rows are deleted in one statement.
const purgeRows = 5000

// Purge deletes this subscriber's rows whose messages it would refuse by now, a part at a time, and returns how many
// there were. Others that share the table have a Retention of their own. Call it now and then for each subscriber, from
// any one process.
func (b *Inbox) Purge(ctx context.Context, db *sql.DB) (deleted int64, err error) {
	before := b.config.Now().Add(-b.config.Retention - purgeMargin).UnixMilli()
	purge := b.purgePart
	if b.dialect == MySQL {
		purge = b.purgeByKeys
	}
	for {
		n, more, err := purge(ctx, db, before)
		deleted += n
		if err != nil {
			return deleted, fmt.Errorf("inbox: purge %s: %w", b.config.Name, b.explain(err))
		}
		if !more {
			return deleted, nil
		}
	}
}

func (b *Inbox) purgePart(ctx context.Context, db *sql.DB, before int64) (deleted int64, more bool, err error) {
	deleted, err = SQL(db).Exec(ctx, b.sql(fmt.Sprintf("DELETE FROM NAME WHERE (subscriber, event_id) IN"+
		" (SELECT subscriber, event_id FROM NAME WHERE subscriber = ? AND event_time < ? LIMIT %d)", purgeRows)), b.subscriber, before)
	return deleted, deleted == purgeRows, err
}

// purgeByKeys does the same on MySQL, in two steps: a DELETE that looks for what is old locks what it reads, and where much is
// old the optimiser reads all of the subscriber's, and waits for every consumer's transaction that is open.
func (b *Inbox) purgeByKeys(ctx context.Context, db *sql.DB, before int64) (deleted int64, more bool, err error) {
	rows, err := db.QueryContext(ctx, b.sql(fmt.Sprintf("SELECT event_id FROM NAME WHERE subscriber = ? AND event_time < ? LIMIT %d", purgeRows)), b.subscriber, before)
	if err != nil {
		return 0, false, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return 0, false, err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return 0, false, err
	}
	for part := range slices.Chunk(ids, readRows) {
		n, err := SQL(db).Exec(ctx, b.sql("DELETE o FROM "+keyTable(part)+" STRAIGHT_JOIN NAME AS o"+b.dialect.ForcePrimary()+
			" ON o.subscriber = ? AND o.event_id = k WHERE o.event_time < ?"), b.subscriber, before)
		if deleted += n; err != nil {
			return deleted, false, err
		}
	}
	return deleted, len(ids) == purgeRows, nil
}

func (b *Inbox) explain(err error) error {
	return sqldb.Explain(err, b.config.Name, b.schema.Create)
}

func (b *Inbox) sql(statement string) string {
	return b.dialect.Rebind(strings.ReplaceAll(statement, "NAME", b.config.Name))
}
