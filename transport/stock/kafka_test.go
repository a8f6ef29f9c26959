package stock_test

import (
	"strings"
	"testing"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/internal/testenv/services"
	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

func kafkaConfig(partitions int32) func(t testing.TB) stock.Config {
	return func(t testing.TB) stock.Config {
		brokers := strings.Split(services.Kafka(t), ",")
		// The default marshaler drops the key, and with it the order.
		marshaler := kafka.NewWithPartitioningMarshaler(func(_ string, msg *message.Message) (string, error) {
			return msg.Metadata.Get(framework.MetadataKey), nil
		})
		oldest := kafka.DefaultSaramaSubscriberConfig()
		oldest.Consumer.Offsets.Initial = sarama.OffsetOldest
		return stock.Config{
			Subscriber: func(group string) (message.Subscriber, error) {
				return kafka.NewSubscriber(kafka.SubscriberConfig{
					Brokers: brokers, Unmarshaler: marshaler, ConsumerGroup: group, OverwriteSaramaConfig: oldest,
					InitializeTopicDetails: &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1},
				}, watermill.NopLogger{})
			},
			Publisher: func() (message.Publisher, error) {
				return kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: marshaler}, watermill.NopLogger{})
			},
		}
	}
}

func TestKafka(t *testing.T) {
	const partitions = 4 // each has one record out
	testPubSub(t, kafkaConfig(partitions), transporttest.Features{AtOnce: partitions, Slow: true})
}

func TestKafkaWithOnePartition(t *testing.T) {
	testPipeline(t, kafkaConfig(1)(t), 300)
}
