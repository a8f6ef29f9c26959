package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

var compressions = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

// connection is what all clients of a transport have in common.
func (c *Config) connection() []kgo.Opt {
	options := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.WithLogger(clientLogger{c.Logger}),
		kgo.MetadataMinAge(250 * time.Millisecond), // a topic that was just made is waited for
		kgo.DisableClientMetrics(),
	}
	if c.TLS != nil {
		options = append(options, kgo.DialTLSConfig(c.TLS.Clone()))
	}
	if m := c.SASL.mechanism(); m != nil {
		options = append(options, kgo.SASL(m))
	}
	return options
}

// writing is how the one producing client of a transport writes: idempotently, so that the client's own retries
// neither repeat nor reorder records, and acknowledged by all replicas in sync.
func (c *Config) writing() []kgo.Opt {
	return append(c.connection(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(compressions[c.Compression], kgo.NoCompression()),
		kgo.MaxBufferedBytes(c.WriteBytes),
		kgo.MaxBufferedRecords(max(c.WriteBytes/64, 1000)), // the bytes are the bound
		kgo.ProducerLinger(c.Linger),
		kgo.ProduceRequestTimeout(min(c.DeliveryTimeout, 10*time.Second)),
	)
}

// reading is how a consuming client fetches. Positions out of a topic's range are errors: nothing is reset.
func (c *Config) reading() []kgo.Opt {
	isolation := kgo.ReadCommitted()
	if c.ReadUncommitted {
		isolation = kgo.ReadUncommitted()
	}
	return append(c.connection(),
		kgo.FetchIsolationLevel(isolation),
		kgo.KeepControlRecords(), // they have offsets too: without them the end of a topic is never reached
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(500*time.Millisecond), // a partition that is resumed waits for the fetch that is out
		kgo.Rack(c.Rack),
	)
}

// ping waits for a broker that answers.
func (c *Config) ping(ctx context.Context, client *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	var last error
	for {
		err := client.Ping(ctx)
		if err == nil {
			return nil
		}
		if isOneOf(err, shutOut) {
			return fmt.Errorf("the broker does not let this program in: %w: check Config.SASL", err)
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no broker answers at %s within %s: check the addresses, TLS and SASL, or raise Config.Wait: %w",
				strings.Join(c.Brokers, ", "), c.Wait, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// shutOut are errors by which brokers do not let a program in.
var shutOut = []error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
	kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
	kerr.InconsistentGroupProtocol, kerr.InvalidSessionTimeout, kerr.InvalidGroupID}

// clientLogger passes the client's warnings on. What it calls errors it mostly mends itself, and what it tells at
// "info" is each connection and rebalance.
type clientLogger struct{ to *slog.Logger }

func (l clientLogger) Level() kgo.LogLevel {
	switch {
	case l.to.Enabled(context.Background(), slog.LevelDebug):
		return kgo.LogLevelInfo
	case l.to.Enabled(context.Background(), slog.LevelWarn):
		return kgo.LogLevelWarn
	}
	return kgo.LogLevelNone
}

func (l clientLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	to := slog.LevelDebug
	if level <= kgo.LogLevelWarn {
		to = slog.LevelWarn
	}
	l.to.Log(context.Background(), to, "kafka client: "+msg, keyvals...)
}
