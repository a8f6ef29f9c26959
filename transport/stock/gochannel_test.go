package stock_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/millrace/millrace/transport/stock"
	"github.com/millrace/millrace/transport/transporttest"
)

// goChannel keeps what was published, as a broker does, and delivers it to each subscription from the beginning.
func goChannel(t testing.TB) stock.Config {
	channel := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	t.Cleanup(func() {
		if err := channel.Close(); err != nil {
			t.Error(err)
		}
	})
	return stock.Config{Subscriber: stock.SharedSubscriber(channel), Publisher: stock.SharedPublisher(channel)}
}

func TestGoChannel(t *testing.T) {
	testPubSub(t, goChannel, transporttest.Features{Unordered: true})
}
