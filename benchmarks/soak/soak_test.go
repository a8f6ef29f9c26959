package main

import (
	"context"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if code, member := isMember(); member {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// settingsOf are those of a seed, with some that are not drawn.
func settingsOf(t *testing.T, seed uint64, overlay string) settings {
	t.Helper()
	s, err := drawn(seed, kinds, overlay)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestEmbedded is a short schedule: a process with everything in its store dies at failpoints, is killed and parks. Where what
// it leaves is kept, T.ArtifactDir tells.
func TestEmbedded(t *testing.T) {
	s := settingsOf(t, 1, `{"Kind":"embedded","Distinct":false,"Orders":250,"Chunk":10,"Poison":10,"BatchEvents":10,
		"Seconds":4,"Pause":1000,"Deaths":10,"Hits":60}`)
	r, err := run(t.Context(), s, nil, t.ArtifactDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r.text)
	for _, problem := range r.problems {
		t.Error(problem)
	}
}

func TestScheduleIsOfTheSeed(t *testing.T) {
	type all struct {
		S     settings
		Plan  []step
		Fates []fate
		In    *input
	}
	of := func(seed uint64) all {
		s := settingsOf(t, seed, "")
		var fates []fate
		for start := range 20 {
			fates = append(fates, drawFate(&s, "m0", start), drawFate(&s, "m1", start))
		}
		return all{s, newPlan(&s, true), fates, newInput(&s)}
	}
	for seed := range uint64(5) {
		once, again := of(seed), of(seed)
		if !reflect.DeepEqual(once, again) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		if other := of(seed + 1000); reflect.DeepEqual(once.Plan, other.Plan) || reflect.DeepEqual(once.In, other.In) {
			t.Fatalf("seeds %d and %d give the same", seed, seed+1000)
		}
	}
}

// TestPlansDoOnlyWhatTheyMay: one process with the only copy of its state must not lose it, and brokers of others are not stopped.
func TestPlansDoOnlyWhatTheyMay(t *testing.T) {
	for seed := range uint64(200) {
		for _, kind := range kinds {
			s := settingsOf(t, seed, `{"Kind":"`+kind+`"}`)
			for _, p := range newPlan(&s, false) {
				if slices.Contains([]action{killBroker, stopBroker, freezeBroker}, p.Do) {
					t.Fatalf("seed %d: %s, and the broker is another's", seed, p)
				}
				if kind == embeddedKind && (p.Lose || slices.Contains([]action{putBack, swap, join, release}, p.Do)) {
					t.Fatalf("seed %d: %s, on topics in the store", seed, p)
				}
			}
			for start := range 20 {
				if f := drawFate(&s, "m0", start); kind == embeddedKind && f.Lose {
					t.Fatalf("seed %d: %+v, on topics in the store", seed, f)
				}
			}
		}
	}
}

func TestCommandLineErrors(t *testing.T) {
	for _, c := range []struct {
		config config
		want   string
	}{
		{config{kinds: "kafka"}, `-kinds has "kafka"`},
		{config{overlay: `{"Colour":1}`}, "Colour"},
		{config{overlay: `{"Kind":"kafka"}`}, `the kind "kafka"`},
	} {
		c.config.schedules = 1
		if err := c.config.run(context.Background()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %s", c.config, err, c.want)
		}
	}
}
