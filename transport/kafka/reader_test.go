package kafka

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
)

// TestFetchesGoTogether puts fetches of all sizes into a reader and takes batches, in any order: none is lost or out of order;
// a batch keeps its bounds, and ends before one only where all has been taken, or behind a fetch, with enough; and what is
// held is counted.
func TestFetchesGoTogether(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bounds := framework.SubscriberConfig{
			BatchEvents: rapid.SampledFrom([]int{0, 1, 2, 7, enough, 2*enough + 1}).Draw(t, "events"),
			BatchBytes:  rapid.SampledFrom([]int{0, 1, 30, 60, 20 * enough}).Draw(t, "bytes"),
		}
		c := &consumer{config: &Config{ReadBytes: 1 << 30}}
		r := newReader(c, place{"t", 0}, 0, 0, &bounds)
		var sizes []int          // of all records
		begins := map[int]bool{} // where fetches do
		taken := 0
		take := func() {
			b, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if b == nil {
				if taken < len(sizes) {
					t.Fatalf("no batch, though %d records wait", len(sizes)-taken)
				}
				return
			}
			from, size := taken, 0
			for i := range b.Records {
				if b.Records[i].Offset != int64(taken) || len(b.Records[i].Value) != sizes[taken] {
					t.Fatalf("record %d of %d bytes, expected %d of %d", b.Records[i].Offset, len(b.Records[i].Value), taken, sizes[taken])
				}
				size += sizes[taken]
				taken++
			}
			n := taken - from
			if n > 1 && (bounds.BatchEvents > 0 && n > bounds.BatchEvents || bounds.BatchBytes > 0 && size > bounds.BatchBytes) {
				t.Fatalf("%d records of %d bytes exceed %+v", n, size, bounds)
			}
			switch {
			case taken == len(sizes):
			case n == bounds.BatchEvents, bounds.BatchBytes > 0 && size+sizes[taken] > bounds.BatchBytes:
			case n >= enough && begins[taken]:
			default:
				t.Fatalf("a batch of %d records, %d bytes, though the next would fit", n, size)
			}
			if b.Next != int64(taken) || b.CaughtUp != (taken == len(sizes)) {
				t.Fatalf("next %d, caught up %t; %d of %d are taken", b.Next, b.CaughtUp, taken, len(sizes))
			}
			held := 0
			for _, size := range sizes[taken:] {
				held += size + recordBytes
			}
			if r.held != held {
				t.Fatalf("%d bytes are held by the count, %d are", r.held, held)
			}
		}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "take") {
				take()
				continue
			}
			begins[len(sizes)] = true
			size := rapid.IntRange(1, 30).Draw(t, "size")
			var fetch []*kgo.Record
			for range rapid.OneOf(rapid.IntRange(1, 9), rapid.IntRange(enough-9, enough+1)).Draw(t, "records") {
				fetch = append(fetch, &kgo.Record{Offset: int64(len(sizes)), Value: make([]byte, size)})
				sizes = append(sizes, size)
			}
			r.put(fetch, int64(len(sizes)))
		}
		for taken < len(sizes) {
			take()
		}
		take()
	})
}

// TestBatchWithEnough is a backlog: a fetch with enough is a batch by itself.
func TestBatchWithEnough(t *testing.T) {
	c := &consumer{config: &Config{ReadBytes: 1 << 30}}
	r := newReader(c, place{"t", 0}, 0, 0, &framework.SubscriberConfig{})
	var got []int
	next := int64(0)
	for _, n := range []int{1, enough - 2, 2, 3, enough, enough + 1, 1, 1} {
		fetch := make([]*kgo.Record, n)
		for i := range fetch {
			fetch[i] = &kgo.Record{Offset: next}
			next++
		}
		r.put(fetch, next)
	}
	for {
		b, err := r.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			break
		}
		got = append(got, len(b.Records))
	}
	if want := []int{enough + 1, enough + 3, enough + 1, 2}; !slices.Equal(got, want) {
		t.Errorf("batches of %d records, expected %d", got, want)
	}
}
