package processors_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
)

func TestMain(m *testing.M) {
	// A check of a property opens stores on disk, which makes 100 of them slow. Give -rapid.checks for more.
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	if !given {
		_ = flag.Set("rapid.checks", "25")
	}
	goleak.VerifyTestMain(m)
}

// item is the data of most tests.
type item struct {
	Name  string `json:"name"`
	Group string `json:"group,omitempty"`
	Value int    `json:"value,omitempty"`
}

func (i item) group() string { return i.Group }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// at is a time of the tests: so many minutes after noon.
func at(minutes float64) time.Time { return noon.Add(time.Duration(minutes * float64(time.Minute))) }

// event makes an event whose id is its name.
func event(name, key string, minutes float64, group ...string) *framework.Event[item] {
	return framework.NewEvent(name, key, at(minutes), item{Name: name, Group: strings.Join(group, "|")})
}

func typed(typ string, e *framework.Event[item]) *framework.Event[item] {
	e.Type = typ
	return e
}

// names lists the data of a topic, sorted.
func names(d *frameworktest.Driver, topic string) []string {
	all := inOrder(d, topic)
	slices.Sort(all)
	return all
}

// inOrder lists the data of a topic as it was sent.
func inOrder(d *frameworktest.Driver, topic string) []string {
	var all []string
	for _, e := range frameworktest.Outputs[string](d, topic) {
		all = append(all, e.Data)
	}
	return all
}

// ids lists the ids of a topic, sorted.
func ids(d *frameworktest.Driver, topic string) []string {
	var all []string
	for _, r := range d.Outputs(topic) {
		all = append(all, r.ID)
	}
	slices.Sort(all)
	return all
}

func equal[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func list[T any](all ...T) []T { return all }

// text makes "left+right" of a pair, with "-" for what is missing.
func text(l, r *framework.Event[item]) (string, error) {
	name := func(e *framework.Event[item]) string {
		if e == nil {
			return "-"
		}
		return e.Data.Name
	}
	return name(l) + "+" + name(r), nil
}

// contents is an evaluation that emits the names in the history.
func contents(h framework.View[item], _ *framework.Event[item]) string {
	var all []string
	for e := range h.All {
		all = append(all, e.Data.Name)
	}
	return strings.Join(all, " ")
}
