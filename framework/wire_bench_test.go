package framework

import (
	"fmt"
	"testing"
	"time"
)

// entry is what a history keeps of an event: id, key and time are in the store's key.
func entry() *Record {
	return &Record{Type: "order.placed", Source: "/shop", Value: make([]byte, 150)}
}

// BenchmarkEntryEncode is the cost of an entry of a history.
func BenchmarkEntryEncode(b *testing.B) {
	r, buffer := entry(), []byte(nil)
	b.ReportAllocs()
	for range b.N {
		buffer, _ = appendRecordWith(buffer[:0], r, func(dst []byte) ([]byte, error) { return append(dst, r.Value...), nil })
	}
	b.ReportMetric(float64(len(buffer)-len(r.Value)), "header-bytes")
}

// BenchmarkEntryDecode is the cost of an entry of a history that is read from disk.
func BenchmarkEntryDecode(b *testing.B) {
	data := AppendRecord(nil, entry())
	b.ReportAllocs()
	for range b.N {
		if _, err := ReadRecord(data); err != nil {
			b.Fatal(err)
		}
	}
}

func chunkOf(n int) []Record {
	records := make([]Record, n)
	for i := range records {
		records[i] = Record{
			ID: fmt.Sprintf("018f6c1e-0000-8000-8000-%012d", i), Type: "order.placed", Source: "/shop",
			Key: fmt.Sprintf("customer-%d", i%1000), Time: time.Unix(1700000000, int64(i)).UTC(), Value: make([]byte, 150),
		}
	}
	return records
}

// BenchmarkChunkEncode is the cost of a record, in chunks of 500.
func BenchmarkChunkEncode(b *testing.B) {
	records := chunkOf(500)
	picked := make([]int32, len(records))
	for i := range picked {
		picked[i] = int32(i)
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(records) {
		AppendRecords(nil, records, picked)
	}
}

// BenchmarkChunkDecode is the cost of a record, in chunks of 500.
func BenchmarkChunkDecode(b *testing.B) {
	data := AppendRecords(nil, chunkOf(500), nil)
	buffer := make([]Record, 0, 500)
	b.ReportAllocs()
	for i := 0; i < b.N; i += 500 {
		if _, _, err := ReadRecords(buffer, data, 0, 0); err != nil {
			b.Fatal(err)
		}
	}
}
