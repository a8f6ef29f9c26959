package framework

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
)

// What a transport delivers in place of a partition that could not be taken over ends the run, but where that was since
// the run is ending.
func TestPartitionThatIsRefused(t *testing.T) {
	refused := errors.New("the topic has 3 partitions")
	for _, c := range []struct{ err, answer, failure error }{
		{errStopping, errStopping, nil},
		{refused, refused, refused},
	} {
		var failure error
		h := handler{name: "pipeline/source", topic: "source", set: newTaskSet(&stage{}, 4, slog.New(slog.DiscardHandler)), fail: func(err error) { failure = err }}
		instead := Record{Err: Fatal(fmt.Errorf("take over partition 2: %w", c.err))}
		err := h.handle(NewBatchMessage(context.Background(), &Batch{Topic: "source", Partition: 2, Records: []Record{instead}}))
		if !errors.Is(err, c.answer) || !errors.Is(failure, c.failure) {
			t.Errorf("%v: it answers %v and ends with %v", c.err, err, failure)
		}
	}
}
