package kafka

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// What goes to several brokers is compressed at the same time.
func TestLZ4AtTheSameTime(t *testing.T) {
	compressor, decompressor := newLZ4Compressor(), kgo.DefaultDecompressor()
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for i := range 50 {
				src := bytes.Repeat(fmt.Appendf(nil, "batch %d of %d ", i, g), 10_000)
				frame, codec := compressor.Compress(new(bytes.Buffer), src)
				if got, err := decompressor.Decompress(frame, codec); err != nil || !bytes.Equal(got, src) {
					t.Errorf("batch %d of %d came out as %d bytes of %d (%v)", i, g, len(got), len(src), err)
				}
			}
		})
	}
	wait.Wait()
}

// BenchmarkLZ4 is the cost of a record of 600 bytes, half of them headers, beside that of the client's own compressor.
func BenchmarkLZ4(b *testing.B) {
	const batch = 1500
	var src []byte
	for i := range uint64(batch) {
		id := (i + 1) * 0x9e3779b97f4a7c15
		src = fmt.Appendf(src, `ce_specversion1.0ce_id%016x-%[1]x_watermill_message_uuid%016[1]x-%[1]xce_typeorder.placedce_source/shop`, id)
		src = fmt.Appendf(src, `ce_time2026-07-01T12:00:00.%dZce_causationidso-%dce_millracestepconfirmations/confirmed`, i%1000, i)
		src = fmt.Appendf(src, `{"id":"o-%d","customer":"c-%d","amount":%d,"sku":"sku-%x","address":"%[4]x","note":"%[4]x, at the door of %[4]d"}`,
			i, id%10_000, id%999, id)
	}
	own, err := kgo.DefaultCompressor(kgo.Lz4Compression())
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]kgo.Compressor{"blocks of 64 KiB": newLZ4Compressor(), "the client's own": own} {
		b.Run(name, func(b *testing.B) {
			var dst bytes.Buffer
			frame := []byte(nil)
			for i := 0; i < b.N; i += batch {
				dst.Reset()
				frame, _ = c.Compress(&dst, src)
			}
			b.ReportMetric(float64(len(frame))/batch, "bytes")
		})
	}
}
