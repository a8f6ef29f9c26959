package seldom_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/internal/seldom"
)

func TestTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kinds seldom.Kinds[string]
		for i, step := range []struct {
			after   time.Duration
			kind    string
			leftOut int
			ok      bool
		}{
			{0, "a", 0, true},
			{0, "a", 0, false},
			{seldom.Every - 1, "a", 1, false},
			{0, "b", 0, true}, // another kind has turns of its own
			{1, "a", 2, true},
			{0, "a", 0, false},
			{seldom.Every, "a", 1, true},
			{seldom.Every, "a", 0, true},
		} {
			time.Sleep(step.after) // the bubble's clock
			if leftOut, ok := kinds.Turn(step.kind); leftOut != step.leftOut || ok != step.ok {
				t.Errorf("step %d: %d left out, %v; want %d, %v", i, leftOut, ok, step.leftOut, step.ok)
			}
		}
	})
}
