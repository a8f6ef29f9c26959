// Package orders is the example of a join with a time limit: orders and their payments, two topics, either first. An
// order that is paid within two hours is confirmed; one that is not gives an OrderUnpaid when its time is up.
//
//	go run ./examples orders
//	go run ./examples orders --transport kafka://localhost:9092 --prefix try1.
//
// It makes orders and payments, sends them to the topics, and counts what comes out until every order is decided. On
// the embedded default everything is in one directory, state/orders; with an address the topics are there, and a
// directory holds the state. A state belongs to its topics, so each kind of transport and each prefix has a directory
// of its own unless --state names one: that of the second line is state/orders-kafka-try1. Interrupted, by Ctrl-C or
// kill -9, and run again, it goes on: what is sent twice has the same id, and is counted once.
//
// With --follow it does not end by itself: several processes, with a directory each, share the work of topics that can
// be shared out (Kafka). One of them feeds, the others run with --orders 0. A broker that goes away is waited for, as long
// as it takes; at the start for 15 seconds, or what --wait says. With --changelog the state is in topics too, and whoever
// takes a partition over makes it from there, also when the topics keep less than the two hours that a join goes back.
package orders
