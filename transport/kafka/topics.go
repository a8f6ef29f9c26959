package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/framework"
)

// Topic describes a topic; Size is in offsets, which are about as many as records.
func (t *Transport) Topic(ctx context.Context, name string) (framework.TopicInfo, error) {
	n, err := t.partitions(ctx, name)
	if err != nil {
		return framework.TopicInfo{}, err
	}
	info := framework.TopicInfo{Partitions: n, Positioned: true, Shared: true}
	ranges, err := t.ranges(ctx, name, n)
	if err != nil {
		return framework.TopicInfo{}, err
	}
	for _, r := range ranges {
		info.Size += r.end - r.start
	}
	return info, nil
}

// partitions tells how many partitions a topic has, and makes the topic if that was asked for.
func (t *Transport) partitions(ctx context.Context, name string) (int, error) {
	n, err := t.find(ctx, name)
	if err == nil || !t.config.AutoCreate || !errors.Is(err, framework.ErrNoTopic) {
		return n, err
	}
	if err := t.CreateTopic(ctx, name, 0); err != nil {
		return 0, err
	}
	return t.find(ctx, name)
}

// find asks the cluster for a topic.
func (t *Transport) find(ctx context.Context, name string) (int, error) {
	if err := checkName(name); err != nil {
		return 0, fmt.Errorf("kafka: topic %q: %w", name, err)
	}
	if t.ctx.Err() != nil {
		return 0, ErrClosed
	}
	listed, err := t.admin.ListTopics(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("kafka: topic %q: ask the brokers: %w", name, err)
	}
	detail := listed[name]
	switch {
	case errors.Is(detail.Err, kerr.UnknownTopicOrPartition), detail.Err == nil && len(detail.Partitions) == 0:
		return 0, fmt.Errorf("kafka: topic %q: %w: make it with CreateTopic, or set Config.AutoCreate", name, framework.ErrNoTopic)
	case errors.Is(detail.Err, kerr.TopicAuthorizationFailed):
		return 0, fmt.Errorf("kafka: topic %q: not allowed to describe it: give the user the operation Describe on it: %w", name, detail.Err)
	case detail.Err != nil:
		return 0, fmt.Errorf("kafka: topic %q: %w", name, detail.Err)
	}
	return len(detail.Partitions), nil
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

// ranges asks for the ranges of all partitions of a topic.
func (t *Transport) ranges(ctx context.Context, name string, n int) ([]span, error) {
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
		switch {
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

// keptSettings are the settings of a topic that keeps all records until Release.
var keptSettings = map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

// CreateKept makes a topic as CreateTopic does, with settings by which no retention trims it, whatever the brokers'
// defaults are. One that is there already and is trimmed by retention is left as it is and warned about.
func (t *Transport) CreateKept(ctx context.Context, name string, partitions int) error {
	settings := make(map[string]*string, len(keptSettings))
	for k, v := range keptSettings {
		settings[k] = &v
	}
	if err := t.create(ctx, name, partitions, settings); err != nil {
		return err
	}
	described, err := t.admin.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return fmt.Errorf("kafka: topic %q: ask for its settings: %w", name, err)
	}
	for _, topic := range described {
		for _, setting := range topic.Configs {
			if want, ok := keptSettings[setting.Key]; ok && setting.MaybeValue() != want {
				t.config.Logger.Warn("kafka: a topic that is to keep its records may lose some before they are read",
					"topic", name, "setting", setting.Key, "is", setting.MaybeValue(), "should be", want)
			}
		}
	}
	return nil
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
	_, err = t.admin.CreateTopic(ctx, int32(count), int16(replicas), settings, name)
	switch {
	case errors.Is(err, kerr.TopicAlreadyExists): // somebody else made it at the same time
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("kafka: create topic %q: not allowed: make it by hand, or give the user the operation Create on it: %w", name, err)
	case err != nil:
		return fmt.Errorf("kafka: create topic %q with %d partitions and %d replicas (-1: the broker's default): %w", name, count, replicas, err)
	}
	return t.await(ctx, name, partitions)
}

// await waits until a topic that was made is known and all of its partitions have leaders.
func (t *Transport) await(ctx context.Context, name string, partitions int) error {
	ctx, cancel := context.WithTimeout(ctx, t.config.Wait)
	defer cancel()
	for {
		n, err := t.find(ctx, name)
		if err == nil {
			if err := checkCount(name, n, partitions); err != nil {
				return err
			}
			if _, err = t.ranges(ctx, name, n); err == nil {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("kafka: create topic %q: it was made, but is not ready within %s: %w", name, t.config.Wait, err)
		}
	}
}

func checkCount(name string, is, wanted int) error {
	if wanted != 0 && is != wanted {
		return fmt.Errorf("kafka: create topic %q: it has %d partitions, not %d", name, is, wanted)
	}
	return nil
}

// Release lets the brokers delete the records of a partition before an offset. It does not wait for them: what
// fails is logged, and made up for by the next Release.
func (t *Transport) Release(name string, partition int, before int64) error {
	if t.ctx.Err() != nil {
		return ErrClosed
	}
	t.keep.add(place{name, int32(partition)}, before)
	return nil
}

// releaser deletes records that nobody needs any more, one request at a time for all that has come together.
type releaser struct {
	wake   chan struct{}
	mu     sync.Mutex
	before map[place]int64
}

func (r *releaser) add(at place, before int64) {
	r.mu.Lock()
	r.before[at] = max(r.before[at], before)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *releaser) run(ctx context.Context, admin *kadm.Client, logger *slog.Logger) {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		offsets := make(kadm.Offsets)
		for at, before := range r.before {
			offsets.AddOffset(at.topic, at.partition, before, -1)
		}
		clear(r.before)
		r.mu.Unlock()
		responses, err := admin.DeleteRecords(ctx, offsets)
		if err == nil {
			err = responses.Error()
		}
		if err != nil && ctx.Err() == nil {
			logger.Warn("kafka: records that are processed were not deleted; the next time those before them are too", "error", err)
		}
	}
}
