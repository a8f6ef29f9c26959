package transporttest

import (
	"testing"
	"time"

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
	// Prefix is put before the names of topics, where topics outlive the fixture. Default: none.
	Prefix string
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
	// Unpositioned: records have no positions, and what was not acknowledged comes again, perhaps beside what was.
	// Topics are of one partition, and any name is one.
	Unpositioned bool
	// Unordered: records come in any order.
	Unordered bool
	// ReturnsLater: what was not acknowledged may come again behind what was sent after it.
	ReturnsLater bool
	// AtOnce is how many records an Unpositioned transport has out without acknowledgement at most. Default: no bound.
	AtOnce int
	// NoTombstones: a record without a value comes with an empty one.
	NoTombstones bool
	// Slow: tests use a tenth of the records.
	Slow bool
	// Patience for what must happen. Default 10 s.
	Patience time.Duration
}

// Run runs the suite, each test with a fixture of its own, and fails if one leaves goroutines behind.
func Run(t *testing.T, fixture func(t testing.TB) Fixture, features Features) {
	if features.Partitions == 0 {
		features.Partitions = 4
		if features.Unpositioned {
			features.Partitions = 1
		}
	}
	if features.Patience == 0 {
		features.Patience = 10 * time.Second
	}
	for _, test := range []struct {
		name string
		run  func(*suite)
		skip bool
	}{
		{"NoTopic", noTopic, features.Unpositioned},
		{"Topic", topicInfo, false},
		{"CreateTopic", createTopic, features.ReadOnly || features.Unpositioned},
		{"Order", order, false},
		{"Partitioning", partitioning, features.ReadOnly || features.ValuesOnly},
		{"Attributes", attributes, features.ValuesOnly},
		{"Tombstones", tombstones, features.ReadOnly || features.ValuesOnly || features.NoTombstones},
		{"NoTombstones", noTombstones, features.ReadOnly || !features.ValuesOnly && !features.NoTombstones},
		{"Watermarks", watermarks, features.ValuesOnly || features.Unpositioned},
		{"WatermarksForAll", watermarksForAll, features.ValuesOnly || features.Unpositioned},
		{"BatchBounds", batchBounds, false},
		{"LargeRecord", largeRecord, false},
		{"InFlight", inFlight, false},
		{"Start", start, features.Unpositioned},
		{"PastTheEnd", pastTheEnd, features.Unpositioned},
		{"Redelivery", redelivery, false},
		{"Refused", refused, false},
		{"CaughtUp", caughtUp, false},
		{"Live", live, features.Whole},
		{"Read", readOutside, features.ReadOnly || features.ValuesOnly || features.Unpositioned},
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
			t.Cleanup(func() { noGoroutines(t, features.Patience, ignore) }) // after the fixture's own
			test.run(&suite{T: t, Fixture: fixture(t), Features: features})
		})
	}
}

// noGoroutines fails when a test has left goroutines behind that do not end for long.
func noGoroutines(t *testing.T, patience time.Duration, ignore goleak.Option) {
	var err error
	for began := time.Now(); time.Since(began) < patience; {
		if err = goleak.Find(ignore); err == nil { // looks several times
			return
		}
	}
	t.Error(err)
}
