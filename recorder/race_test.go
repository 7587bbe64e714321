//go:build race

package recorder_test

// raceEnabled says whether the race detector runs, which makes everything slow.
const raceEnabled = true
