package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/framework"
)

// keptSettings are the settings of a topic that keeps all records until Release.
var keptSettings = map[string]string{"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}

// CreateKept makes a topic as CreateTopic does, with settings by which no retention trims it, whatever the brokers'
// defaults are. One that is there already and is trimmed by retention is left as it is and warned about, and so is one
// whose settings this program may not see.
func (t *Transport) CreateKept(ctx context.Context, name string, partitions int) error {
	settings := make(map[string]*string, len(keptSettings))
	for k, v := range keptSettings {
		settings[k] = &v
	}
	if err := t.create(ctx, name, partitions, settings); err != nil {
		return err
	}
	others, err := t.otherThanKept(ctx, name)
	switch {
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		t.config.Logger.Warn("kafka: a topic that is to keep its records may lose some before they are read: this program is not allowed"+
			" to see its settings; check them, or give the user the operation DescribeConfigs on it", "topic", name, "should be", keptSettings)
		return nil
	case err != nil:
		return err
	}
	for setting, is := range others {
		t.config.Logger.Warn("kafka: a topic that is to keep its records may lose some before they are read",
			"topic", name, "setting", setting, "is", is, "should be", keptSettings[setting])
	}
	return nil
}

// otherThanKept tells which settings of a topic are others than keptSettings.
func (t *Transport) otherThanKept(ctx context.Context, name string) (map[string]string, error) {
	is, err := t.settings(ctx, name)
	if err != nil {
		return nil, err
	}
	others := make(map[string]string)
	for setting, want := range keptSettings {
		if value, ok := is[setting]; ok && value != want {
			others[setting] = value
		}
	}
	return others, nil
}

// Keeps implements framework.ChangelogTransport. A topic whose settings this program may not see is taken for one that
// was made by CreateKept.
func (t *Transport) Keeps(ctx context.Context, name string) (bool, error) {
	if t.config.SkipGone {
		return false, nil
	}
	others, err := t.otherThanKept(ctx, name)
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		return true, nil
	}
	return len(others) == 0, err
}

// settings are those of a topic, defaults included.
func (t *Transport) settings(ctx context.Context, name string) (map[string]string, error) {
	var all map[string]string
	err := t.ask(ctx, passes, func(ctx context.Context) (err error) {
		all, err = t.askSettings(ctx, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: topic %q: ask for its settings: %w", name, err)
	}
	return all, nil
}

// askSettings asks for them once.
func (t *Transport) askSettings(ctx context.Context, name string) (map[string]string, error) {
	all := make(map[string]string)
	described, err := t.admin.DescribeTopicConfigs(ctx, name)
	for _, topic := range described {
		err = errors.Join(err, topic.Err)
		for _, setting := range topic.Configs {
			all[setting.Key] = setting.MaybeValue()
		}
	}
	return all, err
}

// policies are what is done to old records of a topic.
func policies(settings map[string]string) []string {
	return strings.Split(strings.ReplaceAll(settings["cleanup.policy"], " ", ""), ",")
}

// Retention tells what a topic keeps, by its cleanup.policy and retention.ms. Of retention.bytes it cannot be told for how
// long they last. The user needs DescribeConfigs on the topic for it.
func (t *Transport) Retention(ctx context.Context, name string) (kept framework.Retention, err error) {
	is, err := t.settings(ctx, name)
	if err != nil {
		return kept, err
	}
	policy := policies(is)
	kept.Compacted = slices.Contains(policy, "compact")
	if age, err := strconv.ParseInt(is["retention.ms"], 10, 64); err == nil && age >= 0 && slices.Contains(policy, "delete") {
		kept.Age = time.Duration(min(max(age, 1), math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
	}
	return kept, nil
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

// Held tells how many records a partition holds from an offset on, and about how many bytes they take: as many for
// each as the others of the partition; 0 bytes where the brokers do not say.
func (t *Transport) Held(name string, partition int, from int64) (start, records, bytes int64, err error) {
	ctx, cancel := context.WithTimeout(t.ctx, t.config.Wait)
	defer cancel()
	n, err := t.find(ctx, name)
	if err != nil {
		return 0, 0, 0, err
	}
	if partition < 0 || partition >= n {
		return 0, 0, 0, fmt.Errorf("kafka: topic %q: it has %d partitions, none of number %d", name, n, partition)
	}
	all, err := t.ranges(ctx, name, n)
	if err != nil {
		return 0, 0, 0, err
	}
	r := all[partition]
	start = min(max(from, r.start), r.end)
	if records = r.end - start; records == 0 {
		return start, 0, 0, nil
	}
	at := make(kadm.TopicsSet)
	at.Add(name, int32(partition))
	if dirs, err := t.admin.DescribeAllLogDirs(ctx, at); err == nil {
		size := int64(0) // of a replica; they are alike, but for what is not replicated yet
		dirs.Each(func(dir kadm.DescribedLogDir) {
			if p, ok := dir.Topics.Lookup(name, int32(partition)); ok {
				size = max(size, p.Size)
			}
		})
		bytes = int64(float64(size) * (float64(records) / float64(r.end-r.start)))
	}
	return start, records, bytes, nil
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
	told := "" // what went wrong, so that it is told once as long as it goes on
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
		if err == nil {
			told = ""
		} else if ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			if errors.Is(err, kerr.TopicAuthorizationFailed) {
				err = fmt.Errorf("%w: give the user the operation Delete on the topics between stages, and of changelogs", err)
			}
			logger.Warn("kafka: records that are processed were not deleted; the next time those before them are too", "error", err)
		}
	}
}
