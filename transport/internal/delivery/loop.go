package delivery

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// loop delivers the batches of one partition. One goroutine reads, delivers and takes acknowledgements,
// so there is nothing to lock:
//
//  1. Take the acknowledgements of delivered batches, oldest first; tell the reader the new position.
//  2. While fewer than InFlight are out, ask the reader for a batch and deliver it.
//  3. Wait for the oldest acknowledgement, for the reader to wake, or for the end.
//  4. At the end, wait a while for the acknowledgements of what is out, where the reader wants them.
//
// Acknowledgements are taken oldest first because the engine commits a partition's batches in order; one
// that comes out of order counts when the older ones have come.
type loop struct {
	sub      *Subscriber
	reader   Reader
	topic    string
	out      chan<- *message.Message
	messages context.Context // what messages carry
	ctx      context.Context // ends with the subscription
	stop     chan struct{}   // closed when this partition alone is to end
	exited   chan struct{}

	delivered []delivered // not acknowledged, oldest first
	seq       uint64
	finished  bool // nothing more to read, for good
}

type delivered struct {
	msg  *message.Message
	next int64
}

func (l *loop) run() {
	defer close(l.exited)
	defer l.reader.Close()
	defer l.linger()
	for {
		if refused := l.settle(); refused {
			l.await()
			return
		}
		select {
		case <-l.stop:
			return
		default:
		}
		if !l.finished && len(l.delivered) < l.sub.inFlight {
			batch, err := l.reader.Next(l.ctx)
			if l.ctx.Err() != nil {
				return
			}
			if err != nil {
				l.sub.fail(l.topic, err)
				l.finished = true
			}
			if batch != nil {
				if !l.deliver(batch) {
					return
				}
				continue
			}
		}
		if !l.wait() {
			return
		}
	}
}

// linger takes the acknowledgements of batches that are out when delivery has ended.
func (l *loop) linger() {
	lingerer, ok := l.reader.(Lingerer)
	if !ok {
		return
	}
	timeout := time.NewTimer(lingerer.Linger())
	defer timeout.Stop()
	for !l.settle() && len(l.delivered) > 0 {
		acked, nacked := l.oldest()
		select {
		case <-acked:
		case <-nacked:
		case <-timeout.C:
			return
		case <-l.messages.Done():
			return
		}
	}
}

// settle takes the acknowledgements that have come; true when a batch was refused.
func (l *loop) settle() (refused bool) {
	acked := 0
	var position int64
	for i := range l.delivered {
		select {
		case <-l.delivered[i].msg.Nacked():
			refused = true
		case <-l.delivered[i].msg.Acked():
			if acked == i {
				acked++
				position = l.delivered[i].next
			}
		default:
		}
	}
	if acked > 0 {
		n := copy(l.delivered, l.delivered[acked:])
		clear(l.delivered[n:])
		l.delivered = l.delivered[:n]
		l.reader.Acked(position)
	}
	return refused
}

func (l *loop) deliver(b *framework.Batch) bool {
	b.Seq = l.seq
	l.seq++
	l.finished = l.finished || b.End
	msg := framework.NewBatchMessage(l.messages, b)
	for {
		acked, nacked := l.oldest()
		select {
		case l.out <- msg:
			l.delivered = append(l.delivered, delivered{msg, b.Next})
			return true
		case <-acked:
			l.settle()
		case <-nacked:
			l.await()
			return false
		case <-l.stop:
			return false
		case <-l.ctx.Done():
			return false
		}
	}
}

// await waits for the end.
func (l *loop) await() {
	select {
	case <-l.stop:
	case <-l.ctx.Done():
	}
}

func (l *loop) wait() bool {
	var wake <-chan struct{}
	if !l.finished && len(l.delivered) < l.sub.inFlight {
		wake = l.reader.Wake()
	}
	acked, nacked := l.oldest()
	select {
	case <-acked:
	case <-nacked:
	case <-wake:
	case <-l.stop:
		return false
	case <-l.ctx.Done():
		return false
	}
	return true
}

// oldest returns the channels of the oldest batch that is out; nil channels when there is none.
func (l *loop) oldest() (acked, nacked <-chan struct{}) {
	if len(l.delivered) == 0 {
		return nil, nil
	}
	return l.delivered[0].msg.Acked(), l.delivered[0].msg.Nacked()
}
