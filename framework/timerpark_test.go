package framework_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/framework/frameworktest"
)

// A timer that has its key parked keeps what it read, however long the key is parked and whichever dead letter of the key is
// given; those that its key has slept through have nothing but what is kept for Parking.Hold.
func TestParkedTimersKeepWhatTheyRead(t *testing.T) {
	for _, by := range []string{"its fault", "its fault, without what it read", "what waits behind it"} {
		t.Run(by, func(t *testing.T) {
			broken := true
			d := frameworktest.New(t, frameworktest.Config{}, unpaid(func(string) bool { return broken }, framework.Parking{Hold: time.Minute}))
			frameworktest.Send(d, "left", framework.NewEvent("e0", "k", noon, thing{0}))
			d.Advance(noon.Add(time.Hour))
			frameworktest.Send(d, "left", framework.NewEvent("e1", "k", noon.Add(time.Hour), thing{1}))
			d.Restart()
			faults := d.Faults()
			if len(faults) != 2 || !faults[0].Parked || faults[1].Class != framework.ClassParked {
				t.Fatalf("faults: %q", toldFaults(d))
			}
			if by == "its fault" {
				d.Resubmit(faults[0]) // in vain
			}
			broken = false
			switch by {
			case "what waits behind it":
				d.Resubmit(faults[1])
			case "its fault, without what it read":
				faults[0].Read = nil
				fallthrough
			default:
				d.Resubmit(faults[0])
			}
			d.End()
			var got []string
			for _, topic := range unpaidTopics {
				for _, e := range frameworktest.Outputs[string](d, topic) {
					got = append(got, e.Data)
				}
			}
			expect(t, "sent", got, "0 alone", "1 alone", "1 last of 1", "1 among 1")
			// Of what the key has slept through, Compact's timer. Expire's counts as dropped: its history has a bound by count.
			if late := faultsOf(d, framework.ClassLate); len(late) != 1 || d.Counts("expire").Duplicates != 1 {
				t.Errorf("%d are late: %q", len(late), toldFaults(d))
			}
		})
	}
}

// A timer that is resubmitted while its key is parked for another waits with what it had read.
func TestTimerWaitsWithWhatItRead(t *testing.T) {
	broken := map[string]bool{"unpaid 0 alone": true, "unpaid 1 alone": true}
	p := unpaid(func(id string) bool { return broken[id] })
	d := frameworktest.New(t, frameworktest.Config{}, p)
	frameworktest.Send(d, "left", framework.NewEvent("e0", "k", noon, thing{0}))
	d.Advance(noon.Add(time.Hour))
	failed := d.Faults()
	p.Park(framework.Parking{}) // from the next start on
	d.Restart()
	frameworktest.Send(d, "left", framework.NewEvent("e1", "k", noon.Add(time.Hour), thing{1}))
	d.Advance(noon.Add(2 * time.Hour))
	d.Resubmit(failed...)
	if len(failed) != 1 || len(d.Parked()) != 1 || d.Parked()[0].Waiting != 2 || len(d.Outputs("unpaid")) != 0 {
		t.Fatalf("%d faults, parked: %+v", len(failed), d.Parked())
	}
	d.Restart()
	clear(broken)
	d.Resubmit(d.Faults()[1])
	var got []string
	for _, e := range frameworktest.Outputs[string](d, "unpaid") {
		got = append(got, e.Data)
	}
	expect(t, "unpaid", got, "1 alone", "0 alone")
}

// Timers of a key may have one id: what one had read is not another's, though it is its dead letter that is given.
func TestParkedTimersOfOneID(t *testing.T) {
	broken := true
	kept := framework.NewHistory("kept", framework.HistoryConfig[thing]{Retain: 2 * time.Minute})
	p := timed(func(s *framework.Scope, st *framework.Step, e *framework.Event[thing]) error {
		if _, err := kept.Append(s, e, ""); err != nil {
			return err
		}
		return s.SetTimer(st, e.Time.Add(time.Minute), "timer", nil)
	}, func(s *framework.Scope, st *framework.Step, t framework.Timer, next framework.Next[string]) error {
		v, err := kept.View(s, "")
		if err != nil || broken {
			return errors.Join(err, errors.New("broken"))
		}
		return emit(s, st, t, v.At(0).ID(), next)
	}, kept)
	p.Park(framework.Parking{})
	d := frameworktest.New(t, frameworktest.Config{}, p)
	for i := range 2 {
		broken = true
		frameworktest.Send(d, "in", framework.NewEvent(fmt.Sprint("e", i), "k", noon.Add(time.Duration(i)*time.Hour), thing{i}))
		d.Advance(noon.Add(time.Duration(i)*time.Hour + 5*time.Minute))
		broken = false
		faults := d.Faults()
		slices.Reverse(faults)
		d.Resubmit(faults...)
	}
	var got []string
	for _, e := range frameworktest.Outputs[string](d, "out") {
		got = append(got, e.Data)
	}
	expect(t, "out", got, "e0", "e1")
}
