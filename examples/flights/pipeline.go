package flights

import (
	"errors"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/processors"
	"github.com/millrace/millrace/transport/file"
)

// Topics of the pipeline.
const (
	FlightsTopic = "flights"
	WeatherTopic = "weather"
	KnockOnTopic = "knock-on-delays"
	OutTopic     = "knock-on-delays.file"
)

// Options of the pipeline.
type Options struct {
	// OutOfOrder is how far out of order flights may be, by scheduled departure.
	OutOfOrder time.Duration
	// WeatherOutOfOrder is the same for observations. The file is sorted by airport first, so it is as much as the
	// data spans.
	WeatherOutOfOrder time.Duration
	// ToFile adds a sink for OutTopic.
	ToFile bool
	// Prefix is put before the names of the pipeline and of its topics, but OutTopic.
	Prefix string
}

const (
	window    = 24 * time.Hour // between the scheduled departures of a pair
	firstLate = 60             // minutes, of the flight that may knock on
	nextLate  = 30             // minutes, of the flight that it may knock on to
)

// Pipeline finds knock-on delays:
//
//	departed   flights that left and have a tail number, by airport
//	departure  what is needed of them; a row that lacks some of it is a fault here, before anything is joined to it
//	observed   joined with the hour's weather there, either first; without one when none comes
//	by-plane   keyed by tail number from here on, enriched with airline and plane
//	knock-on   pairs of one plane's departures within 24 hours, both late; each pair once
func Pipeline(ref Reference, o Options) *framework.Pipeline {
	p := framework.NewPipeline(o.Prefix + "flights")
	flights := framework.From(p, o.Prefix+FlightsTopic, flightRows(o.OutOfOrder))
	weather := framework.From(p, o.Prefix+WeatherTopic, weatherRows(o.WeatherOutOfOrder))

	departed := processors.Filter(flights, "departed", func(e *framework.Event[Flight]) bool {
		return e.Data.Departed != nil && e.Data.Tail != nil
	})
	departures := processors.Map(departed, "departure", departure)
	observed := processors.LeftJoin(departures, weather, "observed", processors.On(Departure.HourOf, Weather.HourOf),
		processors.Window{Within: time.Hour}, withWeather)
	matched := processors.Branch(observed, "weather-match",
		processors.When("matched", func(e *framework.Event[Departure]) bool { return e.Data.Weather != nil }),
		processors.Otherwise[Departure])
	byPlane := processors.ReKey(processors.Merge("departures", matched...), "by-plane",
		func(e *framework.Event[Departure]) string { return e.Data.Tail })

	named := processors.Enrich(byPlane, "airline", ref.Airlines,
		func(d Departure) string { return d.Carrier },
		func(d Departure, a Airline) Departure { d.Airline = a.Name; return d })
	known := processors.EnrichMaybe(named, "plane", ref.Planes,
		func(d Departure) string { return d.Tail },
		func(d Departure, plane Plane, found bool) Departure {
			if found {
				d.Plane = &plane
			}
			return d
		})
	planes := processors.Branch(known, "plane-match",
		processors.When("known", func(e *framework.Event[Departure]) bool { return e.Data.Plane != nil }),
		processors.Otherwise[Departure])

	pairs := processors.SelfJoin(processors.Merge("planes", planes...), "knock-on", nil,
		processors.Window{Within: window}, knockOn)
	framework.To(pairs, o.Prefix+KnockOnTopic)
	if o.ToFile {
		framework.To(pairs, OutTopic)
	}
	return p
}

// flightRows is the source of flights, from a file or a topic that a feed has sent a file to.
func flightRows(outOfOrder time.Duration) framework.Source[Flight] {
	return framework.Source[Flight]{Name: FlightsTopic, Codec: file.CSV[Flight](), ID: Flight.ID, Key: Flight.Airport,
		Time: Flight.ScheduledAt, OutOfOrder: outOfOrder}
}

func weatherRows(outOfOrder time.Duration) framework.Source[Weather] {
	return framework.Source[Weather]{Name: WeatherTopic, Codec: file.CSV[Weather](), ID: Weather.ID, Key: Weather.Airport,
		Time: Weather.At, OutOfOrder: outOfOrder}
}

func departure(e *framework.Event[Flight]) (Departure, error) {
	f := e.Data
	switch {
	case f.Delay == nil:
		return Departure{}, errors.New("dep_delay is NA, though dep_time is there")
	case *f.Tail == "":
		return Departure{}, errors.New("tailnum is empty; where there is none it should be NA")
	}
	return Departure{
		Tail: *f.Tail, Carrier: f.Carrier, Number: f.Number, Origin: f.Origin, Dest: f.Dest,
		Scheduled: Wall{f.ScheduledAt()}, Delay: *f.Delay, Hour: f.Hour,
	}, nil
}

func withWeather(left *framework.Event[Departure], observed *framework.Event[Weather]) (Departure, error) {
	d := left.Data
	if observed != nil {
		weather := observed.Data
		d.Weather = &weather
	}
	return d, nil
}

// knockOn looks at two departures of one plane, the earlier scheduled first.
func knockOn(a, b *framework.Event[Departure]) (KnockOn, bool, error) {
	apart := b.Data.Scheduled.At.Sub(a.Data.Scheduled.At)
	if apart <= 0 || apart > window || a.Data.Delay < firstLate || b.Data.Delay < nextLate {
		return KnockOn{}, false, nil
	}
	k := KnockOn{Tail: a.Data.Tail, Airline: a.Data.Airline, First: leg(a.Data), Second: leg(b.Data)}
	k.ID = k.First.ID() + "+" + k.Second.ID()
	if a.Data.Plane != nil {
		k.Model = a.Data.Plane.Model
	}
	return k, true, nil
}

func leg(d Departure) Leg {
	return Leg{Carrier: d.Carrier, Number: d.Number, Origin: d.Origin, Dest: d.Dest,
		Scheduled: d.Scheduled, Delay: d.Delay, Weather: d.Weather}
}
