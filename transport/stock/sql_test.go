package stock_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

// column makes the payload's column one of bytes: the default is JSON, which other payloads are refused for.
func column(kind string) func(string) string { return func(string) string { return kind } }

func sqlConfig(t testing.TB, driver, address string, schema wmsql.SchemaAdapter, offsets wmsql.OffsetsAdapter) stock.Config {
	db, err := sql.Open(driver, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return stock.Config{
		Subscriber: func(group string) (message.Subscriber, error) {
			return wmsql.NewSubscriber(db, wmsql.SubscriberConfig{
				ConsumerGroup: group, SchemaAdapter: schema, OffsetsAdapter: offsets, InitializeSchema: true,
				PollInterval: 20 * time.Millisecond, RetryInterval: 20 * time.Millisecond, ResendInterval: 20 * time.Millisecond,
			}, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			return wmsql.NewPublisher(db, wmsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, watermill.NopLogger{})
		},
	}
}

func TestPostgres(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return sqlConfig(t, "pgx", services.Postgres(t),
			wmsql.DefaultPostgreSQLSchema{GeneratePayloadType: column("BYTEA")}, wmsql.DefaultPostgreSQLOffsetsAdapter{})
	}, transporttest.Features{AtOnce: 1, Slow: true})
}

func TestMariaDB(t *testing.T) {
	testPubSub(t, func(t testing.TB) stock.Config {
		return sqlConfig(t, "mysql", services.MariaDB(t)+"?parseTime=true",
			wmsql.DefaultMySQLSchema{GeneratePayloadType: column("LONGBLOB")}, wmsql.DefaultMySQLOffsetsAdapter{})
	}, transporttest.Features{AtOnce: 1, Slow: true})
}
