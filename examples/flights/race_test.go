//go:build race

package flights

const raceDetector = true
