package memory

import (
	"slices"
	"sort"

	"github.com/millrace/millrace/framework"
)

// chunkEvents bounds a chunk, and so a batch.
const chunkEvents = 1024

// partition is a list of chunks, oldest first. Guarded by its topic's lock.
type partition struct {
	chunks     []chunk
	start, end int64 // offsets of the oldest record and of the next one
	bytes      int64
	idle       []chan<- struct{} // readers that have read everything
}

// chunk holds records that are not changed any more. ends[i] is the bytes up to and with record i.
type chunk struct {
	base    int64
	records []framework.Record
	ends    []int64
}

func (p *partition) full(c *Config, size int64) bool {
	kept := p.end - p.start
	return kept >= int64(c.RetainEvents) || kept > 0 && p.bytes+size > c.RetainBytes
}

func (p *partition) append(r *framework.Record, size int64, config *Config) {
	if len(p.chunks) == 0 || len(p.last().records) == cap(p.last().records) {
		p.grow(config)
	}
	c := p.last()
	before := int64(0)
	if n := len(c.ends); n > 0 {
		before = c.ends[n-1]
	}
	c.records = append(c.records, *r)
	c.records[len(c.records)-1].Offset = p.end
	c.ends = append(c.ends, before+size)
	p.end++
	p.bytes += size
	if len(p.idle) > 0 {
		p.wake()
	}
}

func (p *partition) last() *chunk { return &p.chunks[len(p.chunks)-1] }

// grow adds a chunk: small ones first, so that a topic of few records is small, and none over an eighth
// of what is kept, since the oldest go by chunks.
func (p *partition) grow(config *Config) {
	n := 16
	if len(p.chunks) > 0 {
		n = 4 * cap(p.last().records)
	}
	n = max(1, min(n, chunkEvents, config.RetainEvents/8))
	p.chunks = append(p.chunks, chunk{
		base: p.end, records: make([]framework.Record, 0, n), ends: make([]int64, 0, n),
	})
}

// dropOldest drops the oldest chunk if all of it lies before a position.
func (p *partition) dropOldest(acked int64) bool {
	if len(p.chunks) == 0 {
		return false
	}
	c := &p.chunks[0]
	end := c.base + int64(len(c.records))
	if end > acked {
		return false
	}
	p.start = end
	p.bytes -= c.ends[len(c.ends)-1]
	p.chunks[0] = chunk{}
	p.chunks = p.chunks[1:]
	return true
}

// from returns the kept records from an offset on to the end of their chunk, within bounds, at least
// one. The offset is at least start and less than end.
func (p *partition) from(offset int64, events int, bytes int64) []framework.Record {
	i := sort.Search(len(p.chunks), func(i int) bool { return p.chunks[i].base > offset }) - 1
	c := &p.chunks[i]
	first := int(offset - c.base)
	n := len(c.records) - first
	if events > 0 {
		n = min(n, events)
	}
	if bytes > 0 {
		limit := bytes
		if first > 0 {
			limit += c.ends[first-1]
		}
		if c.ends[first+n-1] > limit {
			n = sort.Search(n, func(k int) bool { return c.ends[first+k] > limit })
			n = max(n, 1)
		}
	}
	return c.records[first : first+n : first+n]
}

// wake tells idle readers.
func (p *partition) wake() {
	for i, ch := range p.idle {
		select {
		case ch <- struct{}{}:
		default:
		}
		p.idle[i] = nil
	}
	p.idle = p.idle[:0]
}

// await lists a reader as idle; once, however often it asks.
func (p *partition) await(ch chan<- struct{}) {
	if !slices.Contains(p.idle, ch) {
		p.idle = append(p.idle, ch)
	}
}

func (p *partition) leave(ch chan<- struct{}) {
	if i := slices.Index(p.idle, ch); i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
}

// sizeOf estimates the bytes of a record without walking its headers.
func sizeOf(r *framework.Record) int64 {
	return int64(len(r.ID) + len(r.Type) + len(r.Source) + len(r.Key) + len(r.Value) + 64*len(r.Metadata))
}
