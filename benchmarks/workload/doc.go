// Package workload has the workloads that Millrace is measured by, and for each the programs that a user would
// have instead. Every program checks its outputs: a time counts only when they are complete.
//
//	stateless  keep half of 300-byte payloads, no decoding; beside a stock Watermill router over GoChannel
//	json       decode a 300-byte order, keep half, add two fields from tables, encode; beside a bare loop
//	join       orders and payments of 50,000 customers, one payment for each order, either first; beside a bare loop
//	           with the same work in Badger, a transaction for 1,000 events, and beside a Watermill handler with
//	           a transaction for each message
//	soak       the join's events for ever: heap and resident memory must not grow
package workload
