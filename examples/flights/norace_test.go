//go:build !race

package flights

// raceDetector tells whether it is on; everything takes several times as long then.
const raceDetector = false
