package transporttest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
)

// Fixture is a transport for one test. What it needs closed it closes in t.Cleanup.
type Fixture struct {
	Transport framework.Transport
	// Create makes a topic. Default: the transport is a framework.TopicCreator.
	Create func(t testing.TB, topic string, partitions int)
	// Write puts records into a topic. Default: the transport's Publisher.
	Write func(t testing.TB, topic string, records []framework.Record)
	// End ends a topic. Default: topics do not end, and tests of that are skipped.
	End func(t testing.TB, topic string)
	// Restart closes the transport and opens it again. Default: the same transport goes on.
	Restart func(t testing.TB) framework.Transport
}

// Features says what a transport cannot do. Its zero value is all of the contract.
type Features struct {
	// Partitions of the topics that the tests make. Default 4.
	Partitions int
	// ReadOnly: what can be read cannot be published to, as with files that are sources.
	ReadOnly bool
	// ValuesOnly: of a record only the value travels.
	ValuesOnly bool
	// Whole: a topic is complete when it is first read, and ends; nothing arrives later.
	Whole bool
}

// Run runs the suite, each test with a fixture of its own, and fails if one leaves goroutines behind.
func Run(t *testing.T, fixture func(t testing.TB) Fixture, features Features) {
	if features.Partitions == 0 {
		features.Partitions = 4
	}
	for _, test := range []struct {
		name string
		run  func(*suite)
		skip bool
	}{
		{"NoTopic", noTopic, false},
		{"Topic", topicInfo, false},
		{"CreateTopic", createTopic, features.ReadOnly},
		{"Order", order, false},
		{"Partitioning", partitioning, features.ReadOnly || features.ValuesOnly},
		{"Attributes", attributes, features.ValuesOnly},
		{"Watermarks", watermarks, features.ValuesOnly},
		{"BatchBounds", batchBounds, false},
		{"LargeRecord", largeRecord, false},
		{"InFlight", inFlight, false},
		{"Start", start, false},
		{"Redelivery", redelivery, false},
		{"Refused", refused, false},
		{"CaughtUp", caughtUp, false},
		{"Live", live, features.Whole},
		{"End", end, false},
		{"Close", closing, false},
		{"CloseUnread", closeUnread, false},
		{"Cancel", cancelling, false},
		{"TwoTopics", twoTopics, false},
		{"ConcurrentPublishers", concurrentPublishers, features.ReadOnly},
		{"PublishCancelled", publishCancelled, features.ReadOnly},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.skip {
				t.Skip("the transport does not have it: see its Features")
			}
			ignore := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, ignore) }) // after the fixture's own
			test.run(&suite{T: t, Fixture: fixture(t), Features: features})
		})
	}
}
