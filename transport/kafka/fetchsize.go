package kafka

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
)

// fetchSize keeps fetches so small that what comes fits Config.ReadBytes when it is decompressed: brokers count
// compressed bytes, and records that are much alike take a hundredth of theirs. It begins with a guess and goes by what
// comes: by a higher compression at once, by a lower one little by little. A single batch of records comes whole, however
// large it is.
type fetchSize struct {
	readBytes int
	client    *kgo.Client // set before it fetches

	mu    sync.Mutex
	ratio float64 // of what comes to what was fetched
}

const (
	guessedRatio  = 16
	leastFetch    = 4 << 10
	leastFetchAll = 64 << 10
)

func newFetchSize(c *Config) *fetchSize {
	return &fetchSize{readBytes: c.ReadBytes, ratio: guessedRatio}
}

// bytes is how much is asked for in a fetch in all, and of a partition.
func (f *fetchSize) bytes() (all, part int32) {
	most := float64(f.readBytes) / readParts
	return int32(max(max(16*most, 4<<20)/f.ratio, leastFetchAll)), int32(max(most/f.ratio, leastFetch))
}

// OnFetchBatchRead implements kgo.HookFetchBatchRead.
func (f *fetchSize) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.FetchBatchMetrics) {
	if m.CompressedBytes <= 0 {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ratio = max(float64(m.UncompressedBytes)/float64(m.CompressedBytes), f.ratio*15/16, 1)
	f.client.UpdateFetchMaxBytes(f.bytes())
}
