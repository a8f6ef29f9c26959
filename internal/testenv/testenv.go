package testenv

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// The services that suites ask for, by the names that stand in the summary.
const (
	Postgres = "postgres"
	Kafka    = "kafka"
	Redis    = "redis"
	NATS     = "nats"
	RabbitMQ = "rabbitmq"
	MariaDB  = "mariadb"
	MySQL    = "mysql" // by its address only, and never required
)

// services are those that can be required.
var services = []string{Postgres, Kafka, Redis, NATS, RabbitMQ, MariaDB}

// SummaryVariable names the environment variable that holds the absolute path of the record.
const SummaryVariable = "MILLRACE_SUMMARY"

// T is the part of testing.TB that NotRun needs.
type T interface {
	Helper()
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Given returns the address of a service that the environment gives: for "postgres" the value of MILLRACE_POSTGRES.
func Given(service string) (address string, ok bool) {
	address = os.Getenv("MILLRACE_" + strings.ToUpper(service))
	return address, address != ""
}

// Required reports whether real services must be there: MILLRACE_REQUIRE=containers. A suite then takes no
// stand-in in place of a service.
func Required() bool { return os.Getenv("MILLRACE_REQUIRE") == "containers" }

// Report records that a suite used a service: the real one, or which stand-in.
func Report(suite, service, used string) {
	record(Line{Suite: suite, Service: service, Used: used})
}

// NotRun records that part of a suite does not run, and why, and skips the test. What is missing is a service or
// anything else ("a full disk"); if it is a service and services are Required, the test fails instead.
func NotRun(t T, suite, what, why string) {
	t.Helper()
	record(Line{Suite: suite, NotRun: what, Why: why})
	if Required() && slices.Contains(services, what) {
		t.Fatalf("%s: %s is required (MILLRACE_REQUIRE) and not there: %s", suite, what, why)
	}
	t.Skipf("%s: not run: %s: %s", suite, what, why)
}

// record appends a line to the record, if there is one. A record that cannot be written is no reason to fail a
// suite, but must not pass unseen.
func record(line Line) {
	name := os.Getenv(SummaryVariable)
	if name == "" {
		return
	}
	if err := appendTo(name, line.String()+"\n"); err != nil {
		fmt.Fprintln(os.Stderr, "testenv: write the record:", err)
	}
}

func appendTo(name, text string) error {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}
