//go:build race

package kafka_test

// raceDetector tells whether it is on; everything takes several times as long then.
const raceDetector = true
