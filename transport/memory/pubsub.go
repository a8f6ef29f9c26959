package memory

import (
	"context"
	"fmt"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/internal/plain"
)

// PubSub is the plain Watermill face: a message.Publisher and message.Subscriber, one message at a time
// for each partition. Its Close does not close the transport.
type PubSub = plain.PubSub

// PubSub makes the plain face of the transport's topics for a group. Members of a group share the
// messages; a new group starts with the oldest. An empty group: every subscription gets all messages.
func (t *Transport) PubSub(group string) *PubSub {
	return t.groups.PubSub(plain.Config{Group: group})
}

// backend is the transport as package plain wants it.
type backend struct{ t *Transport }

func (b backend) Open(_ context.Context, name string) (int, error) {
	topic, err := b.t.topic(name)
	if err != nil {
		return 0, err
	}
	return len(topic.partitions), nil
}

func (b backend) Read(ctx context.Context, name string, partition int, offset int64) ([]framework.Record, error) {
	t, err := b.t.topic(name)
	if err != nil {
		return nil, err
	}
	wake := make(chan struct{}, 1)
	for {
		t.mu.Lock()
		p := &t.partitions[partition]
		if offset = max(offset, p.start); offset < p.end {
			records := p.from(offset, 0, 0)
			t.mu.Unlock()
			return records, nil
		}
		p.await(wake)
		t.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			t.mu.Lock()
			p.leave(wake)
			t.mu.Unlock()
			return nil, context.Cause(ctx)
		}
	}
}

func readerName(r plain.Reader) string {
	if r.Group == "" {
		return fmt.Sprintf("single/%d", r.ID)
	}
	return "plain/" + r.Group
}

func (b backend) Load(reader plain.Reader, name string, partition int) (int64, error) {
	t, err := b.t.topic(name)
	if err != nil {
		return 0, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.readers[readerName(reader)]
	if known == nil {
		known = &progress{acked: make([]int64, len(t.partitions))}
		for i := range known.acked {
			known.acked[i] = t.partitions[i].start
		}
		t.readers[readerName(reader)] = known
	}
	return known.acked[partition], nil
}

func (b backend) Save(_ context.Context, reader plain.Reader, name string, partition int, position int64) error {
	t, err := b.t.topic(name)
	if err == nil {
		t.acked(readerName(reader), partition, position)
	}
	return err
}

func (b backend) Forget(reader plain.Reader, name string) {
	if t, err := b.t.topic(name); err == nil {
		t.forget(readerName(reader))
	}
}

func (b backend) Publish(ctx context.Context, name string, records []framework.Record) error {
	return publisher(b).Publish(ctx, name, records)
}
