package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
)

// Transport is a Kafka cluster. It implements framework.ChangelogTransport and with it framework.TopicKeeper, and
// framework.TopicReader, RecordChecker and RetentionTeller; its methods are safe for concurrent use.
type Transport struct {
	config Config
	client *kgo.Client // writes, and asks about topics; each reader has a client of its own
	admin  *kadm.Client
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	active sync.WaitGroup
	keep   releaser
	lent   lent

	mu     sync.Mutex
	closed bool
	topics map[string]written
}

var (
	_ framework.Transport    = (*Transport)(nil)
	_ framework.TopicCreator = (*Transport)(nil)
	_ framework.TopicKeeper  = (*Transport)(nil)
	_ framework.TopicReader  = (*Transport)(nil)

	_ framework.RecordChecker      = (*Transport)(nil)
	_ framework.RetentionTeller    = (*Transport)(nil)
	_ framework.ChangelogTransport = (*Transport)(nil)
)

// ErrClosed is returned by all methods of a Transport, and of what it made, after Close.
var ErrClosed = errors.New("kafka: transport is closed")

// New connects to a cluster. It waits up to Config.Wait for a broker that answers; one that refuses the
// authentication is an error at once.
func New(ctx context.Context, config Config) (*Transport, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("kafka: config: %w", err)
	}
	t := &Transport{topics: make(map[string]written)}
	if config.Logger == nil {
		config.Logger = slog.New(&t.lent)
	}
	config = config.WithDefaults()
	config.client = &clientLogger{to: config.Logger}
	t.config = config
	if config.SASL.Mechanism == plainText && config.TLS == nil {
		config.Logger.Warn("kafka: the password is sent without encryption: use TLS or SCRAM-SHA-512")
	}
	if err := config.ping(ctx); err != nil {
		return nil, fmt.Errorf("kafka: %w", err)
	}
	client, err := kgo.NewClient(append(config.writing(), kgo.ProducerBatchMaxBytesFn(t.batchBytesOf))...)
	if err != nil {
		return nil, fmt.Errorf("kafka: config: %w", err)
	}
	t.client, t.admin = client, kadm.NewClient(client)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.keep = releaser{wake: make(chan struct{}, 1), before: make(map[place]int64)}
	t.active.Go(func() { t.keep.run(t.ctx, t.admin, config.Logger) })
	return t, nil
}

// Close ends all writing and lets go of the connections. It may be called twice.
func (t *Transport) Close() error {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.active.Wait()
	if !closed {
		t.client.Close()
	}
	return nil
}

// place names a partition.
type place struct {
	topic     string
	partition int32
}
