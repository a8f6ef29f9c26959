package kafka_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/transport/kafka"
)

// Who is interrupted while a topic gets its leaders is told that, and not that a time is over which is not.
func TestInterruptedWhileATopicIsMade(t *testing.T) {
	cluster := fake(t)
	asked := make(chan struct{})
	once := sync.OnceFunc(func() { close(asked) })
	cluster.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := r.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range r.(*kmsg.ListOffsetsRequest).Topics {
			told := kmsg.NewListOffsetsResponseTopic()
			told.Topic = topic.Topic
			for _, asked := range topic.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				p.Partition, p.ErrorCode = asked.Partition, kerr.LeaderNotAvailable.Code
				told.Partitions = append(told.Partitions, p)
			}
			answer.Topics = append(answer.Topics, told)
		}
		once()
		return answer, nil, true
	})
	transport := open(t, kafka.Config{Brokers: cluster.ListenAddrs(), Wait: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	err := transport.CreateTopic(ctx, "slow", 2)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "not ready yet") {
		t.Errorf("it says: %v", err)
	}
}
