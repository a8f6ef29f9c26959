package kafka_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/kafka"
)

// frames notes the compressed batches that a client reads.
type frames struct {
	kgo.Decompressor
	mu  sync.Mutex
	all [][]byte
}

func (f *frames) Decompress(src []byte, codec kgo.CompressionCodecType) ([]byte, error) {
	if codec == kgo.CodecLz4 {
		f.mu.Lock()
		f.all = append(f.all, bytes.Clone(src))
		f.mu.Unlock()
	}
	return f.Decompressor.Decompress(src, codec)
}

// What is written is in frames such as Java's producer makes, whatever is in it: of independent blocks of 64 KiB, without
// a checksum of the content.
func TestLZ4Frames(t *testing.T) {
	transport, cluster := opened(t, 1, func(c *kafka.Config) { c.BatchBytes = 1 << 20 })
	random := make([]byte, 900<<10)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	var values [][]byte
	for _, n := range []int{0, 1, 1 << 10, 64<<10 - 100, 64 << 10, 64<<10 + 1, 128 << 10, 900 << 10} {
		values = append(values, bytes.Repeat([]byte("again and "), n/10+1)[:n], random[:n],
			append(bytes.Repeat([]byte{'x'}, 70<<10), random[:min(n, 128<<10)]...))
	}
	for i, value := range values {
		publish(t, transport, framework.Record{ID: fmt.Sprint(i), Key: "k", Value: value})
	}

	noted := &frames{Decompressor: kgo.DefaultDecompressor()}
	other := client(t, cluster, kgo.ConsumeTopics("events"), kgo.WithDecompressor(noted))
	var read []*kgo.Record
	for len(read) < len(values) {
		fetches := other.PollFetches(t.Context())
		must(t, fetches.Err())
		read = append(read, fetches.Records()...)
	}
	for i, r := range read {
		if !bytes.Equal(r.Value, values[i]) {
			t.Errorf("record %d: %d bytes, not the %d that were written", i, len(r.Value), len(values[i]))
		}
	}
	if len(noted.all) < len(values)/3 {
		t.Fatalf("%d batches of %d are compressed", len(noted.all), len(values))
	}
	for _, frame := range noted.all {
		const flags, blocks = 0x60, 0x40 // version 1 and independent blocks, nothing else; blocks of 64 KiB
		if !bytes.HasPrefix(frame, []byte{0x04, 0x22, 0x4d, 0x18, flags, blocks}) {
			t.Errorf("a frame begins with % x", frame[:6])
		}
	}
}
