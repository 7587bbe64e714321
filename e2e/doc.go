// Package e2e tests the whole product from outside: a real Better Auth server and
// its official client, killed processes, reloads under load, exits with requests
// under way. It has no code of its own; harness starts what the tests need.
//
// KILLS sets how often TestKill kills (default 500, 25 with -short).
package e2e
