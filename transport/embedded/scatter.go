package embedded

import (
	"slices"
	"sync"

	"github.com/millrace/millrace/framework"
)

// scatter orders records by partition without moving them.
type scatter struct {
	partitions, order, ends []int32
}

var scratch = sync.Pool{New: func() any { return new(scatter) }}

// all names n records in their order.
func (s *scatter) all(n int) []int32 {
	s.order = slices.Grow(s.order[:0], n)[:n]
	for i := range s.order {
		s.order[i] = int32(i)
	}
	return s.order
}

// everywhere is the partition of a watermark, which goes to all.
const everywhere = -1

// byPartition returns the indexes of the records, partition by partition and each in the order of the
// records, and where each partition's end. Both are valid until the next call.
func (s *scatter) byPartition(records []framework.Record, n int) (order, ends []int32) {
	s.ends = slices.Grow(s.ends[:0], n)[:n]
	clear(s.ends)
	if n == 1 {
		s.ends[0] = int32(len(records))
		return s.all(len(records)), s.ends
	}
	s.partitions = slices.Grow(s.partitions[:0], len(records))[:len(records)]
	for i := range records {
		at := everywhere
		if r := &records[i]; !r.Watermark || r.Key != "" {
			at = assign(r, n)
			s.ends[at]++
		} else {
			for k := range s.ends {
				s.ends[k]++
			}
		}
		s.partitions[i] = int32(at)
	}
	sum := int32(0)
	for i, count := range s.ends { // where each begins
		s.ends[i] = sum
		sum += count
	}
	s.order = slices.Grow(s.order[:0], int(sum))[:sum]
	for i, at := range s.partitions {
		if at != everywhere {
			s.put(int(at), i)
			continue
		}
		for k := range s.ends {
			s.put(k, i)
		}
	}
	return s.order, s.ends
}

// put adds a record to a partition.
func (s *scatter) put(partition, index int) {
	s.order[s.ends[partition]] = int32(index)
	s.ends[partition]++
}
