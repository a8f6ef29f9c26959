package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// newest asks where a partition ends, open transactions included.
func (t *Transport) newest(ctx context.Context, at place) (int64, error) {
	return t.askOffset(ctx, at, latestOffset, readUncommitted)
}

// oldest asks where a partition begins.
func (t *Transport) oldest(ctx context.Context, topic string, partition int32) (int64, error) {
	return t.askOffset(ctx, place{topic, partition}, earliestOffset, readUncommitted)
}

// What is asked of a broker, as it is on the wire.
const (
	latestOffset, earliestOffset   = int64(-1), int64(-2) // in place of a time
	readUncommitted, readCommitted = int8(0), int8(1)     // isolation levels
)

// askOffset asks for an offset of one partition, and no broker but its leader.
func (t *Transport) askOffset(ctx context.Context, of place, which int64, isolation int8) (offset int64, err error) {
	wrong := func(err error) error {
		name := map[int64]string{latestOffset: "newest", earliestOffset: "oldest"}[which]
		return fmt.Errorf("kafka: topic %q: ask for the %s offset of partition %d: %w", of.topic, name, of.partition, err)
	}
	partition := kmsg.NewListOffsetsRequestTopicPartition()
	partition.Partition, partition.Timestamp = of.partition, which
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic, topic.Partitions = of.topic, append(topic.Partitions, partition)
	request := kmsg.NewPtrListOffsetsRequest()
	request.IsolationLevel, request.Topics = isolation, append(request.Topics, topic)
	err = t.ask(ctx, passes, func(ctx context.Context) error {
		answer, err := request.RequestWith(ctx, t.client)
		if err != nil {
			return wrong(err)
		}
		for _, topic := range answer.Topics {
			for _, p := range topic.Partitions {
				if topic.Topic == of.topic && p.Partition == of.partition {
					if offset, err = p.Offset, kerr.ErrorForCode(p.ErrorCode); err != nil {
						return wrong(err)
					}
					return nil
				}
			}
		}
		return wrong(errNoOffset)
	})
	return offset, err
}

var errNoOffset = errors.New("no broker tells it")
