package microstore

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
)

// A backup is the magic, then blocks, each with its length (4 bytes), then a block of length 0 with the number
// of bytes (8) and the checksum (4) of all blocks. The blocks together are keys and values, each with its
// length as a varint before it.
//
// Rejected: Badger's own backup stream. It may be cut between two messages without anybody noticing, and a
// large value that cannot be read is empty in it.
var backupMagic = []byte("millrace microstore 1\n")

const maxBackupBlock = 1 << 20

// Backup writes the store as it is at this moment, between two commits, to w. Commits go on meanwhile.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if _, err := w.Write(backupMagic); err != nil {
		return fmt.Errorf("microstore: back up %s: %w", s.place(), err)
	}
	err := s.db.VerifyChecksum() // a table that does not match would end the scan early
	if err != nil {
		return damaged(s.place(), err)
	}
	blocks := &blockWriter{ctx: ctx, to: w, closing: s.closing}
	buffer := bufio.NewWriterSize(blocks, 256<<10)
	err = s.view(func(txn *badger.Txn) error {
		return scan(txn, nil, nil, func(item *badger.Item) (bool, error) {
			value, err := valueOf(item)
			if err != nil {
				return false, err
			}
			for _, part := range [][]byte{item.Key(), value} {
				var size [binary.MaxVarintLen64]byte
				if _, err := buffer.Write(size[:binary.PutUvarint(size[:], uint64(len(part)))]); err != nil {
					return false, err
				}
				if _, err := buffer.Write(part); err != nil {
					return false, err
				}
			}
			return true, nil
		})
	})
	if err == nil {
		err = buffer.Flush()
	}
	if err == nil {
		err = blocks.end()
	}
	if err != nil {
		return fmt.Errorf("microstore: back up %s: %w", s.place(), err)
	}
	return nil
}

type blockWriter struct {
	ctx     context.Context
	closing <-chan struct{}
	to      io.Writer
	bytes   uint64
	sum     uint32
}

func (w *blockWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		select {
		case <-w.closing:
			return n, ErrClosed
		default:
		}
		if err := w.ctx.Err(); err != nil {
			return n, err
		}
		block := p[:min(len(p), maxBackupBlock)]
		if _, err := w.to.Write(binary.BigEndian.AppendUint32(nil, uint32(len(block)))); err != nil {
			return n, err
		}
		if _, err := w.to.Write(block); err != nil {
			return n, err
		}
		w.bytes, w.sum = w.bytes+uint64(len(block)), crc32.Update(w.sum, castagnoli, block)
		n, p = n+len(block), p[len(block):]
	}
	return n, nil
}

func (w *blockWriter) end() error {
	trailer := binary.BigEndian.AppendUint64(make([]byte, 4), w.bytes)
	_, err := w.to.Write(binary.BigEndian.AppendUint32(trailer, w.sum))
	return err
}

// blockReader undoes blockWriter; io.EOF comes only after a trailer that matches.
type blockReader struct {
	ctx   context.Context
	from  io.Reader
	left  int
	bytes uint64
	sum   uint32
	ended bool
}

var errBackup = errors.New("backup is cut off or altered")

func (r *blockReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	for r.left == 0 {
		if r.ended {
			return 0, io.EOF
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n, err := r.from.Read(p[:min(len(p), r.left)])
	r.left, r.bytes, r.sum = r.left-n, r.bytes+uint64(n), crc32.Update(r.sum, castagnoli, p[:n])
	if err == io.EOF && r.left > 0 {
		err = errBackup
	} else if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (r *blockReader) next() error {
	var header [4]byte
	if _, err := io.ReadFull(r.from, header[:]); err != nil {
		return errors.Join(errBackup, err)
	}
	if r.left = int(binary.BigEndian.Uint32(header[:])); r.left > maxBackupBlock {
		return errBackup
	}
	if r.left > 0 {
		return nil
	}
	var trailer [12]byte
	if _, err := io.ReadFull(r.from, trailer[:]); err != nil {
		return errors.Join(errBackup, err)
	}
	if binary.BigEndian.Uint64(trailer[:]) != r.bytes || binary.BigEndian.Uint32(trailer[8:]) != r.sum {
		return errBackup
	}
	r.ended = true
	return nil
}

// Restore makes a store in cfg.Dir, which must be empty or absent, from a backup. When it returns an error,
// the directory is empty again.
func Restore(ctx context.Context, cfg Config, r io.Reader) (err error) {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if cfg = cfg.WithDefaults(); cfg.InMemory {
		return errors.New("microstore: a store in memory cannot be restored: name a directory")
	}
	if entries, err := os.ReadDir(cfg.Dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("microstore: restore into %s: the directory is not empty: name an empty one", cfg.Dir)
	}
	if err := checkDir(cfg.Dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("microstore: restore into %s: %w", cfg.Dir, err), empty(cfg.Dir))
		}
	}()
	magic := make([]byte, len(backupMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != string(backupMagic) {
		return fmt.Errorf("%w: this is not a backup of a store, or one of a newer version", ErrFormat)
	}
	if err := load(ctx, cfg, r); err != nil {
		return err
	}
	s, err := Open(cfg) // which checks the format
	if err != nil {
		return err
	}
	return s.Close()
}

// load writes the pairs of a backup. They need not be one transaction: what is not complete is removed.
func load(ctx context.Context, cfg Config, r io.Reader) (err error) {
	db, lock, err := openDatabase(cfg)
	if err != nil {
		return err
	}
	defer func() {
		s := &Store{cfg: cfg, db: db}
		err = errors.Join(err, s.seal(), db.Close(), lock.Close())
	}()
	pairs := bufio.NewReaderSize(&blockReader{ctx: ctx, from: r}, 256<<10)
	write := db.NewWriteBatch()
	defer write.Cancel()
	for {
		key, err := readSized(pairs, maxKeyBytes)
		if errors.Is(err, io.EOF) { // it comes only after the trailer
			break
		}
		var value []byte
		if err == nil {
			value, err = readSized(pairs, math.MaxInt32)
		}
		if err == nil {
			err = write.Set(key, value)
		}
		if cause := ctx.Err(); cause != nil {
			return cause
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	return write.Flush()
}

// readSized reads a length and as many bytes; io.EOF only when there is nothing more.
func readSized(r *bufio.Reader, limit uint64) ([]byte, error) {
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	size, err := binary.ReadUvarint(r)
	if err != nil || size > limit {
		return nil, errors.Join(errBackup, err)
	}
	part := new(bytes.Buffer) // it grows with what is really there
	if _, err = io.CopyN(part, r, int64(size)); err != nil {
		return nil, errors.Join(errBackup, err)
	}
	return part.Bytes(), nil
}

func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return err
}
