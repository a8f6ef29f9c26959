package microstore

import "math/bits"

// bloom is a Bloom filter of hashes: has is true of all that were added, and of about one in a thousand others when it is
// full. All bits of a hash are in one block, a line of the processor's caches, one in each word of it: in a filter that is
// larger than the caches, bits anywhere would cost a wait for memory each.
type bloom []bloomBlock

type bloomBlock [8]uint64

const (
	bloomBlockBytes = 64
	bloomEntryBytes = 2 // of a hash in a full filter
)

// newBloom makes a filter for so many hashes.
func newBloom(hashes int) bloom {
	return make(bloom, max(1, hashes*bloomEntryBytes/bloomBlockBytes))
}

// find returns the block of a hash, and the bits of it that say which bit of each word is the hash's: six each.
func (f bloom) find(hash uint64) (block *bloomBlock, places uint64) {
	at, rest := bits.Mul64(hash, uint64(len(f))) // of the upper bits
	return &f[at], rest * 0x9e3779b97f4a7c15 >> 16
}

func (f bloom) add(hash uint64) {
	block, places := f.find(hash)
	for i := range block {
		block[i] |= 1 << (places >> (6 * i) & 63)
	}
}

func (f bloom) has(hash uint64) bool {
	block, places := f.find(hash)
	missing := uint64(0)
	for i := range block {
		missing |= ^block[i] >> (places >> (6 * i) & 63)
	}
	return missing&1 == 0
}

func (f bloom) bytes() int64 { return int64(len(f)) * bloomBlockBytes }
