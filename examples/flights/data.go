package flights

import (
	"fmt"
	"strconv"
	"time"
)

// Flight is a row of flights.csv.
type Flight struct {
	Year      int       `csv:"year"`
	Month     int       `csv:"month"`
	Day       int       `csv:"day"`
	Scheduled ClockTime `csv:"sched_dep_time"`
	Departed  *int      `csv:"dep_time,na=NA"`
	Delay     *int      `csv:"dep_delay,na=NA"`
	Carrier   string    `csv:"carrier"`
	Number    string    `csv:"flight"`
	Tail      *string   `csv:"tailnum,na=NA"`
	Origin    string    `csv:"origin"`
	Dest      string    `csv:"dest"`
	Hour      HourUTC   `csv:"time_hour"`
}

// ID names a flight by what identifies it in the world, so that the same row read from another file, or in
// another order, is the same event.
func (f Flight) ID() string { return flightID(f.ScheduledAt(), f.Carrier, f.Number, f.Origin, f.Dest) }

func flightID(scheduled time.Time, carrier, number, origin, dest string) string {
	return scheduled.Format("2006-01-02T15:04") + "/" + carrier + number + "/" + origin + "-" + dest
}

// ScheduledAt is the scheduled departure, wall-clock time of New York; the zero time for a date that there is not.
func (f Flight) ScheduledAt() time.Time {
	return clock(f.Year, f.Month, f.Day, f.Scheduled.Hour, f.Scheduled.Minute)
}

func clock(year, month, day, hour, minute int) time.Time {
	date := time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC)
	if date.Day() != day || int(date.Month()) != month {
		return time.Time{}
	}
	return date.Add(time.Duration(hour)*time.Hour + time.Duration(minute)*time.Minute)
}

// Airport is what flights and weather are keyed by.
func (f Flight) Airport() string { return f.Origin }

// HourUTC is the column that flights and weather are joined by: an hour, as the data writes it.
type HourUTC string

// UnmarshalText refuses what is no time.
func (h *HourUTC) UnmarshalText(text []byte) error {
	if _, err := time.Parse(time.RFC3339, string(text)); err != nil {
		return fmt.Errorf("%q is no time; it should be like 2013-01-01T10:00:00Z", text)
	}
	*h = HourUTC(text)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (h HourUTC) MarshalText() ([]byte, error) { return []byte(h), nil }

// ClockTime is a time of day as the data has it: HMM or HHMM. It is in rows only, and kept nowhere.
type ClockTime struct{ Hour, Minute int }

// UnmarshalText reads HMM or HHMM.
func (c *ClockTime) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 0 || n/100 > 24 || n%100 > 59 {
		return fmt.Errorf("%q is no time of day; it should be HMM or HHMM, such as 517 or 1745", text)
	}
	c.Hour, c.Minute = n/100, n%100
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (c ClockTime) MarshalText() ([]byte, error) {
	return strconv.AppendInt(nil, int64(100*c.Hour+c.Minute), 10), nil
}

// Weather is a row of weather.csv: what was observed at an airport in an hour.
type Weather struct {
	Year    int      `csv:"year" json:"-"`
	Month   int      `csv:"month" json:"-"`
	Day     int      `csv:"day" json:"-"`
	OfDay   int      `csv:"hour" json:"-"`
	Origin  string   `csv:"origin" json:"-"`
	Hour    HourUTC  `csv:"time_hour" json:"time_hour"`
	Temp    *float64 `csv:"temp,na=NA" json:"temp"`
	Wind    *float64 `csv:"wind_speed,na=NA" json:"wind_speed"`
	Precip  *float64 `csv:"precip,na=NA" json:"precip"`
	Visible *float64 `csv:"visib,na=NA" json:"visib"`
}

// ID names an observation by its place and hour.
func (w Weather) ID() string { return w.Origin + "/" + string(w.Hour) }

// Airport is what flights and weather are keyed by.
func (w Weather) Airport() string { return w.Origin }

// HourOf is the hour of the observation.
func (w Weather) HourOf() string { return string(w.Hour) }

// At is the time of the observation, wall-clock time of New York.
func (w Weather) At() time.Time {
	return clock(w.Year, w.Month, w.Day, w.OfDay, 0)
}

// Departure is a flight that left. Steps add the weather of the hour, where there was an observation, the airline's
// name, and the plane, where it is known.
type Departure struct {
	Tail      string   `json:"tailnum"`
	Carrier   string   `json:"carrier"`
	Airline   string   `json:"airline,omitempty"`
	Plane     *Plane   `json:"plane,omitempty"`
	Number    string   `json:"flight"`
	Origin    string   `json:"origin"`
	Dest      string   `json:"dest"`
	Scheduled Wall     `json:"scheduled"`
	Delay     int      `json:"delay"`
	Hour      HourUTC  `json:"time_hour"`
	Weather   *Weather `json:"weather,omitempty"`
}

// HourOf is the hour whose weather observation a departure is joined with.
func (d Departure) HourOf() string { return string(d.Hour) }

// Airline is a row of airlines.csv.
type Airline struct {
	Carrier string `csv:"carrier"`
	Name    string `csv:"name"`
}

// Plane is a row of planes.csv.
type Plane struct {
	Tail  string  `csv:"tailnum" json:"-"`
	Model *string `csv:"model,na=NA" json:"model"`
}

// KnockOn is a late departure and a later flight of the same plane that was late as well.
type KnockOn struct {
	ID      string `json:"id"`
	Tail    string `json:"tailnum"`
	Airline string `json:"airline"`
	// Model is nil where the plane is not in the table.
	Model  *string `json:"model"`
	First  Leg     `json:"first"`
	Second Leg     `json:"second"`
}

// ID is the id of the flight.
func (l Leg) ID() string { return flightID(l.Scheduled.At, l.Carrier, l.Number, l.Origin, l.Dest) }

// Leg is one flight of a KnockOn. Delay is in minutes.
type Leg struct {
	Carrier   string   `json:"carrier"`
	Number    string   `json:"flight"`
	Origin    string   `json:"origin"`
	Dest      string   `json:"dest"`
	Scheduled Wall     `json:"scheduled"`
	Delay     int      `json:"delay"`
	Weather   *Weather `json:"weather"`
}

// Wall is a wall-clock time without a zone.
type Wall struct{ At time.Time }

const wallFormat = "2006-01-02T15:04:05"

// MarshalText writes the time without a zone.
func (w Wall) MarshalText() ([]byte, error) { return w.At.AppendFormat(nil, wallFormat), nil }

// UnmarshalText reads what MarshalText writes.
func (w *Wall) UnmarshalText(text []byte) (err error) {
	w.At, err = time.Parse(wallFormat, string(text))
	return err
}
