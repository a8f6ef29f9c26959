package framework

// Partition tells which of n partitions a key belongs to: murmur2 as Kafka's Java client computes it, so
// that topics are partitioned alike on every transport. n must be at least 1.
func Partition(key string, n int) int {
	if n == 1 {
		return 0
	}
	return int(murmur2(key)&0x7fffffff) % n
}

func murmur2(key string) uint32 {
	const (
		seed = uint32(0x9747b28c)
		m    = uint32(0x5bd1e995)
	)
	h := seed ^ uint32(len(key))
	for len(key) >= 4 {
		k := uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24
		k *= m
		k ^= k >> 24
		k *= m
		h = h*m ^ k
		key = key[4:]
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(key[0])) * m
	}
	h ^= h >> 13
	h *= m
	return h ^ h>>15
}
