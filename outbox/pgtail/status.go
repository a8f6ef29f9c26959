package pgtail

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/millrace/millrace/internal/failpoint"
)

// report tells the server what is done, now and then and when it asks.
func (r *reader) report() {
	ticker := time.NewTicker(r.every)
	defer ticker.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-ticker.C:
		case <-r.hurry:
		}
		if err := r.sendStatus(); err != nil {
			r.end(err)
			return
		}
	}
}

// sendStatus writes a status update: written, flushed and applied up to the same place, which the server takes for the
// slot's; 0 tells it nothing.
func (r *reader) sendStatus() error {
	r.lock.Lock()
	done, quiet := r.progress.done, time.Since(r.heard)
	r.lock.Unlock()
	if quiet > silence {
		return fmt.Errorf("nothing was heard of the server for %v", quiet.Round(time.Second))
	}
	if err := failpoint.Hit("outbox.log.ack.before"); err != nil {
		return err
	}
	const length = 4 + 1 + 4*8 + 1
	m := make([]byte, 0, 1+length)
	m = append(m, 'd')
	m = binary.BigEndian.AppendUint32(m, length)
	m = append(m, 'r')
	for range 3 {
		m = binary.BigEndian.AppendUint64(m, uint64(done))
	}
	m = binary.BigEndian.AppendUint64(m, uint64(time.Since(epoch).Microseconds()))
	ask := byte(0)
	if quiet > silence/3 {
		ask = 1
	}
	m = append(m, ask)
	if err := r.wire.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	if _, err := r.wire.Write(m); err != nil {
		return err
	}
	return failpoint.Hit("outbox.log.ack.after")
}

// epoch is where PostgreSQL's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
