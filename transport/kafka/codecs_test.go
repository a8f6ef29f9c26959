package kafka_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// codecs notes how the batches that a client reads are compressed.
type codecs struct {
	kgo.Decompressor
	mu   sync.Mutex
	seen map[kgo.CompressionCodecType]bool
}

func (c *codecs) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	c.mu.Lock()
	c.seen[codec] = true
	c.mu.Unlock()
	return c.Decompressor.Decompress(src, codec)
}

func TestCompression(t *testing.T) { compression(t, kafka.Config{Brokers: fake(t).ListenAddrs()}, "") }

func TestCompressionOnBroker(t *testing.T) { compression(t, broker(t), own(t)) }

// What is written is compressed as the address says, and any client reads it, as a pipeline reads what others compress.
func compression(t *testing.T, config kafka.Config, prefix string) {
	value := strings.Repeat("again and ", 1000)
	for setting, want := range map[string]kgo.CompressionCodecType{
		"": kgo.CodecLz4, "?compression=lz4": kgo.CodecLz4, "?compression=gzip": kgo.CodecGzip,
		"?compression=snappy": kgo.CodecSnappy, "?compression=zstd": kgo.CodecZstd, "?compression=none": kgo.CodecNone,
	} {
		parsed, err := kafka.Parse("kafka://" + strings.Join(config.Brokers, ",") + setting)
		must(t, err)
		transport, topic := open(t, parsed), prefix+"written-"+strings.TrimPrefix(setting, "?compression=")
		must(t, transport.CreateTopic(t.Context(), topic, 1))
		publisher, err := transport.Publisher(frameworkPublisher)
		must(t, err)
		must(t, publisher.Publish(t.Context(), topic, []framework.Record{{ID: "1", Value: []byte(value)}}))

		noted := &codecs{Decompressor: kgo.DefaultDecompressor(), seen: map[kgo.CompressionCodecType]bool{}}
		other, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.WithDecompressor(noted),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}))
		must(t, err)
		t.Cleanup(other.Close)
		var read []*kgo.Record
		for len(read) == 0 {
			fetches := other.PollFetches(t.Context())
			must(t, fetches.Err())
			read = fetches.Records()
		}
		noted.mu.Lock()
		delete(noted.seen, kgo.CodecNone) // which may be asked or not
		if string(read[0].Value) != value || len(noted.seen) > 0 != (want != kgo.CodecNone) || want != kgo.CodecNone && !noted.seen[want] {
			t.Errorf("%q: compressed as %v, want %v; %d bytes", setting, noted.seen, want, len(read[0].Value))
		}
		noted.mu.Unlock()
		got, _ := take(t, readTopic(t, transport, topic), 1)
		if string(got[0].Value) != value {
			t.Errorf("%q: %d bytes are read", setting, len(got[0].Value))
		}
	}
}
