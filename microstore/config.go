package microstore

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	defaultMemoryBytes  = 256 << 20
	minMemoryBytes      = 32 << 20
	maxTablesFor        = 512 << 20 // above, memtables and tables do not grow with the budget
	defaultMinFreeBytes = 128 << 20
	defaultGCInterval   = 5 * time.Minute
)

// Config says where a store is and what it may use. The zero value of every field but Dir is its default.
type Config struct {
	// Dir is the directory of the store, created if it is not there. Required unless InMemory.
	Dir string

	// InMemory keeps everything in memory and nothing after Close: for tests and throw-aways.
	InMemory bool

	// MemoryBytes is the budget of what the store holds, in bytes: default 256 MiB, at least 32 MiB. It is divided
	// so: one half to the database's memtables (two or three of 7/64 each, and a third more for their headroom), three
	// eighths to the cache of decoded histories and tables, one sixteenth to the tails of the logs, one sixteenth to
	// timers, file indexes and buffers. There is no block cache: blocks are not compressed, so they are read
	// in place from the operating system's page cache.
	//
	// A process takes more. Tables that the database makes are in memory until they are written, in buffers of an eighth
	// of MemoryBytes each: five or six while commits come as fast as the store takes them, thirteen at most. They
	// do not grow with what is stored. Go lets as much garbage pile up as is alive, unless GOGC or
	// GOMEMLIMIT say otherwise. And pages of the database's files, which are mapped, count as the process's until
	// the system needs the room; on Linux those of tables only until all that is mapped is more than a quarter of MemoryBytes.
	//
	// The size of the largest commit follows from it: about MemoryBytes/61 (4.2 MiB of 256 MiB). It may be lowered for
	// a store that is there.
	MemoryBytes int64

	// SyncWrites makes every commit reach the disk before Commit returns. Default false: a commit survives
	// the death of the process (kill -9), while a power loss may lose the newest commits, state and position
	// together.
	SyncWrites bool

	// MinFreeBytes is what has to be free on the file system for a commit to be taken: default 128 MiB. The
	// database writes through memory maps, so a disk that is really full would end the process with SIGBUS;
	// the margin has to cover what compaction writes between two looks. Negative: never look.
	MinFreeBytes int64

	// GCInterval is the time between two runs of the value log's garbage collection: default 5 minutes;
	// negative: never. It also runs when 128 MiB of large values have been removed.
	GCInterval time.Duration

	// Logger receives the store's and the database's messages. Default: none.
	Logger *slog.Logger
}

// WithDefaults returns a copy of the configuration with every unset field set to its default.
func (c Config) WithDefaults() Config {
	if c.MemoryBytes == 0 {
		c.MemoryBytes = defaultMemoryBytes
	}
	if c.MinFreeBytes == 0 {
		c.MinFreeBytes = defaultMinFreeBytes
	}
	if c.GCInterval == 0 {
		c.GCInterval = defaultGCInterval
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports everything that is wrong with the configuration.
func (c Config) Validate() error {
	var faults []error
	if c.Dir == "" && !c.InMemory {
		faults = append(faults, errors.New("microstore: Config.Dir is empty: name a directory, or set InMemory"))
	}
	if c.Dir != "" && c.InMemory {
		faults = append(faults, fmt.Errorf("microstore: Config.InMemory excludes Config.Dir %q", c.Dir))
	}
	if c.MemoryBytes != 0 && c.MemoryBytes < minMemoryBytes {
		faults = append(faults, fmt.Errorf("microstore: Config.MemoryBytes is %d, the least is %d", c.MemoryBytes, minMemoryBytes))
	}
	return errors.Join(faults...)
}

// memtableBytes is sized for the commit: a transaction holds 15 % of a memtable. Larger tables would make
// larger commits, but the skip list behind them grows out of the processor's caches.
func (c Config) memtableBytes() int64 { return min(c.MemoryBytes, maxTablesFor) * 7 / 64 }

// tableBytes is sized for the buffers in which tables are made. Badger begins each with twice of it, rounded up to a power
// of two, adds twice as much whenever that does not do, and uses them again for any table. A memtable has to fit the
// first part, with what blocks leave free, or soon all of them are three times as large.
func (c Config) tableBytes() int64 { return min(c.MemoryBytes, maxTablesFor) / 16 }

func (c Config) cacheBytes() int64 { return c.MemoryBytes * 3 / 8 }

func (c Config) tailBytes() int64 { return c.MemoryBytes / 16 }

// mappedBytes is how much of mapped files may count as the process's memory before tables are let go of.
func (c Config) mappedBytes() int64 { return c.MemoryBytes / 4 }
