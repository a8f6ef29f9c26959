// Package address is the one place where the examples know of concrete transports: a pipeline moves from one to another
// by its address.
package address

import (
	"context"
	"log/slog"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/address"
	"github.com/millrace/millrace/transport/amqp"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/file"
	"github.com/millrace/millrace/transport/kafka"
	"github.com/millrace/millrace/transport/memory"
	"github.com/millrace/millrace/transport/nats"
	"github.com/millrace/millrace/transport/redis"
	"github.com/millrace/millrace/transport/sql"
	"github.com/millrace/millrace/transport/sqlite"
)

// Default keeps topics in the store of the example.
const Default = "embedded:"

// Forms lists what Open understands, for a flag's help.
const Forms = "embedded: (topics in --state), memory: (topics gone at the end), file:DIR, sqlite:PATH, kafka://host:9092, " +
	"or through Watermill's Pub/Subs postgres://…, mysql://…, nats://…, redis://… or amqp://…"

func schemes() address.Schemes {
	return address.Schemes{
		"embedded": embedded.OpenAddress,
		"memory":   memory.OpenAddress,
		"file":     file.OpenAddress,
		"sqlite":   sqlite.OpenAddress,
		"kafka":    kafka.OpenAddress,
		"postgres": quiet(sql.OpenAddress), "postgresql": quiet(sql.OpenAddress), "mysql": quiet(sql.OpenAddress),
		"nats":  quiet(nats.OpenAddress),
		"redis": quiet(redis.OpenAddress), "rediss": quiet(redis.OpenAddress),
		"amqp": quiet(amqp.OpenAddress), "amqps": quiet(amqp.OpenAddress),
	}
}

// quiet opens without a logger, for Watermill's Pub/Subs: while a server is away they log every attempt, some of them with
// the errors of all attempts before. That it is away is told by those who send.
func quiet(open address.Opener) address.Opener {
	return func(ctx context.Context, text string, config address.Config) (framework.Transport, error) {
		config.Logger = nil
		return open(ctx, text, config)
	}
}

// Open opens a transport. store is the example's, for an embedded one; logger hears of brokers that are away. close is called
// after everything that uses it.
func Open(ctx context.Context, text string, store *microstore.Store, logger *slog.Logger) (
	transport framework.Transport, close func() error, err error,
) {
	return schemes().Open(ctx, text, address.Config{Store: store, Partitions: 4, Logger: logger})
}
