package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/sqldb"
	"github.com/millrace/millrace/transport/internal/delivery"
)

// Transport keeps topics in a SQLite database. Its methods are safe for concurrent use.
type Transport struct {
	db     *sql.DB
	config Config

	mu    sync.Mutex
	wakes map[chan struct{}]struct{} // of the readers of this process
}

var (
	_ framework.Transport    = (*Transport)(nil)
	_ framework.TopicCreator = (*Transport)(nil)
	_ framework.TopicKeeper  = (*Transport)(nil)
	_ framework.TopicReader  = (*Transport)(nil)
)

var schema = sqldb.Schema{
	Dialect: sqldb.SQLite, Name: "millrace_topics", Create: "sqlite.Open",
	Steps: [][]string{{
		"CREATE TABLE NAME (topic INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL)",
		"CREATE TABLE NAME_partition (topic INTEGER NOT NULL, partition INTEGER NOT NULL, next INTEGER NOT NULL, " +
			"PRIMARY KEY (topic, partition)) WITHOUT ROWID",
		"CREATE TABLE NAME_record (topic INTEGER NOT NULL, partition INTEGER NOT NULL, position INTEGER NOT NULL, " +
			"id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, time TEXT NOT NULL, partitionkey TEXT NOT NULL, data BLOB, " +
			"metadata TEXT NOT NULL, causationids TEXT NOT NULL, step TEXT NOT NULL, watermark INTEGER NOT NULL, " +
			"PRIMARY KEY (topic, partition, position)) WITHOUT ROWID",
	}},
}

// Open opens a database, and makes it and its tables when they are not there.
func Open(ctx context.Context, path string, config Config) (*Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("sqlite: config: %w", err)
	}
	if path == "" {
		return nil, errors.New("sqlite: the path is empty")
	}
	config = config.WithDefaults()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: fmt.Sprintf(
		"_pragma=busy_timeout(%d)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_txlock=immediate", config.BusyTimeout.Milliseconds())}).String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", path, err)
	}
	if err := schema.Apply(ctx, db); err != nil {
		return nil, fmt.Errorf("sqlite: %s: %w", path, errors.Join(err, db.Close(), unusable(path)))
	}
	return &Transport{db: db, config: config, wakes: map[chan struct{}]struct{}{}}, nil
}

// unusable is what the operating system has against a file that SQLite could not open, since that does not say it.
func unusable(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return file.Close()
}

// Close closes the database. It may be called twice.
func (t *Transport) Close() error { return t.db.Close() }

// topic is a topic as the database knows it.
type topic struct {
	name           string
	id, partitions int
}

// querier is a database or a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func find(ctx context.Context, q querier, name string) (topic, error) {
	is := topic{name: name}
	err := q.QueryRowContext(ctx, "SELECT topic, partitions FROM millrace_topics WHERE name = ?", name).Scan(&is.id, &is.partitions)
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("%w: make it with CreateTopic", framework.ErrNoTopic)
	}
	if err != nil {
		return is, fmt.Errorf("sqlite: topic %q: %w", name, err)
	}
	return is, nil
}

// Topic describes a topic; Size is in records.
func (t *Transport) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	is, err := find(ctx, t.db, name)
	if err != nil {
		return framework.TopicInfo{}, err
	}
	info := framework.TopicInfo{Partitions: is.partitions, Positioned: true}
	for partition := range is.partitions {
		first, next, err := t.bounds(ctx, is, partition)
		if err != nil {
			return info, err
		}
		info.Size += next - first
	}
	return info, nil
}

// bounds are the oldest position of a partition that is kept, and the next one that it gets.
func (t *Transport) bounds(ctx context.Context, is topic, partition int) (first, next int64, err error) {
	if partition < 0 || partition >= is.partitions {
		return 0, 0, fmt.Errorf("sqlite: topic %q has partitions 0 to %d, not %d", is.name, is.partitions-1, partition)
	}
	err = t.db.QueryRowContext(ctx, `SELECT next, COALESCE((SELECT MIN(position) FROM millrace_topics_record r
	WHERE r.topic = p.topic AND r.partition = p.partition), next)
FROM millrace_topics_partition p WHERE topic = ? AND partition = ?`, is.id, partition).Scan(&next, &first)
	if err != nil {
		err = fmt.Errorf("sqlite: topic %q: partition %d: %w", is.name, partition, err)
	}
	return first, next, err
}

// CreateTopic makes a topic unless it is there with as many partitions. 0: Config.Partitions.
func (t *Transport) CreateTopic(ctx context.Context, name string, partitions int) error {
	if name == "" {
		return errors.New("sqlite: create topic: the name is empty")
	}
	if partitions < 0 || partitions > maxPartitions {
		return fmt.Errorf("sqlite: create topic %q: %d partitions: it must be 1 to %d, or 0 for the default of %d",
			name, partitions, maxPartitions, t.config.Partitions)
	}
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqlite: create topic %q: %w", name, err)
	}
	defer func() { _ = tx.Rollback() }() // of nothing after Commit
	is, err := find(ctx, tx, name)
	switch {
	case err == nil && partitions != 0 && partitions != is.partitions:
		return fmt.Errorf("sqlite: create topic %q: it has %d partitions, not %d", name, is.partitions, partitions)
	case err == nil || !errors.Is(err, framework.ErrNoTopic):
		return err
	}
	if partitions == 0 {
		partitions = t.config.Partitions
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO millrace_topics (name, partitions) VALUES (?, ?)", name, partitions)
	for n := 0; n < partitions && err == nil; n++ {
		_, err = tx.ExecContext(ctx, "INSERT INTO millrace_topics_partition (topic, partition, next) "+
			"SELECT topic, ?, 0 FROM millrace_topics WHERE name = ?", n, name)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("sqlite: create topic %q: %w", name, err)
	}
	return nil
}

// CreateKept is CreateTopic: every topic keeps all records until Release.
func (t *Transport) CreateKept(ctx context.Context, name string, partitions int) error {
	return t.CreateTopic(ctx, name, partitions)
}

// Release deletes the records of a partition before an offset.
func (t *Transport) Release(name string, partition int, before int64) error {
	ctx := context.Background()
	is, err := find(ctx, t.db, name)
	if err != nil {
		return err
	}
	_, err = t.db.ExecContext(ctx, "DELETE FROM millrace_topics_record WHERE topic = ? AND partition = ? AND position < ?", is.id, partition, before)
	if err != nil {
		return fmt.Errorf("sqlite: release partition %d of %q: %w", partition, name, err)
	}
	return nil
}

// Held tells how many records a partition holds from an offset on, and how many bytes their data take.
func (t *Transport) Held(name string, partition int, from int64) (start, records, bytes int64, err error) {
	ctx := context.Background()
	is, err := find(ctx, t.db, name)
	if err != nil {
		return 0, 0, 0, err
	}
	first, next, err := t.bounds(ctx, is, partition)
	if err != nil {
		return 0, 0, 0, err
	}
	start = min(max(from, first), next)
	err = t.db.QueryRowContext(ctx, "SELECT COUNT(*), COALESCE(SUM(LENGTH(data)), 0) FROM millrace_topics_record "+
		"WHERE topic = ? AND partition = ? AND position >= ?", is.id, partition, start).Scan(&records, &bytes)
	if err != nil {
		err = fmt.Errorf("sqlite: partition %d of %q: %w", partition, name, err)
	}
	return start, records, bytes, err
}

// Subscriber makes what reads topics in batches, all partitions of each.
func (t *Transport) Subscriber(config framework.SubscriberConfig) (message.Subscriber, error) {
	return delivery.NewSubscriber(config, func(ctx context.Context, name string) ([]delivery.Reader, error) {
		return t.subscribe(ctx, name, config)
	}), nil
}

// Publisher makes what writes topics.
func (t *Transport) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	return publisher{t}, nil
}
