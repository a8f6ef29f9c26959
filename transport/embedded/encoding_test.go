package embedded

import (
	"errors"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
)

func someRecords(t *rapid.T) []framework.Record {
	text := rapid.StringN(0, 10, 200)
	records := make([]framework.Record, rapid.IntRange(1, 20).Draw(t, "records"))
	for i := range records {
		r := &records[i]
		r.ID, r.Key = text.Draw(t, "id"), text.Draw(t, "key")
		r.Type, r.Source = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "type"), rapid.SampledFrom([]string{"", "s"}).Draw(t, "source")
		r.Value = rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "value")
		r.Watermark = rapid.Bool().Draw(t, "watermark")
		if rapid.Bool().Draw(t, "timed") {
			r.Time = time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC()
		}
		if rapid.Bool().Draw(t, "headed") {
			r.Metadata = rapid.MapOfN(text, text, 1, 4).Draw(t, "metadata")
		}
	}
	return records
}

func TestEncodingRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := someRecords(t)
		base := rapid.Int64Range(0, 1000).Draw(t, "base")
		skip := rapid.IntRange(0, len(records)).Draw(t, "skip")
		chunk := microstore.Chunk{Base: base, Count: len(records), Data: encodeAll(records)}
		got, err := decode(nil, &chunk, base+int64(skip))
		if err != nil {
			t.Fatal(err)
		}
		clear(chunk.Data) // nothing may refer to it
		want := records[skip:]
		if len(got) != len(want) {
			t.Fatalf("%d records, expected %d", len(got), len(want))
		}
		for i := range want {
			w, g := &want[i], &got[i]
			if g.ID != w.ID || g.Type != w.Type || g.Source != w.Source || g.Key != w.Key || !g.Time.Equal(w.Time) ||
				string(g.Value) != string(w.Value) || g.Watermark != w.Watermark || !maps.Equal(g.Metadata, w.Metadata) ||
				g.Offset != base+int64(skip+i) {
				t.Fatalf("got\n%+v\nexpected\n%+v", *g, *w)
			}
		}
	})
}

func encodeAll(records []framework.Record) []byte {
	return encode(records, new(scatter).all(len(records)))
}

func TestScatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := someRecords(t)
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

// Damaged bytes give an error, or records: never a panic, and never more memory than the bytes explain.
func FuzzDecode(f *testing.F) {
	good := encodeAll([]framework.Record{
		{ID: "1", Type: "t", Source: "s", Key: "k", Time: time.Unix(1, 2), Value: []byte("v"), Metadata: map[string]string{"a": "b"}},
		{ID: "2", Type: "t", Source: "s", Watermark: true},
	})
	f.Add(good, 2, int64(0))
	f.Add(good, 3, int64(1))
	f.Add(good[:len(good)-1], 2, int64(0))
	f.Add([]byte{1, 1, 0, 0, 0, 128}, 1, int64(0))
	f.Add([]byte{1, 8, 0, 0, 0, 32, 255, 255, 255, 255, 255, 255, 1}, 1, int64(0))
	f.Fuzz(func(t *testing.T, data []byte, count int, from int64) {
		chunk := microstore.Chunk{Base: 0, Count: count % 1000, Data: data}
		records, err := decode(nil, &chunk, from)
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		total := 0
		for i := range records {
			r := &records[i]
			total += len(r.ID) + len(r.Key) + len(r.Value) + 2*len(r.Metadata)
		}
		if total > len(data) {
			t.Fatalf("%d bytes became %d", len(data), total)
		}
	})
}
