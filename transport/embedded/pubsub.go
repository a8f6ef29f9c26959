package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/microstore"
	"github.com/millrace/millrace/transport/internal/plain"
)

// PubSub is the plain Watermill face: a message.Publisher and message.Subscriber, one message at a time
// for each partition. Close it before the store.
type PubSub = plain.PubSub

// PubSub makes the plain face of the transport's topics for a group. Members of a group, all of this
// process, share the messages; a new group starts with the oldest. The group's positions are in the store.
// An empty group: every subscription gets all messages, from the oldest on.
func (t *Transport) PubSub(group string) *PubSub {
	return t.groups.PubSub(plain.Config{Group: group, Logger: t.config.Logger})
}

// backend is the transport as package plain wants it.
type backend struct{ t *Transport }

func (b backend) Open(ctx context.Context, name string) (int, error) {
	topic, err := b.t.topic(ctx, name)
	if err != nil {
		return 0, err
	}
	return len(topic.logs), nil
}

func (b backend) Read(ctx context.Context, name string, partition int, offset int64) ([]framework.Record, error) {
	log, err := b.t.log(name, partition)
	if err != nil {
		return nil, err
	}
	if err := log.Wait(ctx, offset); err != nil {
		return nil, err
	}
	chunks, err := log.Read(offset, 1)
	if errors.Is(err, microstore.ErrTrimmed) {
		oldest := log.Start()
		b.t.config.Logger.Error("records are gone before a consumer group has read them",
			"topic", name, "partition", partition, "position", offset, "oldest", oldest)
		offset = oldest
		chunks, err = log.Read(offset, 1)
	}
	if err != nil {
		return nil, err
	}
	if len(chunks) == 0 {
		return nil, fmt.Errorf("embedded: read partition %d of %q: nothing at offset %d", partition, name, offset)
	}
	return decode(nil, &chunks[0], offset)
}

func groupKey(group, topic string, partition int) string {
	return fmt.Sprintf("embedded/group/%s/%s/%d", url.PathEscape(group), url.PathEscape(topic), partition)
}

func (b backend) Load(reader plain.Reader, name string, partition int) (int64, error) {
	log, err := b.t.log(name, partition)
	if err != nil {
		return 0, err
	}
	if reader.Group == "" {
		return log.Start(), nil
	}
	value, ok, err := b.t.store.Get(groupKey(reader.Group, name, partition))
	switch {
	case err != nil:
		return 0, fmt.Errorf("embedded: position of group %q: %w", reader.Group, err)
	case !ok:
		return log.Start(), nil
	case len(value) != 8:
		return 0, fmt.Errorf("embedded: position of group %q in partition %d of %q is damaged", reader.Group, partition, name)
	}
	return int64(binary.BigEndian.Uint64(value)), nil
}

func (b backend) Save(ctx context.Context, reader plain.Reader, name string, partition int, position int64) error {
	if reader.Group == "" {
		return nil
	}
	batch := b.t.store.NewBatch()
	batch.Put(groupKey(reader.Group, name, partition), binary.BigEndian.AppendUint64(nil, uint64(position)))
	if err := b.t.store.Commit(ctx, batch); err != nil {
		return fmt.Errorf("embedded: keep the position of group %q: %w", reader.Group, err)
	}
	return nil
}

func (b backend) Forget(plain.Reader, string) {}

func (b backend) Publish(ctx context.Context, name string, records []framework.Record) error {
	return publisher(b).Publish(ctx, name, records)
}
