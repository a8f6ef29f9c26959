package kafka

import (
	"bytes"
	"sync"

	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kgo"
)

// lz4Compressor makes the frames that Java's producer makes: blocks of 64 KiB, independent of one another, and no checksum
// beside that of the batch. The client's own compressor makes blocks of 4 MiB and a checksum of all: a twentieth less on
// the wire, for half as much processor time again and buffers of 4 MiB at both ends.
type lz4Compressor struct{ writers sync.Pool }

func newLZ4Compressor() *lz4Compressor {
	return &lz4Compressor{sync.Pool{New: func() any {
		w := lz4.NewWriter(nil)
		_ = w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)) // a writer that is in use would refuse
		return w
	}}}
}

// Compress implements kgo.Compressor.
func (c *lz4Compressor) Compress(dst *bytes.Buffer, src []byte, _ ...kgo.CompressFlag) ([]byte, kgo.CompressionCodecType) {
	w := c.writers.Get().(*lz4.Writer)
	defer c.writers.Put(w)
	w.Reset(dst)
	if _, err := w.Write(src); err != nil {
		return nil, kgo.CodecError
	}
	if err := w.Close(); err != nil {
		return nil, kgo.CodecError
	}
	return dst.Bytes(), kgo.CodecLz4
}
