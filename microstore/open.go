package microstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/millrace/millrace/internal/failpoint"
)

// formatVersion is what this package writes. A change that an older package would misread raises it.
//
//	1  as first written
//	2  chunks and rows are packed
//	3  what framework keeps of events is in one format, of version 2
const formatVersion uint32 = 3

var formatKey = []byte{spaceSystem, 'v'}

// valueThreshold is the size from which a value lies in the value log: blobs of records, not entries of
// histories. Above it a value is written once and its space is reclaimed by rewriting what is left of its
// file; below, it takes part in every compaction of its level.
const valueThreshold = 32 << 10

// settings are what tests replace.
type settings struct {
	free   func(dir string) (int64, error)
	now    func() time.Time
	cache  int64 // budget of the cache, 0: from the configuration
	tail   int64
	mapped int64
}

// Open opens the store at cfg.Dir, or makes a new one. Errors name the directory and what to do.
func Open(cfg Config) (*Store, error) { return open(cfg, settings{}) }

func open(cfg Config, set settings) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	if set.free == nil {
		set.free = freeBytes
	}
	if set.now == nil {
		set.now = time.Now
	}
	if set.cache == 0 {
		set.cache = cfg.cacheBytes()
	}
	if set.tail == 0 {
		set.tail = cfg.tailBytes()
	}
	if set.mapped == 0 {
		set.mapped = cfg.mappedBytes()
	}
	if !cfg.InMemory {
		if err := checkDir(cfg.Dir); err != nil {
			return nil, err
		}
	}
	db, lock, err := openDatabase(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, db: db, lock: lock, log: cfg.Logger, now: set.now,
		cache: &budget{limit: set.cache}, tail: &budget{limit: set.tail},
		space:   &diskSpace{dir: cfg.Dir, least: cfg.MinFreeBytes, free: set.free, off: cfg.InMemory || cfg.MinFreeBytes < 0},
		closing: make(chan struct{}),
		tasks:   map[string]*Task{}, logs: map[string]*Log{}, outboxes: map[string]*Outbox{},
		// what is taken off is for the commit key and the marker that ends a transaction
		maxBatchBytes: int(db.MaxBatchSize()) - 512, maxRawBytes: maxRawBytes(cfg), valueThreshold: valueThreshold,
	}
	if cfg.InMemory {
		s.valueThreshold = int(db.MaxBatchSize()) // Badger has no value log then
	}
	if lock != nil {
		if err := s.breakSeal(); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnwritable, err), db.Close(), lock.Close())
		}
	}
	s.life.empty = sync.NewCond(&s.life.Mutex)
	s.committer = newCommitter(s)
	s.owned.Go(s.committer.take)
	s.owned.Go(s.committer.finish)
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.owned.Go(s.maintain)
	if !cfg.InMemory {
		s.owned.Go(func() { s.boundMapped(set.mapped) })
	}
	return s, nil
}

// prepare checks or writes the format and finishes what a crash has interrupted.
func (s *Store) prepare() error {
	value, ok, err := s.get(formatKey)
	switch {
	case err != nil:
		return err
	case ok && (len(value) != 4 || binary.BigEndian.Uint32(value) != formatVersion):
		return fmt.Errorf("%w: %s has format %x, this program knows %d only: use the program that wrote it, or another directory and rebuild",
			ErrFormat, s.place(), value, formatVersion)
	case !ok && !s.blank():
		return fmt.Errorf("%w: %s is a database of another program: use another directory", ErrFormat, s.place())
	case !ok:
		value = binary.BigEndian.AppendUint32(nil, formatVersion)
		if err := s.apply(func(b *Batch) { b.set(formatKey, value) }); err != nil {
			return err
		}
	}
	if err := s.finishDrops(); err != nil {
		return err
	}
	return s.openLogs()
}

func (s *Store) blank() bool {
	blank := true
	err := s.view(func(txn *badger.Txn) error {
		return scan(txn, nil, nil, func(*badger.Item) (bool, error) { blank = false; return false, nil })
	})
	return blank && err == nil
}

func badgerOptions(cfg Config) badger.Options {
	o := badger.DefaultOptions(cfg.Dir)
	if cfg.InMemory {
		o = badger.DefaultOptions("").WithInMemory(true)
	}
	o.Logger = badgerLog{cfg.Logger}
	o.SyncWrites = cfg.SyncWrites
	o.DetectConflicts = false // every write comes from one goroutine
	o.NumVersionsToKeep = 1
	o.MetricsEnabled = false // they are global to the process, and not free
	o.MemTableSize = cfg.memtableBytes()
	o.NumMemtables = 1           // waiting, besides the one written to and the one being flushed
	o.Compression = options.None // what holds many records is packed (pack.go); an entry alone gains little
	o.BlockCacheSize = 0         // uncompressed blocks are used where the file is mapped
	o.IndexCacheSize = 0         // and so are indexes
	o.NumCompactors = 2          // the least possible
	// A compaction of level zero writes much of the next level anew, so it is worth to wait for some more tables: with 6 a join
	// takes 6 to 9 % less processor time than with 4. With 8 it is as much again where states are large, but each history
	// that is read from disk is sought in all of them, and took a fifth longer.
	o.NumLevelZeroTables = 6
	o.NumLevelZeroTablesStall = 18
	// Up to a dozen tables are made at once, so they follow the budget, and are as large on all levels: by Badger's default
	// those of each are twice as large as those before it, and the memory that compactions take grows with the state.
	o.BaseTableSize = cfg.tableBytes()
	o.TableSizeMultiplier = 1
	o.BaseLevelSize = 4 * o.BaseTableSize
	// Badger makes a block in a buffer that is 256 bytes larger, and leaves half an entry free. Twice its default wastes half as
	// much of what a memtable has to fit.
	o.BlockSize = 8 << 10
	o.ValueThreshold = valueThreshold
	o.ValueLogFileSize = 64 << 20 // what one garbage collection rewrites at most
	o.VerifyValueChecksum = true
	// A block that does not match its checksum ends Badger's iterators as if there were nothing more: data
	// would be missing without a word. So every table is checked in full when it is opened.
	o.ChecksumVerificationMode = options.OnTableRead
	return o
}

// maxRawBytes bounds a commit's values in the value log, where they do not count against a transaction.
func maxRawBytes(cfg Config) int {
	if cfg.InMemory {
		return int(cfg.MemoryBytes)
	}
	return 48 << 20
}

// openDatabase turns what Badger does about a directory it cannot use into errors with a name. The lock is
// nil for a store in memory.
func openDatabase(cfg Config) (db *badger.DB, lock *os.File, err error) {
	if cfg.InMemory {
		db, err = badger.Open(badgerOptions(cfg))
		return db, nil, err
	}
	if lock, err = lockDir(cfg.Dir); err != nil {
		return nil, nil, err
	}
	defer func() {
		if cause := recover(); cause != nil {
			err = damaged(cfg.Dir, fmt.Errorf("%v", cause))
		}
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	tables, newest, memory, err := checkFiles(cfg.Dir)
	if err != nil {
		return nil, lock, damaged(cfg.Dir, err)
	}
	if err := errors.Join(fillEmpty(cfg.Dir), sealEmpty(cfg.Dir, tables, newest)); err != nil {
		return nil, lock, fmt.Errorf("%w: %s: %w: give the user of this process write access", ErrUnwritable, cfg.Dir, err)
	}
	if err := failpoint.Hit("store.open"); err != nil {
		return nil, lock, err
	}
	options := badgerOptions(cfg)
	if memory > options.MemTableSize+options.MemTableSize/4 {
		err = flushJournals(options, memory)
	}
	if err == nil {
		db, err = badger.Open(options)
	}
	switch {
	case err == nil:
		return db, lock, nil
	case strings.Contains(err.Error(), "acquire directory lock"):
		return nil, lock, locked(cfg.Dir)
	case strings.Contains(err.Error(), "unsupported version"):
		return nil, lock, fmt.Errorf("%w: %s: %w: use the program that wrote it", ErrFormat, cfg.Dir, err)
	case errors.Is(err, fs.ErrPermission):
		return nil, lock, fmt.Errorf("%w: %s: %w: give the user of this process write access", ErrUnwritable, cfg.Dir, err)
	default:
		return nil, lock, damaged(cfg.Dir, err)
	}
}

// flushJournals makes tables of journals that were written with larger memtables than there are now: who lowers MemoryBytes
// after a kill, maybe because there was not enough memory, has such. Badger would end the process, since a memtable has
// room for its own size and a transaction, 1.3 times as much, and a journal is read into one.
//
// It closes as Close does, sealed before the journals go.
func flushJournals(o badger.Options, memory int64) error {
	o.MemTableSize = memory
	db, err := badger.Open(o)
	if err != nil {
		return err
	}
	err = errors.Join(db.Sync(), seal(o.Dir, db.MaxVersion()), db.Close())
	if err == nil {
		err = failpoint.Hit("store.shrink")
	}
	return err
}

func locked(dir string) error {
	return fmt.Errorf("%w: %s is open in another store or process: close that one, or use another directory", ErrLocked, dir)
}

func damaged(dir string, cause error) error {
	return fmt.Errorf("%w: %s: %w: restore a backup into an empty directory, or move this one away and rebuild from the source",
		ErrDamaged, dir, cause)
}

// checkDir makes the directory and tries to write in it, which finds read-only file systems too.
func checkDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("%w: %s: %w: name a directory that can be made", ErrUnwritable, dir, err)
	}
	probe := filepath.Join(dir, ".writable")
	file, err := os.OpenFile(probe, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = errors.Join(file.Close(), os.Remove(probe))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // another process may have removed the probe
		return fmt.Errorf("%w: %s: %w: give the user of this process write access", ErrUnwritable, dir, err)
	}
	return nil
}
