package microstore

import (
	"os"
	"path/filepath"
	"sync/atomic"
)

// Stats is what a store has done and holds. Sizes are in bytes.
type Stats struct {
	CacheBytes, CacheBudget int64 // decoded histories and tables
	TailBytes, TailBudget   int64 // recent chunks of logs
	LSMBytes, VlogBytes     int64 // on disk: keys and small values; large values
	FreeBytes               int64 // of the file system when it was last looked at

	Commits  int64 // Badger transactions
	Merged   int64 // calls of Commit that shared another one's transaction
	Loads    int64 // lists of histories read from disk
	Evicted  int64 // lists and rows that left the cache because it was full or they had expired
	LogReads int64 // reads of logs that went to disk

	GCRuns      int64 // of the value log's garbage collection
	GCFiles     int64 // files it has rewritten
	GCReclaimed int64 // bytes it has given back
}

type counters struct {
	commits, merged, listLoads, evictions, logReads atomic.Int64
	gcRuns, gcFiles, gcReclaimed                    atomic.Int64
}

// Stats returns the present figures. It lists the store's directory.
func (s *Store) Stats() Stats {
	disk := s.disk()
	return Stats{
		CacheBytes: s.cache.used.Load(), CacheBudget: s.cache.limit,
		TailBytes: s.tail.used.Load(), TailBudget: s.tail.limit,
		LSMBytes: disk.lsm, VlogBytes: disk.vlog, FreeBytes: s.space.last.Load(),
		Commits: s.counters.commits.Load(), Merged: s.counters.merged.Load(),
		Loads: s.counters.listLoads.Load(), Evicted: s.counters.evictions.Load(), LogReads: s.counters.logReads.Load(),
		GCRuns: s.counters.gcRuns.Load(), GCFiles: s.counters.gcFiles.Load(), GCReclaimed: s.counters.gcReclaimed.Load(),
	}
}

type diskUse struct{ lsm, vlog int64 }

// disk adds up what the files take. The files that are written to are mapped at twice their size, so it
// counts blocks, not lengths.
func (s *Store) disk() (use diskUse) {
	if s.cfg.InMemory {
		return use
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil {
		return use
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue // it has just been removed
		}
		switch filepath.Ext(entry.Name()) {
		case ".vlog":
			use.vlog += allocated(info)
		case ".sst", ".mem":
			use.lsm += allocated(info)
		}
	}
	return use
}
