// Package testenv tells test suites which services they may use, and keeps a record of what they used.
//
// A suite that needs a service takes the first of these that it finds:
//
//  1. the address given in the environment (Given: MILLRACE_POSTGRES, MILLRACE_KAFKA, …);
//  2. a container, where a Docker daemon answers, or for PostgreSQL the server's programs on the PATH: what
//     internal/testenv/services does;
//  3. a stand-in inside the test process, if the suite has one and services are not Required.
//
// It then says so with Report. A suite that finds nothing, or cannot run for another reason, ends with NotRun,
// never with a bare skip: a suite that did not run must not look like one that passed.
//
//	address, ok := testenv.Given(testenv.Postgres)
//	if !ok {
//		testenv.NotRun(t, "outbox", testenv.Postgres, "no address and no Docker daemon")
//	}
//	testenv.Report("outbox", testenv.Postgres, "the one at MILLRACE_POSTGRES")
//
// The record is a file of lines, named by MILLRACE_SUMMARY; without that variable nothing is written. The
// command internal/testsummary sets the variable, runs the tests and prints the record.
//
// Several processes append to the file at once. Each line is one write in append mode, which a local file system
// does not interleave.
package testenv
