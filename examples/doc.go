// Command examples runs the example pipelines: one folder an example.
//
//	go run ./examples flights
package main
