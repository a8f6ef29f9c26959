// Package file is a transport over files: JSON Lines and CSV as sources, JSON Lines as sinks.
//
// # Guarantee
//
// A source is one partition whose positions are record numbers, from 0: after a restart reading goes on
// behind the last record that was committed. A record that cannot be parsed (a row with other columns
// than the header, a stray quote, a line over MaxRecordBytes) comes with Err set and the bytes as they
// are, and reading goes on with the next line. What cannot be read at all (a damaged .gz, a disk error,
// a followed file that was cut) ends the source with an error.
//
// A sink is cut back to the position that the engine has committed before anything is written after a
// start (framework.Resumer). So after kill -9 the file has no record twice, torn or missing. Without
// Output.Sync that does not cover the loss of power: then Resume finds the file too short and says so.
//
// # Smallest program
//
//	files, err := file.New(file.Config{
//		Inputs:  map[string]file.Input{"flights": {Path: "flights-2013-01.csv.gz"}},
//		Outputs: map[string]file.Output{"knock-on": {Path: "knock-on.jsonl"}},
//	})
//
// Events of a CSV file are decoded by CSV, into a struct whose fields have `csv:"column"` tags.
//
// # A directory of topics
//
// Dir is another transport: files that are topics, written by a sink and read by a source at the same time, a CloudEvent
// a line. Its limits: one partition a topic, so that it can carry the topics between stages only with
// framework.Config.InternalPartitions 1; writers are on one machine, on a file system of its own; a line has up to
// 16 MiB; files grow until somebody moves them away together with the state.
//
// # Limits
//
// Going on behind n records means reading these n records again, at some hundred megabytes a second
// (for .gz, of the unpacked data). A file must not change before the place that was read: a rewritten one
// cannot be told from the old one, unless it is shorter.
//
// Standard input ("-") counts as a file: it is taken to be the same stream again after a restart. It can
// be read once in a process, and its format has to be given.
//
// Following (Input.Follow) looks for more at intervals. A file that is truncated, replaced or removed
// while it is followed is an error, since positions are record numbers of that one file. One that is
// truncated and has grown beyond the old place between two looks is not noticed.
//
// In CSV, as encoding/csv has it, a quoted field may hold newlines; a row whose quotes are wrong costs its
// first line, and reading goes on with the next. Blank lines are skipped and have no number.
//
// Standard output as a sink cannot be cut back: after a crash lines may be there twice.
package file
