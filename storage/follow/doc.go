// Package follow hears of what is written to a store, by this process or by others: it
// looks at the newest part of the log once a second, and at once when this process has
// written, for as long as somebody listens. One Follower looks for all listeners of a
// store, however many they are.
package follow
