// Package retention makes a store forget what is older than the operator wants to
// keep, a little at a time, so that nobody who writes an entry waits for it.
//
// A Runner belongs to one open store. It runs once shortly after the start and
// then at least every hour, can be asked for its Status at any time, and refuses
// to delete while the machine's clock looks wrong: an audit log that is gone does
// not come back.
package retention
