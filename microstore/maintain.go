package microstore

import (
	"context"
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"
)

const (
	// retainInterval is the time between two applications of the logs' retention, and between two looks at how much
	// garbage there is.
	retainInterval = 5 * time.Second
	// discardRatio is the share of a value log file that must be garbage for it to be rewritten.
	discardRatio = 0.5
	// flushAfter is how many bytes of large values must have been removed for a flush to be worth it.
	flushAfter = 32 << 20
	// collectAfter is how many bytes of large values may be garbage before they are collected without waiting for
	// GCInterval: an outbox that moves a gigabyte a minute would fill the disk until then.
	collectAfter = 128 << 20
	// maxRewrites bounds the files of one garbage collection.
	maxRewrites = 32
)

// maintain is the goroutine that removes what is not needed any more, until Close.
func (s *Store) maintain() {
	retain := time.NewTicker(retainInterval)
	defer retain.Stop()
	var collect <-chan time.Time
	if s.cfg.GCInterval > 0 {
		ticker := time.NewTicker(s.cfg.GCInterval)
		defer ticker.Stop()
		collect = ticker.C
	}
	for {
		var err error
		select {
		case <-s.closing:
			return
		case <-retain.C:
			err = s.retainLogs()
			if s.cfg.GCInterval > 0 && s.removedBlobs.Load() >= collectAfter {
				err = errors.Join(err, s.collect())
			}
		case <-collect:
			err = s.collect()
		}
		if err != nil && !errors.Is(err, ErrClosed) {
			s.log.Warn("microstore: maintenance", "store", s.place(), "error", err)
		}
	}
}

func (s *Store) retainLogs() error {
	s.names.Lock()
	logs := make([]*Log, 0, len(s.logs))
	for _, l := range s.logs {
		logs = append(logs, l)
	}
	s.names.Unlock()
	var faults []error
	for _, l := range logs {
		faults = append(faults, l.retain())
	}
	return errors.Join(faults...)
}

// collect gives disk space of removed large values back.
//
// Badger learns which values are garbage when it compacts their keys, and it compacts what has left the
// memtable. With large values the keys are few, so a memtable would take hours to fill while gigabytes of
// garbage pile up. Hence the flush, when enough has been removed.
func (s *Store) collect() error {
	if s.cfg.InMemory {
		return nil
	}
	if removed := s.removedBlobs.Load(); removed >= flushAfter {
		if err := s.flush(); err != nil {
			return err
		}
		s.removedBlobs.Add(-removed)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.counters.gcRuns.Add(1)
	before := s.disk().vlog
	for range maxRewrites {
		select {
		case <-s.closing:
			return nil
		default:
		}
		s.rewriting.Lock()
		err := s.db.RunValueLogGC(discardRatio)
		s.rewriting.Unlock()
		if errors.Is(err, badger.ErrNoRewrite) || errors.Is(err, badger.ErrRejected) {
			break
		}
		if err != nil {
			return err
		}
		s.counters.gcFiles.Add(1)
	}
	s.counters.gcReclaimed.Add(max(0, before-s.disk().vlog))
	return nil
}

// flush empties the memtables and compacts level 0. Badger has no call for it, but dropping a prefix does
// just that first; the prefix holds one key, without which Badger would see that there is nothing to drop.
// Commits wait meanwhile, for some tens of milliseconds.
func (s *Store) flush() error {
	key := []byte{spaceSystem, 'g'}
	if err := s.apply(func(b *Batch) { b.set(key, []byte{1}) }); err != nil {
		return err
	}
	return s.exclusive(func() error {
		// What a reader might still see is kept: show that the oldest reader is past all deletes.
		s.db.NewTransaction(false).Discard()
		return s.dropPrefix(key)
	})
}

// exclusive runs fn in the committer, while nothing is being written.
func (s *Store) exclusive(fn func() error) error {
	return s.submit(context.Background(), &request{exclusive: fn, reply: make(chan error, 1)})
}
