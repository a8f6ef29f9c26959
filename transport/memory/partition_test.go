package memory

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
)

// A partition does what a plain list would do, whatever is appended, dropped and read.
func TestPartitionAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		config := Config{
			RetainEvents: rapid.IntRange(1, 60).Draw(t, "events"), RetainBytes: rapid.Int64Range(1, 2000).Draw(t, "bytes"),
		}
		var p partition
		var list []framework.Record // by offset
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				r := framework.Record{Value: make([]byte, rapid.IntRange(0, 300).Draw(t, "size"))}
				acked := rapid.Int64Range(p.start, p.end).Draw(t, "acked")
				for p.full(&config, sizeOf(&r)) && p.dropOldest(acked) {
				}
				if p.start > acked {
					t.Fatalf("records up to %d are dropped, up to %d are acknowledged", p.start, acked)
				}
				if p.full(&config, sizeOf(&r)) {
					return // it would wait
				}
				p.append(&r, sizeOf(&r), &config)
				r.Offset = int64(len(list))
				list = append(list, r)
			},
			"read": func(t *rapid.T) {
				if p.start == p.end {
					return
				}
				from := rapid.Int64Range(p.start, p.end-1).Draw(t, "from")
				events, bytes := rapid.IntRange(0, 20).Draw(t, "n"), rapid.Int64Range(0, 500).Draw(t, "bytes")
				got := p.from(from, events, bytes)
				size := int64(0)
				for i := range got {
					if want := list[from+int64(i)]; got[i].Offset != want.Offset || len(got[i].Value) != len(want.Value) {
						t.Fatalf("record %d is %+v, expected %+v", i, got[i], want)
					}
					size += sizeOf(&got[i])
				}
				if len(got) == 0 || events > 0 && len(got) > events || bytes > 0 && size > bytes && len(got) > 1 {
					t.Fatalf("%d records of %d bytes, bounds are %d and %d", len(got), size, events, bytes)
				}
			},
			"": func(t *rapid.T) {
				size := int64(0)
				for _, r := range list[p.start:] {
					size += sizeOf(&r)
				}
				kept := p.end - p.start
				if p.bytes != size || p.end != int64(len(list)) || kept > int64(config.RetainEvents) || kept > 1 && size > config.RetainBytes {
					t.Fatalf("%d records of %d bytes (by count %d), bounds are %+v", kept, p.bytes, size, config)
				}
			},
		})
	})
}
