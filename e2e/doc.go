// Package e2e tests the whole product from outside: a real Better Auth server and
// its official client, killed processes, reloads under load, exits with requests
// under way. It has no code of its own; harness starts what the tests need.
package e2e
