package microstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestLogConcurrentAppends has several goroutines append to one log while one reads it: the reader must see
// offsets without gaps and each writer's records in its order.
func TestLogConcurrentAppends(t *testing.T) {
	const writers, commits = 6, 150
	s := mustOpen(t, small(t.TempDir()))
	log := must[*Log](t)(s.Log("log"))
	total := int64(0)
	var wait sync.WaitGroup
	for w := range writers {
		for i := range commits {
			total += int64(1 + (w+i)%3)
		}
		wait.Go(func() {
			for i := range commits {
				b := s.NewBatch()
				a := log.Append(b, 1+(w+i)%3, int64(i), int64(i), []byte{byte(w), byte(i >> 8), byte(i)})
				if err := s.Commit(context.Background(), b); err != nil {
					t.Error(err)
					return
				}
				if chunks, err := log.Read(a.Base(), 1); err != nil || chunks[0].Base != a.Base() || chunks[0].Data[0] != byte(w) {
					t.Errorf("own append at %d: %v %v", a.Base(), chunks, err)
				}
			}
		})
	}
	next := map[byte]uint16{}
	for offset := int64(0); offset < total; {
		check(t, log.Wait(t.Context(), offset))
		for _, c := range must[[]Chunk](t)(log.Read(offset, 64)) {
			if c.Base != offset {
				t.Fatalf("chunk at %d, want %d", c.Base, offset)
			}
			w, i := c.Data[0], binary.BigEndian.Uint16(c.Data[1:])
			if i != next[w] {
				t.Fatalf("writer %d: record %d, want %d", w, i, next[w])
			}
			next[w]++
			offset = c.End()
		}
	}
	wait.Wait()
	if stats := s.Stats(); stats.Merged == 0 {
		t.Errorf("no commits were merged: %+v", stats)
	}
}

func TestLogReadsTheSameFromMemoryAndDisk(t *testing.T) {
	dir := t.TempDir()
	s, err := open(small(dir), settings{tail: 400})
	check(t, err)
	log := must[*Log](t)(s.Log("log"))
	for i := range 50 {
		b := s.NewBatch()
		log.Append(b, 3, int64(i), int64(2*i), fmt.Appendf(nil, "%064d", i))
		commit(t, s, b)
	}
	verify := func() {
		for offset := range int64(150) {
			chunks := must[[]Chunk](t)(log.Read(offset, 130))
			if len(chunks) == 0 || chunks[0].Base != offset/3*3 || string(chunks[0].Data) != fmt.Sprintf("%064d", offset/3) || len(chunks) > 2 {
				t.Fatalf("offset %d: %v", offset, chunks)
			}
		}
		if chunks, err := log.Read(150, 1); len(chunks) != 0 || err != nil {
			t.Fatalf("at the end: %v %v", chunks, err)
		}
		for at, want := range map[int64]int64{-5: 0, 0: 0, 1: 3, 50: 75, 98: 147, 99: 150} {
			if got := must[int64](t)(log.OffsetAt(at)); got != want {
				t.Errorf("offset at %d is %d, want %d", at, got, want)
			}
		}
	}
	verify()
	if s.Stats().LogReads == 0 || s.Stats().TailBytes > 400 {
		t.Errorf("the tail did not stay within its budget: %+v", s.Stats())
	}
	check(t, s.Close())
	s = mustOpen(t, small(dir))
	log = must[*Log](t)(s.Log("log"))
	verify()
}

func TestLogRetention(t *testing.T) {
	now := time.Unix(1000, 0)
	dir := t.TempDir()
	s, err := open(small(dir), settings{now: func() time.Time { return now }})
	check(t, err)
	log := must[*Log](t)(s.Log("log"))
	for range 10 {
		b := s.NewBatch()
		log.Append(b, 2, 0, 0, make([]byte, 100))
		commit(t, s, b)
		now = now.Add(time.Second)
	}
	expect := func(start int64) {
		t.Helper()
		var trimmed *TrimmedError
		_, err := log.Read(start-1, 1)
		if log.Start() != start || !errors.Is(err, ErrTrimmed) || !errors.As(err, &trimmed) || trimmed.Start != start {
			t.Errorf("start is %d (%v), want %d", log.Start(), err, start)
		}
	}
	check(t, log.Trim(5)) // in the middle of a chunk
	expect(4)
	log.Retain(LogRetention{MaxBytes: 5 * 101}) // a byte says how a chunk is packed
	check(t, s.retainLogs())
	expect(10)
	log.Retain(LogRetention{MaxAge: 3500 * time.Millisecond})
	check(t, s.retainLogs())
	expect(14)
	now = now.Add(time.Hour)
	check(t, s.retainLogs())
	expect(18) // the newest chunk stays
	check(t, log.Trim(20))
	expect(20)
	check(t, s.Close())
	s = mustOpen(t, small(dir))
	log = must[*Log](t)(s.Log("log"))
	expect(20)
	b := s.NewBatch()
	a := log.Append(b, 1, 0, 0, nil)
	commit(t, s, b)
	if a.Base() != 20 {
		t.Errorf("offset %d was given twice", a.Base())
	}
}

func TestLogWaitAndNotify(t *testing.T) {
	s := mustOpen(t, small(""))
	log := must[*Log](t)(s.Log("log"))
	ch := make(chan struct{}, 1)
	cancel := log.Notify(ch)
	waited := make(chan error)
	go func() { waited <- log.Wait(t.Context(), 0) }()
	b := s.NewBatch()
	log.Append(b, 1, 0, 0, nil)
	commit(t, s, b)
	check(t, <-waited)
	<-ch
	cancel()
	b = s.NewBatch()
	log.Append(b, 1, 0, 0, nil)
	commit(t, s, b)
	select {
	case <-ch:
		t.Error("told after cancel")
	default:
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := log.Wait(ctx, 2); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	go func() { waited <- log.Wait(t.Context(), 2) }()
	check(t, s.Close())
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}
