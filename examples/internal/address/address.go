// Package address opens the transport that an address names, for the examples. It is the one place where they know of
// concrete transports: a pipeline moves from one to another by its address.
package address

import (
	"context"
	"strings"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/embedded"
	"github.com/millrace/millrace/transport/kafka"
	"github.com/millrace/millrace/transport/memory"
)

// Default keeps topics in the store of the example.
const Default = "embedded:"

// Forms lists what Open understands, for a flag's help.
const Forms = "embedded: (topics in --state), memory: (topics gone at the end), kafka://host:9092, or through Watermill's " +
	"Pub/Subs postgres://…, mysql://…, nats://…, redis://… or amqp://…"

// partitions of the topics that are made, where the transport has partitions.
const partitions = 4

// Open opens a transport. store is the example's, for an embedded one. close is called after everything that uses it.
func Open(ctx context.Context, address string, store *microstore.Store) (transport framework.Transport, close func() error, err error) {
	scheme, rest, _ := strings.Cut(address, ":")
	switch {
	case scheme == "kafka":
		config, err := kafka.Parse(address)
		if err != nil {
			return nil, nil, err
		}
		if config.Partitions == 0 {
			config.Partitions = partitions
		}
		topics, err := kafka.New(ctx, config)
		if err != nil {
			return nil, nil, err
		}
		return topics, topics.Close, nil
	case scheme == "embedded" && rest == "":
		transport, err = embedded.New(store, embedded.Config{Partitions: partitions, RetainBytes: -1})
		return transport, nothing, err
	case scheme == "memory" && rest == "":
		topics, err := memory.New(memory.Config{Partitions: partitions, RetainBytes: 1 << 30, RetainEvents: 1 << 24})
		if err != nil {
			return nil, nil, err
		}
		return topics, topics.Close, nil
	}
	return watermillPubSub(scheme, address)
}

func nothing() error { return nil }
