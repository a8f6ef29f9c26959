package file

import (
	"io"
	"sync"
	"time"
)

// pump reads a stream in a goroutine of its own, so that reading from it can be given up: a read of
// standard input cannot be interrupted. After Close the goroutine ends with the read that it is in.
type pump struct {
	filled chan []byte
	empty  chan []byte
	done   chan struct{}
	source io.Reader
	rest   []byte
	whole  []byte
	err    error
	once   sync.Once
}

func newPump(source io.Reader) *pump {
	p := &pump{
		source: source, filled: make(chan []byte), empty: make(chan []byte, 2), done: make(chan struct{}),
	}
	p.empty <- make([]byte, 64<<10)
	p.empty <- make([]byte, 64<<10)
	go p.run()
	return p
}

func (p *pump) run() {
	defer close(p.filled)
	for {
		var b []byte
		select {
		case b = <-p.empty:
		case <-p.done:
			return
		}
		n, err := p.source.Read(b[:cap(b)])
		if n > 0 {
			select {
			case p.filled <- b[:n]:
			case <-p.done:
				return
			}
		} else if err == nil {
			p.empty <- b
		}
		if err != nil {
			p.err = err // seen after filled is closed
			return
		}
	}
}

func (p *pump) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if p.whole != nil {
			p.empty <- p.whole
			p.whole = nil
		}
		select {
		case got, ok := <-p.filled:
			if !ok {
				return 0, p.err
			}
			p.whole, p.rest = got, got
		case <-p.done:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// stop ends reading, also one that waits in another goroutine. It may be called twice.
func (p *pump) stop() {
	p.once.Do(func() { close(p.done) })
	if deadline, ok := p.source.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = deadline.SetReadDeadline(time.Unix(1, 0)) // where the system can do it
	}
}
