package embedded

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

// A chunk that does not hold as many records as its key says is damaged, as is one whose bytes are.
func TestDecodeChecksTheCount(t *testing.T) {
	data := framework.AppendRecords(nil, sample(5), nil)
	for _, c := range []struct {
		count int
		data  []byte
		good  bool
	}{{5, data, true}, {4, data, false}, {6, data, false}, {5, data[:len(data)-1], false}, {5, nil, false}} {
		chunk := microstore.Chunk{Base: 7, Count: c.count, Data: c.data}
		records, err := decode(nil, &chunk, 9)
		if (err == nil) != c.good || !c.good && !errors.Is(err, ErrDamaged) {
			t.Errorf("%d records in %d bytes: %v", c.count, len(c.data), err)
		}
		if c.good && (len(records) != 3 || records[0].Offset != 9 || records[2].ID != sample(5)[4].ID) {
			t.Errorf("%+v", records)
		}
	}
}

func TestScatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := make([]framework.Record, rapid.IntRange(1, 20).Draw(t, "records"))
		for i := range records {
			records[i].ID, records[i].Key = rapid.String().Draw(t, "id"), rapid.String().Draw(t, "key")
		}
		n := rapid.IntRange(1, 8).Draw(t, "partitions")
		var s scatter
		for range 2 { // the second time over used slices
			order, ends := s.byPartition(records, n)
			seen, at := 0, int32(0)
			for partition, end := range ends {
				last := int32(-1)
				for ; at < end; at++ {
					if order[at] <= last || assign(&records[order[at]], n) != partition {
						t.Fatalf("record %d is at %d of partition %d", order[at], at, partition)
					}
					last = order[at]
					seen++
				}
			}
			if len(ends) != n || seen != len(records) {
				t.Fatalf("%d partitions, %d records, expected %d and %d", len(ends), seen, n, len(records))
			}
		}
	})
}
