package framework

import (
	"testing"

	"pgregory.net/rapid"
)

// The vectors of Kafka's Java client, org.apache.kafka.common.utils.UtilsTest.
func TestMurmur2AsKafka(t *testing.T) {
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2(key)); got != want {
			t.Errorf("%q: %d, want %d", key, got, want)
		}
		for _, n := range []int{1, 2, 7, 100} {
			if got, want := Partition(key, n), int(uint32(want)&0x7fffffff)%n; got != want {
				t.Errorf("%q of %d: partition %d, want %d", key, n, got, want)
			}
		}
	}
}

func TestPartitionIsInRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 1<<20).Draw(t, "n")
		if p := Partition(rapid.String().Draw(t, "key"), n); p < 0 || p >= n {
			t.Fatal(p)
		}
	})
}
