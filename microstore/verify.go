package microstore

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// Report is what Verify has read.
type Report struct {
	Keys       int64
	Bytes      int64 // keys and values
	Tasks      int
	Entries    int64 // of histories
	Rows       int64 // of tables
	Timers     int64
	Processed  int64 // ids of processed records
	Chunks     int64 // of logs
	OutboxRows int64
}

// Verify reads everything as of now: it checks every table and value against its checksum, every key for its
// form, and every log for gaps. The error, if any, is ErrDamaged and names what is wrong first. Commits go on
// meanwhile.
func (s *Store) Verify(ctx context.Context) (Report, error) {
	var report Report
	if err := s.enter(); err != nil {
		return report, err
	}
	err := s.db.VerifyChecksum()
	s.leave()
	if err != nil {
		return report, damaged(s.place(), err)
	}
	v := verifier{report: &report, ends: map[string]int64{}}
	err = s.view(func(txn *badger.Txn) error {
		return scan(txn, nil, nil, func(item *badger.Item) (bool, error) {
			if err := ctx.Err(); err != nil {
				return false, err
			}
			key := item.Key()
			value, err := valueOf(item)
			if err == nil {
				report.Keys++
				report.Bytes += int64(len(key) + len(value))
				err = v.visit(key, value)
			}
			if err != nil {
				err = damaged(s.place(), fmt.Errorf("key %x: %w", key[:min(len(key), 64)], err))
			}
			return err == nil, err
		})
	})
	return report, err
}

type verifier struct {
	report *Report
	ends   map[string]int64 // of logs by prefix
}

func (v *verifier) visit(key, value []byte) error {
	if key[0] > spaceOutbox || (key[0] >= spaceTask && len(key) < 6) {
		return errMalformed
	}
	switch key[0] {
	case spaceNames:
		if len(key) > 2 && key[1] == kindTask {
			v.report.Tasks++
		}
	case spaceTask:
		return v.task(key[5], key[6:], value)
	case spaceLog:
		if key[5] == 0 {
			return v.chunk(string(key[:6]), key[6:], value)
		}
	case spaceOutbox:
		if key[5] == outboxRows {
			v.report.OutboxRows++
			_, err := unpack(value)
			return err
		}
	}
	return nil
}

func (v *verifier) task(part byte, rest, value []byte) error {
	switch part {
	case partHistory:
		v.report.Entries++
		if len(rest) < 2 {
			return errMalformed
		}
		if _, _, _, _, ok := splitKey(rest[2:]); !ok {
			return errMalformed
		}
	case partTable:
		v.report.Rows++
	case partTimer:
		v.report.Timers++
		_, err := parseTimer(rest, nil)
		return err
	case partProcessed:
		if len(rest) < 2 {
			return errMalformed
		}
		if _, ok := processedNumber(rest[2:], value); !ok {
			return errMalformed
		}
		v.report.Processed += int64(processedChunk{ids: value}.count())
	case partMeta, partNames, partBound:
	default:
		return errMalformed
	}
	return nil
}

func (v *verifier) chunk(log string, rest, value []byte) error {
	v.report.Chunks++
	c, size, ok := readChunk(rest)
	if !ok || size != int64(len(value)) {
		return errMalformed
	}
	if end, seen := v.ends[log]; seen && end != c.Base {
		return fmt.Errorf("log %d has a gap at offset %d", binary.BigEndian.Uint32([]byte(log[1:])), end)
	}
	v.ends[log] = c.End()
	_, err := unpack(value)
	return err
}
