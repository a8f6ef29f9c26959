package framework_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
)

// A position is of one topic: another one of the same name is refused, with both ids, before anything of it is read.
func TestPositionsAreOfOneTopic(t *testing.T) {
	const n = 20
	b := newBench(t, n)
	b.feed.Bounded = true
	pipeline := func() *framework.Pipeline { return failing(func(int) bool { return false }) }
	again := func(id string) error {
		t.Helper()
		b.feed.ID = id
		return soon(t, run(t.Context(), t, b.runner(t, pipeline())))
	}
	for _, id := range []string{"", "first", "first", ""} { // from a release, or to a transport, that has none
		if err := again(id); err != nil {
			t.Fatalf("id %q: %v", id, err)
		}
	}
	b.feed.Push("in", 0, thingRecords(n+1, 10, time.Second)[n:]...)
	if err := again(""); err != nil {
		t.Fatal(err)
	}
	err := again("second") // the last one that was told is remembered
	if !errors.Is(err, framework.ErrForeignState) {
		t.Fatalf("another topic: %v", err)
	}
	for _, want := range []string{`topic "in"`, "first", "second", "position 21", "another store directory"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error has no %q: %v", want, err)
		}
	}
	if at := b.stored(t); at != n+1 {
		t.Errorf("the position is %d, it was %d", at, n+1)
	}
}
