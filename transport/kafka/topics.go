package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/framework"
)

// Topic describes a topic. It does not tell the size: for that every partition would need a leader.
func (t *Transport) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	detail, err := t.topic(ctx, name)
	if err != nil {
		return framework.TopicInfo{}, err
	}
	info := framework.TopicInfo{Partitions: len(detail.Partitions), Positioned: true, Shared: true}
	if detail.ID != (kadm.TopicID{}) { // brokers before 2.8 have none
		info.ID = detail.ID.String()
	}
	return info, nil
}

// partitions tells how many partitions a topic has, and makes the topic if that was asked for.
func (t *Transport) partitions(ctx context.Context, name string) (int, error) {
	detail, err := t.topic(ctx, name)
	return len(detail.Partitions), err
}

// topic asks the cluster for a topic, and makes it if that was asked for.
func (t *Transport) topic(ctx context.Context, name string) (kadm.TopicDetail, error) {
	detail, err := t.describe(ctx, name)
	if err == nil || !t.config.AutoCreate || !errors.Is(err, framework.ErrNoTopic) {
		return detail, err
	}
	if err := t.CreateTopic(ctx, name, 0); err != nil {
		return kadm.TopicDetail{}, err
	}
	return t.describe(ctx, name)
}

// find asks the cluster how many partitions a topic has.
func (t *Transport) find(ctx context.Context, name string) (int, error) {
	detail, err := t.describe(ctx, name)
	return len(detail.Partitions), err
}

// describe asks the cluster for a topic, for up to Config.Wait while no broker answers.
func (t *Transport) describe(ctx context.Context, name string) (detail kadm.TopicDetail, err error) {
	if err := checkName(name); err != nil {
		return detail, fmt.Errorf("kafka: topic %q: %w", name, err)
	}
	if t.ctx.Err() != nil {
		return detail, ErrClosed
	}
	err = t.ask(ctx, passes, func(ctx context.Context) (err error) {
		detail, err = t.askTopic(ctx, name)
		return err
	})
	return detail, err
}

func (t *Transport) askTopic(ctx context.Context, name string) (kadm.TopicDetail, error) {
	none := kadm.TopicDetail{}
	listed, err := t.admin.ListTopics(ctx, name)
	detail := listed[name]
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(detail.Err, kerr.TopicAuthorizationFailed):
		return none, fmt.Errorf("kafka: topic %q: it is not there, or this program is not allowed to describe it: make it, and give the user"+
			" the operation Describe on it: %w", name, kerr.TopicAuthorizationFailed)
	case err != nil:
		return none, fmt.Errorf("kafka: topic %q: ask the brokers: %w", name, err)
	case errors.Is(detail.Err, kerr.UnknownTopicOrPartition), detail.Err == nil && len(detail.Partitions) == 0:
		return none, fmt.Errorf("kafka: topic %q: %w: make it with CreateTopic, or set Config.AutoCreate, in an address auto_create=true",
			name, framework.ErrNoTopic)
	case detail.Err != nil:
		return none, fmt.Errorf("kafka: topic %q: %w", name, detail.Err)
	}
	return detail, nil
}

func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > maxTopicName:
		return fmt.Errorf("the name has %d letters, a topic's has up to %d", len(name), maxTopicName)
	case name == "." || name == ".." || strings.Trim(name, topicNameLetters) != "":
		return errors.New("a topic's name consists of letters a to z and A to Z, digits, '.', '_' and '-'")
	}
	return nil
}

// span is the range of offsets that a partition has.
type span struct{ start, end int64 }

// ranges asks for the ranges of all partitions of a topic, for up to Config.Wait: a broker that was just asked may have
// died, or not know a topic yet that another one has told of.
func (t *Transport) ranges(ctx context.Context, name string, n int) (all []span, err error) {
	err = t.ask(ctx, passes, func(ctx context.Context) (err error) {
		all, err = t.askRanges(ctx, name, n)
		return err
	})
	return all, err
}

func (t *Transport) askRanges(ctx context.Context, name string, n int) ([]span, error) {
	listEnd := t.admin.ListCommittedOffsets
	if t.config.ReadUncommitted {
		listEnd = t.admin.ListEndOffsets
	}
	starts, err := t.admin.ListStartOffsets(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kafka: topic %q: ask for its oldest offsets: %w", name, err)
	}
	ends, err := listEnd(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("kafka: topic %q: ask for its newest offsets: %w", name, err)
	}
	all := make([]span, n)
	for i := range all {
		start, ok := starts.Lookup(name, int32(i))
		end, ok2 := ends.Lookup(name, int32(i))
		none := errors.Join(starts[name][-1].Err, ends[name][-1].Err) // of the topic
		switch {
		case none != nil:
			return nil, fmt.Errorf("kafka: topic %q: no broker tells its offsets: %w", name, none)
		case !ok || !ok2:
			return nil, fmt.Errorf("kafka: topic %q: no broker tells the offsets of partition %d", name, i)
		case start.Err != nil || end.Err != nil:
			return nil, fmt.Errorf("kafka: topic %q: offsets of partition %d: %w", name, i, errors.Join(start.Err, end.Err))
		}
		all[i] = span{start.Offset, max(start.Offset, end.Offset)}
	}
	return all, nil
}

// CreateTopic makes a topic unless it is there with as many partitions. 0: Config.Partitions.
func (t *Transport) CreateTopic(ctx context.Context, name string, partitions int) error {
	return t.create(ctx, name, partitions, nil)
}

func (t *Transport) create(ctx context.Context, name string, partitions int, settings map[string]*string) error {
	if partitions < 0 || partitions > maxPartitions {
		return fmt.Errorf("kafka: create topic %q: %d partitions: it must be 1 to %d, or 0 for the default", name, partitions, maxPartitions)
	}
	is, err := t.find(ctx, name)
	if err == nil {
		return checkCount(name, is, partitions)
	}
	if !errors.Is(err, framework.ErrNoTopic) {
		return err
	}
	count, replicas := partitions, t.config.Replicas
	if count == 0 {
		count = t.config.Partitions
	}
	if count == 0 {
		count = -1
	}
	if replicas == 0 {
		replicas = -1
	}
	err = t.creation(ctx, name, count, replicas, settings)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists): // somebody else made it at the same time
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("kafka: create topic %q: not allowed: make it by hand, or give the user the operation Create on it: %w", name, err)
	case err != nil:
		return fmt.Errorf("kafka: create topic %q with %d partitions and %d replicas (-1: the broker's default): %w", name, count, replicas, err)
	}
	return t.await(ctx, name, partitions)
}

// creation asks for a topic. Brokers that have just started may be too few for its replicas for a moment.
func (t *Transport) creation(ctx context.Context, name string, count, replicas int, settings map[string]*string) error {
	again := func(err error) bool { return passes(err) || errors.Is(err, kerr.InvalidReplicationFactor) }
	return t.ask(ctx, again, func(ctx context.Context) error {
		_, err := t.admin.CreateTopic(ctx, int32(count), int16(replicas), settings, name)
		return err
	})
}

// await waits until a topic that was made is known and all of its partitions have leaders.
func (t *Transport) await(ctx context.Context, name string, partitions int) error {
	n := 0
	always := func(error) bool { return true }
	err := t.ask(ctx, always, func(ctx context.Context) (err error) {
		if n, err = t.find(ctx, name); err != nil || partitions != 0 && n != partitions {
			return err
		}
		_, err = t.ranges(ctx, name, n)
		return err
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("kafka: create topic %q: it was made, and is not ready yet: %w", name, err)
	case err != nil:
		return fmt.Errorf("kafka: create topic %q: it was made, but is not ready within %s: %w", name, t.config.Wait, err)
	}
	return checkCount(name, n, partitions)
}

func checkCount(name string, is, wanted int) error {
	if wanted != 0 && is != wanted {
		return fmt.Errorf("kafka: create topic %q: %w: it has %d partitions, not %d", name, framework.ErrPartitions, is, wanted)
	}
	return nil
}
