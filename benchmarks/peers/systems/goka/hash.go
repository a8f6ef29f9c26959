package main

import (
	"hash"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/benchmarks/peers/internal/orders"
)

// javaHash sends keys to the partitions to which Kafka's own clients send them. Goka has another hash, and would write
// the histories of a partition's customers to other partitions of its table, where it does not look for them when they
// have to be recovered.
type javaHash struct {
	key         []byte
	partitioner kgo.TopicPartitioner
}

func newJavaHash() hash.Hash32 {
	return &javaHash{partitioner: kgo.StickyKeyPartitioner(nil).ForTopic("")}
}

func (h *javaHash) Write(b []byte) (int, error) {
	h.key = append(h.key, b...)
	return len(b), nil
}

// Sum32 is the partition itself; all topics have equally many.
func (h *javaHash) Sum32() uint32 {
	return uint32(h.partitioner.Partition(&kgo.Record{Key: h.key}, orders.Partitions))
}

func (h *javaHash) Reset()              { h.key = h.key[:0] }
func (h *javaHash) Size() int           { return 4 }
func (h *javaHash) BlockSize() int      { return 1 }
func (h *javaHash) Sum(b []byte) []byte { return append(b, byte(h.Sum32())) }
