package pgtail

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/millrace/millrace/internal/failpoint"
	"github.com/millrace/millrace/outbox"
)

const (
	// statusEvery is how often the server is told what is done, or a third of its wal_sender_timeout if that is less.
	statusEvery = time.Second
	// silence is how long the server may say nothing, though it is asked to, before it is taken for gone.
	silence = 30 * time.Second
	// bufferRows and bufferBytes bound what is read and not yet asked for.
	bufferRows, bufferBytes = 2000, 4 << 20
	// openMost bounds the transactions that are not done: small ones, behind one that takes long.
	openMost = 100_000
)

// pending is a row that was read.
type pending struct {
	row   *outbox.LogRow
	xid   uint32
	bytes int
}

// reader reads the stream of a slot. One goroutine receives and fills a buffer; when that is full it stops, and the server
// stops with it. Another tells the server what is done, whatever the first is at, so that the server does not take the
// relay for dead while a broker blocks.
type reader struct {
	log   *Log
	wire  net.Conn
	front *pgproto3.Frontend
	sql   *pgx.Conn // to look rows up in the table
	every time.Duration

	lock     sync.Mutex
	progress progress
	buffer   []pending
	bytes    int
	heard    time.Time
	place    LSN // up to which the stream was received
	reached  LSN // up to which Next has returned all
	err      error

	filled, drained, hurry chan struct{} // each has an element when there may be news
	ctx                    context.Context
	cancel                 context.CancelFunc
	next                   sync.Mutex // held by Next
	close                  sync.Once
	owned                  sync.WaitGroup
}

var errClosed = errors.New("the reader is closed")

// Open is part of outbox.Log.
func (l *Log) Open(ctx context.Context, mark string) (outbox.LogReader, error) {
	r, err := l.open(ctx, mark)
	if err != nil {
		return nil, l.fail("read from the slot", err)
	}
	return r, nil
}

func (l *Log) open(ctx context.Context, mark string) (_ *reader, err error) {
	r := &reader{
		log: l, heard: time.Now(), filled: make(chan struct{}, 1), drained: make(chan struct{}, 1),
		hurry: make(chan struct{}, 1),
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if r.sql, err = pgx.Connect(ctx, l.address); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = r.sql.Close(context.WithoutCancel(ctx))
		}
	}()
	if _, err := l.mark(ctx, r.sql); err != nil && !errors.Is(err, outbox.ErrNoLog) {
		return nil, err
	}
	var timeout int64
	if err := r.sql.QueryRow(ctx, "SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout'").Scan(&timeout); err != nil {
		return nil, err
	}
	r.every = statusEvery
	if third := time.Duration(timeout) * time.Millisecond / 3; third > 0 {
		r.every = min(r.every, third)
	}
	conn, err := l.startStream(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := r.sql.Exec(ctx, fmt.Sprintf("COMMENT ON PUBLICATION %s IS '%s%s %s'", l.config.Publication, markReady, l.config.Slot, mark)); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	hijacked, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	r.wire, r.front = hijacked.Conn, hijacked.Frontend
	r.owned.Go(r.receive)
	r.owned.Go(r.report)
	return r, nil
}

// startStream connects, and waits for a slot that is in use.
func (l *Log) startStream(ctx context.Context) (*pgconn.PgConn, error) {
	deadline := time.Now().Add(l.config.BusyTimeout)
	for {
		conn, err := l.connectReplication(ctx)
		if err != nil {
			return nil, err
		}
		if err = l.startReplication(ctx, conn); err == nil {
			return conn, nil
		}
		_ = conn.Close(context.WithoutCancel(ctx))
		var coded *pgconn.PgError
		if !errors.As(err, &coded) || coded.Code != "55006" { // object_in_use
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("%w: end what reads from it, or choose another Config.Slot: %w", outbox.ErrLogInUse, err)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func (l *Log) startReplication(ctx context.Context, conn *pgconn.PgConn) error {
	messages := ""
	if l.config.Messages {
		messages = ", messages 'true'"
	}
	conn.Frontend().Send(&pgproto3.Query{String: fmt.Sprintf(
		"START_REPLICATION SLOT %s LOGICAL 0/0 (proto_version '1', publication_names '%s'%s)", l.config.Slot, l.config.Publication, messages)})
	if err := conn.Frontend().Flush(); err != nil {
		return err
	}
	for {
		m, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case *pgproto3.CopyBothResponse:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(m)
		}
	}
}

// receive reads the stream until it ends; once the reader is closed, without taking anything.
func (r *reader) receive() {
	d := decoder{prefix: r.log.prefix()}
	var xid uint32
	for {
		closed := !r.room()
		m, err := r.front.Receive()
		if err == nil {
			switch m := m.(type) {
			case *pgproto3.CopyData:
				if !closed {
					err = r.take(&d, &xid, m.Data)
				}
			case *pgproto3.ErrorResponse:
				err = pgconn.ErrorResponseToPgError(m)
			case *pgproto3.CommandComplete: // the slot is free by now
				err = errors.New("the server has ended the stream")
			}
		}
		if err != nil {
			r.end(err)
			return
		}
	}
}

// room waits for room in the buffer; false: the reader is closed.
func (r *reader) room() bool {
	for {
		if r.ctx.Err() != nil {
			return false
		}
		r.lock.Lock()
		ok := len(r.buffer) < bufferRows && r.bytes < bufferBytes && len(r.progress.open) < openMost
		r.heard = time.Now()
		r.lock.Unlock()
		if ok {
			return true
		}
		select {
		case <-r.drained:
		case <-r.ctx.Done():
			return false
		case <-time.After(r.every): // it counts as having heard
		}
	}
}

// take takes a message of the stream: of the server itself, or of the log.
func (r *reader) take(d *decoder, xid *uint32, data []byte) error {
	b := &bytesReader{rest: data}
	kind := b.byte()
	r.lock.Lock()
	defer r.lock.Unlock()
	r.heard = time.Now()
	switch kind {
	case 'k': // the server is at place, and may want an answer
		place := LSN(b.uint64())
		b.uint64()
		if b.byte() == 1 {
			signal(r.hurry)
		}
		if r.progress.idle(place) {
			r.place = max(r.place, place)
			signal(r.filled) // reached may have moved
		}
		return nil
	case 'w':
		b.uint64()
		b.uint64()
		b.uint64()
	default:
		return fmt.Errorf("a message %q that is not known", kind)
	}
	m, err := d.decode(b.rest)
	if err != nil {
		return err
	}
	switch m.kind {
	case 'B':
		*xid = m.xid
		r.progress.begin()
	case 'C':
		r.progress.commit(LSN(m.commit))
		r.place = max(r.place, LSN(m.commit))
	}
	if m.row != nil {
		r.progress.add(m.row.ID)
		size := rowBytes(m.row)
		r.buffer = append(r.buffer, pending{m.row, *xid, size})
		r.bytes += size
		signal(r.filled)
	}
	return nil
}

func rowBytes(row *outbox.LogRow) int {
	c := &row.Record
	return 200 + len(row.Topic) + len(c.Key) + len(c.ID) + len(c.Type) + len(c.Source) + len(row.Metadata) + len(c.Value)
}

// Next is part of outbox.LogReader.
func (r *reader) Next(ctx context.Context, rows, bytes int) ([]outbox.LogRow, error) {
	r.next.Lock()
	defer r.next.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	for {
		if err := failpoint.Hit("outbox.log.read"); err != nil {
			return nil, err
		}
		batch, place, err := r.fetch(ctx, rows, bytes)
		if err != nil {
			return nil, fmt.Errorf("log: %w", err)
		}
		found, gone, err := r.lookUp(ctx, batch)
		if err != nil {
			r.end(err)
			return nil, fmt.Errorf("log: look rows up in the table: %w", err)
		}
		r.Done(gone...)
		r.lock.Lock()
		r.reached = max(r.reached, place)
		r.lock.Unlock()
		if len(found) > 0 {
			return found, nil
		}
	}
}

// fetch takes rows from the buffer, or waits. It also returns where the stream is with them, 0 while there are more.
func (r *reader) fetch(ctx context.Context, rows, bytes int) (batch []pending, place LSN, err error) {
	for {
		r.lock.Lock()
		n, size := 0, 0
		for n < len(r.buffer) && n < rows && size < bytes {
			size += r.buffer[n].bytes
			n++
		}
		batch = append(batch, r.buffer[:n]...)
		if r.buffer = r.buffer[n:]; len(r.buffer) == 0 {
			r.buffer, place = nil, r.place
		}
		r.bytes -= size
		err = r.err
		if n == 0 && err == nil && place != 0 {
			r.reached = max(r.reached, place)
		}
		r.lock.Unlock()
		if err != nil || n > 0 {
			signal(r.drained)
			return batch, place, err
		}
		select {
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		case <-r.filled:
		}
	}
}

// Done is part of outbox.LogReader.
func (r *reader) Done(ids ...int64) {
	if len(ids) == 0 {
		return
	}
	r.lock.Lock()
	for _, id := range ids {
		r.progress.finish(id)
	}
	r.progress.advance()
	r.lock.Unlock()
	signal(r.drained)
}

// Reached is part of outbox.LogReader.
func (r *reader) Reached() uint64 {
	r.lock.Lock()
	defer r.lock.Unlock()
	return uint64(r.reached)
}

// end takes note of why the stream has ended, and wakes who waits.
func (r *reader) end(err error) {
	r.lock.Lock()
	if r.err == nil {
		r.err = err
	}
	r.lock.Unlock()
	signal(r.filled)
}

// Close is part of outbox.LogReader.
func (r *reader) Close() (err error) {
	r.close.Do(func() {
		r.lock.Lock()
		failed := r.err != nil
		r.lock.Unlock()
		r.cancel()
		if !failed {
			err = r.sendStatus() // the last word
		}
		r.end(errClosed)
		_ = r.wire.SetDeadline(time.Now().Add(time.Second))
		_, _ = r.wire.Write([]byte{'c', 0, 0, 0, 4}) // CopyDone
		r.owned.Wait()                               // until the server has ended the stream, too
		_, _ = r.wire.Write([]byte{'X', 0, 0, 0, 4}) // Terminate
		_ = r.wire.Close()
		r.next.Lock()
		defer r.next.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = r.sql.Close(ctx)
	})
	return err
}

// signal puts an element into a channel of one, unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
