package frameworktest

import (
	"context"
	"errors"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/millrace/millrace/framework"
)

// sources stands in for the transport of source topics: the Driver feeds them itself.
type sources struct {
	partitions   int
	unpositioned bool
}

func (s *sources) Topic(context.Context, string) (framework.TopicInfo, error) {
	return framework.TopicInfo{Partitions: s.partitions, Positioned: !s.unpositioned}, nil
}

func (s *sources) Subscriber(framework.SubscriberConfig) (message.Subscriber, error) {
	return nil, errors.New("frameworktest: sources are fed with Send")
}

func (s *sources) Publisher(framework.PublisherConfig) (framework.Publisher, error) {
	return nil, errors.New("frameworktest: sources are fed with Send")
}
