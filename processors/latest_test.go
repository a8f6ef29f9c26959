package processors_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
	"github.com/millrace/millrace/processors"
)

// latestOf makes "event:value" of what JoinLatest combines; an event named "bad" fails.
func latestOf(e *framework.Event[item], value string, found bool) (string, error) {
	switch {
	case e.Data.Name == "bad":
		return "", errors.New("bad")
	case !found && value != "":
		return "", fmt.Errorf("%q is there, and is not", value)
	case !found:
		value = "-"
	}
	return e.Data.Name + ":" + value, nil
}

// latest keeps the names of what comes in "right", and nothing for the name "none".
func latest(failing *bool) *framework.Pipeline {
	p := framework.NewPipeline("p")
	joined := processors.JoinLatest(framework.From[item](p, "left"), framework.From[item](p, "right"), "latest",
		func(i item) (string, bool) { return i.Name, i.Name != "none" }, latestOf)
	framework.To(processors.Map(joined, "next", func(e *framework.Event[string]) (string, error) {
		if *failing {
			return "", errors.New("fails")
		}
		return e.Data, nil
	}), "out")
	return p
}

func TestJoinLatest(t *testing.T) {
	failing := false
	d := frameworktest.New(t, frameworktest.Config{}, latest(&failing))
	frameworktest.Send(d, "left", event("a", "k", 5))
	frameworktest.Send(d, "right", event("1", "k", 9), event("2", "k", 3), event("other", "l", 0)) // the one that came last counts
	frameworktest.Send(d, "left", event("b", "k", 6), event("bad", "k", 7))
	d.Restart()
	frameworktest.Send(d, "left", event("c", "k", 2), event("d", "m", 2))
	frameworktest.Send(d, "right", event("none", "k", 10))
	frameworktest.Send(d, "left", event("e", "k", 10), event("f", "l", 10))
	equal(t, "outputs", inOrder(d, "out"), list("a:-", "b:2", "c:2", "d:-", "e:-", "f:other"))
	equal(t, "faults", len(d.Faults()), 1)

	failing = true
	frameworktest.Send(d, "left", event("g", "l", 11))
	failing = false
	frameworktest.Send(d, "right", event("newer", "l", 12))
	faults := d.Faults()
	d.Resubmit(faults[len(faults)-1]) // it gets what is there now
	equal(t, "outputs", inOrder(d, "out")[6:], list("g:newer"))
	for i, e := range frameworktest.Outputs[string](d, "out")[:6] {
		want := at([]float64{5, 6, 2, 2, 10, 10}[i])
		if !e.Time.Equal(want) || e.Key != []string{"k", "k", "k", "m", "k", "l"}[i] {
			t.Errorf("output %d has key %q and time %v, want %v", i, e.Key, e.Time, want)
		}
	}
}

// Whatever comes in whatever order, in batches of any size, with restarts between them: each event of left gets the value of
// its key that came last before it, and none after a record without a value.
func TestJoinLatestIsAMap(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 2))
	failing := false
	d := frameworktest.New(t, frameworktest.Config{Lanes: 3}, latest(&failing))
	values, want := map[string]string{}, map[string][]string{}
	for round := range 60 {
		topic := []string{"left", "right"}[random.IntN(2)]
		var events []*framework.Event[item]
		for i := range 1 + random.IntN(5) {
			key, name, deleted := fmt.Sprint("k", random.IntN(4)), fmt.Sprint(round, ".", i), false
			switch {
			case topic == "left":
				value, found := values[key]
				if !found {
					value = "-"
				}
				want[key] = append(want[key], name+":"+value)
			case random.IntN(3) == 0:
				name, deleted = "none", random.IntN(2) == 0
				delete(values, key)
			default:
				values[key] = name
			}
			e := framework.NewEvent(fmt.Sprint(topic, round, ".", i), key, at(random.Float64()), item{Name: name})
			e.Deleted = deleted
			events = append(events, e)
		}
		frameworktest.Send(d, topic, events...)
		if random.IntN(10) == 0 {
			d.Restart()
		}
	}
	got := map[string][]string{}
	for _, e := range frameworktest.Outputs[string](d, "out") {
		got[e.Key] = append(got[e.Key], e.Data)
	}
	equal(t, "outputs", got, want)
}
