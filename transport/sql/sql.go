package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	wmsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/ident"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/stock"
)

// Transport is that of transport/stock, and the database that it is over.
type Transport struct {
	*stock.Transport
	db *sql.DB
}

// Close closes the database. It may be called twice.
func (t *Transport) Close() error { return t.db.Close() }

// OpenAddress makes a transport of the database of an address, postgres://user:password@host:5432/database or
// mysql://user:password@host:3306/database. It is an address.Opener. Settings: group (default: the name of the
// pipeline); poll (50ms), how often a table that has nothing new is looked at; and those of the driver, pgx or
// go-sql-driver.
func OpenAddress(_ context.Context, text string, config address.Config) (framework.Transport, error) {
	c, db, err := StockConfig(text, config.Logger)
	if err != nil {
		return nil, err
	}
	transport, err := stock.New(c)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Transport{transport, db}, nil
}

// StockConfig is what OpenAddress gives to stock.New, for whoever changes what an address does not say. The database is the
// caller's to close, after all that uses the Config.
func StockConfig(text string, logger *slog.Logger) (stock.Config, *sql.DB, error) {
	c, db, err := stockConfig(text, logger)
	if err != nil {
		return c, nil, fmt.Errorf("sql: address: %w", err)
	}
	return c, db, nil
}

func stockConfig(text string, logger *slog.Logger) (stock.Config, *sql.DB, error) {
	rest, group, err := address.Take(text, "group")
	if err != nil {
		return stock.Config{}, nil, err
	}
	rest, poll, err := address.TakeDuration(rest, "poll", 50*time.Millisecond)
	if err != nil {
		return stock.Config{}, nil, err
	}
	d, err := databaseOf(rest)
	if err != nil {
		return stock.Config{}, nil, err
	}
	db, err := sql.Open(d.driver, d.name)
	if err != nil { // whose text may hold the password
		return stock.Config{}, nil, fmt.Errorf("the driver %s cannot read it", d.driver)
	}
	log := stock.Logger(logger)
	return stock.Config{
		Group: group, Where: address.Redacted(text), Reach: db.PingContext,
		Subscriber: func(group string) (message.Subscriber, error) {
			return wmsql.NewSubscriber(db, wmsql.SubscriberConfig{
				ConsumerGroup: group, SchemaAdapter: d.schema, OffsetsAdapter: d.offsets, InitializeSchema: true,
				PollInterval: poll, RetryInterval: poll, ResendInterval: poll,
			}, log)
		},
		Publisher: func() (message.Publisher, error) {
			publisher, err := wmsql.NewPublisher(db, wmsql.PublisherConfig{SchemaAdapter: d.schema, AutoInitializeSchema: true}, log)
			if err != nil {
				return nil, err
			}
			return shortIDs{publisher}, nil
		},
	}, db, nil
}

// shortIDs writes to tables of watermill-sql, whose column of UUIDs takes as many letters as these have. A message with a
// longer id, such as one that is named after its place in a topic with a long name, gets a UUID that follows from it; the id
// itself is in its metadata, which readers prefer.
type shortIDs struct{ message.Publisher }

// uuidLetters is what VARCHAR(36) takes.
const uuidLetters = 36

func (p shortIDs) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		if utf8.RuneCountInString(msg.UUID) > uuidLetters {
			msg.Metadata.Set(framework.MetadataID, msg.UUID)
			msg.UUID = ident.One(0, msg.UUID)
		}
	}
	return p.Publisher.Publish(topic, messages...)
}

// database is what is particular to one.
type database struct {
	driver, name string
	schema       wmsql.SchemaAdapter
	offsets      wmsql.OffsetsAdapter
}

func databaseOf(text string) (database, error) {
	switch scheme, _, _ := strings.Cut(text, "://"); scheme {
	case "postgres", "postgresql":
		if _, err := pgx.ParseConfig(text); err != nil { // whose text may hold the password, and which comes only later otherwise
			return database{}, errors.New("the driver pgx cannot read it; it must be like postgres://user:password@host:5432/database")
		}
		return database{"pgx", text, wmsql.DefaultPostgreSQLSchema{GeneratePayloadType: column("BYTEA")}, wmsql.DefaultPostgreSQLOffsetsAdapter{}}, nil
	case "mysql":
		name, err := mysqlName(text)
		return database{"mysql", name, wmsql.DefaultMySQLSchema{GeneratePayloadType: column("LONGBLOB")}, wmsql.DefaultMySQLOffsetsAdapter{}}, err
	}
	return database{}, errors.New("it must begin with postgres:// or mysql://")
}

// column makes the payload's column one of bytes: the default is JSON, which a database may write in another form, and
// for which other payloads are refused.
func column(kind string) func(string) string { return func(string) string { return kind } }

// mysqlName makes the name that the driver takes, user:password@tcp(host:port)/database?settings.
func mysqlName(text string) (string, error) {
	rest, settings, _ := strings.Cut(strings.TrimPrefix(text, "mysql://"), "?")
	login := ""
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		user, password, _ := strings.Cut(rest[:at], ":")
		var errs [2]error
		user, errs[0] = url.PathUnescape(user)
		password, errs[1] = url.PathUnescape(password)
		if errors.Join(errs[:]...) != nil || strings.Contains(user, ":") {
			return "", errors.New("user or password are not percent-encoded (% as %25, @ as %40), or the user has a colon")
		}
		login, rest = user+":"+password+"@", rest[at+1:]
	}
	host, name, _ := strings.Cut(rest, "/")
	if host == "" || name == "" {
		return "", errors.New("it must be like mysql://user:password@host:3306/database")
	}
	return fmt.Sprintf("%stcp(%s)/%s?%s", login, host, name, strings.Trim("parseTime=true&"+settings, "&")), nil
}
