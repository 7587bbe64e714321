//go:build !race

package replay_test

// raceEnabled says whether the race detector runs, which makes everything slow.
const raceEnabled = false
