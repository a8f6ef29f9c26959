// Command testsummary runs a test command, then says which services its suites used and what did not run.
//
//	go run ./internal/testsummary go test ./...
//
// It names a fresh file in MILLRACE_SUMMARY for the suites to write to (see internal/testenv). As the name is new
// each time, go test does not take a suite's result from its cache when that suite writes to the record. The summary
// is printed whether or not the tests pass, and the command's exit code is passed on.
package main
