// Command examples runs the example pipelines: one folder an example.
//
//	go run ./examples flights   # which delays knocked on to which
//	go run ./examples orders    # orders and their payments, over any transport
//	go run ./examples outbox    # a transactional outbox and an inbox
package main
