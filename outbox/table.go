package outbox

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

// Dialect says which database the table is in.
type Dialect = sqldb.Dialect

// The databases that an outbox can be in.
const (
	Postgres = sqldb.Postgres // 12 and later
	MySQL    = sqldb.MySQL    // MySQL 8.0.13 and later, MariaDB 10.5 and later; InnoDB
	SQLite   = sqldb.SQLite   // 3.35 and later
)

// Execer is the transaction of the caller's that events are written in. SQL and Pgx make one.
type Execer = sqldb.Execer

// SQL makes an Execer of a *sql.Tx. A *sql.Conn will do when the caller runs BEGIN and COMMIT on it.
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
	// ErrNoTable is returned when the outbox's tables are not in the database.
	ErrNoTable = sqldb.ErrNoTable
	// ErrVersion is returned when they are of another version than this release works with.
	ErrVersion = sqldb.ErrVersion
	// ErrDenied is returned when the database user may not do what is needed, or the database is read-only.
	ErrDenied = sqldb.ErrDenied
	// ErrTxDone is returned by Publish when the transaction has been committed or rolled back already.
	ErrTxDone = sqldb.ErrTxDone
)

// Config of a Table. Its zero value is the default. Writers and relays of one table use the same.
type Config struct {
	// Name of the table, perhaps behind a schema and a dot; tables that belong to it begin with it. Default
	// "millrace_outbox".
	Name string
	// MaxRowBytes bounds an event: payload, key, metadata and attributes together. A larger one is refused when it is
	// written, by ErrTooLarge, since a broker that does not take it would hold up its key. Default 1,000,000, which is
	// a little less than what Kafka takes by default; negative: no bound.
	MaxRowBytes int
	// RequireKey refuses events without a key, by ErrNoKey. Default false: they are sent in any order.
	RequireKey bool
	// SerializeKeys makes writers of one topic and key wait for each other, from Publish to the end of the transaction.
	// Order per key needs it wherever the caller has no lock of its own by then, such as that of a row that it has
	// updated. On PostgreSQL these are advisory locks, on MySQL rows of a table of 256; SQLite has one writer in any
	// case. Default false.
	SerializeKeys bool
	// KeepSent is how long events that were sent are kept, in the table NAME_sent, into which relays have to be allowed to
	// INSERT; call Table.PurgeSent after Create and then once a day. On PostgreSQL only, and not for what a pgtail.Emitter
	// has written, unless it was not taken at once. Default 0: they are deleted.
	KeepSent time.Duration
	// Watermill are topics of watermill-sql's that relays of this table send from, too. Writers of the outbox need not name
	// them. On PostgreSQL and MySQL. Default none.
	Watermill []WatermillTopic
}

// WithDefaults returns a copy with the defaults filled in.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		c.Name = "millrace_outbox"
	}
	if c.MaxRowBytes == 0 {
		c.MaxRowBytes = 1_000_000
	}
	return c
}

// Validate names every field that cannot be used.
func (c Config) Validate() error {
	var faults []error
	if c.Name != "" {
		faults = append(faults, sqldb.ValidateName(c.Name))
	}
	if c.KeepSent < 0 {
		faults = append(faults, errors.New("KeepSent is negative: it must be positive, or 0 to delete what was sent"))
	}
	for _, topic := range c.Watermill {
		faults = append(faults, topic.validate())
	}
	return errors.Join(faults...)
}

// Table is an outbox in a database. It is a value without connections, safe for concurrent use.
type Table struct {
	dialect Dialect
	config  Config
	schema  sqldb.Schema
	insert  string // up to VALUES
}

// NewTable describes an outbox; Create makes it.
func NewTable(dialect Dialect, config Config) (*Table, error) {
	faults := []error{dialect.Validate(), config.Validate()}
	if dialect != Postgres && config.KeepSent > 0 {
		faults = append(faults, fmt.Errorf("KeepSent is set, and %v has no days of a table to drop: keep events where they are sent to", dialect))
	}
	if dialect == SQLite && len(config.Watermill) > 0 {
		faults = append(faults, errors.New("Watermill: watermill-sql keeps no topics in SQLite"))
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	config = config.WithDefaults()
	config.Watermill = slices.Clone(config.Watermill)
	for i, topic := range config.Watermill {
		config.Watermill[i] = topic.withDefaults(dialect)
	}
	return &Table{
		dialect: dialect, config: config, schema: schema(dialect, config.Name),
		insert: "INSERT INTO " + config.Name + " (" + columns + ") VALUES ",
	}, nil
}

// Name returns the table's name.
func (t *Table) Name() string { return t.config.Name }

// Channel returns the name of PostgreSQL's notification channel.
func (t *Table) Channel() string {
	return strings.ToLower(strings.ReplaceAll(t.config.Name, ".", "_"))
}

// Create makes the tables, or brings them to this release's version; without need it changes nothing. Several
// processes may call it at the same time.
func (t *Table) Create(ctx context.Context, db *sql.DB) error {
	if err := t.schema.Apply(ctx, db); err != nil {
		return fmt.Errorf("outbox: create %s: %w", t.config.Name, err)
	}
	return nil
}

// SQL returns what Create runs to come from a version to this release's, for a migration tool. From 0: nothing is there.
func (t *Table) SQL(from int) string { return t.schema.SQL(from) }

// Version is the version of the tables that this release works with.
func (t *Table) Version() int { return t.schema.Version() }

// Check returns an error that wraps ErrNoTable or ErrVersion unless the tables are there and of this release's version.
func (t *Table) Check(ctx context.Context, db *sql.DB) error {
	if err := t.schema.Check(ctx, db); err != nil {
		return fmt.Errorf("outbox: %w", err)
	}
	return nil
}

// explain says what an error of the database means for an outbox.
func (t *Table) explain(err error) error {
	return sqldb.Explain(err, t.config.Name, t.schema.Create)
}

// sql writes a statement for this table: NAME is the table's name, arguments are question marks.
func (t *Table) sql(statement string) string {
	return t.dialect.Rebind(strings.NewReplacer("NAME", t.config.Name, "NOW_MILLIS", t.dialect.NowMillis()).Replace(statement))
}
