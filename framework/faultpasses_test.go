package framework

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// topicOfFaults is read by passes that wait in the middle for a word.
type topicOfFaults struct {
	passes  int
	from    []int64    // of the last pass
	word    chan error // ends the first half of a pass
	reading chan struct{}
}

func (f *topicOfFaults) pass(ctx context.Context, from []int64, visit func(int, int64, *Fault)) ([]int64, error) {
	f.passes++
	f.from = from
	visit(0, 1, &Fault{Offset: 1})
	f.reading <- struct{}{}
	select {
	case err := <-f.word:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	visit(0, 2, &Fault{Offset: 2})
	return []int64{3}, nil
}

// taskThatWaits is one reader, and what it is told.
type taskThatWaits struct {
	stop context.CancelFunc
	done chan error
	lock sync.Mutex
	told []int64
}

func waitFor(ctx context.Context, r *faultPasses, topic *topicOfFaults, from ...int64) *taskThatWaits {
	w := &taskThatWaits{done: make(chan error, 1)}
	ctx, w.stop = context.WithCancel(ctx)
	go func() {
		next, err := r.read(ctx, from, topic.pass, func(f *Fault) {
			w.lock.Lock()
			defer w.lock.Unlock()
			w.told = append(w.told, f.Offset)
		})
		if err == nil && !slices.Equal(next, []int64{3}) {
			err = fmt.Errorf("it goes on at %v", next)
		}
		w.done <- err
	}()
	synctest.Wait()
	return w
}

func (w *taskThatWaits) offsets() []int64 {
	w.lock.Lock()
	defer w.lock.Unlock()
	return slices.Clone(w.told)
}

// Many tasks that wait at the same time are served by one pass, which begins after all of them have asked; whoever leaves
// is told no more, and a pass that fails is made again by another.
func TestFaultsAreReadTogether(t *testing.T) {
	refused := errors.New("refused")
	for _, c := range []struct {
		name   string
		during func(topic *topicOfFaults, first *taskThatWaits, others []*taskThatWaits) // the first pass, others wait
		passes int
		first  error
		left   int // of the others, how many leave
	}{
		{name: "all wait", passes: 2, during: func(topic *topicOfFaults, _ *taskThatWaits, _ []*taskThatWaits) { topic.word <- nil }},
		{name: "the first pass fails", passes: 2, first: refused,
			during: func(topic *topicOfFaults, _ *taskThatWaits, _ []*taskThatWaits) { topic.word <- refused }},
		{name: "who reads leaves", passes: 2, first: context.Canceled,
			during: func(_ *topicOfFaults, first *taskThatWaits, _ []*taskThatWaits) { first.stop() }},
		{name: "who waits leaves", passes: 2, left: 1, during: func(topic *topicOfFaults, _ *taskThatWaits, others []*taskThatWaits) {
			others[0].stop()
			synctest.Wait()
			topic.word <- nil
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, topic := newFaultPasses(), &topicOfFaults{word: make(chan error), reading: make(chan struct{}, 10)}
				first := waitFor(t.Context(), r, topic)
				<-topic.reading
				var others []*taskThatWaits
				for range 20 {
					others = append(others, waitFor(t.Context(), r, topic))
				}
				c.during(topic, first, others)
				if err := <-first.done; !errors.Is(err, c.first) || err != nil && c.first == nil {
					t.Errorf("the first: %v, want %v", err, c.first)
				}
				<-topic.reading
				topic.word <- nil
				for i, one := range others {
					err := <-one.done
					switch told := one.offsets(); {
					case i < c.left && !errors.Is(err, context.Canceled):
						t.Errorf("%d: %v", i, err)
					case i >= c.left && (err != nil || !slices.Equal(told, []int64{1, 2})):
						t.Errorf("%d is told of %v: %v", i, told, err)
					case i < c.left && len(told) > 0:
						t.Errorf("%d has left, and is told of %v", i, told)
					}
				}
				if topic.passes != c.passes {
					t.Errorf("%d passes, want %d", topic.passes, c.passes)
				}
			})
		})
	}
}

// A pass for several that fails in the midst, or whose reader leaves, is made again by one that it was for, and none of
// them waits in vain.
func TestFaultsAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, topic := newFaultPasses(), &topicOfFaults{word: make(chan error), reading: make(chan struct{}, 10)}
		all := []*taskThatWaits{waitFor(t.Context(), r, topic)}
		<-topic.reading
		for range 5 {
			all = append(all, waitFor(t.Context(), r, topic))
		}
		topic.word <- nil // the first is served
		for n := len(all) - 1; n > 1; n-- {
			<-topic.reading // by whom is chance
			topic.word <- fmt.Errorf("pass for %d", n)
		}
		<-topic.reading
		topic.word <- nil
		failed := 0
		for _, one := range all {
			if err := <-one.done; err != nil {
				failed++
			} else if told := one.offsets(); !slices.Contains(told, 2) {
				t.Errorf("one is told of %v", told)
			}
		}
		if failed != 4 || topic.passes != 6 {
			t.Errorf("%d failed in %d passes", failed, topic.passes)
		}
		if len(r.waiting) > 0 {
			t.Errorf("%d still wait", len(r.waiting))
		}
	})
}

// A pass for several begins where the first of them wants to, and each is told of what is behind its own place.
func TestFaultsAreReadFromTheLeastPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, topic := newFaultPasses(), &topicOfFaults{word: make(chan error), reading: make(chan struct{}, 10)}
		first := waitFor(t.Context(), r, topic, 3)
		<-topic.reading
		leaves := waitFor(t.Context(), r, topic, 0)
		ahead, behind, end := waitFor(t.Context(), r, topic, 2), waitFor(t.Context(), r, topic, 1), waitFor(t.Context(), r, topic, 3)
		leaves.stop()
		synctest.Wait()
		topic.word <- nil
		<-topic.reading
		if !slices.Equal(topic.from, []int64{1}) {
			t.Errorf("the pass begins at %v", topic.from)
		}
		topic.word <- nil
		for w, want := range map[*taskThatWaits][]int64{first: nil, ahead: {2}, behind: {1, 2}, end: nil} {
			if err := <-w.done; err != nil || !slices.Equal(w.offsets(), want) {
				t.Errorf("told of %v, want %v: %v", w.offsets(), want, err)
			}
		}
		<-leaves.done
	})
}

func TestLeastPlace(t *testing.T) {
	for _, c := range []struct{ all, want string }{
		{"", "[]"}, {"5,3", "[5 3]"}, {"5,3 4,9", "[4 3]"}, {"5 4,9 6,2,1", "[4 2 1]"},
	} {
		var all []*faultReader
		for one := range strings.FieldsSeq(c.all) {
			r := &faultReader{}
			for at := range strings.SplitSeq(one, ",") {
				n, err := strconv.ParseInt(at, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				r.from = append(r.from, n)
			}
			all = append(all, r)
		}
		if got := fmt.Sprint(least(all)); got != c.want {
			t.Errorf("%q: %s, want %s", c.all, got, c.want)
		}
	}
}
