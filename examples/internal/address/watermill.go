package address

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill-nats/v2/pkg/nats"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/go-sql-driver/mysql" // the driver "mysql"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	natsgo "github.com/nats-io/nats.go"
	"github.com/redis/go-redis/v9"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/stock"
)

// watermillPubSub makes a transport of one of Watermill's Pub/Subs.
func watermillPubSub(scheme, address string) (framework.Transport, func() error, error) {
	var config stock.Config
	closing := nothing
	var err error
	switch scheme {
	case "postgres", "postgresql":
		config, closing, err = overSQL("pgx", address, wmsql.DefaultPostgreSQLSchema{GeneratePayloadType: column("BYTEA")},
			wmsql.DefaultPostgreSQLOffsetsAdapter{})
	case "mysql":
		config, closing, err = overSQL("mysql", mysqlName(address), wmsql.DefaultMySQLSchema{GeneratePayloadType: column("LONGBLOB")},
			wmsql.DefaultMySQLOffsetsAdapter{})
	case "nats":
		config = overNATS(address)
	case "redis":
		config, err = overRedis(address)
	case "amqp":
		config = overAMQP(address)
	default:
		err = fmt.Errorf("no transport for the address %q; there are: %s", address, Forms)
	}
	if err != nil {
		return nil, nil, err
	}
	transport, err := stock.New(config)
	if err != nil {
		return nil, nil, errors.Join(err, closing())
	}
	return transport, closing, nil
}

// column makes the payload's column one of bytes: the default is JSON, which a database may write in another form.
func column(kind string) func(string) string { return func(string) string { return kind } }

// mysqlName makes the name that the driver takes of mysql://user:password@host:port/database.
func mysqlName(address string) string {
	rest := strings.TrimPrefix(address, "mysql://")
	login, place, found := strings.Cut(rest, "@")
	if !found {
		login, place = "", rest
	}
	host, database, _ := strings.Cut(place, "/")
	database, settings, _ := strings.Cut(database, "?")
	return fmt.Sprintf("%s@tcp(%s)/%s?%s", login, host, database, strings.Trim("parseTime=true&"+settings, "&"))
}

func overSQL(driver, name string, schema wmsql.SchemaAdapter, offsets wmsql.OffsetsAdapter) (stock.Config, func() error, error) {
	db, err := sql.Open(driver, name)
	if err != nil {
		return stock.Config{}, nil, err
	}
	return stock.Config{
		Subscriber: func(group string) (message.Subscriber, error) {
			return wmsql.NewSubscriber(db, wmsql.SubscriberConfig{
				ConsumerGroup: group, SchemaAdapter: schema, OffsetsAdapter: offsets, InitializeSchema: true,
				PollInterval: 50 * time.Millisecond,
			}, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			return wmsql.NewPublisher(db, wmsql.PublisherConfig{SchemaAdapter: schema, AutoInitializeSchema: true}, watermill.NopLogger{})
		},
	}, db.Close, nil
}

func overNATS(address string) stock.Config {
	return stock.Config{
		Subscriber: func(group string) (message.Subscriber, error) {
			return nats.NewSubscriber(nats.SubscriberConfig{
				URL: address, QueueGroupPrefix: group, CloseTimeout: time.Second,
				JetStream: nats.JetStreamConfig{
					AutoProvision: true, DurablePrefix: group,
					SubscribeOptions: []natsgo.SubOpt{natsgo.DeliverAll(), natsgo.AckExplicit()},
				},
			}, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			return nats.NewPublisher(nats.PublisherConfig{URL: address, JetStream: nats.JetStreamConfig{AutoProvision: true}}, watermill.NopLogger{})
		},
	}
}

func overRedis(address string) (stock.Config, error) {
	options, err := redis.ParseURL(address)
	if err != nil {
		return stock.Config{}, err
	}
	options.ContextTimeoutEnabled = true
	return stock.Config{
		Subscriber: func(group string) (message.Subscriber, error) {
			return redisstream.NewSubscriber(redisstream.SubscriberConfig{
				Client: redis.NewClient(options), ConsumerGroup: group, DisableIndefiniteInitialBlock: true,
			}, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			return redisstream.NewPublisher(redisstream.PublisherConfig{Client: redis.NewClient(options)}, watermill.NopLogger{})
		},
	}, nil
}

func overAMQP(address string) stock.Config {
	return stock.Config{
		Subscriber: func(group string) (message.Subscriber, error) {
			config := amqp.NewDurablePubSubConfig(address, amqp.GenerateQueueNameTopicNameWithSuffix(group))
			return amqp.NewSubscriber(config, watermill.NopLogger{})
		},
		Publisher: func() (message.Publisher, error) {
			config := amqp.NewDurablePubSubConfig(address, nil)
			config.Publish.ConfirmDelivery = true
			return amqp.NewPublisher(config, watermill.NopLogger{})
		},
	}
}
