package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
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
		kgo.WithLogger(c.client),
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
	options := append(c.connection(),
		kgo.AlwaysRetryEOF(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(compressions[c.Compression], kgo.NoCompression()),
		kgo.MaxBufferedBytes(c.WriteBytes),
		kgo.MaxBufferedRecords(max(c.WriteBytes/64, 1000)), // the bytes are the bound
		kgo.ProducerLinger(c.Linger),
		kgo.ProduceRequestTimeout(min(c.DeliveryTimeout, 10*time.Second)),
	)
	if c.Compression == "lz4" {
		options = append(options, kgo.WithCompressor(newLZ4Compressor()))
	}
	return options
}

// reading is how a consuming client fetches. Positions out of a topic's range are errors: nothing is reset.
func (c *Config) reading() []kgo.Opt {
	isolation := kgo.ReadCommitted()
	if c.ReadUncommitted {
		isolation = kgo.ReadUncommitted()
	}
	return append(c.connection(),
		kgo.AlwaysRetryEOF(),
		kgo.FetchIsolationLevel(isolation),
		kgo.KeepControlRecords(), // they have offsets too: without them the end of a topic is never reached
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchMaxWait(500*time.Millisecond), // a partition that is resumed waits for the fetch that is out
		kgo.Rack(c.Rack),
	)
}

// ping waits for a broker that answers. It has a client of its own: to that one a connection which ends at once is a
// sign of wrong settings, which it tells; to the others, once a broker has answered, one of a broker that is starting.
func (c *Config) ping(ctx context.Context) error {
	client, err := kgo.NewClient(c.connection()...)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	defer client.Close()
	defer c.tellOfWaiting()()
	err = c.ask(ctx, func(err error) bool { return !isOneOf(err, shutOut) }, func(ctx context.Context) error {
		defer context.AfterFunc(ctx, client.Close)() // it does not give a connection up that has not answered yet
		err := client.Ping(ctx)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return errors.New("none has said anything yet")
		}
		return err
	})
	switch {
	case isOneOf(err, shutOut):
		return fmt.Errorf("the broker does not let this program in: %w: check Config.SASL", err)
	case err != nil && ctx.Err() != nil: // nothing is known to be wrong
		return fmt.Errorf("no broker has answered at %s yet: %w", strings.Join(c.Brokers, ", "), err)
	case err != nil:
		return fmt.Errorf("no broker answers at %s within %s: check the addresses, TLS and SASL, or raise Config.Wait, in an address wait=: %w",
			strings.Join(c.Brokers, ", "), c.Wait, err)
	}
	return nil
}

// ask asks brokers until they answer, for up to Config.Wait, as long as another answer may come after an error. The
// error is the last one that says more than that the time is over, behind that of ctx when this ends first.
func (c *Config) ask(ctx context.Context, again func(error) bool, ask func(context.Context) error) (last error) {
	waiting, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	defer func() {
		if err := ctx.Err(); err != nil && last != nil && !errors.Is(last, err) {
			last = fmt.Errorf("%w: %w", err, last)
		}
	}()
	deadline, _ := waiting.Deadline() // by which a connection may be cut before waiting is done
	for {
		err := ask(waiting)
		if err == nil {
			return nil
		}
		if last == nil || time.Now().Before(deadline) || ctx.Err() != nil {
			last = err
		}
		if waiting.Err() != nil || !again(err) {
			return last
		}
		select {
		case <-time.After(askEvery):
		case <-waiting.Done():
			return last
		}
	}
}

const askEvery = 100 * time.Millisecond

// ask asks as Config.ask does, until the transport is closed. An error that may pass all the same is marked so.
func (t *Transport) ask(ctx context.Context, again func(error) bool, ask func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	err := t.config.ask(ctx, again, ask)
	if err != nil && passes(err) {
		return framework.Transient(err)
	}
	return err
}

// passes tells whether the brokers may give another answer after a while: one is away, or they are about to agree.
func passes(err error) bool {
	var theirs *kerr.Error
	return !isOneOf(err, shutOut) && !errors.Is(err, framework.ErrNoTopic) && (!errors.As(err, &theirs) || theirs.Retriable)
}

// shutOut are errors by which brokers do not let a program in.
var shutOut = []error{kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.IllegalSaslState,
	kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed,
	kerr.InconsistentGroupProtocol, kerr.FencedInstanceID, kerr.InvalidSessionTimeout, kerr.InvalidGroupID}
