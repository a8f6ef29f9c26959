package framework_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"

	"github.com/millrace/millrace/framework"
)

// told gathers what a log is told at "info".
type told struct {
	slog.Handler
	lock  sync.Mutex
	lines []slog.Record
}

func (h *told) Enabled(context.Context, slog.Level) bool { return true }

func (h *told) Handle(_ context.Context, r slog.Record) error {
	h.lock.Lock()
	defer h.lock.Unlock()
	if r.Level == slog.LevelInfo {
		h.lines = append(h.lines, r)
	}
	return nil
}

func (h *told) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h *told) WithGroup(string) slog.Handler      { return h }

// The log hears of the partitions of a stage together; all of them are in the sum.
func TestMovesAreToldTogether(t *testing.T) {
	b := sharedBroker(20)
	log := new(told)
	a := start(t, b, openStore(t, t.TempDir()), loggedPairs(), func(c *framework.Config) { c.Logger = slog.New(log) })
	a.assignAll()
	a.await(sharedTopics...)
	a.end()
	sums := map[string]int64{}
	for _, r := range log.lines {
		if r.Message != "tasks of shared partitions" {
			continue
		}
		stage := ""
		r.Attrs(func(at slog.Attr) bool {
			if at.Key == "stage" {
				stage = at.Value.String()
			} else if at.Value.Kind() == slog.KindInt64 {
				sums[stage+" "+at.Key] += at.Value.Int64()
			}
			return true
		})
	}
	for what, want := range map[string]int64{
		"shared/left+right assigned": sharedPartitions, "shared/left+right revoked": sharedPartitions,
		"shared/shared.by-digit assigned": 2, "shared/shared.by-digit revoked": 2,
	} {
		if sums[what] != want {
			t.Errorf("%s: %d were told, want %d: %v", what, sums[what], want, sums)
		}
	}
}
