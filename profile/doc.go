// Package profile says what one auth server's traffic means: which requests are
// events, how each one ended, and who did it.
//
// A profile is data: a JSON file, builtin or the user's own, that Parse turns
// into a Profile. Match names the route of a request by method and path alone,
// without allocating for the paths that clients normally send; the routes' rules
// are then applied to a finished exchange by Outcome, and the recorder follows
// their identity rules.
package profile
