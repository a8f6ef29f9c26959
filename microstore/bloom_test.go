package microstore

import (
	"math/rand/v2"
	"testing"
)

// TestBloom fills filters of several sizes: what was added is there, and of what was not, little seems to be.
func TestBloom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1, 31, 64, 192, 1000, 1 << 14} { // of which some make as many blocks as a power of two
		f := newBloom(n)
		if got, most := f.bytes(), int64(max(bloomBlockBytes, n*bloomEntryBytes)); got > most {
			t.Errorf("for %d hashes it takes %d bytes, more than %d", n, got, most)
		}
		added := make([]uint64, n)
		for i := range added {
			added[i] = random.Uint64()
			f.add(added[i])
		}
		for _, hash := range added {
			if !f.has(hash) {
				t.Fatalf("of %d hashes, %x is not there", n, hash)
			}
		}
		const others = 500_000
		wrong := 0
		for range others {
			if f.has(random.Uint64()) {
				wrong++
			}
		}
		if wrong > others/700 {
			t.Errorf("of %d others, %d seem to be among %d", others, wrong, n)
		}
	}
}

// BenchmarkGone asks for lists that are not there, of so many shards that their filters are not in the processor's caches.
func BenchmarkGone(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 2))
	shards := make([]generation, 2*Shards)
	for i := range shards {
		for range 30_000 {
			shards[i].add(random.Uint64(), 1, 50_000)
		}
	}
	for i := 0; b.Loop(); i++ {
		shards[i%len(shards)].has(random.Uint64())
	}
}
